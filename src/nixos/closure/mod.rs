//! The closure of a NixOS system, read from a tree without nix: which system boots, how its /etc comes to be, what it
//! mounts, and who manages its users.
//!
//! Facts only, no judgement. Everything is bounded, and what could not be read is named in [`Closure::unread`].
//! Names and formats: nixpkgs, `nixos/modules/system/activation/top-level.nix`, `nixos/modules/tasks/filesystems.nix`,
//! `nixos/modules/config/users-groups.nix`, `nixos/modules/services/system/userborn.nix`.

mod bounded;
mod cloud_init;
pub mod decrypt;
mod etc;
mod loader;
mod mounts;
pub mod system;
pub mod units;
mod users;
pub mod view;
pub mod wants;

use std::collections::HashMap;

use deaddrop_core::error::StorageError;
use deaddrop_core::secret::Secret;
use deaddrop_core::tree::Tree;
use serde::Deserialize;

use self::decrypt::{Decrypter, Tool};
use self::system::Chosen;
use self::view::View;
use self::wants::Wants;

/// Length of the hash at the beginning of a store path's name.
pub(in crate::nixos) const HASH: usize = 32;
/// Maximum size of an activation script, in bytes.
const ACTIVATE_LIMIT: u64 = 1 << 20;

/// What was found of NixOS in a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// No NixOS.
    None,
    /// NixOS, and its system cannot be read, or not be chosen: the reason.
    Unreadable(String),
    /// The system that boots, or the one that was asked for.
    System(Box<Closure>),
}

/// The parts of a closure that are read only where something depends on them: each is many files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Parts {
    /// [`Closure::wants`].
    pub wants: bool,
    /// [`Decrypter::files`].
    pub recipients: bool,
    /// [`Closure::deletes_host_keys`].
    pub first_boot: bool,
}

/// Facts of one system. All paths are those of the booted system: read them through [`view::View`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closure {
    /// `/nix/store/HASH-nixos-system-NAME-LABEL`
    pub toplevel: String,
    /// `nixos-system-NAME-LABEL`
    pub name: String,
    /// The number of its profile link, `system-N-link`; `None` if no link of the profile leads to it.
    pub generation: Option<u32>,
    /// How /etc comes to be.
    pub etc: Etc,
    /// The fstab of the closure, then its `*.mount` units. The image's own /etc/fstab is not read.
    pub mounts: Vec<Mount>,
    /// Who makes /etc/passwd and /etc/shadow.
    pub users: UserManagement,
    /// The command of its activation that makes the users, if activation does.
    pub users_script: Option<UsersScript>,
    /// The users and groups that the configuration declares.
    pub accounts: Accounts,
    /// cloud-init deletes sshd's host keys at the first boot.
    pub deletes_host_keys: bool,
    /// The files that it reads and that no store path gives.
    pub wants: Wants,
    /// What decrypts secrets of its store when it boots: sops-nix, agenix.
    pub decrypters: Vec<Decrypter>,
    /// Parts that could not be read, and why.
    pub unread: Vec<String>,
}

impl Closure {
    /// True for a path of the booted system that sops-nix or agenix makes.
    #[must_use]
    pub fn makes(&self, path: &str) -> bool {
        self.decrypters.iter().any(|decrypter| decrypter.makes(path))
    }

    /// The users whose `hashedPasswordFile` sops-nix or agenix makes, each with that path and the program.
    pub fn made_passwords(&self) -> impl Iterator<Item = (&str, &str, Tool)> {
        let mut made: HashMap<&str, Tool> = HashMap::new();
        for decrypter in &self.decrypters {
            made.extend(decrypter.paths().map(|path| (path, decrypter.tool)));
        }
        self.accounts.users.iter().filter_map(move |user| {
            let path = user.hashed_password_file.as_deref()?;
            Some((user.name.as_str(), path, *made.get(path)?))
        })
    }

    /// True for a file that is read while the system is activated: a user's hashedPasswordFile, a key that sops-nix or
    /// agenix decrypts with.
    #[must_use]
    pub fn is_read_by_activation(&self, path: &str) -> bool {
        self.is_identity(path) || self.accounts.users_of(path).next().is_some()
    }

    /// True for the path of a key that sops-nix or agenix decrypts with.
    #[must_use]
    pub fn is_identity(&self, path: &str) -> bool {
        let mut identities = self.decrypters.iter().flat_map(|decrypter| &decrypter.identities);
        identities.any(|identity| identity.path == path)
    }
}

/// How /etc comes to be at boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Etc {
    /// A directory of the root, into which activation lays links.
    Plain,
    /// An overlay; what is in `/.rw-etc/upper` shows in /etc, and the root's own /etc is hidden.
    OverlayMutable,
    /// A read-only overlay: nothing of the root shows in /etc.
    OverlayImmutable,
    /// A configuration extension over the root's own /etc.
    Confext {
        /// The root's own /etc shows, and changes stay. False: as an immutable overlay.
        kept: bool,
    },
}

/// A file system that is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// What is mounted: a device, a directory (bind), `none`.
    pub what: String,
    /// Where: an absolute path without a slash at its end (but `/`).
    pub place: String,
    /// `ext4`, `tmpfs`, `none`, `auto`; empty for a unit without `Type=`.
    pub fs_type: String,
    /// The options, one each.
    pub options: Vec<String>,
}

/// Places that the initrd always mounts, whatever their options say: nixpkgs, `nixos/lib/utils.nix`,
/// `pathsNeededForBoot`.
const EARLY: [&str; 9] = ["/", "/nix", "/nix/store", "/var", "/var/log", "/var/lib", "/var/lib/nixos", "/etc", "/usr"];

impl Mount {
    /// True if the initrd mounts it, so that it is there before activation.
    #[must_use]
    pub fn in_initrd(&self) -> bool {
        self.has_option("x-initrd.mount") || EARLY.contains(&self.place.as_str())
    }

    /// True if `what` is a directory that shows at `place` as well.
    #[must_use]
    pub fn is_bind(&self) -> bool {
        self.has_option("bind") || self.has_option("rbind")
    }

    /// True if it is empty at each boot.
    #[must_use]
    pub fn is_tmpfs(&self) -> bool {
        matches!(self.fs_type.as_str(), "tmpfs" | "ramfs")
    }

    fn has_option(&self, name: &str) -> bool {
        self.options.iter().any(|option| option == name)
    }
}

/// Who makes /etc/passwd, /etc/group and /etc/shadow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UserManagement {
    /// Activation, with update-users-groups.pl.
    Perl {
        /// `users.mutableUsers`.
        mutable: bool,
    },
    /// userborn.service.
    Userborn {
        /// `users.mutableUsers`; `None` if the unit does not say (older ones).
        mutable: Option<bool>,
        /// Where the three files are: `/etc`, or `/var/lib/nixos`.
        directory: String,
    },
    /// userborn at build: the files are in the store.
    UserbornStatic,
    /// systemd-sysusers.service.
    Sysusers,
    /// Not known: a part could not be read.
    Unknown,
}

/// The command by which activation makes the users.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsersScript {
    /// The PATH that the activation script sets; `None` if it sets none.
    pub path: Option<String>,
    /// The interpreter and its arguments.
    pub command: Vec<String>,
}

/// The declared users and groups, in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Accounts {
    /// The users.
    pub users: Vec<Account>,
    /// The groups.
    pub groups: Vec<Group>,
}

impl Accounts {
    /// The users whose `hashedPasswordFile` is at `path`.
    pub fn users_of<'a>(&'a self, path: &'a str) -> impl Iterator<Item = &'a str> {
        let reads = move |user: &&Account| user.hashed_password_file.as_deref() == Some(path);
        self.users.iter().filter(reads).map(|user| user.name.as_str())
    }
}

/// A declared user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Its name.
    pub name: String,
    /// Its number, if the configuration fixes it.
    pub uid: Option<u32>,
    /// The name of its group.
    pub group: String,
    /// Its home directory.
    pub home: String,
    /// `hashedPasswordFile` (before 23.11: `passwordFile`).
    pub hashed_password_file: Option<String>,
    /// `hashedPassword`, which is in clear in the store.
    pub hashed_password: Option<Secret>,
    /// `initialHashedPassword`, which is in clear in the store.
    pub initial_hashed_password: Option<Secret>,
    /// `password` or `initialPassword`, which are in clear in the store, is set.
    pub has_clear_password: bool,
    /// `isSystemUser`.
    pub is_system: bool,
}

/// A declared group.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Its number, if the configuration fixes it.
    pub gid: Option<u32>,
}

/// Reads the system of a tree: the one at the path `system` (`--system`, a toplevel or a link to one), else the one
/// that boots.
///
/// # Errors
/// If the tree itself cannot be read. A damaged or missing part of the closure is no error: [`Found::Unreadable`],
/// [`Closure::unread`].
pub fn read<T: Tree>(tree: &T, system: Option<&str>) -> Result<Found, StorageError> {
    let view = View::of(tree)?;
    Ok(match system::choose(&view, system) {
        Chosen::None => Found::None,
        Chosen::Unreadable(why) => Found::Unreadable(view::shown(&why)),
        Chosen::System { toplevel, generation } => Found::System(Box::new(closure(&view, toplevel, generation))),
    })
}

/// Reads the system that runs on a node, as far as these parts go. What its disk would boot is not looked at.
///
/// # Errors
/// As [`read`].
pub fn running<T: Tree>(tree: &T, parts: Parts) -> Result<Found, StorageError> {
    let view = View::of(tree)?;
    Ok(match system::running(&view) {
        Chosen::None => Found::None,
        Chosen::Unreadable(why) => Found::Unreadable(view::shown(&why)),
        Chosen::System { toplevel, generation } => {
            Found::System(Box::new(closure_in_parts(&view, toplevel, generation, parts)))
        }
    })
}

/// The other systems of a tree, of which a boot loader may offer any: generations of the profile, and specialisations
/// of this one. At most `most` are read; gives also the number of the others.
///
/// # Errors
/// If the tree itself cannot be read.
pub fn others<T: Tree>(tree: &T, closure: &Closure, most: usize) -> Result<(Vec<Closure>, usize), StorageError> {
    let view = View::of(tree)?;
    let systems = system::others(&view, &closure.toplevel);
    let more = systems.len().saturating_sub(most);
    let read = systems.into_iter().take(most).map(|(toplevel, generation)| self::closure(&view, toplevel, generation));
    Ok((read.collect(), more))
}

fn closure<T: Tree>(view: &View<'_, T>, toplevel: String, generation: Option<u32>) -> Closure {
    closure_in_parts(view, toplevel, generation, Parts { wants: true, recipients: true, first_boot: true })
}

fn closure_in_parts<T: Tree>(view: &View<'_, T>, toplevel: String, generation: Option<u32>, parts: Parts) -> Closure {
    let mut unread = Vec::new();
    let activate = view.text(&format!("{toplevel}/activate"), ACTIVATE_LIMIT).unwrap_or_else(|why| {
        unread.push(why);
        None
    });
    let activate = activate.as_deref();
    let etc = etc::find(view, &toplevel, activate, &mut unread);
    let tree = format!("{toplevel}/etc");
    let (mounts, (users, accounts)) = match view.find(&tree) {
        Ok(Some(_)) => (mounts::find(view, &tree, &mut unread), users::find(view, &tree, activate, &mut unread)),
        missing => {
            unread.push(missing.err().unwrap_or_else(|| format!("{tree} is not there")));
            (Vec::new(), (UserManagement::Unknown, Accounts::default()))
        }
    };
    let wants = match parts.wants {
        true => wants::find(view, &toplevel, activate, &accounts, &mounts, &mut unread),
        false => Wants::default(),
    };
    let mut decrypters = decrypt::find(view, &tree, activate, &mut unread);
    if parts.recipients {
        decrypt::find_recipients(view, &mut decrypters, &mut unread);
    }
    let deletes_host_keys = parts.first_boot && cloud_init::deletes_host_keys(view, &tree, &mut unread);
    // Paths out of the closure's own texts may hold anything.
    let unread = unread.iter().map(|why| view::shown(why)).collect();
    Closure {
        name: name_of(&toplevel),
        toplevel,
        generation,
        etc,
        mounts,
        users,
        users_script: activate.and_then(users::script),
        accounts,
        deletes_host_keys,
        wants,
        decrypters,
        unread,
    }
}

/// The name of a store path: what follows its hash of 32 characters.
fn name_of(path: &str) -> String {
    let name = path.rsplit('/').next().unwrap_or_default();
    let after = name.get(HASH..).and_then(|rest| rest.strip_prefix('-'));
    after.unwrap_or(name).to_owned()
}
