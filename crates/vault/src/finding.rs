//! What a source notices that does not stop the run: about itself, or about one value. Sources report to the
//! [`Context`]; it becomes a [`Warning`] when the secrets are known.
//!
//! [`Context`]: crate::input::context::Context

use deaddrop_core::warning::Warning;

use crate::Reference;

/// A finding of a source.
pub(crate) struct Finding {
    /// `DD…`.
    pub code: &'static str,
    /// The reference whose value it is about; `None` if it is about the source as a whole.
    pub reference: Option<Reference>,
    /// The finding, without a part of a value.
    pub message: String,
    /// What to do about it.
    pub hint: String,
}

/// The warnings of `findings`, each once: one about a value for each of the secrets that `users` returns for its
/// reference.
pub(crate) fn warnings(findings: Vec<Finding>, users: impl Fn(&Reference) -> Vec<String>) -> Vec<Warning> {
    let mut warnings: Vec<Warning> = Vec::new();
    for Finding { code, reference, message, hint } in findings {
        let secrets = match &reference {
            None => vec![None],
            Some(reference) => users(reference).into_iter().map(Some).collect(),
        };
        for secret in secrets {
            let is_known = |known: &Warning| (&known.secret, &known.message) == (&secret, &message);
            if !warnings.iter().any(is_known) {
                warnings.push(Warning { code, secret, message: message.clone(), hint: hint.clone() });
            }
        }
    }
    warnings
}
