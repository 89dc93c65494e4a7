# shellcheck shell=sh disable=SC2015,SC2034,SC2086,SC2094,SC2154,SC3013
# deaddrop on a node: the run's own directories, and the code that rolls back or finishes a run: this one, or an
# interrupted one. Sent with apply.sh, which describes the content of such a directory and of the list.

# Creates the run's own directory in $dir and enters it. The owner of $dir could replace it by another directory of
# root's. $checked shows how far it came.
make_own() {
  checked=
  enter "$dir" && mkdir -m 700 "$own" && enter "${dir%/}/$own" && [ -O . ] && mkdir -m 700 n o || return 1
  probe || {
    # A default ACL, and not the umask, has set their modes.
    [ "$checked" ] && has setfacl || return 1
    rm -f probe "$mark"
    setfacl -b . n o && probe
  }
}

# With a default ACL, or without modes, these two would have the same mode. $checked gets their modes, and those of
# "$@".
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
  # Directories may inherit the setgid bit of their parent.
  case $checked in
    "0:700${nl}0:700${nl}0:700${nl}0:600${nl}0:666") ;;
    "0:2700${nl}0:2700${nl}0:2700${nl}0:600${nl}0:666") ;;
    *) return 1 ;;
  esac
}

# Gives a new directory its owner and mode, from inside: the owner of its parent could replace it by another. The
# entered directory must be root's, closed and empty.
open_directory() {
  enter "$path" && [ -z "$(ls -A .)" ] || return 1
  case $(stat -c '%u %a' .) in
    '0 700' | '0 2700') ;;
    *) return 1 ;;
  esac
  [ "$mode" = 700 ] || {
    # Users in a default ACL would get the permissions of the group.
    if has setfacl; then
      setfacl -b . || return 1
    else
      new_files && rm -f probe "$mark" || return 1
      [ "$checked" = "0:600${nl}0:666" ] || return 1
    fi
    chmod "$mode" . || return 1
  }
  [ "$uid:$gid" = 0:0 ] && [ ! -g . ] || chown "$uid:$gid" .
}

# Enters it again.
enter_own() {
  enter "${dir%/}/$own" && [ -O . ] && [ -f "./$mark" ]
}

# Removes it, with these files in it; goes to $dir. Fails if something remains in it. An empty one that cannot be
# removed (the directory is append-only) is only recorded in $stays.
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
  # It must be identifiable later: the mark is removed last, and without it only an empty directory is ours.
  stands "$mark" || true >"$mark"
  return 1
} 2>/dev/null

# Overwrites those of these files that have no other name, which would keep the content.
overwrite() {
  count=$#
  for file; do
    ! is_file "$file" || set -- "$@" "$file"
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
  # In this order: a list without `done` would be rolled back.
  rm -f "$state/list" "$state/new" "$state/output" "$state/done"
  rmdir "$state" 2>/dev/null
  return 0
}

# The new files stay: removes the leftovers of the old ones.
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
        # A directory of the run may have been removed by another program since.
        [ -d "$dir" ] || is_absent || is_made || lost=$dir
        continue
      }
      at=$dir
    fi
    case $kind in
      c) set -- "$@" "n/$name" ;;
      # With `forward` the new file may not be in place yet.
      *) set -- "$@" "o/$name" "n/$name" ;;
    esac
    if [ $# -ge "$portion" ]; then
      clear_away "$@" || lost=$at
      set --
    fi
  done
  [ -z "$at" ] || leave_own "$@" || lost=$at
  [ "$lost" ] || forget_list
}

# True for an item in a directory that the list itself creates.
is_made() {
  level=0
  while [ "$level" -lt "$items" ]; do
    level=$((level + 1))
    eval "place=\$item_$level"
    case $place in
      d\ *) ;;
      # They are first in the list.
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

# Enters the run's own directory of an item. Fails if there is none: then nothing of the run is there. An incomplete one
# is empty, and is removed.
come_back() {
  enter_own && return
  enter "$dir" && [ -d "$own" ] && [ ! -L "$own" ] && rmdir "$own/n" "$own/o" "$own" 2>/dev/null
  return 1
}

# Restores the old files, in reverse order. It may be interrupted anywhere and repeated. $left gets the paths, one per
# line, that another program has changed since: these are not touched.
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
        # The files by which `open_directory` checks modes.
        ! enter "$path" || [ ! -O . ] || [ ! -f "./$mark" ] || rm -f probe "$mark"
        enter "$dir" && rmdir "./$name" 2>/dev/null && settle_on_disk .
        continue
      fi
      come_back || {
        # It was created in this run.
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

# If a file could not be restored, everything that is needed for it stays.
leave_taken_back() {
  [ -z "$stuck" ] || return 0
  leave_own "$@" && settle_on_disk . || stuck=$at
}

# Sets $file_NUMBER to the line of $state/new for each new file.
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

# True if the file at the item's path is its new file, even without its other name.
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
        # The new value gets its other name again, so that it is overwritten once its path is taken.
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

# ---------------------------------------------------------------- leftovers of an interrupted run

# Rolls back or finishes the run of the list, if there is one. $how tells which. A missing directory keeps the list,
# unless $1 is `forget`: then its entries are abandoned.
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
  # A list without `end` was not complete when the run was interrupted, and nothing is created before that.
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

# Records the directories of the list that are missing or have been replaced: a file system is not mounted.
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

# Prints $1 and a path for each line of $2.
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
