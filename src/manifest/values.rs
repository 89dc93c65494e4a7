//! Checks of single values: modes, owners, names, references. Each function checks one text, independent of its place
//! and of other keys.

use std::ops::Range;

use deaddrop_core::keys::{self, Refusal, plain, refusal};
use deaddrop_core::near;
use deaddrop_core::shown::quoted;
use deaddrop_core::warning::{NEVER_ALLOWED, allowable};

use super::model::{DirectoryOwner, Owner};
use super::schema::NameOrNumber;

/// Maximum uid and gid. 2^32 - 1 means "unchanged" in chown(2).
pub(super) const MAX_ID: u32 = u32::MAX - 1;
/// Valid names of users and groups: those of useradd(8), and the upper case and dots that exist in practice.
pub(super) const USER_PATTERN: &str = "^[A-Za-z_][A-Za-z0-9_.-]*[$]?$";
/// Maximum length of the name of a source, host, tag, secret, user or group, in bytes.
const MAX_NAME: usize = 255;

/// Checks `mode`: no set-id or sticky bits, no execute bits, no write permission for group and others. The caller
/// checks whether others may read.
pub(super) fn file_mode(text: &str) -> Result<u32, Refusal> {
    const HINT: &str = "a secret is \"0400\", or \"0440\" for a group as well";
    let mode = octal(text, "0400")?;
    if mode & 0o111 != 0 {
        return Err(refusal(format!("mode {text} has an execute bit"), HINT));
    }
    if mode & 0o022 != 0 {
        return Err(refusal(format!("mode {text} lets others than the owner write"), HINT));
    }
    Ok(mode)
}

/// Checks `directory_mode`: no set-id or sticky bits, no write permission for group and others.
pub(super) fn directory_mode(text: &str) -> Result<u32, Refusal> {
    let mode = octal(text, "0700")?;
    if mode & 0o022 != 0 {
        let hint = "a directory of secrets is \"0700\", \"0711\", \"0750\" or \"0755\"";
        return Err(refusal(format!("directory_mode {text} lets others than the owner write"), hint));
    }
    Ok(mode)
}

/// Three octal digits, or four with a leading 0.
fn octal(text: &str, example: &str) -> Result<u32, Refusal> {
    let digits = text.bytes().all(|byte| matches!(byte, b'0'..=b'7'));
    let mode = match text.len() {
        3 | 4 if digits => u32::from_str_radix(text, 8).ok(),
        _ => None,
    };
    match mode {
        None => Err(refusal(
            format!("{} is not an octal mode", quoted(text)),
            &format!("write three or four digits from 0 to 7 in quotes: \"{example}\""),
        )),
        Some(mode) if mode & 0o7000 != 0 => Err(refusal(
            format!("mode {text} has a set-user, set-group or sticky bit"),
            "the first of four digits is 0",
        )),
        Some(mode) => Ok(mode),
    }
}

/// Checks `owner` and `group`.
pub(super) fn owner(value: NameOrNumber) -> Result<Owner, Refusal> {
    match value {
        NameOrNumber::Number(number) => match u32::try_from(number) {
            Ok(id) if id <= MAX_ID => Ok(Owner::Id(id)),
            _ => Err(plain(format!("{number} is over 4294967294, the highest id"))),
        },
        NameOrNumber::Name(name) if name.bytes().all(|byte| byte.is_ascii_digit()) && !name.is_empty() => {
            let text = quoted(&name);
            Err(refusal(format!("{text} in quotes is a name, and no name is all digits"), "write an id without quotes"))
        }
        NameOrNumber::Name(name) => {
            let stem = name.strip_suffix('$').unwrap_or(&name);
            let starts_well = stem.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
            let goes_on_well = stem.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
            if starts_well && goes_on_well && name.len() <= MAX_NAME {
                Ok(Owner::Name(name))
            } else {
                let hint = "letters, digits, `_`, `-` and `.`, and the first is a letter or `_`";
                Err(refusal(format!("{} cannot be the name of a user or group", quoted(&name)), hint))
            }
        }
    }
}

/// Checks `directory_owner`: USER or USER:GROUP, where digits are a number.
pub(super) fn directory_owner(value: NameOrNumber) -> Result<DirectoryOwner, Refusal> {
    let part = |text: &str| match text.parse() {
        Ok(number) if text.bytes().all(|byte| byte.is_ascii_digit()) => owner(NameOrNumber::Number(number)),
        _ => owner(NameOrNumber::Name(text.to_owned())),
    };
    match value {
        NameOrNumber::Name(text) if text.contains(':') => {
            let (user, group) = text.split_once(':').unwrap_or((&text, ""));
            Ok(DirectoryOwner { user: part(user)?, group: Some(part(group)?) })
        }
        one => Ok(DirectoryOwner { user: owner(one)?, group: None }),
    }
}

/// Checks an entry of `allow`: the code, and the reason.
pub(super) fn allowed(code: &str, reason: &str) -> Result<(), Refusal> {
    if NEVER_ALLOWED.contains(&code) {
        return Err(refusal(format!("{code} cannot be allowed"), "choose another path or value: see docs/codes.md"));
    }
    if !allowable().any(|known| known == code) {
        let hint = near::did_you_mean(&near::near(code, allowable()));
        let hint = hint.unwrap_or_else(|| "codes are in docs/codes.md, such as NX101 or DD301".to_owned());
        return Err(refusal(format!("unknown code {}", quoted(code)), &hint));
    }
    keys::text(reason.trim(), "the reason")
}

/// Checks the name of a source, host or tag: it must be usable in a reference, and after `tag:`.
pub(super) fn name(text: &str, of: &str) -> Result<(), Refusal> {
    label(text, of)?;
    if let Some(bad) = text.chars().find(|character| matches!(character, ':' | '#')) {
        let hint = "`:` and `#` part a reference: `SOURCE:ITEM#FIELD`, `tag:NAME`";
        return Err(refusal(format!("`{bad}` cannot be in the name of {of}"), hint));
    }
    Ok(())
}

/// Checks the name of a secret: it must fit on a line of output.
pub(super) fn label(text: &str, of: &str) -> Result<(), Refusal> {
    if text.trim().is_empty() {
        return Err(plain(format!("{of} needs a name")));
    }
    if text.chars().any(char::is_control) {
        return Err(plain(format!("the name of {of} cannot hold a control character")));
    }
    if text.trim() != text {
        return Err(plain(format!("the name of {of} begins or ends with a space")));
    }
    if text.len() > MAX_NAME {
        return Err(plain(format!("the name of {of} is over 255 bytes")));
    }
    Ok(())
}

/// The keys by which other tools name a host's user, address and port, and how they are written here.
const PARTS_OF_AN_ADDRESS: [&str; 15] = [
    "address",
    "addr",
    "ansible_host",
    "ansible_port",
    "ansible_user",
    "host",
    "hostname",
    "ip",
    "login",
    "port",
    "ssh_port",
    "ssh_user",
    "target_host",
    "user",
    "username",
];

/// The hint for an address in parts.
pub(super) const ADDRESS_IN_PARTS: &str =
    "user, address and port of a host are one text: `ssh: USER@ADDRESS`, or `ssh: ssh://USER@ADDRESS:PORT`";

/// [`ADDRESS_IN_PARTS`] for a key of a host that is a part of its address; `None` for other keys.
pub(super) fn part_of_an_address(key: &str) -> Option<&'static str> {
    let plain: String = key.chars().filter(char::is_ascii_alphanumeric).collect();
    let is_it = |part: &&str| plain.eq_ignore_ascii_case(&part.replace('_', ""));
    PARTS_OF_AN_ADDRESS.iter().any(is_it).then_some(ADDRESS_IN_PARTS)
}

/// Checks `ssh`: one word that ssh(1) does not take as an option.
pub(super) fn ssh(address: &str) -> Result<(), Refusal> {
    const HINT: &str = "`user@address`, `ssh://user@address:port`, or a name from your ssh configuration";
    keys::text(address, "`ssh`")?;
    let refuse = |why: &str| Err(refusal(format!("{} is not an address for SSH{why}", quoted(address)), HINT));
    if address.starts_with('-') || address.contains(char::is_whitespace) {
        return refuse("");
    }
    // ssh inserts users and hosts into commands of its configuration (ProxyCommand, Match exec); before release 9.6
    // without quoting.
    if let Some(bad) = address.chars().find(|character| "'`\"$&;<>|(){}!*?\\".contains(*character)) {
        return refuse(&format!(": it holds `{bad}`"));
    }
    let Some(rest) = address.strip_prefix("ssh://") else {
        let (user, host) = address.rsplit_once('@').unwrap_or(("x", address));
        // Not a part of a name; an IPv6 address has several colons, and brackets only in the URL.
        if host.matches(':').count() == 1 || host.contains(['[', ']']) {
            let url = format!("ssh://{address}");
            let hint = if ssh(&url).is_ok() { format!("write `{url}`") } else { HINT.to_owned() };
            let message = format!("{} is not an address for SSH: a port needs the URL form", quoted(address));
            return Err(refusal(message, &hint));
        }
        return if user.is_empty() || host.is_empty() || host.starts_with('-') { refuse("") } else { Ok(()) };
    };
    // ssh(1): ssh://[user@]hostname[:port]; an IPv6 address is in brackets.
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let (user, place) = rest.rsplit_once('@').unwrap_or(("x", rest));
    let (host, port) = match place.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (place, None),
    };
    if user.is_empty() || user.starts_with('-') || host.is_empty() || host.starts_with('-') || rest.contains('/') {
        return refuse("");
    }
    match port.map(str::parse::<u16>) {
        None | Some(Ok(1..)) => Ok(()),
        _ => refuse(": its port is no number from 1 to 65535"),
    }
}

/// Checks one of `ssh_options`: an argument of ssh's `-o`, `Name=value` or `Name value`.
pub(super) fn ssh_option(option: &str) -> Result<(), Refusal> {
    keys::text(option, "an option")?;
    let end = option.find(|character: char| !character.is_ascii_alphanumeric()).unwrap_or(option.len());
    let (name, rest) = option.split_at(end);
    let parted = rest.starts_with(['=', ' ']) && !rest.trim_start_matches(['=', ' ']).is_empty();
    if name.is_empty() || !parted {
        let hint = "as ssh_config(5) has them: `Port=2222`, `IdentityFile=~/.ssh/nodes`";
        return Err(refusal("an option for ssh is `Name=value`", hint));
    }
    if let Some(other) = OTHER_WAYS.iter().find(|other| other.eq_ignore_ascii_case(name)) {
        let hint = "who runs deaddrop says so: in the ssh configuration, or with --ssh-option";
        let what =
            format!("{other} lets a host in whose key is not in known_hosts, which is not for a manifest to say");
        return Err(refusal(what, hint));
    }
    Ok(())
}

/// Options that make ssh accept a host by other means than known_hosts: a program, a DNS record, Kerberos, a connection
/// that another process opened.
/// opened before.
const OTHER_WAYS: [&str; 5] =
    ["KnownHostsCommand", "VerifyHostKeyDNS", "GSSAPIKeyExchange", "GSSAPITrustDns", "ControlPath"];

/// The suffixes of unit names (systemd.unit(5)).
const UNIT_TYPES: [&str; 11] =
    ["service", "socket", "device", "mount", "automount", "swap", "target", "path", "timer", "slice", "scope"];
/// Maximum length of a unit name, in bytes; systemd's `UNIT_NAME_MAX` is 256 including the NUL.
const MAX_UNIT: usize = 255;

/// The full name of a unit: `k3s` becomes `k3s.service`, as for systemctl(1).
pub(super) fn unit(name: String) -> Result<String, Refusal> {
    const HINT: &str = "a whole name, such as `k3s.service`; patterns have no meaning here";
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte);
    if name.is_empty() || name.starts_with(['-', '.', '@']) || !name.bytes().all(fits) {
        return Err(refusal(format!("{} is not the name of a unit", quoted(&name)), HINT));
    }
    let whole = match name.rsplit_once('.') {
        Some((_, suffix)) if UNIT_TYPES.contains(&suffix) => name,
        _ => format!("{name}.service"),
    };
    if whole.len() > MAX_UNIT {
        return Err(plain("the name of a unit is over 255 bytes"));
    }
    if whole.contains("@.") {
        let hint = "name an instance: `NAME@INSTANCE.service`";
        return Err(refusal(format!("{} is a template, and no unit that runs", quoted(&whole)), hint));
    }
    Ok(whole)
}

/// The parts of `SOURCE:ITEM` or `SOURCE:ITEM#FIELD`, as byte ranges of the text.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ReferenceParts {
    pub source: Range<usize>,
    pub item: Range<usize>,
    pub field: Option<Range<usize>>,
}

/// Splits a reference at its first `:` and its only `#`.
pub(super) fn reference(text: &str) -> Result<ReferenceParts, Refusal> {
    const LONG: &str = "write the long form if a name holds `:` or `#`: {source: …, item: …, field: …}";
    let at = |message: &str, part: Range<usize>, hint: Option<&str>| {
        Err(Refusal { message: message.to_owned(), hint: hint.map(str::to_owned), part: Some(part) })
    };
    let Some((source, rest)) = text.split_once(':') else {
        let hint = "write SOURCE:ITEM or SOURCE:ITEM#FIELD, such as `vault:Homelab admin` or `env:K3S_TOKEN`";
        return Err(refusal("a reference has a source, a `:` and an item", hint));
    };
    let rest_start = source.len().saturating_add(1);
    if source.is_empty() {
        return at("there is no source before the `:`", 0..1, None);
    }
    let (item, field) = match rest.split_once('#') {
        Some((item, field)) => (item, Some(field)),
        None => (rest, None),
    };
    let item_range = rest_start..rest_start.saturating_add(item.len());
    if item.is_empty() {
        return at("there is no item after the `:`", rest_start.saturating_sub(1)..rest_start, None);
    }
    if item.trim() != item {
        let hint = "remove the space; if it belongs to the item's name, write the long form: {source: …, item: …}";
        return at("the item begins or ends with a space", item_range, Some(hint));
    }
    let field_start = item_range.end.saturating_add(1);
    let field = match field {
        None => None,
        Some("") => return at("there is no field after the `#`", item_range.end..field_start, None),
        Some(field) => {
            if let Some(second) = field.find('#') {
                let second = field_start.saturating_add(second);
                return at("a second `#` in a reference", second..second.saturating_add(1), Some(LONG));
            }
            Some(field_start..field_start.saturating_add(field.len()))
        }
    };
    Ok(ReferenceParts { source: 0..source.len(), item: item_range, field })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_that_are_safe_are_read_and_others_say_why_not() {
        for (text, want) in [
            ("0400", Ok(0o400)),
            ("400", Ok(0o400)),
            ("0640", Ok(0o640)),
            ("0444", Ok(0o444)),
            ("0000", Ok(0)),
            ("0700", Err("mode 0700 has an execute bit")),
            ("0401", Err("mode 0401 has an execute bit")),
            ("0420", Err("mode 0420 lets others than the owner write")),
            ("0402", Err("mode 0402 lets others than the owner write")),
            ("4400", Err("mode 4400 has a set-user, set-group or sticky bit")),
            ("1400", Err("mode 1400 has a set-user, set-group or sticky bit")),
            ("0480", Err("`0480` is not an octal mode")),
            ("00400", Err("`00400` is not an octal mode")),
            ("0o400", Err("`0o400` is not an octal mode")),
            ("u=r", Err("`u=r` is not an octal mode")),
            ("+40", Err("`+40` is not an octal mode")),
            ("", Err("`` is not an octal mode")),
        ] {
            assert_eq!(file_mode(text).map_err(|refusal| refusal.message), want.map_err(str::to_owned), "{text}");
        }
    }

    #[test]
    fn a_directory_may_be_entered_but_not_written_by_others() {
        for (text, want) in [
            ("0700", Ok(0o700)),
            ("755", Ok(0o755)),
            ("0711", Ok(0o711)),
            ("0770", Err("directory_mode 0770 lets others than the owner write")),
            ("0702", Err("directory_mode 0702 lets others than the owner write")),
            ("1755", Err("mode 1755 has a set-user, set-group or sticky bit")),
        ] {
            assert_eq!(directory_mode(text).map_err(|refusal| refusal.message), want.map_err(str::to_owned), "{text}");
        }
    }

    #[test]
    fn the_patterns_of_the_json_schema_accept_what_the_checks_accept() {
        let digits = |set: &str, text: &str, at: usize| set.contains(&text[at..=at]);
        for bits in 0..0o10000_u32 {
            let text = format!("{bits:04o}");
            let file =
                text.starts_with('0') && digits("0246", &text, 1) && digits("04", &text, 2) && digits("04", &text, 3);
            assert_eq!(file_mode(&text).is_ok(), file, "{text}");
            let directory = text.starts_with('0') && digits("0145", &text, 2) && digits("0145", &text, 3);
            assert_eq!(directory_mode(&text).is_ok(), directory, "{text}");
        }
    }

    #[test]
    fn owners_are_numbers_or_names() {
        let name = |text: &str| NameOrNumber::Name(text.to_owned());
        for (value, want) in [
            (NameOrNumber::Number(0), Ok(Owner::Id(0))),
            (NameOrNumber::Number(4_294_967_294), Ok(Owner::Id(MAX_ID))),
            (NameOrNumber::Number(4_294_967_295), Err("4294967295 is over 4294967294, the highest id")),
            (name("root"), Ok(Owner::Name("root".into()))),
            (name("_a.B-c$"), Ok(Owner::Name("_a.B-c$".into()))),
            (name("1000"), Err("`1000` in quotes is a name, and no name is all digits")),
            (name("-x"), Err("`-x` cannot be the name of a user or group")),
            (name("a b"), Err("`a b` cannot be the name of a user or group")),
            (name("a:b"), Err("`a:b` cannot be the name of a user or group")),
            (name(""), Err("`` cannot be the name of a user or group")),
            (name("$"), Err("`$` cannot be the name of a user or group")),
        ] {
            let shown = format!("{value:?}");
            assert_eq!(owner(value).map_err(|refusal| refusal.message), want.map_err(str::to_owned), "{shown}");
        }
    }

    #[test]
    fn references_are_split_at_the_first_colon_and_the_only_hash() {
        for (text, want) in [
            ("vault:Homelab admin", Ok(("vault", "Homelab admin", None))),
            ("vault:home/Router#notes", Ok(("vault", "home/Router", Some("notes")))),
            ("file:a:b", Ok(("file", "a:b", None))),
            ("vault", Err(("a reference has a source, a `:` and an item", None))),
            (":x", Err(("there is no source before the `:`", Some(0..1)))),
            ("vault:", Err(("there is no item after the `:`", Some(5..6)))),
            ("vault:#f", Err(("there is no item after the `:`", Some(5..6)))),
            ("vault:x#", Err(("there is no field after the `#`", Some(7..8)))),
            ("vault:a#b#c", Err(("a second `#` in a reference", Some(9..10)))),
            ("vault: a", Err(("the item begins or ends with a space", Some(6..8)))),
        ] {
            let got = reference(text)
                .map(|parts| (&text[parts.source], &text[parts.item], parts.field.map(|field| &text[field])));
            let want = want.map_err(|(message, part): (&str, Option<Range<usize>>)| (message.to_owned(), part));
            assert_eq!(got.map_err(|refusal| (refusal.message, refusal.part)), want, "{text}");
        }
    }
}
