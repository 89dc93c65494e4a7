# shellcheck shell=sh disable=SC2015,SC2034,SC2086,SC2094,SC2154,SC3013
# deaddrop on a node: one run at a time. Sent with apply.sh.

# Holds the lock until the shell ends: on the directory of the list. flock(1) leaves nothing behind; without it, each
# waiting run creates a flag.
lock() {
  waited=0
  flag=
  [ -d "${state%/*}" ] || (umask 022 && mkdir -p "${state%/*}") || return 1
  if command -v flock >/dev/null 2>&1; then
    command exec 9<"${state%/*}" || return 1
    until flock -n 9; do
      wait_for_lock || return 1
    done
    return 0
  fi
  boot=$(cat /proc/sys/kernel/random/boot_id 2>/dev/null || echo unknown)
  flag=$$.$(start_of $$).$boot
  trap unlock EXIT
  put_up_flag || return 1
  while :; do
    # Each run creates its flag before it checks the others, so of two runs at least one sees the other. The lower
    # number goes first.
    case $(others) in
      *lower*)
        rm -f "$state.lock/$flag"
        wait_for_lock && put_up_flag || return 1
        ;;
      *higher*) wait_for_lock || return 1 ;;
      *) return 0 ;;
    esac
  done
}

wait_for_lock() {
  [ "$waited" -lt 30 ] || return 1
  waited=$((waited + 1))
  sleep 1
}

put_up_flag() {
  # An older deaddrop leaves a link there.
  [ ! -L "$state.lock" ] || rm -f "$state.lock"
  until ln -s . "$state.lock/$flag" 2>/dev/null; do
    # The last run with a flag there removes the directory.
    mkdir -m 700 "$state.lock" 2>/dev/null || wait_for_lock || return 1
  done
}

# The start time of a process, in ticks since the boot: with its number it identifies the process. proc(5),
# /proc/pid/stat.
start_of() {
  started=
  IFS= read -r started </proc/"$1"/stat
  set -- ${started##*\)}
  # A process that has ended may still have its entry.
  [ "${1-Z}" = Z ] || printf %s "${20-}"
} 2>/dev/null

# Reports whether living runs have a lower or a higher number; removes the flags of dead ones.
others() {
  set +f
  for other in "$state.lock"/*; do
    other=${other##*/}
    holder=${other%%.*}
    if [ "$other" != "$flag" ] && [ "$other" != '*' ]; then
      if [ "$other" != "$holder.$(start_of "$holder").$boot" ] || ! kill -0 "$holder" 2>/dev/null; then
        rm -f "$state.lock/$other"
      elif [ "$holder" -lt $$ ]; then
        say lower
      else
        say higher
      fi
    fi
  done
}

unlock() {
  exec 9<&-
  [ -z "$flag" ] || rm -f "$state.lock/$flag"
  [ -z "$flag" ] || rmdir "$state.lock" 2>/dev/null
  flag=
}
