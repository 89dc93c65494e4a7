//! What an image, a directory and a node share: desired files, the plan, and the one preparation that ends in it.
//!
//! ```text
//! select ─> needs ─> fetch ─> build ─> survey ─> settle ─> make ─> plan
//! ```

pub mod desired;
pub mod make;
pub mod message;
pub mod part;
pub mod plan;
pub mod prepare;
pub mod style;
