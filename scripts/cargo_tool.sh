# shellcheck shell=bash
# Sourced: programs from crates.io, built once, outside of the tree.

# Puts a program into PATH: the one that an earlier run built, or a new one. What it does takes no time, so that none
# is spent on its optimisation.
find_cargo_tool() { # CRATE VERSION ARGUMENTS_OF_CARGO_INSTALL…
  local home=${XDG_CACHE_HOME:-$HOME/.cache}/deaddrop/$1-$2
  if [ ! -x "$home/bin/$1" ]; then
    printf 'building %s %s, which takes a minute\n' "$1" "$2" >&2
    env -u CARGO_TARGET_DIR -u RUSTFLAGS CARGO_PROFILE_RELEASE_OPT_LEVEL=0 CARGO_PROFILE_RELEASE_LTO=off \
      CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 cargo install --quiet --locked --version "$2" --root "$home" "${@:3}" "$1" >&2
  fi
  PATH=$home/bin:$PATH
}
