# shellcheck shell=sh disable=SC2015,SC2034,SC2086,SC2094,SC2154,SC3013
# deaddrop on a node, second part: puts files in place, all of them or none, and tells the units that use them.
# Sent only when something is to be done. docs/rotation.md describes the order of what is done, and why.
#
# An item is one file or directory: `KIND MODE MASK UID GID BEFORE LINES STATE PATH`, in $item_1, $item_2, …
#   d  make a directory; they come before all others
#   c  create a file
#   r  replace a file
#   x  remove a file
# Files of one directory D stand together. All that is temporary lies in D/.deaddrop-RUN, which root makes and nobody else may enter:
#   n/NAME  the new file: for r until it is in place, for c until the end, as a second name
#   o/NAME  the old file, until the end: for r a second name, made before anything else; for x the file itself
#   MARK    an empty file whose name nobody else knows: by it the directory is known when it is entered again
#   probe   an empty file; key, key.pub: see generate.sh
# $state/list says `run RUN`, `mark MARK`, `in INODE D` for each D that stands, the items, and `end`. It stands from before the first of
# these directories is made until after the last is gone. $state/done says that the new files stay. $state/new holds a line
# `INODE:SIZE:TIME` for each new file, in the list's order, from before the first name changes: by it a new file is known afterwards.
# src/target/interrupted.rs reads all of it on a disk that is written offline.
# MASK is the umask that gives a new file its mode. BEFORE is the size of a new file, `-` where it is made here. LINES: see `value`.
# STATE is that of `stat -c %d:%i:%s:%Y:%Z` when the file was looked at.

set -C
lines=0
# How many names one program is given.
portion=100

# Makes `$kind … $path`, `$dir` and `$name` of item $1.
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
  dir=${path%/*} name=${path##*/}
  dir=${dir:-/}
}

# Puts files and directories on the disk.
settle_on_disk() {
  sync -- "$@" 2>/dev/null && return
  # One that knows no files (GNU's does) writes everything.
  ! sync --version >/dev/null 2>&1 && sync
}

# ---------------------------------------------------------------- one run at a time

# Holds the lock until the shell ends: on the directory that the list is in. flock(1) leaves nothing behind; where there is none, each
# run that wants it puts up a flag.
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
    # Whoever puts up a flag looks at the others only then: of two, at least one sees the other. The lower number goes first.
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
  # What an older deaddrop has left there is a link.
  [ ! -L "$state.lock" ] || rm -f "$state.lock"
  until ln -s . "$state.lock/$flag" 2>/dev/null; do
    # The last one that had a flag there takes the directory away.
    mkdir -m 700 "$state.lock" 2>/dev/null || wait_for_lock || return 1
  done
}

# When a process was started, in ticks since the boot: with its number this is one process. proc(5), /proc/pid/stat.
start_of() {
  started=
  IFS= read -r started </proc/"$1"/stat
  set -- ${started##*)}
  printf %s "${20-}"
} 2>/dev/null

# Says whether runs that are alive have a lower or a higher number; takes away the flags of dead ones.
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

# ---------------------------------------------------------------- the run's own directories

# Makes the run's own directory in $dir and enters it. Whoever owns $dir could put another one of root's in its place. $checked tells
# how far it came.
make_own() {
  checked=
  enter "$dir" && mkdir -m 700 "$own" && enter "${dir%/}/$own" && [ -O . ] && mkdir -m 700 n o || return 1
  probe || {
    # A default ACL, and not the umask, said which mode these have.
    [ "$checked" ] && command -v setfacl >/dev/null 2>&1 || return 1
    rm -f probe "$mark"
    setfacl -b . n o && probe
  }
}

# With a default ACL, or without modes at all, these two would have the same one.
probe() {
  true >"$mark" || return 1
  umask 0
  true >probe || return 1
  umask 077
  checked=$(stat -c %u:%a . n o "$mark" probe)
  # Directories may have got the setgid bit of the one above.
  case $checked in
    "0:700${nl}0:700${nl}0:700${nl}0:600${nl}0:666") ;;
    "0:2700${nl}0:2700${nl}0:2700${nl}0:600${nl}0:666") ;;
    *) return 1 ;;
  esac
}

# Enters it again.
enter_own() {
  enter "${dir%/}/$own" && [ -O . ] && [ -f "./$mark" ]
}

# Takes it away, with these files in it; goes to $dir.
remove_own() {
  rm -f -- "$@" probe key key.pub "$mark"
  cd ..
  rmdir "$own/n" "$own/o" "$own"
}

# Overwrites those of these files that have no other name, which would keep the content.
overwrite() {
  count=$#
  for file; do
    [ ! -f "$file" ] || [ -L "$file" ] || set -- "$@" "$file"
  done
  shift "$count"
  [ $# -gt 0 ] || return 0
  known=$(stat -c %h -- "$@")$nl
  count=$#
  for file; do
    [ "${known%%"$nl"*}" != 1 ] || set -- "$@" "$file"
    known=${known#*"$nl"}
  done
  shift "$count"
  [ $# -gt 0 ] || return 0
  shred -n 0 -z -- "$@" >/dev/null 2>&1 || {
    for file; do
      count=$((($(stat -c %s -- "$file") + 4095) / 4096))
      dd if=/dev/zero "of=$file" bs=4096 count="$count" conv=notrunc >/dev/null 2>&1
    done
    sync
  }
}

forget_list() {
  cd /
  # In this order: a list without `done` would be taken back.
  rm -f "$state/list" "$state/new" "$state/output" "$state/done"
  rmdir "$state" 2>/dev/null
  return 0
}

# The new files stay: what is left of the old ones goes.
finish() {
  number=0
  at=
  lost=
  set --
  while [ "$number" -lt "$items" ]; do
    number=$((number + 1))
    load_item "$number"
    [ "$kind" != d ] || continue
    if [ "$dir" != "$at" ]; then
      [ -z "$at" ] || leave_own "$@"
      set --
      at=
      come_back || {
        [ -d "$dir" ] || is_absent || lost=yes
        continue
      }
      at=$dir
    fi
    case $kind in
      c) set -- "$@" "n/$name" ;;
      *) set -- "$@" "o/$name" ;;
    esac
    if [ $# -ge "$portion" ]; then
      clear_away "$@"
      set --
    fi
  done
  [ -z "$at" ] || leave_own "$@"
  [ "$lost" ] || forget_list
}

clear_away() {
  overwrite "$@"
  rm -f -- "$@"
}

leave_own() {
  overwrite "$@"
  remove_own "$@"
}

# Enters the run's own directory of an item. Fails where there is none: then nothing of the run is there any more, or yet. One that was
# not whole is empty.
come_back() {
  enter_own && return
  enter "$dir" && [ -d "$own" ] && [ ! -L "$own" ] && rmdir "$own/n" "$own/o" "$own" 2>/dev/null
  return 1
}

# The old files come back, the last first. It can be stopped anywhere and done again. $left gets the paths, a line each, where
# somebody else has put something since: that is left alone.
take_back() {
  stuck=
  left=
  known_files
  number=$items
  at=
  set --
  while [ "$number" -gt 0 ]; do
    load_item "$number"
    number=$((number - 1))
    if [ "$kind" = d ] || [ "$dir" != "$at" ]; then
      [ -z "$at" ] || leave_taken_back "$@"
      set --
      at=
      if is_absent; then
        continue
      elif [ "$kind" = d ]; then
        enter "$dir" && rmdir "./$name" 2>/dev/null && settle_on_disk .
        continue
      fi
      come_back || {
        # It was made in this run.
        [ "$number" -ge "$reached" ] || stuck=${stuck:-$path}
        continue
      }
      at=$dir
    fi
    take_back_item || stuck=${stuck:-$path}
    set -- "$@" "n/$name" "o/$name"
    if [ $# -ge "$portion" ] && [ -z "$stuck" ]; then
      clear_away "$@"
      set --
    fi
  done
  [ -z "$at" ] || leave_taken_back "$@"
  cd /
  [ -z "$stuck" ]
}

# Where a file could not be put back, all that is needed for it stays.
leave_taken_back() {
  [ -z "$stuck" ] || return 0
  leave_own "$@"
  settle_on_disk . || stuck=$at
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

is_file() {
  [ -f "$1" ] && [ ! -L "$1" ]
}

# True when what stands at the item's place is its new file, whatever has become of its other name.
is_new() {
  is_file "../$name" || return 1
  [ ! "../$name" -ef "n/$name" ] || return 0
  eval "file=\${file_$((number + 1)):-}"
  [ "$file" ] && [ "$(stat -c %i:%s:%Y -- "../$name" 2>/dev/null)" = "$file" ]
}

leave() {
  left=$left$path$nl
}

take_back_item() {
  case $kind in
    c)
      if is_new; then
        rm -f "../$name"
      elif stands "../$name"; then
        leave
      fi
      ;;
    r)
      if ! stands "o/$name" || { is_file "../$name" && [ "../$name" -ef "o/$name" ]; }; then
        # It was not replaced yet.
        :
      elif is_new; then
        # The new value gets its other name again, so as to be overwritten once its place is taken.
        [ -e "n/$name" ] || ln "../$name" n 2>/dev/null || :
        mv -f "o/$name" ..
      else
        leave
      fi
      ;;
    x)
      if ! stands "o/$name"; then
        :
      elif stands "../$name"; then
        leave
      else
        mv -f "o/$name" ..
      fi
      ;;
  esac
}

# ---------------------------------------------------------------- what an interrupted run left

# Takes back, or brings to its end, what the list says, if there is one. $how tells which. A directory that is not there keeps the list,
# unless $1 says `forget`: then the names in it are given up.
recover_list() {
  how=nothing left='' given_up='' missing='' stuck='' reached=0
  [ -e "$state/list" ] || {
    forget_list
    return 0
  }
  items=0 places=0 run='' mark='' line=''
  while IFS= read -r line; do
    case $line in
      run\ *) run=${line#run } ;;
      mark\ *) mark=${line#mark } ;;
      in\ *) places=$((places + 1)) && eval "place_$places=\${line#in }" ;;
      end) break ;;
      *) items=$((items + 1)) && eval "item_$items=\$line" ;;
    esac
  done <"$state/list"
  # A list that does not end was not whole when the run ended, and before that nothing is made.
  [ "$line" = end ] || {
    forget_list
    return 0
  }
  stuck=$state/list
  [ "$run" ] && [ "$mark" ] || return 1
  own=.deaddrop-$run
  find_absent
  if [ "$absent" -gt 0 ]; then
    [ "$1" = forget ] || {
      missing=$absent_1
      return 1
    }
    give_up
  fi
  if [ -e "$state/done" ]; then
    how=finished
    finish
    return 0
  fi
  how=back
  take_back || return 1
  forget_list
}

# Notes the directories of the list that are not there, or are not those that they were: a file system is not mounted.
find_absent() {
  absent=0
  number=0
  while [ "$number" -lt "$places" ]; do
    number=$((number + 1))
    eval "dir=\${place_$number#* } inode=\${place_$number%% *}"
    enter "$dir" && [ "$(stat -c %i .)" = "$inode" ] || note_absent
  done
  [ ! -e "$state/done" ] || return 0
  number=0
  while [ "$number" -lt "$items" ]; do
    number=$((number + 1))
    load_item "$number"
    case $kind in
      r | x) is_absent || stands "$path" || enter_own || note_absent ;;
    esac
  done
}

note_absent() {
  absent=$((absent + 1))
  eval "absent_$absent=\$dir"
}

# True for an item in such a directory, or below one.
is_absent() {
  level=$absent
  while [ "$level" -gt 0 ]; do
    eval "place=\${absent_$level%/}"
    case $dir/ in
      "$place"/*) return 0 ;;
    esac
    level=$((level - 1))
  done
  return 1
}

give_up() {
  number=0
  while [ "$number" -lt "$items" ]; do
    number=$((number + 1))
    load_item "$number"
    [ "$kind" = d ] || ! is_absent || given_up=$given_up$path$nl
  done
}

# Says $1 and a path for each line of $2.
say_each() {
  lines=$2
  while [ "$lines" ]; do
    say "$1 ${lines%%"$nl"*}"
    lines=${lines#*"$nl"}
  done
}

recover() {
  if ! lock; then
    say "refused locked"
  elif recover_list "$1"; then
    say_each left "$left"
    say_each gave-up "$given_up"
    say "recovered $how"
  elif [ "$missing" ]; then
    say "refused missing $missing"
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
    say_each left "$left"
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
      compare_some %d:%i:%s:%Y:%Z "$@" || refuse "changed $path"
      wanted=
      set --
    fi
  done
  compare_some %d:%i:%s:%Y:%Z "$@" || refuse "changed $path"
}

# Compares what stat says of these files with the lines of $wanted; sets $path to the first that is not so.
compare_some() {
  format=$1
  shift
  [ $# -gt 0 ] || return 0
  [ "$(stat -c "$format" -- "$@" 2>/dev/null)$nl" != "$wanted" ] || return 0
  for path; do
    [ "$(stat -c "$format" -- "$path" 2>/dev/null)" = "${wanted%%"$nl"*}" ] || return 1
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
    say "run $run"
    say "mark $mark"
    number=0
    while [ "$number" -lt "$places" ]; do
      number=$((number + 1))
      eval "say \"in \$place_$number\""
    done
    number=0
    while [ "$number" -lt "$items" ]; do
      number=$((number + 1))
      eval "say \"\$item_$number\""
    done
    say end
  } >"$state/list" && settle_on_disk "$state/list" "$state" || {
    forget_list
    refuse "list"
  }
}

# Writes the next value to what is open as 8. A short text is one line with escapes that printf knows: no program is needed for it.
value() {
  case $lines in
    p)
      # shellcheck disable=SC2059 # The line is made to be its format.
      IFS= read -r line && printf "$line" >&8
      ;;
    # Mode or owner alone is changed: the content stays.
    =) cat "o/$name" >&8 ;;
    g) IFS= read -r line && generate_value "$line" >&8 ;;
    *) encoded | base64 -d >&8 ;;
  esac
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

# Makes the directories: those that are declared, and one of the run's own in each in which a file changes. Old files get a second name
# there.
prepare() {
  number=0
  at=
  wanted=
  set --
  while [ "$number" -lt "$items" ]; do
    number=$((number + 1))
    load_item "$number"
    if [ "$kind" = d ]; then
      enter "$dir" && mkdir -m 700 "./$name" && open_directory || abort "write $path"
      continue
    fi
    if [ "$dir" != "$at" ] || [ $# -ge "$portion" ]; then
      keep "$@"
      wanted=
      set --
    fi
    if [ "$dir" != "$at" ]; then
      make_own || {
        # What came of it goes: it may not be whole.
        ! enter "${dir%/}/$own" || [ ! -O . ] || rm -f probe "$mark"
        [ -z "$checked" ] || abort "modes $dir"
        abort "write $path"
      }
      reached=$number
      at=$dir
    fi
    [ "$kind" != r ] || {
      set -- "$@" "$name"
      wanted=$wanted${expected%:*}$nl
    }
  done
  keep "$@"
}

# Gives files of the directory above a second name, and looks whether they are what they were.
keep() {
  [ $# -gt 0 ] || return 0
  count=$#
  for file; do
    set -- "$@" "../$file"
  done
  shift "$count"
  ln -- "$@" o || {
    for file; do
      [ -e "o/${file#../}" ] || break
    done
    abort "link ${at%/}/${file#../}"
  }
  for file; do
    set -- "$@" "o/${file#../}"
  done
  shift "$count"
  compare_some %d:%i:%s:%Y "$@" || abort "changed ${at%/}/${path#o/}"
}

# Writes every new file, whole and onto the disk.
write_files() {
  number=0
  at=
  wanted=
  set --
  while [ "$number" -lt "$items" ]; do
    number=$((number + 1))
    load_item "$number"
    case $kind in
      d | x) continue ;;
    esac
    if [ "$dir" != "$at" ] || [ $# -ge "$portion" ]; then
      read_back "$@" || abort differs
      wanted=
      set --
    fi
    [ "$dir" = "$at" ] || enter_own || abort "parent $dir"
    at=$dir
    # The file has its mode from its first moment.
    umask "$mask"
    {
      give_owner && value
    } 8>"n/$name" || abort "write $path"
    umask 077
    label || abort "label $path"
    [ "$before" != - ] || before=$(stat -c %s -- "n/$name")
    set -- "$@" "n/$name"
    wanted="$wanted$mode $uid $gid $before$nl"
  done
  read_back "$@" || abort differs
  IFS= read -r line
  [ "$line" = "go $nonce" ] || abort "cut"
}

# Gives a new file its owner, before anything is in it.
give_owner() {
  [ "$uid:$gid" = 0:0 ] && [ ! -g n ] || chown "$uid:$gid" "n/$name"
}

# Where SELinux is: the label of the file that is replaced, or the one that the policy says.
label() {
  [ -e /sys/fs/selinux/enforce ] || return 0
  case $kind in
    r) chcon --reference="o/$name" "n/$name" ;;
    *)
      context=$(matchpathcon -n "$path" 2>/dev/null) || return 0
      [ "$context" = '<<none>>' ] || chcon "$context" "n/$name"
      ;;
  esac
}

# Mode, owner and size of new files of one directory, and then all of them to the disk.
read_back() {
  [ $# -gt 0 ] || return 0
  [ "$(stat -c '%a %u %g %s' -- "$@" 2>/dev/null)$nl" = "$wanted" ] || return 1
  stat -c %i:%s:%Y -- "$@" >>"$state/new" || return 1
  settle_on_disk "$@" n o . .. "$state/new" "$state" || abort "sync $at"
}

# One name after another; nothing is written here but names.
commit() {
  number=0
  at=
  batch=
  set --
  while [ "$number" -lt "$items" ]; do
    number=$((number + 1))
    load_item "$number"
    [ "$kind" != d ] || continue
    if [ "$dir" != "$at" ] || [ "$kind" != "$batch" ] || [ $# -ge "$portion" ]; then
      commit_some "$@"
      set --
    fi
    [ "$dir" = "$at" ] || enter_own || abort "parent $dir"
    at=$dir batch=$kind
    set -- "$@" "$name"
  done
  commit_some "$@"
}

# Files of one directory and one kind. Somebody may have changed one since it was looked at.
commit_some() {
  [ $# -gt 0 ] || return 0
  count=$#
  case $batch in
    c)
      for file; do
        set -- "$@" "n/$file"
      done
      shift "$count"
      ln -- "$@" .. && return
      ;;
    r)
      for file; do
        is_file "../$file" && [ "../$file" -ef "o/$file" ] || abort "changed ${at%/}/$file"
        set -- "$@" "n/$file"
      done
      shift "$count"
      mv -f -- "$@" .. && return
      ;;
    x)
      for file; do
        set -- "$@" "../$file"
      done
      shift "$count"
      mv -f -- "$@" o && return
      ;;
  esac
  # Of what is made nothing stood there; of what is replaced the new file has lost its first name.
  for file; do
    file=${file#n/}
    case $batch in
      c) [ "../$file" -ef "n/$file" ] || { stands "../$file" && abort "changed ${at%/}/$file"; } || break ;;
      r) [ ! -e "n/$file" ] || break ;;
      x) [ ! -e "$file" ] || break ;;
    esac
  done
  abort "commit ${at%/}/${file#../}"
}

# Brings the names to the disk. An old file that was written to meanwhile comes back.
settle_names() {
  number=0
  at=
  wanted=
  set --
  while [ "$number" -lt "$items" ]; do
    number=$((number + 1))
    load_item "$number"
    if [ "$dir" != "$at" ] || [ $# -ge "$portion" ]; then
      settle_some "$@"
      wanted=
      set --
    fi
    if [ "$kind" = d ]; then
      enter "$dir" && settle_on_disk . || abort "sync $dir"
      at=
      continue
    fi
    if [ "$dir" != "$at" ]; then
      enter_own && settle_on_disk .. n o || abort "sync $dir"
      at=$dir
    fi
    [ "$kind" = c ] || {
      set -- "$@" "o/$name"
      wanted=$wanted${expected%:*}$nl
    }
  done
  settle_some "$@"
}

settle_some() {
  [ $# -gt 0 ] || return 0
  compare_some %d:%i:%s:%Y "$@" || abort "changed ${at%/}/${path#o/}"
}

# Gives a directory that was just made its owner and mode, from inside: who owns the one above could put another in its place. What
# is entered is root's, closed and empty.
open_directory() {
  enter "$path" && [ -z "$(ls -A .)" ] || return 1
  case $(stat -c '%u %a' .) in
    '0 700' | '0 2700') ;;
    *) return 1 ;;
  esac
  [ "$mode" = 700 ] || {
    # What a default ACL names would get what the group gets.
    ! command -v setfacl >/dev/null 2>&1 || setfacl -b . || return 1
    chmod "$mode" . || return 1
  }
  [ "$uid:$gid" = 0:0 ] && [ ! -g . ] || chown "$uid:$gid" .
}

apply() {
  items=0 places=0 units=0 programs=0 checks=0
  settle=0 absent=0 reached=0
  rollback=yes
  while :; do
    IFS= read -r line || exit 1
    case $line in
      run\ *) run=${line#run } ;;
      mark\ *) mark=${line#mark } ;;
      in\ *) places=$((places + 1)) && eval "place_$places=\${line#in }" ;;
      unit\ *) units=$((units + 1)) && eval "unit_$units=\${line#unit }" ;;
      program\ *) programs=$((programs + 1)) && eval "program_$programs=\${line#program }" ;;
      check\ *) checks=$((checks + 1)) && eval "check_$checks=\${line#check }" ;;
      settle\ *) settle=${line#settle } ;;
      keep) rollback= ;;
      .) break ;;
      *) items=$((items + 1)) && eval "item_$items=\$line" ;;
    esac
  done
  own=.deaddrop-$run
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
  write_files
  commit
  settle_names
  tell_units
  cd /
  # `true`, since a redirection of `:` that fails would end the shell.
  { true >"$state/done"; } 2>/dev/null && settle_on_disk "$state/done" "$state" || {
    rm -f "$state/done"
    bad=mark
    say "bad mark"
    roll_back
  }
  finish
  if [ "$bad" ]; then say "end kept"; else say "end done"; fi
  say .
  exit 0
}
