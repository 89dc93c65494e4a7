//! The secrets of a first manifest that the system in an image reads.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;

use deaddrop_core::path::TargetPath;

use super::first::yaml;
use super::vault::Vault;
use crate::cli::args::{PlaceArgs, Target};
use crate::cli::prepare::look;
use crate::nixos::closure::Closure;
use crate::nixos::closure::decrypt::Decrypter;
use crate::nixos::closure::wants::{Kind, Want};
use crate::nixos::{decrypt, options, paths};
use crate::place::survey::PasswordRule;
use crate::place::{Survey, SystemChoice, Wanted};
use crate::report::Ui;
use crate::run::message::{Failure, Message};

/// What the system in an image wants.
pub(super) struct Read {
    survey: Survey,
    system: Box<Closure>,
}

/// Reads the system in the image: that of `--system`, or the one that boots.
///
/// # Errors
/// Exit 1 if it cannot be read, or if there is none.
pub(super) fn read(ui: &Ui, image: &Path, place: &PlaceArgs) -> Result<Read, Failure> {
    let target = Target::to_read(image, place);
    let choice = SystemChoice { system: place.system.clone(), ..SystemChoice::default() };
    // A wanted password has the shadow file read.
    let password = TargetPath::parse("/etc/secrets/password").ok().into_iter();
    let wanted: Vec<Wanted> =
        password.map(|path| Wanted { path, read_limit: 0, is_password: true, key: None }).collect();
    let (mut survey, _) = look(ui, target, &choice, &wanted)?;
    let Some(system) = survey.system.take() else {
        let message = Message::new(format!("{}: there is no NixOS in it", image.display()));
        return Err(Failure::refused(vec![message.hint("leave --image out, and name the secrets with --secrets")]));
    };
    Ok(Read { survey, system })
}

impl Read {
    /// The name of the host: that of the system, `nixos-system-NAME-LABEL`.
    pub(super) fn host(&self) -> &str {
        let name = self.system.name.strip_prefix("nixos-system-").unwrap_or(&self.system.name);
        // A label begins with a version.
        let version = name.match_indices('-').find(|(at, _)| {
            name.get(at.saturating_add(1)..).is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit()))
        });
        version.and_then(|(at, _)| name.get(..at)).unwrap_or(name)
    }

    /// The lines of each secret.
    pub(super) fn secrets(&self, vault: &Vault) -> Vec<String> {
        let mut names = BTreeSet::new();
        let mut by_path: BTreeMap<&str, Vec<&Want>> = BTreeMap::new();
        for want in self.system.wants.list.iter().filter(|want| !want.optional) {
            by_path.entry(&want.path).or_default().push(want);
        }
        let mut blocks = Vec::new();
        let mut keys = BTreeSet::new();
        for decrypter in &self.system.decrypters {
            let Some((identity, kind)) = decrypt::best(decrypter) else { continue };
            if keys.insert(identity.path.as_str()) && !self.survey.keys.contains_key(&identity.path) {
                let name = unique(&secret_name(&identity.path), &mut names);
                blocks.push(key(&name, decrypter, &identity.path, kind, vault));
            }
        }
        for (path, readers) in by_path {
            let is_given = self.system.is_identity(path) || self.system.makes(path);
            let is_refused = paths::judge(path).is_some_and(|finding| finding.refuse);
            let Some(want) = readers.first().filter(|_| !is_refused && !is_given) else { continue };
            let name = unique(&secret_name(path), &mut names);
            blocks.push(self.secret(&name, want, &readers, vault));
        }
        blocks
    }

    fn secret(&self, name: &str, want: &Want, readers: &[&Want], vault: &Vault) -> String {
        let mut options: Vec<String> = readers.iter().map(|want| options::of(want)).collect();
        options.sort_unstable();
        options.dedup();
        let used_by = match options.as_slice() {
            [one] => yaml(one),
            all => format!("[{}]", all.iter().map(|option| yaml(option)).collect::<Vec<_>>().join(", ")),
        };
        let mut text = format!("  # {}\n  {}:\n    path: {}\n", heading(want, readers), yaml(name), yaml(&want.path));
        let title = name.replace('-', " ");
        let is_env = readers.iter().any(|want| want.kind == Kind::EnvironmentFile);
        let is_wifi = options.iter().any(|option| option == "networking.wireless.secretsFile");
        match want.kind {
            Kind::Password => {
                let user = self.system.accounts.users_of(&want.path).next().unwrap_or(name);
                let item = yaml(&vault.item(&format!("{user} login")));
                let _ = write!(text, "    from: {item}\n    hash: yescrypt\n");
            }
            _ if is_env => {
                let _ = write!(
                    text,
                    "    # Lines of NAME=VALUE: write those that it needs.\n    template: |\n      \
                     NAME={{{{ secret('{}') | systemd_quote }}}}\n    format: dotenv\n",
                    vault.item(&title)
                );
            }
            _ if is_wifi => {
                let _ = write!(
                    text,
                    "    # One line for each `ext:NAME` of the networks.\n    template: |\n      \
                     psk_home={{{{ secret('{}') }}}}\n",
                    vault.item(&title)
                );
            }
            Kind::NixConf => {
                let _ = write!(
                    text,
                    "    template: |\n      access-tokens = github.com={{{{ secret('{}') }}}}\n",
                    vault.item(&title)
                );
            }
            _ => {
                let _ = writeln!(text, "    from: {}", yaml(&vault.item(&title)));
            }
        }
        let _ = writeln!(text, "    used_by: {used_by}");
        if want.kind == Kind::ClusterToken {
            text.push_str("    kind: k3s-token\n");
        }
        if want.kind == Kind::Password && self.is_trapped(want) {
            text.push_str(
                "    # The image has a line for this user in /etc/shadow, which NixOS keeps (NX101): the hash goes \
                 there too.\n    apply_password: true\n",
            );
        }
        if let Some(want) = readers.iter().find(|want| want.user.is_some()) {
            text.push_str(&self.owner(want));
        }
        text
    }

    /// True if the shadow file has a line of the user, and it stays.
    fn is_trapped(&self, want: &Want) -> bool {
        let mut users = self.system.accounts.users_of(&want.path);
        self.survey.passwords == PasswordRule::LineStays
            && users.any(|user| self.survey.users.shadow_hash(user).is_some())
    }

    /// Who may read it beside root.
    fn owner(&self, want: &Want) -> String {
        let user = want.user.as_deref().unwrap_or_default();
        let users = &self.survey.users;
        let of_account = self.system.accounts.users.iter().find(|account| account.name == user);
        let own_group = of_account.map(|account| account.group.as_str()).filter(|group| !group.is_empty());
        let group = want.groups.first().map(String::as_str).or(own_group).unwrap_or(user);
        if users.uid(user).is_some() {
            format!("    owner: {}\n", yaml(user))
        } else if users.gid(group).is_some() {
            format!("    mode: \"0440\"\n    group: {}\n", yaml(group))
        } else {
            format!(
                "    # It is read as the user {user}, whose number is given at the first boot (NX107). Fix it in the \
                 configuration, and write:\n    # owner: {}\n",
                yaml(user)
            )
        }
    }
}

/// The lines of the key that a program decrypts with.
fn key(name: &str, decrypter: &Decrypter, path: &str, kind: Option<&str>, vault: &Vault) -> String {
    let (tool, count) = (decrypter.tool.name(), decrypt::count(decrypter.secrets.len(), "secret"));
    let mut text = format!("  # {tool} decrypts {count} with it.");
    if let Some(kind) = kind {
        let _ = write!(
            text,
            "\n  # `generate: {kind}` in place of `from` makes one, and tells what is to be encrypted for it."
        );
    }
    let item = yaml(&vault.item(&name.replace('-', " ")));
    let _ = writeln!(text, "\n  {}:\n    path: {}\n    from: {item}", yaml(name), yaml(path));
    text
}

/// What reads it, for a comment.
fn heading(want: &Want, readers: &[&Want]) -> String {
    let by: BTreeSet<&str> = readers.iter().map(|want| want.by.as_str()).collect();
    let by: Vec<String> = by.into_iter().map(deaddrop_core::tree::walk::shown).collect();
    match want.kind {
        Kind::Password => format!("{}: NixOS needs a hash, so one is generated.", by.join(", ")),
        Kind::ClusterToken => format!("{}, which waits for it. The same on all nodes.", by.join(", ")),
        _ => format!("Read by {}.", by.join(", ")),
    }
}

/// A name for the secret at a path: that of its file.
fn secret_name(path: &str) -> String {
    let name = path.rsplit('/').next().unwrap_or_default();
    let name: String = name
        .trim_start_matches('.')
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
        .collect();
    let name = name.trim_matches('-').to_owned();
    if name.is_empty() { "secret".to_owned() } else { name }
}

fn unique(name: &str, taken: &mut BTreeSet<String>) -> String {
    let numbered = (2_u32..).map(|number| format!("{name}-{number}"));
    let free = std::iter::once(name.to_owned()).chain(numbered).find(|name| !taken.contains(name)).unwrap_or_default();
    taken.insert(free.clone());
    free
}
