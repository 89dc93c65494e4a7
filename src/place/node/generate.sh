# shellcheck shell=sh disable=SC2015,SC2034,SC2154
# deaddrop on a node: keys that are the node's own. They are made here, and those that stand are judged here, so that none of them leaves
# the node. Sent only where such a key is declared. Read by src/target/node/keys.rs, which describes what is asked and said here.
# A key is never in an argument, an environment or a file but its own; in variables only of a shell that ends with the judgement.

has() {
  command -v "$1" >/dev/null 2>&1
}

# Says which kinds of key can be made and judged here. Then answers a list that ends with a dot, a line each.
judge() {
  ! [ -c /dev/urandom ] || ! has tr || ! has dd || ! has wc || say "makes token"
  ! has ssh-keygen || ! [ -e /dev/stdin ] || say "makes ssh"
  ! has wg || say "makes wireguard"
  say '='
  while :; do
    IFS= read -r line || exit 1
    [ "$line" != . ] || break
    rest=${line#* }
    case $line in
      token\ *)
        length=${rest%% *} rest=${rest#* }
        alphabet=${rest%% *} rest=${rest#* }
        judge_token "${rest%% *}" "${rest#* }"
        ;;
      ssh\ *) judge_ssh "${rest%% *}" "${rest#* }" ;;
      wireguard\ *) judge_wireguard "${rest%% *}" "${rest#* }" ;;
    esac
  done
  say .
}

# It is known to be as long as the token, or longer by one. Nothing but its characters and newlines, and a first line of its length: that
# is all of it.
judge_token() {
  others=$(contents "$1" "$2" | tr -d "$alphabet\\012" | wc -c)
  if [ "$others" -eq 0 ] && contents "$1" "$2" | has_length "$length"; then say yes; else say no; fi
}

# In a shell of its own, which ends with what it has read: some run the last part of a pipe in this one.
has_length() (
  IFS= read -r value
  [ "${#value}" -eq "$1" ]
)

# ssh-keygen asks for nothing if it has a passphrase, and looks at the mode of what it reads by a name: it reads a pipe.
judge_ssh() {
  contents "$1" "$2" | form_of_ssh
  case $? in
    0) ;;
    2)
      say "no passphrase"
      return
      ;;
    *)
      say "no format"
      return
      ;;
  esac
  public=$(contents "$1" "$2" | ssh-keygen -y -P '' -f /dev/stdin 2>/dev/null)
  case $public in
    *"$nl"* | '') say "no damaged" ;;
    ssh-ed25519\ *) say "yes $public" ;;
    *) say "no type" ;;
  esac
}

# 0 for a file of OpenSSH's own form without a passphrase, 2 for one with a passphrase: the second line begins with the cipher's name.
form_of_ssh() (
  IFS= read -r first
  IFS= read -r second
  [ "$first" = '-----BEGIN OPENSSH PRIVATE KEY-----' ] || exit 1
  case $second in
    b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZ*) ;;
    b3BlbnNzaC1rZXktdjEAAAA*) exit 2 ;;
    *) exit 1 ;;
  esac
)

judge_wireguard() {
  public=$(contents "$1" "$2" | wg pubkey 2>/dev/null)
  if [ "${#public}" -eq 44 ]; then say "yes $public"; else say no; fi
}

# Writes the key that $1 describes to standard output, which is open as 8 as well, in the run's own directory. No program reads what the
# values come from.
generate_value() {
  rest=${1#* }
  case $1 in
    token\ *)
      length=${rest%% *} rest=${rest#* }
      # Each character is as likely as the others: bytes that are none are passed over.
      tr -dc "${rest%% *}" </dev/urandom 2>/dev/null | dd bs=1 "count=$length" 2>/dev/null
      if [ "${rest#* }" = newline ]; then
        say
        length=$((length + 1))
      fi
      [ "$(stat -L -c %s /dev/stdin <&8)" = "$length" ]
      ;;
    ssh\ *)
      rm -f key key.pub
      ssh-keygen -q -t ed25519 -N '' -C "$rest" -f ./key </dev/null >/dev/null && cat key || return 1
      clear_away key
      ;;
    # Of the key before it.
    public)
      cat key.pub || return 1
      rm -f key.pub
      ;;
    wireguard) wg genkey </dev/null ;;
    *) return 1 ;;
  esac
}
