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
  sync -- "$@" 2>|"$state/output" && return
  # fsync(2) has failed; else this program knows no files, or this file system none that are synced by themselves.
  case $(cat "$state/output") in
    *'Input/output error'* | *'No space left'* | *'quota exceeded'*) return 1 ;;
  esac
  sync
}

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
  whole=
  {
    say "run $run" && say "mark $mark" && whole=yes
    number=0
    while [ "$number" -lt "$places" ]; do
      number=$((number + 1))
      eval "say \"in \$place_$number\"" || whole=
    done
    number=0
    while [ "$number" -lt "$items" ]; do
      number=$((number + 1))
      eval "say \"\$item_$number\"" || whole=
    done
    say end
  } >"$state/list" && [ "$whole" ] && settle_on_disk "$state/list" "$state" || {
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
      checked=
      enter "$dir" && mkdir -m 700 "./$name" && open_directory || {
        [ -z "$checked" ] || abort "modes $path"
        abort "write $path"
      }
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
    if command -v setfacl >/dev/null 2>&1; then
      setfacl -b . || return 1
    else
      new_files && rm -f probe "$mark" || return 1
      [ "$checked" = "0:600${nl}0:666" ] || return 1
    fi
    chmod "$mode" . || return 1
  }
  [ "$uid:$gid" = 0:0 ] && [ ! -g . ] || chown "$uid:$gid" .
}

apply() {
  items=0 places=0 units=0 programs=0 checks=0
  settle=0 absent=0 reached=0 stays=
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
  say_each stays "$stays"
  if [ "$bad" ]; then
    say "end kept"
  elif [ "$lost" ]; then
    say "end uncleared $lost"
  else
    say "end done"
  fi
  say .
  exit 0
}
