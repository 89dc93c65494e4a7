# shellcheck shell=sh disable=SC2015,SC2034,SC2086,SC2094,SC2154,SC3013
# deaddrop on a node, first part: reports what exists. POSIX sh. Writes nothing. src/place/node/protocol.rs reads the
# replies, and describes them; comments and indentation are not sent. $nonce is set before this: output of the login
# shell does not contain it.

# Five variables of the login's environment stay. Another exported one could have the name of a variable of this script,
# and every program would then get its value. "$1" and "$2" cannot be exported.
set +a
set -f
set -- "$nonce" "${PATH-}" "${LC_ALL+x}" "${LC_ALL-}"
PATH=/run/wrappers/bin:/run/current-system/sw/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH
IFS='
'
for entry in $(env); do
  entry=${entry%%=*}
  case $entry in
    # A function exported to bash.
    BASH_FUNC_*[!A-Za-z0-9_]*)
      entry=${entry#BASH_FUNC_}
      entry=${entry%%[!A-Za-z0-9_]*}
      [ -z "$entry" ] || command unset -f "$entry" 2>/dev/null || :
      ;;
    PATH | HOME | LANG | LC_ALL | TZ | PWD | OLDPWD | SHLVL | _ | '' | [0-9]* | *[!A-Za-z0-9_]*) ;;
    # One that cannot be unset belongs to the shell.
    *) command unset "$entry" 2>/dev/null || : ;;
  esac
done
nonce=$1 login_path=$2 had_locale=$3 locale=$4
LC_ALL=C
export LC_ALL
IFS=' '
nl='
'
state=/var/lib/deaddrop
careful_dd=

say() {
  printf '%s\n' "$*"
}

has() {
  command -v "$1" >/dev/null 2>&1
}

# True for a directory in which, and in whose parents, only root can create anything. $place gets its physical path.
is_roots() {
  place=$(cd -P "$1" 2>/dev/null && pwd) || return 1
  set --
  rest=$place
  while [ "$rest" ]; do
    set -- "$@" "$rest"
    rest=${rest%/*}
  done
  # In a sticky directory, root's entries stay.
  sticky=no
  for mode in $(stat -c %u:%a -- "$@" / 2>/dev/null | tr '\n' ' '); do
    case $sticky,$mode in
      no,0:*[2367] | no,0:*[2367]? | yes,0:*[2367] | yes,0:*[2367]?)
        case $sticky,$mode in
          yes,0:[1357]???) ;;
          *) return 1 ;;
        esac
        ;;
      *,0:*) ;;
      *) return 1 ;;
    esac
    sticky=yes
  done
  [ "$sticky" = yes ]
}

# Directories of the login's PATH that only root can change come after the system's directories.
keep_path() {
  IFS=:
  set -- $login_path
  IFS=' '
  for part; do
    case $part,:$PATH: in
      *,*":$part:"*) ;;
      /*) is_roots "$part" && PATH=$PATH:$place ;;
    esac
  done
}

# Enters a directory without following links in its path: from then on the script works in this one.
enter() {
  cd -P "$1" 2>/dev/null && [ "$PWD" = "$1" ]
}

stands() {
  [ -e "$1" ] || [ -L "$1" ]
}

# True for a mode in hexadecimal and an owner that allow another user than root to write.
others_write() {
  case $1 in
    *[13579bdf]?\ 0 | *[2367abef]\ 0) return 0 ;;
    *\ 0) return 1 ;;
  esac
}

# Writes the first $3 bytes and a few more of the regular file $2 of this directory to standard output; $1 is its
# DEV:INO. Another user could replace it by a link, a FIFO or a device: it is opened so that none of them has an effect.
read_guarded() {
  [ "$careful_dd" ] || {
    careful_dd=no
    ! dd if=/dev/null iflag=nofollow,nonblock count=0 || careful_dd=yes
  }
  if [ "$careful_dd" = yes ]; then
    dd "if=$2" iflag=nofollow,nonblock bs=65536 "count=$(($3 / 65536 + 1))"
  else
    read_watched "$@"
  fi
} 2>/dev/null

# If dd has no such flags: a child opens it, and is killed if that takes long. Nothing is read of a file that was not
# checked.
read_watched() {
  [ -f "$2" ] && [ ! -L "$2" ] || return
  {
    exec 7<"$2" && [ "$(stat -L -c %d:%i /proc/self/fd/7)" = "$1" ] && head -c "$(($3 + 1))" <&7
  } &
  tries=0
  # A process that has ended has no open files.
  until [ -e "/proc/$!/fd/7" ] || [ ! -e "/proc/$!/fd/1" ] || [ "$tries" -ge 1020 ]; do
    tries=$((tries + 1))
    [ "$tries" -le 1000 ] || sleep 0.1 || sleep 1
  done
  [ -e "/proc/$!/fd/7" ] || kill -9 "$!"
  wait "$!"
}

# Writes the content of the regular file $2 to standard output, if it has at most 64 KiB. $1 is its DEV:INO.
contents() {
  (enter_parent "$2" && read_guarded "$1" "./${2##*/}" 65535)
}

enter_parent() {
  parent=${1%/*}
  enter "${parent:-/}"
}

# Reports what exists at each of "$@", and the content of regular files up to the size in $limits. A path that no longer
# exists gets no line, and then nothing is read. Nothing is read through a symbolic link: `u` reports it. A file that
# another user could write to or replace is reported separately, since its size may change. $top is the directory above
# which no other user could: a `!` in $limits, or an earlier path sets it.
tell() {
  count=$#
  known=$(stat -c '%f %u %g %s %h %d %i %Y %Z' -- "$@" 2>/dev/null)$nl
  printf '%s' "$known"
  count_lines "$known"
  [ "$found" = "$count" ] || {
    # The owners are unknown: everything that follows is read as if others could change it.
    top=
    return 0
  }
  number=0
  at=
  for path in "$@"; do
    line=${known%%"$nl"*}
    known=${known#*"$nl"}
    limit=${limits%% *}
    limits=${limits#* }
    case $path/ in
      "$top"/*) ;;
      *) top=// ;;
    esac
    case $limit,$line in
      *,4???\ *)
        [ "$top" != // ] || ! others_write "${line% * * * * * * *}" || top=${path%/}
        ;;
      -,*) ;;
      *,8???\ *)
        rest=${line#* * * }
        size=${rest%% *}
        if [ "$size" -gt 0 ] && [ "$size" -le "${limit#!}" ]; then
          parent=${path%/*}
          if [ "${parent:-/}" != "$at" ] && ! enter "${parent:-/}"; then
            say "u $number"
            at=
          elif at=${parent:-/} && [ "$top" = // ] && [ "$limit" = "${limit#!}" ] && ! others_write "${line% * * * * * * *}"; then
            set -- "$@" "$path"
          else
            tell_guarded
          fi
        fi
        ;;
    esac
    number=$((number + 1))
  done
  cd /
  shift "$count"
  [ $# -gt 0 ] || return 0
  say +
  cat -- "$@" 2>/dev/null | base64
}

# Reports the file at $path, of $size bytes, in this directory.
tell_guarded() {
  say "f $number"
  rest=${rest#* * }
  file=${rest%% *}
  rest=${rest#* }
  file=$file:${rest%% *}
  read_guarded "$file" "./${path##*/}" "$size" | base64
  say ';'
}

# Sets $found to the number of lines.
count_lines() {
  IFS=$nl
  set -- $1
  IFS=' '
  found=$#
}

# Answers a list of `LIMIT PATH` that ends with a dot, with the content of a directory right after it, in batches of a
# hundred paths. Each batch: a line per missing path or symbolic link, then `=`, a line per existing path, and after `+`
# the contents.
survey() {
  if [ -e "$state" ]; then
    say unfinished
  fi
  more=yes
  top=//
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

# Answers a list of directories that ends with a dot, one line each: `yes` if an ACL allows users other than the owner
# and group 0 to write, or if that is unknown; otherwise `no`. The group of each may write to it, and so, through the
# mask, may the users of the ACL.
writers() {
  while :; do
    IFS= read -r path || exit 1
    [ "$path" != . ] || break
    answer=yes
    if has getfacl; then
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

# Reads the next part of this script, of $1 bytes and $2 lines, into $script. read(1) reads one byte at a time from a
# pipe: dd is faster, if it can be told to read exactly this many bytes.
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
keep_path
for program in stat cat base64 readlink env; do
  has "$program" || say "lacks $program"
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
    recover) recover '' ;;
    recover\ forget) recover forget ;;
    check) check_units ;;
    apply) apply ;;
    *) exit 0 ;;
  esac
done
