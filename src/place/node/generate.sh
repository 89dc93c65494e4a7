# shellcheck shell=sh disable=SC2015,SC2034,SC2154
# deaddrop on a node: keys that the node generates itself. Existing keys are checked here too, so that no key leaves the
# node. Sent only if such a key is declared. src/place/node/keys.rs reads the replies, and describes the protocol. A key
# is never in an argument, an environment or a file other than its own; and in variables only of a subshell that ends
# with the check.

# Reports which kinds of key can be generated and checked here. Then answers a list that ends with a dot, one line each.
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

# Its size is known to be that of the token, or one more. The remaining checks: only characters of the alphabet and
# newlines, and a first line of the right length.
judge_token() {
  others=$(contents "$1" "$2" | tr -d "$alphabet\\012" | wc -c)
  if [ "$others" -eq 0 ] && contents "$1" "$2" | has_length "$length"; then say yes; else say no; fi
}

# In a subshell, which ends with the value: some shells run the last part of a pipe in the current one.
has_length() (
  IFS= read -r value
  [ "${#value}" -eq "$1" ]
)

# With -P ssh-keygen does not prompt. It checks the mode of a named file, so it reads a pipe.
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

# 0 for a file in OpenSSH's own format without a passphrase, 2 with one: the second line starts with the cipher's name.
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

# Writes the key that $1 describes to standard output, which is also file descriptor 8, in the run's own directory.
# Nothing else reads the values.
generate_value() {
  rest=${1#* }
  case $1 in
    token\ *)
      length=${rest%% *} rest=${rest#* }
      # All characters are equally likely: other bytes are dropped.
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
      IFS= read -r made_public <key.pub
      clear_away key
      ;;
    # The public part of the previous key.
    public)
      cat key.pub || return 1
      rm -f key.pub
      ;;
    wireguard) wg genkey </dev/null && made_public=$(wg pubkey <"n/$name") ;;
    *) return 1 ;;
  esac
}
