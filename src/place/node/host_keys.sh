# shellcheck shell=sh disable=SC2015,SC2034,SC2086,SC2100,SC2154,SC3013
# deaddrop on a node: host keys of its sshd. Sent only if the run changes an SSH key. src/place/node/host_keys.rs reads
# the replies, and describes them.

# Answers a list that ends with a dot, two lines for each key: where its file is, and the declared path. Then what sshd
# is called, and where it listens.
host_keys() {
  find_sshd
  while :; do
    IFS= read -r path || exit 1
    [ "$path" != . ] || break
    IFS= read -r declared || exit 1
    if serves "$path" "$declared"; then say yes; else say no; fi
  done
  find_sshd_unit
  say "sshd $unit"
  listens=''
  IFS=$nl
  for line in $settings; do
    case $line in
      listenaddress\ *) [ "$listens" ] || listens=${line#* } ;;
    esac
  done
  IFS=' '
  say "listens $listens"
  say .
}

# sshd wants its own absolute path. Its settings are those of its usual configuration file.
find_sshd() {
  settings=
  sshd=$(command -v sshd) || return
  settings=$("$sshd" -T 2>/dev/null </dev/null)
}

# True for the file of a host key, at $1, or at $2 through links.
serves() {
  [ "$sshd" ] || return
  case $nl$settings$nl in
    *"${nl}hostkey $1$nl"* | *"${nl}hostkey $2$nl"*) return 0 ;;
    *"${nl}hostkey "*) ;;
    *)
      # It cannot say: without any host key, for example.
      case $2 in
        /etc/ssh/ssh_host_*_key) return 0 ;;
      esac
      return 1
      ;;
  esac
  IFS=$nl
  set -- "$1" $settings
  IFS=' '
  key=$1
  shift
  for line; do
    case $line in
      hostkey\ *) [ ! "${line#* }" -ef "$key" ] || return 0 ;;
    esac
  done
  return 1
}

is_active() {
  case $(systemctl show -p ActiveState -- "$1" 2>/dev/null </dev/null) in
    *ActiveState=active* | *ActiveState=reloading*) ;;
    *) return 1 ;;
  esac
}

# Sets $unit to what is reloaded: `sshd`, or `ssh` where it is called so; `socket` if each connection starts its own;
# `none` without systemd.
find_sshd_unit() {
  unit=none
  has systemctl && [ -d /run/systemd/system ] || return 0
  unit=sshd
  is_active sshd.service && return
  if is_active ssh.service; then
    unit=ssh
  elif is_active sshd.socket || is_active ssh.socket; then
    unit=socket
  fi
}

# Tells sshd of its new keys; sets $bad to the failure. $tells_sshd: its unit, and 1 if deaddrop can see its key.
tell_sshd() {
  told_sshd=
  "$(command -v sshd)" -t >|"$state/output" 2>&1 </dev/null || {
    bad=sshd-test
    return
  }
  case ${tells_sshd% *} in
    none | socket) ;;
    *)
      told_sshd=${tells_sshd% *}
      say "acted $told_sshd.service"
      systemctl reload-or-restart "$told_sshd" >|"$state/output" 2>&1 </dev/null || {
        bad=sshd-reload
        return
      }
      ;;
  esac
  [ "${tells_sshd#* }" = 0 ] || is_served || bad=not-served
}

# Asks deaddrop which key sshd serves. A run whose connection is lost cannot know it: then the answer is no.
is_served() {
  say "step serving"
  true >|"$state/output"
  exec 3<&0
  {
    IFS= read -r line <&3 && printf '%s\n' "$line"
  } >>"$state/output" 2>/dev/null 9<&- &
  child=$!
  exec 3<&-
  look_at_clock
  started=$now
  while kill -0 "$child" 2>/dev/null && [ $((now - started)) -le 120 ]; do
    sleep 0.1 2>/dev/null || sleep 1
    look_at_clock
  done
  kill -9 "$child" 2>/dev/null
  wait "$child" 2>/dev/null
  IFS= read -r line <"$state/output"
  [ "$line" = "served $nonce" ]
}

# The old keys are back.
tell_sshd_again() {
  [ -z "$told_sshd" ] || systemctl reload-or-restart "$told_sshd" >/dev/null 2>&1 </dev/null ||
    say "still sshd-reload"
}
