# shellcheck shell=sh disable=SC2015,SC2034,SC2086,SC2094,SC2154,SC3013
# deaddrop on a node, first part: tells what stands there. POSIX sh. Writes nothing.
# Read by src/target/node/protocol.rs, which describes what is said here; comments and indentation are not sent.
# $nonce is set before this: what the login shell said meanwhile does not hold it.

LC_ALL=C
export LC_ALL
PATH=${PATH:+$PATH:}/run/wrappers/bin:/run/current-system/sw/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH
set -f
IFS=' '
nl='
'
state=/var/lib/deaddrop

say() {
  printf '%s\n' "$*"
}

# Says what stands at each of "$@", and what is in those regular files that are no longer than their entry of $limits says.
# Each stands; one that does not any more gets no line, and the other side sees that one is missing.
tell() {
  count=$#
  known=$(stat -c '%f %u %g %s %h %d %i %Z' -- "$@" 2>/dev/null)$nl
  printf '%s' "$known"
  for path in "$@"; do
    line=${known%%"$nl"*}
    known=${known#*"$nl"}
    limit=${limits%% *}
    limits=${limits#* }
    case $limit,$line in
      -,*) ;;
      *,8???\ *)
        size=${line#* * * }
        size=${size%% *}
        if [ "$size" -gt 0 ] && [ "$size" -le "$limit" ]; then
          set -- "$@" "$path"
        fi
        ;;
    esac
  done
  shift "$count"
  if [ $# -gt 0 ]; then
    say +
    cat -- "$@" 2>/dev/null | base64
  fi
}

# Answers a list of `LIMIT PATH` that ends with a dot, a hundred paths at a time: for each batch a line a path that is missing or
# a symbolic link, then `=`, a line a path that stands, and after `+` the contents.
survey() {
  if [ -e "$state" ]; then
    say unfinished
  fi
  more=yes
  while [ "$more" ]; do
    set --
    limits=
    number=0
    while [ "$number" -lt 100 ]; do
      IFS= read -r line || exit 1
      if [ "$line" = . ]; then
        more=
        break
      fi
      path=${line#* }
      if [ -L "$path" ]; then
        link=$(readlink "$path" && printf x)
        link=${link%?x}
        case $link in
          *"$nl"*) say "x $number" ;;
          *) say "l $number $link" ;;
        esac
        limits="$limits- "
        set -- "$@" "$path"
      elif [ -e "$path" ]; then
        limits="$limits${line%% *} "
        set -- "$@" "$path"
      else
        say "m $number"
      fi
      number=$((number + 1))
    done
    say '='
    if [ $# -gt 0 ]; then
      tell "$@"
    fi
    say ,
  done
  say .
}

# Answers a list of directories that ends with a dot, a line each: `yes` where an ACL lets somebody else write than the owner and
# group 0, or where that cannot be told; else `no`. The group of each may write to it, and so may, by its mask, whom the ACL names.
writers() {
  while :; do
    IFS= read -r path || exit 1
    [ "$path" != . ] || break
    answer=yes
    if command -v getfacl >/dev/null 2>&1; then
      if named=$(getfacl -cpn -- "$path" 2>/dev/null </dev/null); then
        answer=no
        while [ "$named" ]; do
          line=${named%%"$nl"*}
          case $named in
            *"$nl"*) named=${named#*"$nl"} ;;
            *) named= ;;
          esac
          case $line in
            user::* | group::* | user:0:* | group:0:*) ;;
            user:*:?w* | group:*:?w*) answer=yes ;;
          esac
        done
      fi
    elif ls --version >/dev/null 2>&1; then
      # GNU's ls marks every ACL.
      line=$(ls -ld -- "$path" 2>/dev/null)
      case ${line%% *} in
        *+ | '') ;;
        *) answer=no ;;
      esac
    fi
    say "$answer"
  done
  say .
}

# Reads the next part of this script, of $1 bytes and $2 lines, into $script. read(1) takes one byte at a time from a pipe: dd is
# quicker, where it can be told to take all that it is to take, and no more.
load() {
  script=
  if dd if=/dev/null bs=1 count=1 iflag=fullblock 2>/dev/null; then
    script=$(dd bs="$1" count=1 iflag=fullblock 2>/dev/null)
    return
  fi
  count=$2
  while [ "$count" -gt 0 ]; do
    IFS= read -r line || exit 1
    script=$script$line$nl
    count=$((count - 1))
  done
}

printf '\n%s\n' "$nonce hello"
for program in stat cat base64 readlink; do
  command -v "$program" >/dev/null 2>&1 || say "lacks $program"
done
case $(command -v printf) in
  printf) ;;
  *) say "lacks printf" ;;
esac
[ "$(id -u)" = 0 ] || say "user $(id -un)"
say .
while IFS= read -r line; do
  case $line in
    survey) survey ;;
    writers) writers ;;
    load\ *)
      load ${line#load }
      eval "$script"
      ;;
    recover) recover ;;
    check) check_units ;;
    apply) apply ;;
    *) exit 0 ;;
  esac
done
