# shellcheck shell=sh disable=SC2015,SC2034,SC2086,SC2094,SC2154,SC3013
# deaddrop on a node, third part: the units and programs that use what has changed, and whether they are well. Sent with the second part.
#
# $unit_1, …: `restart|try|reload WATCH NAME`, WATCH being 1 where the unit is watched for $settle seconds.
# $program_1, …: a program and its arguments, quoted for this shell and then in base64.
# $check_1, …: `SECONDS` and such a program, which must succeed within this time.

names_of_units() {
  names=
  number=0
  while [ "$number" -lt "$units" ]; do
    number=$((number + 1))
    eval "names=\"\$names \${unit_$number##* }\""
  done
}

# Says of each unit that systemd cannot load why not; then refuses. Notes which ones are active.
units_stand() {
  [ "$units" -gt 0 ] || return 0
  command -v systemctl >/dev/null 2>&1 && [ -d /run/systemd/system ] || refuse no-systemd
  names_of_units
  # Names of units hold nothing that a shell would part or expand.
  answer=$(systemctl show -p LoadState -p ActiveState -- $names 2>/dev/null </dev/null)$nl$nl
  number=0
  loaded=''
  active=''
  wrong=''
  while [ "$answer" ] && [ "$number" -lt "$units" ]; do
    line=${answer%%"$nl"*}
    answer=${answer#*"$nl"}
    case $line in
      LoadState=*) loaded=${line#*=} ;;
      ActiveState=*) active=${line#*=} ;;
      '')
        [ "$loaded" ] || continue
        number=$((number + 1))
        eval "unit=\${unit_$number##* }"
        [ "$loaded" = loaded ] || wrong="$wrong $unit=$loaded"
        eval "active_$number=\$active"
        loaded=''
        active=''
        ;;
    esac
  done
  [ "$number" = "$units" ] || refuse units
  [ -z "$wrong" ] || refuse "unit$wrong"
}

# What a person would type to see whether `apply` would be refused for its units.
check_units() {
  units=0
  while :; do
    IFS= read -r line || exit 1
    case $line in
      unit\ *) units=$((units + 1)) && eval "unit_$units=\${line#unit }" ;;
      *) break ;;
    esac
  done
  units_stand
  say fine
  say .
}

# Runs a program of ours with nothing open but its output, which is kept for when it fails.
run() {
  eval "set -- $(printf %s "$1" | base64 -d)"
  cd / && LC_ALL='' "$@" </dev/null >|"$state/output" 2>&1 9<&-
}

# The end of what it said.
show_output() {
  say output
  tail -n 5 "$state/output" 2>/dev/null | base64
  say ,
}

show_journal() {
  say output
  journalctl -u "$1" -n 5 -q --no-pager -o cat 2>/dev/null </dev/null | base64
  say ,
}

# Acts on every unit that was changed for; sets $bad to what went wrong.
act_on_units() {
  number=0
  while [ "$number" -lt "$units" ]; do
    number=$((number + 1))
    eval "unit=\$unit_$number was=\$active_$number"
    action=${unit%% *}
    name=${unit##* }
    case $action,$was in
      restart,* | *,active | *,reloading | *,activating) ;;
      *) continue ;;
    esac
    [ "$action" != try ] || action=try-restart
    eval "acted_$number=yes"
    say "acted $name"
    if ! systemctl "$action" -- "$name" >|"$state/output" 2>&1 </dev/null; then
      bad="$action $name"
      return
    fi
  done
}

run_programs() {
  number=0
  while [ "$number" -lt "$programs" ]; do
    number=$((number + 1))
    ran=$number
    eval "program=\$program_$number"
    run "$program"
    status=$?
    [ "$status" = 0 ] || {
      bad="program $number $status"
      return
    }
  done
}

forget_state() {
  active='' sub='' result='' type='' count=''
}

# Sets $bad to the first unit that was acted on and is not well. A unit that was started again by systemd meanwhile is not.
# $1: `watched` for those that are watched only.
look_at_units() {
  names=
  number=0
  while [ "$number" -lt "$units" ]; do
    number=$((number + 1))
    eval "unit=\$unit_$number acted=\$acted_$number"
    [ "$acted" ] || continue
    case $1,$unit in
      watched,*\ 0\ *) continue ;;
    esac
    names="$names ${unit##* }"
  done
  [ "$names" ] || return 0
  answer=$(systemctl show -p ActiveState -p SubState -p Result -p Type -p NRestarts -- $names 2>/dev/null </dev/null)$nl$nl
  set -- $names
  restarts=
  forget_state
  while [ "$answer" ] && [ $# -gt 0 ]; do
    line=${answer%%"$nl"*}
    answer=${answer#*"$nl"}
    case $line in
      ActiveState=*) active=${line#*=} ;;
      SubState=*) sub=${line#*=} ;;
      Result=*) result=${line#*=} ;;
      Type=*) type=${line#*=} ;;
      NRestarts=*) count=${line#*=} ;;
      '')
        [ "$active" ] || continue
        case $active,$type,$result in
          active,* | reloading,* | inactive,oneshot,success) ;;
          *)
            bad="state $1 $active $sub"
            return
            ;;
        esac
        restarts="$restarts $1=$count"
        shift
        forget_state
        ;;
    esac
  done
  [ $# = 0 ] || bad="state $1 unknown unknown"
}

watch_units() {
  look_at_units watched
  [ "$names" ] || return 0
  at_first=$restarts
  second=0
  while [ -z "$bad" ] && [ "$second" -lt "$settle" ]; do
    sleep 1
    second=$((second + 1))
    look_at_units watched
    [ "$bad" ] || [ "$restarts" = "$at_first" ] || bad="again $(changed_of "$at_first" "$restarts")"
  done
}

# The first name whose number differs in two lists of `NAME=NUMBER`.
changed_of() {
  first=$1
  for entry in $2; do
    case "$first " in
      *" $entry "*) ;;
      *)
        printf %s "${entry%=*}"
        return
        ;;
    esac
  done
}

# Tries each check until it succeeds, or its time is over. One that hangs is ended.
run_checks() {
  number=0
  while [ -z "$bad" ] && [ "$number" -lt "$checks" ]; do
    number=$((number + 1))
    eval "check=\$check_$number"
    limit=${check%% *}
    started=$(date +%s)
    # What is said when its time is over: it hung, if no try has ever come to an end.
    ended=hung
    while :; do
      run "${check#* }" &
      pid=$!
      while kill -0 "$pid" 2>/dev/null; do
        [ $(($(date +%s) - started)) -lt "$limit" ] || break
        sleep 0.2 2>/dev/null || sleep 1
      done
      if kill -0 "$pid" 2>/dev/null; then
        kill "$pid" 2>/dev/null
        sleep 1
        kill -9 "$pid" 2>/dev/null
        wait "$pid" 2>/dev/null
        bad="check $number $ended"
        break
      fi
      wait "$pid" && break
      ended=failed
      if [ $(($(date +%s) - started)) -ge "$limit" ]; then
        bad="check $number failed"
        break
      fi
      sleep 1
    done
  done
}

show_why() {
  case $bad in
    program* | check*) show_output ;;
    state* | again*)
      unit=${bad#* }
      show_journal "${unit%% *}"
      ;;
    *)
      show_journal "${bad##* }"
      show_output
      ;;
  esac
}

# Units, programs, and whether all is well then. If not, the old files come back, and the units with them: then this does not return.
tell_units() {
  bad=
  ran=0
  number=0
  while [ "$number" -lt "$units" ]; do
    number=$((number + 1))
    eval "acted_$number="
  done
  [ "$units" = 0 ] && [ "$programs" = 0 ] && [ "$checks" = 0 ] && return
  say "step restarting"
  act_on_units
  [ "$bad" ] || run_programs
  if [ -z "$bad" ]; then
    say "step settling"
    watch_units
    [ "$bad" ] || run_checks
    [ "$bad" ] || look_at_units all
  fi
  [ "$bad" ] || return 0
  say "bad $bad"
  show_why
  [ "$rollback" ] || return 0
  roll_back
}

roll_back() {
  say "step restoring"
  if ! take_back; then
    say "stuck $stuck"
    say "end stuck"
    say .
    exit 1
  fi
  sync_directories
  why=$bad
  number=0
  while [ "$number" -lt "$units" ]; do
    number=$((number + 1))
    eval "unit=\$unit_$number acted=\$acted_$number"
    [ "$acted" ] || continue
    case $unit in
      reload*) action=reload ;;
      *) action=restart ;;
    esac
    systemctl reset-failed -- "${unit##* }" >/dev/null 2>&1 </dev/null
    systemctl "$action" -- "${unit##* }" >/dev/null 2>&1 </dev/null || :
  done
  number=0
  while [ "$number" -lt "$ran" ]; do
    number=$((number + 1))
    eval "program=\$program_$number"
    run "$program" || say "again program $number"
  done
  bad=
  look_at_units all
  [ -z "$bad" ] || say "still $bad"
  forget_list
  say "end rolled-back"
  say .
  exit 0
}
