//! A finding that does not stop the run.

/// A finding that the user should know, and that does not stop the run.
#[derive(Debug, Clone)]
pub struct Warning {
    /// `NX…`, or `DD…` for deaddrop's own codes.
    pub code: &'static str,
    /// The secret's name; `None` if the warning concerns the whole target.
    pub secret: Option<String>,
    /// The finding.
    pub message: String,
    /// What to do about it.
    pub hint: String,
}
