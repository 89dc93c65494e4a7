# shellcheck shell=sh disable=SC2015,SC2034,SC2154
# deaddrop on a node: what the reader of its NixOS asks besides `survey`. Sent only if a path would change, or for
# `lint`. src/place/node/closure.rs reads the replies, and describes them.

# Answers a list of directories that ends with a dot: the names in each, one per line, and a `/`. A name with a line end
# is omitted.
names() {
  while :; do
    IFS= read -r path || exit 1
    [ "$path" != . ] || break
    if [ -d "$path" ]; then
      number=0
      set +f
      for name in "$path"/* "$path"/.[!.]*; do
        stands "$name" && [ "$number" -lt 20000 ] || continue
        case $name in
          *"$nl"*) ;;
          *)
            number=$((number + 1))
            say "${name##*/}"
            ;;
        esac
      done
      set -f
    fi
    say /
  done
  say .
}

# Reports whether it is a NixOS, and what is mounted: proc(5), /proc/pid/mounts.
mounts() {
  if stands /run/current-system || stands /nix/var/nix/profiles/system; then
    say nixos
    while read -r device place type rest; do
      say "$type $place"
    done </proc/self/mounts
  fi
  say .
}
