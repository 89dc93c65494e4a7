//! Where values come from: one file a password manager or kind of store, behind one trait.
//!
//! A source is opened at most once a run, only if a secret needs it, and keeps only the items asked for.
//! Knows nothing of targets.
