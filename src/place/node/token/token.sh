# shellcheck shell=sh disable=SC2015,SC2034,SC2046,SC2059,SC2086,SC2154,SC3013
# deaddrop on a node, for the token of a k3s or rke2 cluster: what its unit is and what it reads, questions to its
# server, and its restart. Sent with apply.sh, lock.sh and units.sh, and only for such a token.
# src/place/node/token/mod.rs reads the replies, and describes them. A token is never in an argument or an environment:
# curl(1) reads all of its configuration from a pipe.

tab=$(printf '\t')

# Sets $unit to the unit of "$@" that runs a server or an agent, or else to the first that would, and $unit_said to what
# systemd says of it.
find_unit() {
  unit='' unit_said='' first='' first_said=''
  has systemctl && [ -d /run/systemd/system ] || return 0
  for unit; do
    unit_said=$(systemctl show -p LoadState -p ActiveState -p SubState -p MainPID -p FragmentPath -p ExecStart \
      -p Environment -p EnvironmentFiles -- "$unit" 2>/dev/null </dev/null)
    property LoadState
    [ "$answer" = loaded ] || continue
    read_unit
    [ "$role" ] || continue
    property ActiveState
    case $answer in
      active | activating | reloading) return ;;
    esac
    [ "$first" ] || { first=$unit && first_said=$unit_said; }
  done
  unit=$first unit_said=$first_said
  [ -z "$unit" ] || read_unit
}

# Sets $answer to the first value of the property $1.
property() {
  answer=
  rest=$unit_said$nl
  while [ "$rest" ]; do
    line=${rest%%"$nl"*} rest=${rest#*"$nl"}
    case $line in
      "$1="*)
        answer=${line#*=}
        return
        ;;
    esac
  done
}

# Reads what the unit runs: the words of its ExecStart, and $variables and $files of its environment.
read_unit() {
  program='' role='' token_file='' agent_token='' agent_file='' data='' config='' port='' supervisor_port=''
  find_command
  IFS=" $tab$nl"
  read_command $command
  IFS=' '
}

find_command() {
  property ExecStart
  command=$answer
  case $command in
    *'argv[]='*)
      command=${command#*'argv[]='}
      command=${command%% ; *}
      ;;
  esac
  property Environment
  variables=$answer
  files=
  rest=$unit_said$nl
  while [ "$rest" ]; do
    line=${rest%%"$nl"*} rest=${rest#*"$nl"}
    case $line in
      EnvironmentFiles=*)
        line=${line#*=}
        files="$files ${line%% *}"
        ;;
    esac
  done
  [ -z "$command" ] || return 0
  # A systemd that does not show it: the unit's own file.
  property FragmentPath
  for file in "$answer" "/etc/systemd/system/$unit" "/run/systemd/system/$unit" "/usr/lib/systemd/system/$unit" \
    "/lib/systemd/system/$unit"; do
    [ ! -f "$file" ] || {
      read_unit_text "$(cat -- "$file")"
      return
    }
  done
}

read_unit_text() {
  rest=$1$nl
  line=
  while [ "$rest" ]; do
    line=$line${rest%%"$nl"*} rest=${rest#*"$nl"}
    case $line in
      *\\)
        line="${line%\\} "
        continue
        ;;
      ExecStart=?*) command=${line#*=} ;;
      Environment=*) variables="$variables ${line#*=}" ;;
      EnvironmentFile=*)
        line=${line#*=}
        files="$files ${line#-}"
        ;;
    esac
    line=
  done
}

# Without quotes around it.
unquoted() {
  answer=${1#[\"\']}
  answer=${answer%[\"\']}
}

# Reads the words of ExecStart: `PROGRAM ROLE FLAG…`. $role is empty if they are not those of a server or an agent.
read_command() {
  unquoted "${1-}"
  program=${answer#"${answer%%[!@:+!-]*}"}
  role=${2-}
  case $role in
    server | agent) shift 2 ;;
    *)
      role=
      return
      ;;
  esac
  while [ $# -gt 0 ]; do
    unquoted "$1"
    word=$answer
    shift
    case $word in
      --*=*) value=${word#*=} word=${word%%=*} ;;
      -*) value=${1-} ;;
      *) continue ;;
    esac
    unquoted "$value"
    case $word in
      --token-file) token_file=$answer ;;
      --agent-token) agent_token=$answer ;;
      --agent-token-file) agent_file=$answer ;;
      --data-dir | -d) data=$answer ;;
      --config | -c) config=$answer ;;
      --https-listen-port) port=$answer ;;
      --supervisor-port) supervisor_port=$answer ;;
    esac
  done
}

# Sets $answer to the value of a key at the top of the configuration file; a later file wins.
configured() {
  answer=
  set +f
  for file in "$config" "$config".d/*.yaml "$config".d/*.yml; do
    [ -f "$file" ] || continue
    while IFS= read -r line || [ "$line" ]; do
      case $line in
        "$1:"*)
          line=${line#*:}
          line=${line%% #*}
          line=${line#"${line%%[! "$tab"]*}"}
          line=${line%"${line##*[! "$tab"]}"}
          unquoted "$line"
          ;;
      esac
      line=
    done <"$file"
  done
  set -f
}

# Sets $answer to the value of a variable of the unit's environment.
variable() {
  found=
  for word in $variables; do
    unquoted "$word"
    case $answer in
      "$1="*) found=${answer#*=} ;;
    esac
  done
  for file in $files; do
    [ -f "$file" ] || continue
    while IFS= read -r line || [ "$line" ]; do
      line=${line#export }
      case $line in
        "$1="*)
          unquoted "${line#*=}"
          found=$answer
          ;;
      esac
      line=
    done <"$file"
  done
  answer=$found
}

# Sets $answer to what the flag has given, or else the configuration file (key $2), or else the environment (variable
# $3).
setting() {
  answer=$1
  [ "$answer" ] || configured "$2"
  [ "$answer" ] || [ -z "${3-}" ] || variable "$3"
}

# Sets $url to where the server answers.
find_url() {
  url=
  file=/etc/rancher/$kind/$kind.yaml
  [ ! -f "$file" ] || while IFS= read -r line || [ "$line" ]; do
    case $line in
      *server:\ *)
        unquoted "${line#*server: }"
        url=$answer
        break
        ;;
    esac
    line=
  done <"$file"
  setting "$port" https-listen-port
  port=$answer
  if [ "$kind" = k3s ]; then
    url=${url:-https://127.0.0.1:${port:-6443}}
    return
  fi
  # The supervisor has a port of its own, and the file has that of the apiserver, unless somebody has changed it.
  [ -z "$url" ] || [ "$supervisor_port" ] || [ "${url##*:}" = "${port:-6443}" ] || return 0
  host=${url%:*}
  url=${host:-https://127.0.0.1}:${supervisor_port:-9345}
}

# True if the unit's process is older than its token's file by more than a fifth of a second: it has
# not read it then.
is_stale() {
  property MainPID
  case $answer in
    '' | 0 | *[!0-9]*)
      set +f
      answer=$(grep -lae "${program}[^.]$role" /proc/[0-9]*/cmdline 2>/dev/null)
      set -f
      answer=${answer%%"$nl"*}
      answer=${answer#/proc/}
      answer=${answer%/cmdline}
      ;;
  esac
  # In ticks of a hundredth second since the boot: proc(5), /proc/pid/stat.
  started=$(start_of "${answer:-none}")
  read -r up rest </proc/uptime
  # The directory of a new process has the time of now.
  times=$(stat -L -c '%Y %y' -- "$path" /proc/self 2>/dev/null)
  case $up,$started,$times in
    [0-9]*.[0-9][0-9],[0-9]*,*"$nl"*) ;;
    *) return 1 ;;
  esac
  hundredths "${times%%"$nl"*}"
  written=$seconds part=$fraction
  hundredths "${times#*"$nl"}"
  [ $((${up%%.*} * 100 + 1${up#*.} - 100 - started)) -gt $(((seconds - written) * 100 + 1$fraction - 1$part + 20)) ]
}

# Sets $seconds, and $fraction to the two digits after them, of `SECONDS DATE TIME.FRACTION ZONE`.
hundredths() {
  seconds=${1%% *}
  fraction=${1#*.}
  case $1 in
    *.[0-9][0-9]*) fraction=${fraction%"${fraction#??}"} ;;
    *) fraction=00 ;;
  esac
}

# A small file, or what follows.
blob() {
  [ ! -f "$2" ] || {
    say "$1"
    head -c 4097 <"$2" 2>/dev/null | base64
    say ,
  }
}

# Reports the unit, its state, and what it reads. Reads `KIND`, the token's path, that of the kept old one or `-`, and
# the names of units.
token_look() {
  IFS= read -r kind && IFS= read -r path && IFS= read -r kept && IFS= read -r names || exit 1
  upper=K3S
  [ "$kind" = k3s ] || upper=RKE2
  find_unit $names
  blob kept "$kept"
  [ -z "$unit" ] || say_cluster
  say .
}

say_cluster() {
  property ActiveState
  active=$answer
  property SubState
  say "unit $unit"
  say "state $active ${answer:-unknown}"
  say "role $role"
  say "program $program"
  [ "$config" ] || variable "${upper}_CONFIG_FILE"
  config=${config:-${answer:-/etc/rancher/$kind/config.yaml}}
  setting "$data" data-dir "${upper}_DATA_DIR"
  data=${answer:-/var/lib/rancher/$kind}
  setting "$token_file" token-file "${upper}_TOKEN_FILE"
  say "reads $answer"
  if [ "$answer" = "$path" ] || [ "$answer" -ef "$path" ]; then say same; fi
  say "data $data"
  ! is_stale || say stale
  [ "$role" = server ] || return 0
  find_url
  say "url $url"
  ! has curl || say curl
  [ ! -e "$data/server/db" ] || say database
  blob own "$data/server/token"
  setting "$agent_file" agent-token-file "${upper}_AGENT_TOKEN_FILE"
  agent_file=$answer
  setting "$agent_token" agent-token "${upper}_AGENT_TOKEN"
  if [ "$agent_file" ]; then
    say "agent-file $agent_file"
    if [ "$agent_file" = "$path" ] || [ "$agent_file" -ef "$path" ]; then say agent-same; fi
    blob agent "$agent_file"
  elif [ "$answer" ]; then
    say agent
    printf %s "$answer" | base64
    say ,
  fi
}

# Answers each configuration of curl, a line for printf, with the status of the answer: 000 if there was none.
token_ask() {
  while :; do
    IFS= read -r line || exit 1
    [ "$line" != . ] || break
    code=$(printf "$line" | curl -q -K - 2>/dev/null)
    say "code $code"
  done
  say .
}

# Runs the program $1 (as for `run`) for at most 15 seconds, and tells whether it says that the server is ready:
# `unknown` if it is no such program.
token_ready() {
  said=$(
    eval "set -- $(printf %s "$1" | base64 -d)"
    "$@" 2>&1 </dev/null 9<&- &
    child=$!
    tries=0
    while kill -0 "$child" 2>/dev/null && [ "$tries" -lt 150 ]; do
      sleep 0.1 2>/dev/null || sleep 1
      tries=$((tries + 1))
    done
    [ "$tries" -lt 150 ] || kill "$child" 2>/dev/null
    wait "$child"
    say "=$?"
  )
  case $said in
    *=0) say ready ;;
    *'Error from server'* | *refused* | *'not ready'* | *'nable to connect'* | *'[-]'* | *imeout* | *=143)
      say unready
      ;;
    *) say unknown ;;
  esac
  say .
}

# Restarts the unit $1, and waits $2 seconds for systemd at most: it waits for as long as a server is not ready.
token_restart() {
  case $(systemctl show -p ActiveState -- "$1" 2>/dev/null </dev/null) in
    *ActiveState=failed*) systemctl reset-failed -- "$1" >/dev/null 2>&1 </dev/null ;;
  esac
  systemctl restart -- "$1" >/dev/null 2>&1 </dev/null 9<&- &
  child=$!
  look_at_clock
  started=$now
  while kill -0 "$child" 2>/dev/null; do
    look_at_clock
    [ $((now - started)) -lt "$2" ] || {
      kill "$child" 2>/dev/null
      break
    }
    sleep 0.1 2>/dev/null || sleep 1
  done
  wait "$child"
  say "ended $?"
  say .
}

# The unit has read the file at $1, or reads it now, although its process is older: the file's time says so to
# `is_stale`.
token_awaited() {
  touch -c -t 197001020000 -- "$1" 2>/dev/null
  say .
}
