//! Items and their fields: what readers produce, the search for wanted items, JSON parsing, and documents of names and
//! values.

pub(crate) mod document;
pub(crate) mod dotenv;
pub(crate) mod item;
pub(crate) mod json;
pub(crate) mod reader;
pub(crate) mod replaced;
pub(crate) mod search;
pub(crate) mod words;
