# shellcheck shell=sh disable=SC2015,SC2034,SC2059,SC2086,SC2154
# deaddrop on a node: passwords of users whose hash was written to a file. Sent only if there is one.
#
# $password_1, …: `set|check USER`; `set`: chpasswd gets the hash. $hash_1, …: the hash that must then be in force.
# $users_program: the command that makes the users, quoted for this shell and then in base64; or empty. Neither a new
# nor an old hash is ever in an argument or an environment: both go to the standard input of chpasswd.

# Sets $field to the second field of the line of user $1 in the shadow file: shadow(5).
field_of() {
  field=
  while IFS=: read -r user value rest || [ "$user" ]; do
    [ "$user" = "$1" ] || continue
    field=$value
    return 0
  done </etc/shadow
  return 1
} 2>/dev/null

# Refuses if a password cannot be set. Records the fields as they are.
passwords_stand() {
  number=0
  while [ "$number" -lt "$passwords" ]; do
    number=$((number + 1))
    eval "password=\$password_$number old_$number= had_$number="
    if field_of "${password#* }"; then
      eval "old_$number=\$field had_$number=yes"
    elif [ "${password%% *}" = set ]; then
      refuse "no-user ${password#* }"
    fi
    case $password in
      set\ *) has chpasswd || refuse no-chpasswd ;;
    esac
  done
}

read_hashes() {
  number=0
  while [ "$number" -lt "$passwords" ]; do
    number=$((number + 1))
    IFS= read -r line || return 1
    eval "hash_$number=\$(printf \"\$line\")"
  done
}

# Sets the field of user $1 to $2, and the day of change.
set_field() {
  printf '%s:%s\n' "$1" "$2" | chpasswd -e >|"$state/output" 2>&1
}

# The same for an old field. One that is no hash is no secret, and chpasswd may not take it.
put_back_field() {
  case $2 in
    *[!!*]*) set_field "$1" "$2" ;;
    *)
      if has usermod; then
        usermod -p "$2" -- "$1" >/dev/null 2>&1 </dev/null
      else
        set_field "$1" "$2"
      fi
      ;;
  esac
}

# Sets $bad to the failure.
apply_passwords() {
  ran_users=
  if [ "$users_program" ]; then
    say "step restarting"
    ran_users=yes
    run "$users_program" "$program_limit"
    code=$?
    [ -z "$hung" ] || code=hung
    [ "$code" = 0 ] || {
      bad="users $code"
      return
    }
  fi
  number=0
  while [ "$number" -lt "$passwords" ]; do
    number=$((number + 1))
    eval "password=\$password_$number hash=\$hash_$number"
    case $password in
      set\ *)
        set_field "${password#* }" "$hash" || {
          bad="password $number set"
          return
        }
        ;;
    esac
  done
}

# Sets $bad to the first password that is not in force.
check_passwords() {
  number=0
  while [ "$number" -lt "$passwords" ]; do
    number=$((number + 1))
    eval "password=\$password_$number hash=\$hash_$number"
    if ! field_of "${password#* }"; then
      bad="password $number missing"
      return
    elif [ "$field" != "$hash" ]; then
      bad="password $number differs"
      return
    fi
  done
}

# The old files are back: runs what makes the users with them.
run_users_again() {
  [ -z "$ran_users" ] || {
    say "step restoring"
    run "$users_program" "$program_limit" || say "again users"
  }
}

# Puts every field back that is not as it was.
put_passwords_back() {
  number=0
  while [ "$number" -lt "$passwords" ]; do
    number=$((number + 1))
    eval "user_of=\${password_$number#* } old=\$old_$number had=\$had_$number"
    [ "$had" ] || continue
    field_of "$user_of"
    [ "$field" != "$old" ] || continue
    put_back_field "$user_of" "$old"
    field_of "$user_of"
    [ "$field" = "$old" ] || say "still password $number"
  done
}
