//! Items of a source and their fields: what a reader hands on, how the wanted ones are found, and documents of names and values.

pub(crate) mod document;
pub(crate) mod item;
pub(crate) mod json;
pub(crate) mod reader;
pub(crate) mod search;
