//! What is made from a value, a password hash, and what is made where there is no value yet: a key.

mod crypt_text;
pub mod generate;
pub mod password;
