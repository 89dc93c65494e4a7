//! The key `generate`: its schema and its checks. The specs are in [`crate::derive::generate`].

use deaddrop_core::keys::{Field, NodeId, refusal};
use deaddrop_core::path::TargetPath;
use deaddrop_core::shown::quoted;
use deaddrop_core::warning::Warning;
use schemars::JsonSchema;
use serde::Deserialize;

use super::check::{Checker, flag};
use super::collide::PlacedSecret;
use super::overlap::Selector;
use super::schema::RawSecret;
use crate::derive::generate::{GenerateSpec, KeyKind, KeyPart, PUBLIC_SUFFIX, TokenSpec};

/// A key that is generated for the target once: its kind, or its long form.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename = "a generated key")]
#[schemars(rename = "generate", untagged)]
pub(super) enum RawGenerate {
    /// The kind alone.
    #[serde(rename = "scalar")]
    Short(KeyKind),
    /// The long form.
    #[serde(rename = "mapping")]
    Long(RawLongGenerate),
}

/// A kind of key, and its options.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename = "a generated key", default, deny_unknown_fields)]
#[schemars(rename = "long-generate", extend("required" = ["kind"]))]
pub(super) struct RawLongGenerate {
    /// The kind of key.
    pub kind: Field<KeyKind>,
    /// Length of a token, in characters.
    #[schemars(extend("default" = TokenSpec::DEFAULT_LENGTH, "minimum" = 1, "maximum" = TokenSpec::LONGEST))]
    pub length: Field<u64>,
    /// The characters of a token, each once. Default: letters and digits.
    #[schemars(extend("pattern" = "^[!-~]{2,94}$"))]
    pub alphabet: Field<String>,
    /// The comment of an SSH key. Default: the secret's name and the host's.
    #[schemars(length(min = 1, max = 255))]
    pub comment: Field<String>,
    /// True if each host is meant to get its own token.
    #[schemars(extend("default" = false))]
    pub per_host: Field<bool>,
}

impl Checker<'_, '_> {
    /// Checks `generate`.
    pub(super) fn generate(&self, id: NodeId, raw: RawGenerate) -> Option<GenerateSpec> {
        let long = match raw {
            // Without options, every kind is valid.
            RawGenerate::Short(kind) => return GenerateSpec::new(kind, None, None, None).ok(),
            RawGenerate::Long(long) => long,
        };
        if long.kind.is_missing() {
            let names = KeyKind::ALL.map(KeyKind::name).join(", ");
            self.push(self.mark(id), "the long form of `generate` needs `kind`", Some(format!("one of: {names}")));
        }
        let places = [long.length.place(), long.alphabet.place(), long.comment.place(), long.per_host.place()];
        let [length_id, alphabet_id, comment_id, per_host_id] = places.map(|place| place.unwrap_or(id));
        let is_bad = long.length.is_bad() || long.alphabet.is_bad() || long.comment.is_bad();
        let per_host = flag(long.per_host);
        let (_, kind) = long.kind.good()?;
        let (length, alphabet, comment) = (long.length.good(), long.alphabet.good(), long.comment.good());
        if per_host == Some(true) && kind != KeyKind::Token {
            let hint = "remove it: only a token can be meant for several hosts";
            self.push(
                self.mark(per_host_id),
                format!("every {} key is for one host", kind.name()),
                Some(hint.to_owned()),
            );
            return None;
        }
        if is_bad {
            return None;
        }
        let text = |field: &Option<(NodeId, String)>| field.as_ref().map(|(_, text)| text.clone());
        let (alphabet, comment) = (text(&alphabet), text(&comment));
        let length = length.map(|(_, length)| length);
        match GenerateSpec::new(kind, length, alphabet.as_deref(), comment.as_deref()) {
            Ok(spec) => Some(GenerateSpec { per_host: per_host?, ..spec }),
            Err(wrong) => {
                let at = match wrong.part {
                    KeyPart::Length if length.is_none() => alphabet_id,
                    KeyPart::Length => length_id,
                    KeyPart::Alphabet => alphabet_id,
                    KeyPart::Comment => comment_id,
                };
                self.refuse(at, refusal(wrong.message, wrong.hint));
                None
            }
        }
    }

    /// Registers the path of the public part, if there is one: no other secret may use it.
    pub(super) fn place_public_part(&mut self, generate: &GenerateSpec, key: &PlacedSecret, path_id: NodeId) {
        if !generate.kind.kind().has_public_file() {
            return;
        }
        match TargetPath::parse(&format!("{}{PUBLIC_SUFFIX}", key.path)) {
            Ok(path) => {
                let PlacedSecret { name, path_mark, selectors, .. } = key;
                self.placed.push(PlacedSecret {
                    name: name.clone(),
                    path,
                    path_mark: *path_mark,
                    selectors: selectors.clone(),
                    directory_mode: None,
                    directory_owner: None,
                    part: Some("the public part"),
                });
            }
            Err(message) => {
                let message = format!("the public part goes to this path and `{PUBLIC_SUFFIX}`: {message}");
                self.push(self.mark(path_id), message, None);
            }
        }
    }

    /// Reports keys that need a value from a source, which `generate` does not have.
    pub(super) fn not_of_generate(&self, raw: &RawSecret) {
        let is_token = match &raw.generate {
            Field::Good(_, RawGenerate::Short(kind)) => *kind == KeyKind::Token,
            Field::Good(_, RawGenerate::Long(long)) => matches!(long.kind, Field::Good(_, KeyKind::Token)),
            Field::Bad | Field::Missing => true,
        };
        let newline = if is_token { None } else { raw.newline.place() };
        for (key, id, why) in [
            (
                "hash",
                raw.hash.place(),
                "nobody would know the password: put one into the vault, and name it with `from`",
            ),
            ("allow_empty", raw.allow_empty.place(), "remove it: what is generated is never empty"),
            ("apply_password", raw.apply_password.place(), "remove it: a generated key is no password"),
            ("newline", newline, "remove it: this kind of key ends in a newline already"),
            ("encoding", raw.encoding.place(), "remove it: it says how a value is written that is read"),
            ("expect", raw.expect.place(), "remove it: a key is always of its kind"),
            ("format", raw.format.place(), "remove it: a key is always of its kind"),
            ("keep_old", raw.keep_old.place(), "remove it: a generated key is never rotated"),
        ] {
            if let Some(id) = id {
                self.push(self.mark(id), format!("`{key}` and `generate` do not go together"), Some(why.to_owned()));
            }
        }
    }

    /// DD401: a token for several hosts is generated separately on each of them.
    pub(super) fn warn_of_a_shared_token(&mut self, secret: &str, generate: &GenerateSpec, selectors: &[Selector]) {
        if generate.kind.kind() != KeyKind::Token || generate.per_host || !self.is_for_several_hosts(selectors) {
            return;
        }
        self.warnings.push(Warning {
            code: "DD401",
            secret: Some(secret.to_owned()),
            message: format!(
                "{} is for several hosts, and each makes a token of its own: a generated token cannot be shared",
                quoted(secret)
            ),
            hint:
                "for one that they share, put the output of `deaddrop generate token` into the vault, and name it with \
                   `from`; if each is to have its own, add `per_host: true`"
                    .to_owned(),
        });
    }

    /// True if the selectors include more than one host. No selectors include every host.
    fn is_for_several_hosts(&self, selectors: &[Selector]) -> bool {
        if selectors.is_empty() {
            return self.population.hosts > 1;
        }
        let mut first = None;
        let mut is_another = |host: usize| *first.get_or_insert(host) != host;
        selectors.iter().any(|selector| match selector {
            Selector::Host(host) => is_another(*host),
            // A tag lists each host once, so this ends at the second host.
            Selector::Tag(tag) => {
                self.population.tags.get(*tag).is_some_and(|hosts| hosts.iter().any(|host| is_another(*host)))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::derive::generate::KeySpec;
    use crate::manifest::{Manifest, ManifestErrors, ValueSpec};

    /// Problems of a manifest with these secrets, which start on line 6: `line:column message`.
    fn complaints(secrets: &str) -> Vec<String> {
        match parse(secrets) {
            Ok(_) => Vec::new(),
            Err(errors) => errors
                .problems()
                .iter()
                .map(|problem| {
                    let at = problem.location.expect("each is somewhere");
                    format!("{}:{} {}", at.line, at.column, problem.message)
                })
                .collect(),
        }
    }

    fn parse(secrets: &str) -> Result<Manifest, ManifestErrors> {
        let hosts = "hosts:\n  one: { tags: [a, b] }\n  two: { tags: [b] }\n";
        Manifest::parse(&format!("version: 1\n{hosts}secrets:\n{secrets}"), Path::new("m"))
    }

    #[test]
    fn a_kind_alone_and_the_long_form_are_read() {
        let manifest = parse(
            "  a: { path: /a, generate: ssh-host-ed25519 }\n  b: { path: /b, generate: { kind: ssh-ed25519, comment: \
            x@y } }\n  \
             c: { path: /c, newline: true, generate: { kind: token, length: 64, alphabet: \"01\", per_host: true } }\n",
        )
        .unwrap();
        let specs: Vec<&GenerateSpec> = manifest
            .secrets
            .iter()
            .map(|secret| match &secret.value {
                ValueSpec::Generate(spec) => spec,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!((&specs[0].kind, &specs[0].comment), (&KeySpec::SshHostEd25519, &None));
        assert_eq!((&specs[1].kind, specs[1].comment.as_deref()), (&KeySpec::SshEd25519, Some("x@y")));
        let KeySpec::Token(token) = &specs[2].kind else { panic!("{:?}", specs[2]) };
        assert_eq!((token.length(), token.alphabet()), (64, &b"01"[..]));
        assert!(manifest.warnings.is_empty());
    }

    #[test]
    fn what_is_wrong_is_told_where_it_stands() {
        for (secrets, want) in [
            ("  a: { path: /a, generate: rsa }", vec!["6:28 unknown generate `rsa`"]),
            ("  a: { path: /a, generate: { kind: rsa } }", vec!["6:36 unknown kind `rsa`"]),
            ("  a: { path: /a, generate: { length: 40 } }", vec!["6:28 the long form of `generate` needs `kind`"]),
            ("  a: { path: /a, generate: [age] }", vec!["6:28 `generate` is text or a mapping, and this is a list"]),
            ("  a: { path: /a, generate: { kind: age, size: 3 } }", vec!["6:41 unknown key `size`"]),
            (
                "  a: { path: /a, generate: { kind: token, length: 8 } }",
                vec!["6:51 a token of 8 from an alphabet of 62 could be guessed: it has under 64 random bits"],
            ),
            (
                "  a: { path: /a, generate: { kind: token, alphabet: a } }",
                vec!["6:53 a token of 40 from an alphabet of 1 could be guessed: it has under 64 random bits"],
            ),
            (
                "  a: { path: /a, generate: { kind: token, alphabet: 0123 } }",
                vec!["6:53 `alphabet` is text, and this is a number"],
            ),
            ("  a: { path: /a, generate: { kind: age, comment: x } }", vec!["6:50 `comment` has no meaning for `age`"]),
            ("  a: { path: /a, generate: { kind: age, per_host: true } }", vec!["6:51 every age key is for one host"]),
            ("  a: { path: /a, generate: age, from: env:A }", vec!["6:28 `from` and `generate` do not go together"]),
            (
                "  a: { path: /a, generate: token, hash: yescrypt }",
                vec!["6:41 `hash` and `generate` do not go together"],
            ),
            (
                "  a: { path: /a, generate: age, newline: true, allow_empty: true }",
                vec![
                    "6:42 `newline` and `generate` do not go together",
                    "6:61 `allow_empty` and `generate` do not go together",
                ],
            ),
            (
                "  a: { path: /a, generate: age, absent: true }",
                vec!["6:28 `generate` and `absent: true` do not go together"],
            ),
        ] {
            assert_eq!(complaints(secrets), want, "{secrets}");
        }
    }

    #[test]
    fn no_other_secret_can_have_the_place_of_a_public_part() {
        let key = "  key: { path: /k, generate: ssh-ed25519, hosts: [one] }\n";
        for (name, secrets, want) in [
            (
                "after it",
                format!("{key}  x: {{ path: /k.pub, from: env:A }}\n"),
                vec!["7:14 `/k.pub` is declared twice: the public part of `key` (line 6) has it as well"],
            ),
            (
                "before it",
                format!("  x: {{ path: /k.pub, from: env:A }}\n{key}"),
                vec!["7:16 `/k.pub` is where the public part goes, and `x` (line 6) has it as well"],
            ),
            ("another host", format!("{key}  x: {{ path: /k.pub, from: env:A, hosts: [two] }}\n"), vec![]),
            (
                "a kind without one",
                "  k: { path: /k, generate: age }\n  x: { path: /k.pub, from: env:A }\n".into(),
                vec![],
            ),
            (
                "below it",
                format!("{key}  x: {{ path: /k.pub/x, from: env:A }}\n"),
                vec!["7:14 `/k.pub/x` is below `/k.pub`, a file of the public part of `key` (line 6)"],
            ),
            (
                "too long",
                format!("  k: {{ path: /{}, generate: ssh-ed25519 }}\n", "x".repeat(252)),
                vec!["6:14 the public part goes to this path and `.pub`: a name in a path has at most 255 bytes"],
            ),
        ] {
            assert_eq!(complaints(&secrets), want, "{name}");
        }
    }

    #[test]
    fn a_token_for_several_hosts_is_warned_about_unless_it_is_meant() {
        for (keys, want) in [
            ("generate: token", true),
            ("generate: token, hosts: [one]", false),
            ("generate: token, hosts: [one, one]", false),
            ("generate: token, hosts: [\"tag:a\", one]", false),
            ("generate: token, hosts: [\"tag:b\"]", true),
            ("generate: token, hosts: [one, two]", true),
            ("generate: { kind: token, per_host: true }", false),
            ("generate: wireguard", false),
        ] {
            let manifest = parse(&format!("  a: {{ path: /a, {keys} }}\n")).unwrap();
            let codes: Vec<&str> = manifest.warnings.iter().map(|warning| warning.code).collect();
            assert_eq!(codes, if want { vec!["DD401"] } else { vec![] }, "{keys}");
        }
        let alone = "version: 1\nsecrets: { a: { path: /a, generate: token } }\nhosts: { one: }\n";
        assert!(Manifest::parse(alone, Path::new("m")).unwrap().warnings.is_empty());
    }
}
