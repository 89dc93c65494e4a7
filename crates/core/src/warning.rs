//! A finding that does not stop the run, and the codes of findings.

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

/// Every code of a warning, or of a refusal that has one (docs/codes.md). A code never changes its meaning.
pub const CODES: &[&str] = &[
    "DD101", "DD102", "DD201", "DD210", "DD211", "DD301", "DD302", "DD303", "DD304", "DD305", "DD306", "DD307",
    "DD308", "DD309", "DD310", "DD401", "DD402", "DD403", "DD404", "DD501", "DD502", "DD503", "DD504", "DD505",
    "DD601", "NX001", "NX002", "NX003", "NX004", "NX005", "NX006", "NX007", "NX008", "NX009", "NX010", "NX011",
    "NX012", "NX101", "NX102", "NX103", "NX104", "NX105", "NX106", "NX107", "NX108", "NX109", "NX110", "NX111",
    "NX112", "NX113", "NX114", "NX115", "NX116", "NX117", "NX118", "NX119", "NX120",
];

/// Refusals that a manifest cannot allow: the file would be readable by others, lost, elsewhere, or lock a user out.
pub const NEVER_ALLOWED: &[&str] = &["NX001", "NX002", "NX009", "NX010", "NX012", "NX107"];

/// The codes that `allow` of a manifest may name.
pub fn allowable() -> impl Iterator<Item = &'static str> {
    CODES.iter().copied().filter(|code| !NEVER_ALLOWED.contains(code))
}
