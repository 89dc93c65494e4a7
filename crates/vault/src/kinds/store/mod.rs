//! Stores of pass, gopass and passage: a directory with an encrypted file per entry.
//!
//! `tree` finds entries by name, `text` parses a decrypted entry, `pass` and `passage` decrypt.

mod gopass;
mod pass;
mod passage;
mod text;
mod tree;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use deaddrop_core::keys::Field;
use deaddrop_core::limits::MAX_VALUE;
use deaddrop_core::secret::Secret;
use schemars::JsonSchema;
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::error::item as shown_item;
use crate::input::context::Context;
use crate::items::item::{self, Answer};
use crate::keys::{Declared, KdfLimitKeys, PasswordKeys};
use crate::kinds::Kind;
use crate::spec::{KdfLimit, Spec};
use crate::{Listed, LookupError, OpenError, PasswordSpec, Reference, Source, StoreSpec};
use gopass::Gopass;
use pass::Pass;
use passage::Passage;
use tree::{StoreEntry, Tree};

/// Maximum length of an encrypted file, and of an entry, in bytes.
const MAX_ENTRY: usize = MAX_VALUE;

/// A store of one program.
trait Store {
    /// The directory.
    ///
    /// # Errors
    /// It is unknown.
    fn root(&self) -> Result<PathBuf, OpenError>;

    /// Suffix of its files, in the directory `root`.
    fn suffix(&self, root: &Path) -> &'static str;

    /// Decrypts `entries` of `tree`, and passes each to `take` with its index, in any order, without keeping any.
    ///
    /// # Errors
    /// Nothing can be decrypted.
    fn decrypt(&self, tree: &Tree, entries: &[&StoreEntry], take: &mut Take<'_>) -> Result<(), OpenError>;
}

/// The kind `pass`. The default directory is pass's own.
pub(crate) struct PassStore;

impl Kind for PassStore {
    type Spec = StoreSpec;

    fn open<'m>(spec: &'m StoreSpec, _: &'m str, context: &'m Context<'m>) -> Box<dyn Source + 'm> {
        Box::new(Stored(Pass { context, path: spec.path.as_deref(), default_root: pass::default_root }))
    }
}

/// The kind `gopass`. The default directory is that of gopass's root store.
pub(crate) struct GopassStore;

impl Kind for GopassStore {
    type Spec = AgeStoreSpec;

    fn open<'m>(spec: &'m AgeStoreSpec, name: &'m str, context: &'m Context<'m>) -> Box<dyn Source + 'm> {
        let path = spec.store.path.as_deref();
        let gpg = Pass { context, path, default_root: gopass::root };
        let age = Passage {
            source: name,
            context,
            path,
            default_root: gopass::root,
            identity: spec.identity.as_deref(),
            default_identity: gopass::identities,
            password: spec.password.as_ref(),
            kdf_limit: spec.kdf_limit,
        };
        Box::new(Stored(Gopass { gpg, age }))
    }
}

/// A store whose entries age has encrypted: that of passage, and gopass's with age.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename = "a store", default, deny_unknown_fields)]
#[schemars(rename = "age-store")]
pub struct AgeStoreKeys {
    /// The store's directory. Default: the program's own.
    #[schemars(length(min = 1))]
    pub path: Field<String>,
    /// A file of age identities, or an SSH key. Default: the program's own.
    #[schemars(length(min = 1))]
    pub identity: Field<String>,
    /// The passphrase of the store's files, or of the identity file.
    pub password: Field<PasswordKeys>,
    /// `none`: deriving the key from the password may cost anything. Without it, time and memory are bounded.
    pub kdf_limit: Field<KdfLimitKeys>,
}

/// A store whose entries age has encrypted, and how to decrypt it.
#[derive(Debug, Clone, Default)]
pub struct AgeStoreSpec {
    /// The store.
    pub store: StoreSpec,
    /// A file of identities. `None`: the program's own, as far as it has one.
    pub identity: Option<PathBuf>,
    /// The password of the identity file, or of the store's files.
    pub password: Option<PasswordSpec>,
    /// How much deriving a key from the password may cost.
    pub kdf_limit: KdfLimit,
}

/// The kind `passage`. The default directory and identities are passage's own.
pub(crate) struct PassageStore;

impl Spec for AgeStoreSpec {
    type Keys = AgeStoreKeys;

    fn check(declared: &Declared<'_>, keys: AgeStoreKeys) -> Option<Self> {
        let path = declared.path(keys.path);
        let identity = declared.path(keys.identity);
        let password = declared.password(declared.child("password"), keys.password);
        let kdf_limit = declared.kdf_limit(keys.kdf_limit);
        let store = StoreSpec { path: path? };
        Some(AgeStoreSpec { store, identity: identity?, password: password?, kdf_limit: kdf_limit? })
    }

    fn password(&self) -> Option<&PasswordSpec> {
        self.password.as_ref()
    }
}

impl Kind for PassageStore {
    type Spec = AgeStoreSpec;

    fn open<'m>(spec: &'m AgeStoreSpec, name: &'m str, context: &'m Context<'m>) -> Box<dyn Source + 'm> {
        Box::new(Stored(Passage {
            source: name,
            context,
            path: spec.store.path.as_deref(),
            default_root: passage::default_root,
            identity: spec.identity.as_deref(),
            default_identity: passage::default_identity,
            password: spec.password.as_ref(),
            kdf_limit: spec.kdf_limit,
        }))
    }
}

/// Receives a decrypted entry, or the reason why it cannot be read.
type Take<'t> = dyn FnMut(usize, Result<Zeroizing<Vec<u8>>, Unread>) + 't;

/// An entry that cannot be read.
struct Unread {
    /// A message without a part of a value.
    what: String,
    /// A hint; may be empty.
    hint: String,
}

/// Implements [`Source`] for a store.
struct Stored<S>(S);

impl<S: Store> Stored<S> {
    fn tree(&self) -> Result<Tree, OpenError> {
        let root = self.0.root()?;
        let suffix = self.0.suffix(&root);
        let tree = Tree::read(&root, suffix)?;
        let other = if suffix == pass::SUFFIX { passage::RECIPIENTS } else { pass::RECIPIENTS };
        if tree.entries.is_empty() && root.join(other).exists() {
            let (by, kinds) = match suffix {
                pass::SUFFIX => ("age", "`type: passage` reads it, or `type: gopass` if it is gopass's"),
                _ => ("gpg", "`type: pass` reads it, or `type: gopass` if it is gopass's"),
            };
            return Err(OpenError::refused(&root, format!("its entries are encrypted by {by}"), kinds));
        }
        Ok(tree)
    }
}

impl<S: Store> Source for Stored<S> {
    fn fetch(&mut self, wanted: &[&Reference]) -> Result<Vec<Result<Secret, LookupError>>, OpenError> {
        let tree = self.tree()?;
        let mut answers: Vec<Option<Result<Secret, LookupError>>> = Vec::new();
        // Each entry once, with the references to it.
        let mut users: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (index, found) in tree.find(wanted).into_iter().enumerate() {
            answers.push(match found {
                Ok(entry) => {
                    users.entry(entry).or_default().push(index);
                    None
                }
                Err(error) => Some(Err(error)),
            });
        }
        let entries: Vec<&StoreEntry> = users.keys().filter_map(|entry| tree.entries.get(*entry)).collect();
        let users: Vec<&Vec<usize>> = users.values().collect();
        self.0.decrypt(&tree, &entries, &mut |entry, content| {
            for &user in users.get(entry).copied().into_iter().flatten() {
                let Some(reference) = wanted.get(user) else { continue };
                let answer = match &content {
                    Ok(content) => select(content, reference),
                    Err(Unread { what, hint }) => Err(LookupError::Refused {
                        item: shown_item(reference),
                        what: what.clone(),
                        hint: Some(hint.clone()),
                    }),
                };
                if let Some(slot) = answers.get_mut(user) {
                    *slot = Some(answer);
                }
            }
        })?;
        let missing = |reference: &Reference| LookupError::Refused {
            item: shown_item(reference),
            what: "it was not decrypted".to_owned(),
            hint: None,
        };
        Ok(answers.into_iter().zip(wanted).map(|(answer, own)| answer.unwrap_or_else(|| Err(missing(own)))).collect())
    }

    /// Names only: listing fields would need to decrypt every entry.
    fn list(&mut self) -> Result<Vec<Listed>, OpenError> {
        Ok(self.tree()?.list())
    }
}

fn select(content: &[u8], reference: &Reference) -> Result<Secret, LookupError> {
    let refused = |what: String, hint: &str| LookupError::Refused {
        item: shown_item(reference),
        what,
        hint: Some(hint.to_owned()),
    };
    let fields = text::fields(content, reference.field.as_deref()).map_err(|(what, hint)| refused(what, hint))?;
    match item::select(fields, reference)? {
        Answer::Value(secret) => Ok(secret),
        Answer::Attachment(_) => Err(refused("an entry has no attachments".to_owned(), "")),
    }
}
