//! SSH private keys: ssh refuses one without its last newline, and many vaults cut that off. So it is added, and a
//! value that is meant to be such a key is checked, also if the manifest has no `expect` for it.

use deaddrop_core::secret::Secret;
use deaddrop_core::warning::Warning;
use deaddrop_vault::Reference;

use crate::derive::Misfit;
use crate::derive::expect::{self, ValueKind};
use crate::manifest::{SecretSpec, ValueSpec};

/// Checks the value of a secret if it is an SSH private key without an `expect` of a kind. Returns whether a newline is
/// to be appended to the value, and the warnings. `from` is the origin of the value, for people.
///
/// # Errors
/// If it should be such a key, and ssh would not read it.
pub(super) fn check(spec: &SecretSpec, value: &Secret, from: &str) -> Result<(bool, Vec<Warning>), Misfit> {
    let bytes = value.expose();
    let by_default = by_default(spec, bytes);
    let is_key = by_default.is_some() || spec.expect.kind == Some(ValueKind::SshPrivateKey);
    let newline = match spec.newline {
        Some(newline) => newline.is_added_to(bytes),
        None => is_key && !bytes.ends_with(b"\n"),
    };
    let warning = |code, message, hint: String| Warning { code, secret: Some(spec.name.clone()), message, hint };
    let mut warnings = Vec::new();
    if let Some(why) = by_default
        && let Some(hint) = expect::check_ssh_key(bytes, newline, why)?
    {
        let message = format!("the SSH key of {from} is protected by a passphrase, which no service can type");
        warnings.push(warning("DD310", message, hint.to_owned()));
    }
    if newline && spec.newline.is_none() {
        let message = format!("the SSH key of {from} lacks its last newline, which is added: ssh does not read it so");
        let hint = "store it with that newline; or say that it is meant, with `newline: ensure`";
        warnings.push(warning("DD307", message, hint.to_owned()));
    }
    Ok((newline, warnings))
}

/// Why the value must be an SSH private key although no `expect` says so; `None` if it need not.
fn by_default(spec: &SecretSpec, value: &[u8]) -> Option<&'static str> {
    // An empty value gets here only where `allow_empty` accepts it.
    if spec.expect.kind.is_some() || spec.hash.is_some() || value.is_empty() {
        return None;
    }
    spec.ssh_key_file().or_else(|| match &spec.value {
        ValueSpec::From(reference) if is_private_key(reference) && expect::begins_as_an_ssh_key(value) => {
            Some("the field `private_key`")
        }
        _ => None,
    })
}

/// True for the field with the private key of an SSH key: `private_key`, and 1Password's label for it.
fn is_private_key(reference: &Reference) -> bool {
    let names = ["private_key", "private key"];
    reference.field.as_ref().is_some_and(|field| names.iter().any(|name| field.eq_ignore_ascii_case(name)))
}
