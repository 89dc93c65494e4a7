//! The keys that stand in a tree where its NixOS decrypts with them.

use deaddrop_core::path::TargetPath;
use deaddrop_core::secret::Secret;
use deaddrop_core::tree::walk::{self, Walk};
use deaddrop_core::tree::{FileKind, Tree};

use crate::nixos::closure::Closure;
use crate::nixos::location::Places;

/// Maximum size of a key, in bytes.
const KEY_LIMIT: u64 = 64 << 10;

/// The keys that stand where sops-nix and agenix look for them. Where another mount hides one, none stands.
pub fn keys<T: Tree>(tree: &T, closure: &Closure, places: &Places<'_>) -> Vec<(String, Secret)> {
    let identities = closure.decrypters.iter().flat_map(|decrypter| &decrypter.identities);
    let mut keys: Vec<(String, Secret)> = Vec::new();
    // The configuration's own text may hold anything.
    for path in identities.map(|identity| &identity.path).filter(|path| TargetPath::parse(path).is_ok()) {
        let location = places.locate(path, true);
        if location.findings.iter().any(|finding| finding.refuse && HIDDEN.contains(&finding.code)) {
            continue;
        }
        // What cannot be followed does not stand; what stands and is closed to us may be a key.
        if let Ok(Walk { found: Some((node, stat)), .. }) = walk::resolve(tree, &location.in_tree)
            && stat.kind == FileKind::File
            && stat.size > 0
        {
            let content = tree.read(&node, KEY_LIMIT).unwrap_or_default().unwrap_or_else(|| Secret::new(Vec::new()));
            keys.push((path.clone(), content));
        }
    }
    keys
}

/// The rules by which what lies in the open file system does not show at its path.
const HIDDEN: [&str; 3] = ["NX006", "NX007", "NX008"];
