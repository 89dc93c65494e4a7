# shellcheck shell=sh disable=SC2015,SC2034,SC2086,SC2094,SC2154,SC3013
# deaddrop on a node, second part: makes all changes, or none, and restarts the units. Sent only if there is something
# to change. docs/rotation.md describes the order of the steps, and why.
#
# An item is one file or directory: `KIND MODE MASK UID GID BEFORE LINES STATE PATH`, in $item_1, $item_2, …
#   d  make a directory; they come before all others
#   c  create a file
#   r  replace a file
#   x  remove a file
# Files of one directory D are adjacent. All temporary files are in D/.deaddrop-RUN, which root creates and only root
# may enter:
#   n/NAME  the new file: for r until it is in place, for c until the end, as a second name
#   o/NAME  the old file, until the end: for r a second name, made before anything else; for x the file itself
#   MARK    an empty file with a secret name: it identifies the directory when it is entered again
#   probe   an empty file; key, key.pub: see generate.sh
# $state/list contains `run RUN`, `mark MARK`, `in INODE D` for each existing D, the items, and `end`. It exists from
# before the first of these directories is created until after the last is removed. $state/done means that the new files
# stay; with `forward`, after which no old file may come back, it exists from before the first rename. $state/new has a
# line `INODE:SIZE:TIME` for each new file, in the list's order, from before the first rename: it identifies new files
# later. src/place/interrupted.rs reads all of them on a disk that is written offline.
# MASK is the umask that gives a new file its mode. BEFORE is the size of a new file, `-` if it is generated here.
# LINES: see `value`. STATE is `stat -c %d:%i:%s:%Y:%Z` during the survey.

set -C
lines=0
# Maximum number of names that one program is given.
portion=100

# Sets `$kind … $path`, `$dir` and `$name` of item $1.
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

# Syncs files and directories to the disk.
settle_on_disk() {
  sync -- "$@" 2>|"$state/output" && return
  # fsync(2) has failed; otherwise this program takes no files, or the file system cannot sync single ones.
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

# No visible change was made yet: removes what was created.
abort() {
  if take_back; then
    forget_list
    say_each left "$left"
    refuse "$@"
  fi
  say "stuck $stuck"
  refuse "$@"
}

# Refuses if anything has changed since the survey.
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

# Compares the stat of these files with the lines of $wanted; sets $path to the first that differs.
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

# Writes the list before creating anything that it names.
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

# Writes the next value to file descriptor 8. A short text is one line with escapes for printf: no program is needed for
# it.
value() {
  case $lines in
    p)
      # shellcheck disable=SC2059 # The line is a format by design.
      IFS= read -r line && printf "$line" >&8
      ;;
    # Only mode or owner changes: the content stays.
    =) cat "o/$name" >&8 ;;
    g) IFS= read -r line && generate_value "$line" >&8 ;;
    *) encoded | base64 -d >&8 ;;
  esac
}

# The next value in base64: $lines lines of 4096 bytes and one shorter line.
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

# Creates the declared directories, and the run's own directory in each directory with a changed file. Gives old files a
# second name there.
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
        # Removes an own directory that may be incomplete.
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

# Gives files of the parent directory a second name, and checks that they have not changed.
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

# Writes every new file, completely and synced.
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
    # The file has its mode from the start.
    umask "$mask"
    made_public=
    {
      give_owner && value
    } 8>"n/$name" || abort "write $path"
    umask 077
    [ -z "$made_public" ] || say "public $number $made_public"
    label || abort "label $path"
    [ "$before" != - ] || before=$(stat -c %s -- "n/$name")
    set -- "$@" "n/$name"
    wanted="$wanted$mode $uid $gid $before$nl"
  done
  read_back "$@" || abort differs
  [ "$passwords" = 0 ] || read_hashes || abort cut
  IFS= read -r line
  [ "$line" = "go $nonce" ] || abort "cut"
}

# Gives a new file its owner, before it has content.
give_owner() {
  [ "$uid:$gid" = 0:0 ] && [ ! -g n ] || chown "$uid:$gid" "n/$name"
}

# With SELinux: the label of the replaced file, or that of the policy.
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

# Checks mode, owner and size of new files of one directory, then syncs all of them.
read_back() {
  [ $# -gt 0 ] || return 0
  [ "$(stat -c '%a %u %g %s' -- "$@" 2>/dev/null)$nl" = "$wanted" ] || return 1
  stat -c %i:%s:%Y -- "$@" >>"$state/new" || return 1
  settle_on_disk "$@" n o . .. "$state/new" "$state" || abort "sync $at"
}

# Only renames and links from here on.
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

# Files of one directory and one kind. Another program may have changed one since the survey.
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
  # Finds the first file that failed: a created one does not exist; a replaced one still has its first name in n.
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

# Syncs the names. If an old file was written to since, rolls back.
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

# The same if no old file may come back: an old file that another program has written to meanwhile is lost.
settle_forward() {
  number=0
  while [ "$number" -lt "$items" ]; do
    number=$((number + 1))
    load_item "$number"
    ! enter "$dir" || settle_on_disk . || :
  done
}

# Records that the new files stay. `true`, because a failed redirection of `:` would end the shell.
mark_done() {
  { true >"$state/done"; } 2>/dev/null && settle_on_disk "$state/done" "$state"
}

apply() {
  items=0 places=0 units=0 programs=0 checks=0 passwords=0 users_program='' tells_sshd=''
  settle=0 absent=0 reached=0 stays=
  rollback=yes forward=
  while :; do
    IFS= read -r line || exit 1
    case $line in
      run\ *) run=${line#run } ;;
      mark\ *) mark=${line#mark } ;;
      in\ *) places=$((places + 1)) && eval "place_$places=\${line#in }" ;;
      unit\ *) units=$((units + 1)) && eval "unit_$units=\${line#unit }" ;;
      program\ *) programs=$((programs + 1)) && eval "program_$programs=\${line#program }" ;;
      check\ *) checks=$((checks + 1)) && eval "check_$checks=\${line#check }" ;;
      sshd\ *) tells_sshd=${line#sshd } ;;
      users\ *) users_program=${line#users } ;;
      password\ *) passwords=$((passwords + 1)) && eval "password_$passwords=\${line#password }" ;;
      settle\ *) settle=${line#settle } ;;
      keep) rollback= ;;
      forward) forward=yes ;;
      .) break ;;
      *) items=$((items + 1)) && eval "item_$items=\$line" ;;
    esac
  done
  own=.deaddrop-$run
  # From here on the script is independent of the connection (a unit may be the network), and signals are deferred.
  # Started programs do not inherit this: a handler, unlike an ignored signal, is not inherited.
  trap : HUP INT TERM PIPE
  lock || refuse locked
  [ ! -e "$state/list" ] || refuse unfinished
  compare
  units_stand
  [ "$passwords" = 0 ] || passwords_stand
  write_list
  say "step writing"
  prepare
  write_files
  [ -z "$forward" ] || mark_done || abort list
  commit
  if [ "$forward" ]; then
    settle_forward
  else
    settle_names
  fi
  tell_units
  cd /
  [ "$forward" ] || mark_done || {
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
