# shellcheck shell=sh disable=SC2015,SC2034,SC2086,SC2094,SC2154,SC3013
# deaddrop on a node, third part: the units and programs that use the changed files, and whether they are healthy. Sent
# with the second part.
#
# $unit_1, …: `restart|try|reload WATCH NAME`, WATCH being 1 if the unit is watched for $settle seconds.
# $program_1, …: a program and its arguments, quoted for this shell and then in base64.
# $check_1, …: `SECONDS` and such a program, which must succeed within this time.

# Time limit of one of $program_1, …, in seconds.
program_limit=900

names_of_units() {
  names=
  number=0
  while [ "$number" -lt "$units" ]; do
    number=$((number + 1))
    eval "names=\"\$names \${unit_$number##* }\""
  done
}

# Refuses if systemd cannot load a unit, with the reason for each. Records which units are active.
units_stand() {
  [ "$units" -gt 0 ] || return 0
  command -v systemctl >/dev/null 2>&1 && [ -d /run/systemd/system ] || refuse no-systemd
  names_of_units
  # Names of units contain no characters that a shell would split or expand.
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

# Checks, in a dry run, whether `apply` would be refused because of its units.
check_units() {
  units=0 passwords=0
  while :; do
    IFS= read -r line || exit 1
    case $line in
      unit\ *) units=$((units + 1)) && eval "unit_$units=\${line#unit }" ;;
      password\ *) passwords=$((passwords + 1)) && eval "password_$passwords=\${line#password }" ;;
      users\ *) ;;
      *) break ;;
    esac
  done
  units_stand
  [ "$passwords" = 0 ] || passwords_stand
  say fine
  say .
}

# Sets $now to a number of seconds that only increases: the clock may be set while a program runs. proc(5),
# /proc/uptime.
look_at_clock() {
  now=
  read -r now rest </proc/uptime
  now=${now%%.*}
  [ "$now" ] || now=$(date +%s)
} 2>/dev/null

# Runs a program of the manifest for at most $2 seconds, with no open files except its output, which is kept for an
# error, and with the five remaining variables of the environment. Returns its status; sets $hung if it was killed after
# its time limit.
run() {
  hung=
  limit=$2
  eval "set -- $(printf %s "$1" | base64 -d)"
  set -- env -i "PATH=$PATH" ${HOME+"HOME=$HOME"} ${LANG+"LANG=$LANG"} ${had_locale:+"LC_ALL=$locale"} ${TZ+"TZ=$TZ"} "$@"
  # Its own session, which identifies all processes that it starts.
  ! command -v setsid >/dev/null 2>&1 || set -- setsid "$@"
  true >|"$state/output" || return 1
  {
    trap - HUP INT TERM PIPE
    cd / && umask 022 && exec "$@"
  } </dev/null >>"$state/output" 2>&1 9<&- &
  child=$!
  look_at_clock
  started=$now
  pause=0.02
  while kill -0 "$child" 2>/dev/null; do
    look_at_clock
    if [ $((now - started)) -gt "$limit" ]; then
      hung=yes
      end_program "$child"
      break
    fi
    sleep "$pause" 2>/dev/null || sleep 1
    case $pause in
      0.02) pause=0.1 ;;
      0.1) pause=0.3 ;;
    esac
  done
  wait "$child" 2>/dev/null
}

# Ends a program and all processes that it has started: with SIGTERM first, then with SIGKILL.
end_program() {
  find_started "$1"
  kill $found 2>/dev/null
  for pause in 0.1 0.3 1; do
    sleep "$pause" 2>/dev/null || sleep 1
    asked=$found
    find_started "$1"
    [ "$found" ] || return 0
  done
  for pause in 1 1 1; do
    # A child of a process that has ended has another parent now.
    kill -9 $asked $found 2>/dev/null
    asked=$found
    find_started "$1"
    [ "$found" ] || return 0
    sleep "$pause"
  done
} 2>/dev/null

# Sets $found to the processes of session $1, and to the descendants of these and of process $1: proc(5),
# /proc/pid/stat.
find_started() {
  found=
  tree=" $1 "
  more=yes
  set +f
  while [ "$more" ]; do
    more=
    for process in /proc/[0-9]*; do
      process=${process#/proc/}
      case " $found" in
        *" $process "*) continue ;;
      esac
      line=
      IFS= read -r line <"/proc/$process/stat"
      # Its name may contain anything, and is followed by the last parenthesis.
      line=${line##*\) }
      parent=${line#* }
      session=${parent#* * }
      parent=${parent%% *} session=${session%% *}
      case $line,$tree in
        Z*) continue ;;
        *,*" $parent "* | *,*" $process "*) ;;
        *) [ "$session" = "$1" ] || continue ;;
      esac
      tree="$tree$process "
      found="$found$process "
      more=yes
    done
  done
  set -f
} 2>/dev/null

# At most as much as deaddrop accepts. A truncated line is not shown, because it is longer than any that is.
last_bytes() {
  tail -c 100000
}

# The end of its output.
show_output() {
  say output
  tail -n 5 "$state/output" 2>/dev/null | last_bytes | base64
  say ,
}

show_journal() {
  say "output $1"
  journalctl -u "$1" -n 5 -q --no-pager -o cat 2>/dev/null </dev/null | last_bytes | base64
  say ,
}

# Acts on every unit of a changed file; sets $bad to the failure.
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
    # Each has its own time limit in deaddrop too.
    say "step restarting"
    run "$program" "$program_limit"
    code=$?
    [ -z "$hung" ] || code=hung
    [ "$code" = 0 ] || {
      bad="program $number $code"
      return
    }
  done
}

forget_state() {
  active='' sub='' result='' type='' count=''
}

# Sets $bad to the first unit that was acted on and is not healthy. A unit that systemd has restarted since is not
# healthy. $1: `watched` for watched units only.
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

# Repeats each check until it succeeds, or its time limit is over. A check that hangs is killed.
run_checks() {
  tried=0
  while [ -z "$bad" ] && [ "$tried" -lt "$checks" ]; do
    tried=$((tried + 1))
    eval "check=\$check_$tried"
    look_at_clock
    first=$now
    # The reason if its time limit is over: it hung, unless a try has ended.
    ended=hung
    while :; do
      look_at_clock
      remaining=$((${check%% *} - now + first))
      if [ "$remaining" -le 0 ]; then
        bad="check $tried $ended"
        break
      fi
      run "${check#* }" "$remaining" && break
      [ "$hung" ] || ended=failed
      # A unit that is down does not come back by being waited for; one that is starting may.
      look_at_units all
      case $bad in
        'state '*' failed '* | 'state '*' inactive '*)
          bad="down ${bad#state } $tried"
          break
          ;;
      esac
      bad=
      sleep 1
    done
  done
}

show_why() {
  case $bad in
    program* | users* | password*set) show_output ;;
    password* | not-served) ;;
    sshd*) show_output ;;
    down*)
      unit=${bad#* }
      show_journal "${unit%% *}"
      show_output
      ;;
    check*)
      show_output
      failed=$bad bad=
      look_at_units all
      unit=${bad#* }
      [ -z "$bad" ] || show_journal "${unit%% *}"
      bad=$failed
      ;;
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

# Acts on units, runs programs, and checks them. If something fails, restores the old files and acts on the units again:
# then this does not return.
tell_units() {
  bad=
  ran=0
  number=0
  while [ "$number" -lt "$units" ]; do
    number=$((number + 1))
    eval "acted_$number="
  done
  [ "$units" = 0 ] && [ "$programs" = 0 ] && [ "$checks" = 0 ] && [ "$passwords" = 0 ] && [ -z "$tells_sshd" ] && return 0
  say "step restarting"
  [ -z "$tells_sshd" ] || tell_sshd
  [ "$bad" ] || [ "$passwords" = 0 ] || apply_passwords
  [ "$bad" ] || act_on_units
  [ "$bad" ] || [ "$passwords" = 0 ] || check_passwords
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
    say_each left "$left"
    say "stuck $stuck"
    say "end stuck"
    say .
    exit 1
  fi
  say_each left "$left"
  [ -z "$tells_sshd" ] || tell_sshd_again
  [ "$passwords" = 0 ] || run_users_again
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
    say "step restoring"
    run "$program" "$program_limit" || say "again program $number"
  done
  [ "$passwords" = 0 ] || put_passwords_back
  bad=
  look_at_units all
  [ -z "$bad" ] || say "still $bad"
  forget_list
  say "end rolled-back"
  say .
  exit 0
}
