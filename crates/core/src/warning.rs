//! A finding that does not stop the run.

/// Something that a person should know, and that does not stop the run.
#[derive(Debug, Clone)]
pub struct Warning {
    /// `NX…`, or `DD…` for our own.
    pub code: &'static str,
    /// The secret's name; none when it is about the target as a whole.
    pub secret: Option<String>,
    /// What it is about.
    pub message: String,
    /// What to do.
    pub hint: String,
}
