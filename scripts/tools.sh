# shellcheck shell=bash disable=SC2154
# Sourced: what scripts do with programs that may be missing. Says what failed with the caller's `fail`.

# Prints what is missing, TOOL:PACKAGE. Modules of Python are python3.MODULE.
missing_tools() { # TOOL:PACKAGE…
  local entry tool
  for entry in "$@"; do
    tool=${entry%:*}
    case $tool in
      python3.*) python3 -c "import ${tool#python3.}" 2>/dev/null ;;
      *) command -v "$tool" >/dev/null ;;
    esac || printf '%s\n' "$entry"
  done
}

# Fails if something is missing, with the command that installs it.
need_tools() { # TOOL:PACKAGE…
  local missing
  mapfile -t missing < <(missing_tools "$@")
  [ ${#missing[@]} = 0 ] || fail "as root: apt-get install ${missing[*]#*:}"
}

# Puts a program from crates.io into PATH: the one that an earlier run built, or a new one. What it does takes no time,
# so that none is spent on its optimisation.
find_cargo_tool() { # CRATE VERSION ARGUMENTS_OF_CARGO_INSTALL…
  local home=${XDG_CACHE_HOME:-$HOME/.cache}/deaddrop/$1-$2
  if [ ! -x "$home/bin/$1" ]; then
    printf 'building %s %s, which takes a minute\n' "$1" "$2" >&2
    env -u CARGO_TARGET_DIR -u RUSTFLAGS CARGO_PROFILE_RELEASE_OPT_LEVEL=0 CARGO_PROFILE_RELEASE_LTO=off \
      CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 cargo install --quiet --locked --version "$2" --root "$home" "${@:3}" "$1" >&2
  fi
  PATH=$home/bin:$PATH
}

# Unpacks a Debian into $work/NAME: the one that an earlier run made by mmdebstrap, or a new one, from the machine's own
# mirror of Debian, else Debian's.
unpack_debian() { # NAME SUITE OPTIONS_OF_MMDEBSTRAP…
  local tarball mirror
  tarball=${XDG_CACHE_HOME:-$HOME/.cache}/deaddrop/$1-$2-$(printf '%s\n' "${@:3}" | sha256sum | head -c 12).tar.zst
  if [ ! -f "$tarball" ]; then
    printf 'making a Debian %s by mmdebstrap, which takes a minute or two\n' "$2" >&2
    mkdir -p "${tarball%/*}"
    # shellcheck disable=SC2016
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' 2>/dev/null |
      grep -m 1 . || printf 'https://deb.debian.org/debian\n')
    TMPDIR=$work mmdebstrap --quiet "${@:3}" "$2" "$work/$1.tar.zst" "$mirror" >"$work/log" 2>&1 ||
      fail "mmdebstrap could not make Debian $2:"$'\n'"$(tail -n 20 "$work/log")"
    mv "$work/$1.tar.zst" "$tarball.$$"
    mv "$tarball.$$" "$tarball"
  fi
  mkdir "$work/$1"
  tar -xf "$tarball" -C "$work/$1"
}
