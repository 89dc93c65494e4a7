//! `bitwarden`: the plain JSON export of Bitwarden and Vaultwarden, personal and of an organisation.
//!
//! `shape` says what an export looks like, `stream` reads it item by item, `field` says which fields an item has.

mod field;
mod shape;
mod stream;

use super::OpenError;
use super::input::Input;
use super::item::Sink;
use super::vault::Vault;

/// An export.
pub(super) struct Bitwarden<'m> {
    input: Input<'m>,
}

impl<'m> Bitwarden<'m> {
    pub(super) fn new(input: Input<'m>) -> Self {
        Self { input }
    }
}

impl Vault for Bitwarden<'_> {
    fn read(&mut self, sink: &mut dyn Sink) -> Result<(), OpenError> {
        let file = self.input.open()?;
        stream::read(file, sink).map_err(|failure| failure.at(self.input.name()))
    }
}

#[cfg(test)]
mod tests;
