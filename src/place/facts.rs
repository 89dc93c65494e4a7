//! What `lint` has to know of a target beyond the declared paths: where the files lie that its system reads.

use std::collections::BTreeMap;

use deaddrop_core::error::StorageError;
use deaddrop_core::tree::Tree;
use deaddrop_core::tree::walk::{self, WalkError};

use crate::nixos::Finding;
use crate::nixos::closure::{self, Closure};
use crate::nixos::location::{Places, Seen};
use crate::nixos::open_file_system::OpenFileSystem;

/// Maximum number of further systems that are compared.
const MOST_OTHERS: usize = 8;

/// Facts for `lint`.
#[derive(Debug, Default)]
pub struct Facts {
    /// Further systems of the target.
    pub others: Vec<Closure>,
    /// The number of those that were not read.
    pub more: usize,
    /// What stands at each path that the system reads.
    pub standing: BTreeMap<String, Standing>,
    /// NX116.
    pub device: Option<Finding>,
}

/// What stands at a path of the booted system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// A file, a directory, or a link.
    There,
    /// Nothing.
    Missing,
    /// It is on another file system.
    Unknown,
}

/// The facts of a system. `open` is the open file system.
///
/// # Errors
/// If the tree cannot be read.
pub fn find<T: Tree>(
    tree: &T,
    closure: &Closure,
    places: &Places<'_>,
    open: &OpenFileSystem,
) -> Result<Facts, StorageError> {
    let (others, more) = closure::others(tree, closure, MOST_OTHERS)?;
    let mut standing = BTreeMap::new();
    for want in &closure.wants.list {
        if !standing.contains_key(&want.path) {
            standing.insert(want.path.clone(), look(tree, places, &want.path)?);
        }
    }
    Ok(Facts { others, more, standing, device: places.other_device(open) })
}

fn look<T: Tree>(tree: &T, places: &Places<'_>, path: &str) -> Result<Standing, StorageError> {
    let at = match places.seen(path) {
        Seen::At(at) => at,
        Seen::Elsewhere => return Ok(Standing::Unknown),
        Seen::Nowhere => return Ok(Standing::Missing),
    };
    match walk::resolve(tree, &at) {
        Ok(walked) if walked.found.is_none() => Ok(Standing::Missing),
        Err(WalkError::Image(error)) => Err(error),
        // A link that leads to nothing here may lead to what boot makes.
        Ok(_) | Err(_) => Ok(Standing::There),
    }
}
