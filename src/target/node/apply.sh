# shellcheck shell=sh disable=SC2015,SC2034,SC2086,SC2094,SC2154,SC3013
# deaddrop on a node, second part: puts files in place, all of them or none, and tells the units that use them.
# Sent only when something is to be done. docs/rotation.md describes the order of what is done, and why.
#
# An item is one file or directory: `KIND MODE MASK UID GID BEFORE LINES STATE PATH`, in $item_1, $item_2, …
#   d  make a directory
#   c  create a file                 n: the new file, until the end a second name of it
#   r  replace a file                n: the new file, until it is in place; o: the old one, until the end
#   m  set mode and owner
#   x  remove a file                 o: the file, until the end
# n and o stand for `.deaddrop-RUN-NUMBERn` and `…o` in the file's own directory. The list of items stands in $state/list from before
# the first of these names is made until after the last is gone. $state/done says that the new files stay. $state/new holds a line
# `INODE:SIZE:TIME` for each new file, in the list's order, from before the first name changes: by it a new file is known afterwards.
# src/target/interrupted.rs reads all of it on a disk that is written offline.
# MASK is the umask that gives a new file its mode; for m, what both the old and the new mode allow. BEFORE is the size of a new file;
# for m, what mode and owner were, MODE:UID:GID. LINES: see `value`. STATE is that of `stat -c %d:%i:%s:%Z` when the file was looked at.

set -C
lines=0
# How many names one program is given.
portion=100

# Makes `$kind … $path`, `$dir`, `$name`, `$new` and `$old` of item $1.
load_item() {
  eval "rest=\$item_$1"
  kind=${rest%% *} rest=${rest#* }
  mode=${rest%% *} rest=${rest#* }
  mask=${rest%% *} rest=${rest#* }
  uid=${rest%% *} rest=${rest#* }
  gid=${rest%% *} rest=${rest#* }
  before=${rest%% *} rest=${rest#* }
  lines=${rest%% *} rest=${rest#* }
  expected=${rest%% *} path=${rest#* }
  dir=${path%/*} name=./${path##*/}
  dir=${dir:-/}
  new=./.deaddrop-$run-${1}n
  old=./.deaddrop-$run-${1}o
}

# Enters a directory without following a link on the way: from then on it is this one that is worked in.
enter() {
  cd -P "$1" 2>/dev/null && [ "$PWD" = "$1" ]
}

stands() {
  [ -e "$1" ] || [ -L "$1" ]
}

# Puts files and directories on the disk.
settle_on_disk() {
  [ $# = 0 ] || sync -- "$@" 2>/dev/null || sync
}

# ---------------------------------------------------------------- one run at a time

# Holds the lock until the shell ends: on the directory that the list is in. flock(1) leaves nothing behind; where there is none, a
# link holds who has it.
lock() {
  waited=0
  boot=
  [ -d "${state%/*}" ] || (umask 022 && mkdir -p "${state%/*}") || return 1
  if command -v flock >/dev/null 2>&1; then
    exec 9<"${state%/*}"
    until flock -n 9; do
      [ "$waited" -lt 30 ] || return 1
      waited=$((waited + 1))
      sleep 1
    done
    return 0
  fi
  boot=$(cat /proc/sys/kernel/random/boot_id 2>/dev/null || echo unknown)
  until ln -s "$$/$boot" "$state.lock" 2>/dev/null; do
    holder=$(readlink "$state.lock")
    if [ "$holder" ] && { [ "${holder#*/}" != "$boot" ] || ! kill -0 "${holder%%/*}" 2>/dev/null; }; then
      # Its run is dead. Taken away by renaming it: if it is another's by then, that one gets it back.
      mv -f "$state.lock" "$state.lock.$$" && [ "$(readlink "$state.lock.$$")" = "$holder" ] ||
        mv -f "$state.lock.$$" "$state.lock"
      rm -f "$state.lock.$$"
      continue
    fi
    [ "$waited" -lt 30 ] || return 1
    waited=$((waited + 1))
    sleep 1
  done
  trap unlock EXIT
}

unlock() {
  exec 9<&-
  [ -z "$boot" ] || [ "$(readlink "$state.lock" 2>/dev/null)" != "$$/$boot" ] || rm -f "$state.lock"
}

# ---------------------------------------------------------------- taking away

# Overwrites a file in this directory and removes it; only removes it if it has other names, which keep the content. It works on
# what was opened: the directory may be somebody's who would put a link in its place.
wipe() {
  stands "$1" || return 0
  if [ -f "$1" ] && [ ! -L "$1" ]; then
    {
      if [ "$1" -ef /proc/self/fd/8 ] && [ "$(stat -L -c %h /proc/self/fd/8)" = 1 ]; then
        shred -n 0 -z /proc/self/fd/8 >/dev/null 2>&1 || overwrite
      fi
    } 8<>"$1"
  fi
  rm -f "$1"
}

# Where there is no shred(1).
overwrite() {
  size=$(stat -L -c %s /proc/self/fd/8)
  dd if=/dev/zero of=/proc/self/fd/8 bs=4096 count=$(((size + 4095) / 4096)) conv=notrunc >/dev/null 2>&1
  sync
}

forget_list() {
  cd /
  # In this order: a list without `done` would be taken back.
  rm -f "$state/list" "$state/new" "$state/output"
  rm -f "$state/done"
  rmdir "$state" 2>/dev/null
  return 0
}

# The new files stay: the old ones go.
finish() {
  number=0
  at=
  set --
  while [ "$number" -lt "$items" ]; do
    number=$((number + 1))
    load_item "$number"
    [ "$kind" != d ] && [ "$kind" != m ] || continue
    if [ "$dir" != "$at" ] || [ $# -ge "$portion" ]; then
      [ $# = 0 ] || rm -f "$@"
      set --
      at=
      enter "$dir" || continue
      at=$dir
    fi
    case $kind in
      c) set -- "$@" "$new" ;;
      *) wipe "$old" ;;
    esac
  done
  [ $# = 0 ] || rm -f "$@"
  forget_list
}

# The old files come back, the last first. It can be stopped anywhere and done again. $left gets the paths, a line each, where
# somebody else has put something since: that is left alone.
take_back() {
  stuck=
  left=
  known_files
  number=$items
  while [ "$number" -gt 0 ]; do
    load_item "$number"
    if enter "$dir"; then
      take_back_item || stuck=${stuck:-$path}
    fi
    number=$((number - 1))
  done
  cd /
  [ -z "$stuck" ]
}

# Sets $file_NUMBER to what $state/new says of each new file.
known_files() {
  number=0
  [ -e "$state/new" ] || return 0
  while IFS= read -r line; do
    while [ "$number" -lt "$items" ]; do
      number=$((number + 1))
      load_item "$number"
      case $kind in
        c | r)
          eval "file_$number=\$line"
          break
          ;;
      esac
    done
  done <"$state/new"
}

# True when what stands at $name is the new file of this item, though its other name may be gone.
is_new() {
  [ -f "$name" ] && [ ! -L "$name" ] || return 1
  [ ! -e "$new" ] || [ ! "$name" -ef "$new" ] || return 0
  eval "file=\${file_$number:-}"
  [ "$file" ] && [ "$(stat -c %i:%s:%Y -- "$name" 2>/dev/null)" = "$file" ]
}

leave() {
  left=$left$path$nl
}

take_back_item() {
  case $kind in
    d) rmdir "$name" 2>/dev/null || : ;;
    c)
      # It has both names until the end, so it is known which file is ours.
      if [ -e "$new" ] && [ "$name" -ef "$new" ]; then
        rm -f "$name" || return 1
      elif stands "$name"; then
        leave
      fi
      wipe "$new"
      ;;
    r)
      if stands "$old"; then
        if [ "$name" -ef "$old" ]; then
          # It was not replaced yet.
          wipe "$old"
        elif ! is_new; then
          leave
          wipe "$old"
        else
          # The new value gets its other name again, so as to be overwritten once its place is taken.
          [ -e "$new" ] || ln "$name" "$new" 2>/dev/null || :
          put "$old" "$name" || return 1
        fi
      fi
      wipe "$new"
      ;;
    m)
      if [ ! -f "$name" ] || [ -L "$name" ]; then
        leave
        return 0
      fi
      # The number of the device is another one after a boot.
      file=${expected#*:}
      file=${file%%:*}
      {
        case $(stat -L -c '%i %a:%u:%g' /proc/self/fd/8) in
          "$file $before") ;;
          "$file $mask:${before#*:}" | "$file $mask:$uid:$gid" | "$file $mode:$uid:$gid")
            chmod "$mask" /proc/self/fd/8 && chown "${before#*:}" /proc/self/fd/8 && chmod "${before%%:*}" /proc/self/fd/8
            ;;
          *) leave ;;
        esac
      } 8<"$name" || return 1
      ;;
    x)
      if stands "$old"; then
        if stands "$name"; then
          [ "$name" -ef "$old" ] || leave
          wipe "$old"
        else
          put "$old" "$name" || return 1
        fi
      fi
      ;;
  esac
}

# Renames over what stands there, and never into a directory.
put() {
  mv -f -T "$1" "$2" 2>/dev/null && return
  [ ! -d "$2" ] && mv -f "$1" "$2"
}

# ---------------------------------------------------------------- what an interrupted run left

# Takes back, or brings to its end, what the list says, if there is one. $how tells which.
recover_list() {
  how=nothing
  left=
  [ -e "$state/list" ] || {
    forget_list
    return 0
  }
  items=0
  run=
  while IFS= read -r line; do
    case $line in
      run\ *) run=${line#run } ;;
      end)
        [ "$run" ] || break
        if [ -e "$state/done" ]; then
          how=finished
          finish
          return 0
        fi
        how=back
        take_back || return 1
        break
        ;;
      *)
        items=$((items + 1))
        eval "item_$items=\$line"
        ;;
    esac
  done <"$state/list"
  # A list that does not end was not whole when the run ended, and before that nothing is made.
  forget_list
}

recover() {
  if ! lock; then
    say "refused locked"
  elif recover_list; then
    while [ "$left" ]; do
      say "left ${left%%"$nl"*}"
      left=${left#*"$nl"}
    done
    say "recovered $how"
  else
    say "refused stuck $stuck"
  fi
  unlock
  say .
}

# ---------------------------------------------------------------- putting files in place

refuse() {
  say "refused $*"
  say .
  exit 1
}

# Nothing was changed yet that a person would see: what was made goes again.
abort() {
  if take_back; then
    forget_list
    refuse "$@"
  fi
  say "stuck $stuck"
  refuse "$@"
}

# Everything must be as it was when it was looked at.
compare() {
  number=0
  wanted=
  set --
  while [ "$number" -lt "$items" ]; do
    number=$((number + 1))
    load_item "$number"
    case $kind in
      d | c) ! stands "$path" || refuse "changed $path" ;;
      *)
        set -- "$@" "$path"
        wanted=$wanted$expected$nl
        ;;
    esac
    if [ $# -ge "$portion" ]; then
      compare_some "$@"
      wanted=
      set --
    fi
  done
  compare_some "$@"
}

compare_some() {
  [ $# -gt 0 ] || return 0
  [ "$(stat -c %d:%i:%s:%Z -- "$@" 2>/dev/null)$nl" = "$wanted" ] && return
  for path in "$@"; do
    [ "$(stat -c %d:%i:%s:%Z -- "$path" 2>/dev/null)" = "${wanted%%"$nl"*}" ] || refuse "changed $path"
    wanted=${wanted#*"$nl"}
  done
}

# Writes the list before anything that it names.
write_list() {
  umask 022
  mkdir -p "${state%/*}" || refuse "list"
  umask 077
  [ -d "$state" ] || mkdir "$state" || refuse "list"
  enter "$state" || refuse "list"
  rm -f "$state/done" "$state/new" "$state/list" || refuse "list"
  {
    number=0
    say "run $run"
    while [ "$number" -lt "$items" ]; do
      number=$((number + 1))
      eval "say \"\$item_$number\""
    done
    say end
  } >"$state/list" || {
    forget_list
    refuse "list"
  }
  settle_on_disk "$state/list" "$state"
}

# Writes the next value to what is open as 8. A short text is one line with escapes that printf knows: no program is needed for it.
value() {
  if [ "$lines" = p ]; then
    # shellcheck disable=SC2059 # The line is made to be its format.
    IFS= read -r line && printf "$line" >&8
  else
    encoded | base64 -d >&8
  fi
}

# The next value in base64: $lines lines of 4096 bytes and one that is shorter.
encoded() {
  if [ "$lines" -gt 8 ] && dd if=/dev/null bs=1 count=1 iflag=fullblock 2>/dev/null; then
    dd bs=4096 count="$lines" iflag=fullblock 2>/dev/null
  else
    while [ "$lines" -gt 0 ] && IFS= read -r line; do
      printf '%s\n' "$line"
      lines=$((lines - 1))
    done
  fi
  IFS= read -r line && printf '%s\n' "$line"
}

# Gives what is open as 8 its owner, before anything is in it.
own() {
  [ "$uid:$gid" = 0:0 ] && [ ! -g . ] || chown "$uid:$gid" /proc/self/fd/8
}

# Makes every new file under another name, whole and on the disk.
prepare() {
  number=0
  while [ "$number" -lt "$items" ]; do
    number=$((number + 1))
    load_item "$number"
    [ "$kind" != m ] && [ "$kind" != x ] || continue
    enter "$dir" || abort "parent $dir"
    case $kind in
      d)
        mkdir -m 700 "$name" && open_directory || abort "write $path"
        continue
        ;;
      r) ln "$name" "$old" || abort "link $path" ;;
    esac
    # The file has its mode from its first moment.
    umask "$mask"
    {
      own && value
    } 8>"$new" || abort "write $path"
    umask 077
    label "$number" || abort "label $path"
  done
  IFS= read -r line
  [ "$line" = "go $nonce" ] || abort "cut"
  read_back || abort differs
}

# Where SELinux is: the label of the file that is replaced, or the one that the policy says.
label() {
  [ -e /sys/fs/selinux/enforce ] || return 0
  case $kind in
    r) chcon --reference="$name" "$new" ;;
    *)
      context=$(matchpathcon -n "$path" 2>/dev/null) || return 0
      [ "$context" = '<<none>>' ] || chcon "$context" "$new"
      ;;
  esac
}

# Mode, owner and size of every new file, and then all of them to the disk.
read_back() {
  number=0
  wanted=
  set --
  while [ "$number" -lt "$items" ]; do
    number=$((number + 1))
    load_item "$number"
    case $kind in
      c | r)
        set -- "$@" "${dir%/}/${new#./}"
        wanted="$wanted$mode $uid $gid ${before}$nl"
        ;;
    esac
    if [ $# -ge "$portion" ]; then
      read_back_some "$@" || return 1
      wanted=
      set --
    fi
  done
  read_back_some "$@"
}

read_back_some() {
  [ $# -gt 0 ] || return 0
  [ "$(stat -c '%a %u %g %s' -- "$@" 2>/dev/null)$nl" = "$wanted" ] || return 1
  stat -c %i:%s:%Y -- "$@" >>"$state/new" || return 1
  settle_on_disk "$@" "$state/new" "$state"
}

# One name after another; nothing is written here but names.
commit() {
  number=0
  while [ "$number" -lt "$items" ]; do
    number=$((number + 1))
    load_item "$number"
    [ "$kind" != d ] || continue
    enter "$dir" || return 1
    case $kind in
      c) ln "$new" "$name" || return 1 ;;
      r) put "$new" "$name" || return 1 ;;
      x) put "$name" "$old" || return 1 ;;
      m)
        {
          # Between the two modes: neither the old owner nor the new one gets more than both.
          [ ! -L "$name" ] && [ "$(stat -L -c %d:%i /proc/self/fd/8)" = "${expected%:*:*}" ] &&
            chmod "$mask" /proc/self/fd/8 && chown "$uid:$gid" /proc/self/fd/8 && chmod "$mode" /proc/self/fd/8
        } 8<"$name" || return 1
        ;;
    esac
  done
}

# Gives a directory that was just made its owner and mode, from inside: who owns the one above could put another in its place. What
# is entered is root's, closed and empty.
open_directory() {
  enter "$path" && [ -z "$(ls -A .)" ] || return 1
  case $(stat -c '%u %a' .) in
    '0 700' | '0 2700') ;;
    *) return 1 ;;
  esac
  [ "$mode" = 700 ] || chmod "$mode" . || return 1
  [ "$uid:$gid" = 0:0 ] && [ ! -g . ] || chown "$uid:$gid" .
}

sync_directories() {
  number=0
  at=
  set --
  while [ "$number" -lt "$items" ]; do
    number=$((number + 1))
    load_item "$number"
    case $kind in
      m) set -- "$@" "$path" ;;
      *) [ "$dir" = "$at" ] || set -- "$@" "$dir" ;;
    esac
    at=$dir
    if [ $# -ge "$portion" ]; then
      settle_on_disk "$@"
      set --
    fi
  done
  settle_on_disk "$@"
}

apply() {
  items=0 units=0 programs=0 checks=0
  settle=0
  rollback=yes
  while :; do
    IFS= read -r line || exit 1
    case $line in
      run\ *) run=${line#run } ;;
      unit\ *) units=$((units + 1)) && eval "unit_$units=\${line#unit }" ;;
      program\ *) programs=$((programs + 1)) && eval "program_$programs=\${line#program }" ;;
      check\ *) checks=$((checks + 1)) && eval "check_$checks=\${line#check }" ;;
      settle\ *) settle=${line#settle } ;;
      keep) rollback= ;;
      .) break ;;
      *) items=$((items + 1)) && eval "item_$items=\$line" ;;
    esac
  done
  # From here to the end on its own: the connection may go (a unit may be the network), and a signal only waits. Programs that
  # are started get none of this: a handler, unlike an ignored signal, is not inherited.
  trap : HUP INT TERM PIPE
  lock || refuse locked
  [ ! -e "$state/list" ] || refuse unfinished
  compare
  units_stand
  write_list
  say "step writing"
  prepare
  commit || abort "commit $path"
  sync_directories
  tell_units
  cd /
  : >|"$state/done"
  settle_on_disk "$state/done" "$state"
  finish
  if [ "$bad" ]; then say "end kept"; else say "end done"; fi
  say .
  exit 0
}
