//! Desired files against a survey: the changes. Pure.
