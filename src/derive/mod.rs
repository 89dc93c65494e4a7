//! What is made from a value: today a password hash.
