# shellcheck shell=sh disable=SC2015,SC2034,SC2086,SC2094,SC2154,SC3013
# deaddrop on a node: the run's own directories, and what takes a run back or brings it to its end: this one, or one that was cut off.
# Sent with apply.sh, which says what stands in such a directory and in the list.

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

# With a default ACL, or without modes at all, these two would have the same one. $checked tells how they, and "$@", are.
new_files() {
  checked=
  true >"$mark" || return 1
  umask 0
  true >probe || return 1
  umask 077
  checked=$(stat -c %u:%a "$@" "$mark" probe)
}

probe() {
  new_files . n o || return 1
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

# Takes it away, with these files in it; goes to $dir. Fails where something stays in it; an empty one that stays (the directory is
# append-only) is only noted in $stays.
remove_own() {
  if rm -f -- "$@" probe key key.pub "$mark"; then
    if rmdir n o "../$own" 2>/dev/null; then
      cd ..
      return 0
    elif ! stands n && ! stands o; then
      stays=$stays${dir%/}/$own$nl
      cd ..
      return 0
    fi
  fi
  # It must be known again: the mark goes last, and without it only an empty one is ours.
  stands "$mark" || true >"$mark"
  return 1
} 2>/dev/null

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
      [ -z "$at" ] || leave_own "$@" || lost=$at
      set --
      at=
      come_back || {
        # What the run has made, somebody may have taken away since.
        [ -d "$dir" ] || is_absent || is_made || lost=$dir
        continue
      }
      at=$dir
    fi
    case $kind in
      c) set -- "$@" "n/$name" ;;
      *) set -- "$@" "o/$name" ;;
    esac
    if [ $# -ge "$portion" ]; then
      clear_away "$@" || lost=$at
      set --
    fi
  done
  [ -z "$at" ] || leave_own "$@" || lost=$at
  [ "$lost" ] || forget_list
}

# True for an item in a directory that the list itself makes.
is_made() {
  level=0
  while [ "$level" -lt "$items" ]; do
    level=$((level + 1))
    eval "place=\$item_$level"
    case $place in
      d\ *) ;;
      # They come first.
      *) return 1 ;;
    esac
    place=/${place#*/}
    case $dir/ in
      "$place"/*) return 0 ;;
    esac
  done
  return 1
}

clear_away() {
  overwrite "$@"
  rm -f -- "$@"
}

leave_own() {
  overwrite "$@" key
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
        # What `open_directory` looks at its modes by.
        ! enter "$path" || [ ! -O . ] || [ ! -f "./$mark" ] || rm -f probe "$mark"
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
      clear_away "$@" || stuck=$at
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
  leave_own "$@" && settle_on_disk . || stuck=$at
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
  how=nothing left='' given_up='' missing='' stuck='' stays='' reached=0
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
    stuck=$lost
    [ -z "$lost" ]
    return
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
