//! The manifest: the YAML file that declares which secret belongs where.
//!
//! [`Manifest::load`] reads and checks it, and reports every error of the file together, each with line and column. A
//! loaded manifest is valid: paths are absolute and normalised, sources, hosts and tags exist, modes are safe.
//!
//! Stages: `read` (bytes to text) -> `tree` (YAML to nodes with their places) -> `decode` (nodes to the types of
//! `schema`) -> `check` (names, values, references, collisions) -> `model`. `problem` and `excerpt` collect and show
//! errors; `veil` keeps possible values out of them. [`Names`] needs no check. Reads no source and no target.

mod access;
mod allow;
mod check;
mod collide;
mod decode;
mod excerpt;
mod generate;
mod indent;
mod model;
mod names;
mod overlap;
mod position;
mod problem;
mod read;
mod refer;
mod rotation;
mod scalar;
mod schema;
mod select;
mod serial;
mod shape;
mod sources;
mod syntax;
mod templates;
mod tree;
mod value_spec;
mod values;
mod veil;

#[cfg(test)]
mod tests;

use std::path::Path;

use deaddrop_core::keys::Field;
use deaddrop_core::path::TargetPath;
use deaddrop_vault::Sources;

use decode::Context;
use problem::Problems;
use schema::RawManifest;
use tree::Tree;

pub use allow::{Allow, Allowances};
pub use excerpt::Excerpt;
pub use model::{DirectoryOwner, Host, HostSelector, Location, Manifest, Owner, SecretSpec, TemplateSpec, ValueSpec};
pub use names::{Named, Names};
pub use problem::{ManifestErrors, Problem};
pub use rotation::{BecomePassword, Health, OnChange, SecretKind};
pub use schema::json_schema;
pub use select::SelectError;

impl Manifest {
    /// Its sources, as input for [`deaddrop_vault::fetch`].
    #[must_use]
    pub fn vaults(&self) -> Sources<'_> {
        let passwords = self.hosts.values().filter_map(|host| match &host.become_password {
            Some(BecomePassword::From(reference)) => Some(reference),
            _ => None,
        });
        Sources {
            directory: &self.directory,
            specs: &self.sources,
            references: self.secrets.iter().flat_map(SecretSpec::references).chain(passwords).collect(),
            tell: None,
        }
    }

    /// Where files of this host are written whose own path does not persist on NixOS.
    #[must_use]
    pub fn persist_root(&self, host: Option<&str>) -> Option<&TargetPath> {
        let host = host.and_then(|name| self.hosts.get(name));
        host.and_then(|host| host.persist_root.as_ref()).or(self.persist_root.as_ref())
    }

    /// Reads and checks the manifest at `path`: a regular file of at most 16 MiB. Also reads the files named by
    /// `template_file`, and no others.
    ///
    /// # Errors
    /// Every problem of the manifest.
    pub fn load(path: &Path) -> Result<Self, ManifestErrors> {
        let mut problems = Problems::default();
        match read::text(path, &mut problems) {
            Some(text) => Self::parse_with(&text, path, problems),
            None => Err(problems.finish(path, "")),
        }
    }

    /// Checks the text of a manifest. `file` is its name in messages; relative paths start at its directory.
    ///
    /// # Errors
    /// Every problem of the manifest.
    pub fn parse(text: &str, file: &Path) -> Result<Self, ManifestErrors> {
        Self::parse_with(text, file, Problems::default())
    }

    fn parse_with(text: &str, file: &Path, mut problems: Problems) -> Result<Self, ManifestErrors> {
        let Some(tree) = Tree::parse(text, &mut problems) else { return Err(problems.finish(file, text)) };
        if indent::report(&tree, &mut problems) {
            veil::sweep(&tree, &mut problems);
            return Err(problems.finish(file, text));
        }
        let context = Context::new(&tree, problems);
        let manifest = match context.decode::<RawManifest>() {
            Field::Good(_, raw) => Some(check::check(&context, raw, file)),
            Field::Bad | Field::Missing => None,
        };
        let mut problems = context.problems.into_inner();
        match manifest.filter(|_| problems.is_empty()) {
            Some(manifest) => Ok(manifest),
            None => {
                veil::sweep(&tree, &mut problems);
                Err(problems.finish(file, text))
            }
        }
    }
}
