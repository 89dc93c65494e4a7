//! What is made from a value: today a password hash.

mod crypt_text;
pub mod password;
