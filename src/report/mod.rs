//! People's output and JSON.
