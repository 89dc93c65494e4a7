//! What image, directory and node share: desired files, the plan, and the preparation that leads to it.
//!
//! ```text
//! select ─> needs ─> fetch ─> build ─> survey ─> settle ─> make ─> plan
//! ```

pub mod decrypt;
pub mod desired;
pub mod identity;
pub mod lint;
pub mod make;
pub mod message;
pub mod part;
pub mod plan;
pub mod prepare;
pub mod remedy;
pub mod scan;
pub mod style;
