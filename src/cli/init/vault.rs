//! The vault of a first manifest: the kinds, what each needs, and how its items are named.

use deaddrop_core::near;

use super::first::yaml;

/// How a kind of source names its items.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Names {
    /// Any text: `Node admin`.
    Titles,
    /// Paths of a store: `homelab/node-admin`.
    Paths,
    /// Variables: `NODE_ADMIN`.
    Variables,
}

/// What `path` of a kind of source is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// A file, with an example.
    File(&'static str),
    /// A store; optional, since the program has a default.
    Store,
    /// It has no `path`.
    Nowhere,
}

/// A kind of source.
#[derive(Debug)]
struct VaultKind {
    name: &'static str,
    at: At,
    names: Names,
    /// Lines below `path`, with comments.
    more: &'static str,
}

const KINDS: [VaultKind; 13] = [
    VaultKind {
        name: "bitwarden",
        at: At::File("vault.json"),
        names: Names::Titles,
        more: "    # password: ask          # for an export that is protected by a password\n",
    },
    VaultKind { name: "onepassword", at: At::File("vault.1pux"), names: Names::Titles, more: "" },
    VaultKind {
        name: "keepass",
        at: At::File("vault.kdbx"),
        names: Names::Titles,
        more: "    password: ask            # or { env: NAME }, { file: PATH }; key_file: PATH\n",
    },
    VaultKind {
        name: "proton-pass",
        at: At::File("vault.zip"),
        names: Names::Titles,
        more: "    # password: ask          # for an export that is encrypted\n",
    },
    VaultKind { name: "lastpass", at: At::File("vault.csv"), names: Names::Titles, more: "" },
    VaultKind { name: "pass", at: At::Store, names: Names::Paths, more: "" },
    VaultKind { name: "gopass", at: At::Store, names: Names::Paths, more: "" },
    VaultKind { name: "passage", at: At::Store, names: Names::Paths, more: "" },
    VaultKind { name: "dotenv", at: At::File("secrets.env"), names: Names::Variables, more: "" },
    VaultKind {
        name: "env",
        at: At::Nowhere,
        names: Names::Variables,
        more: "    # prefix: HOMELAB_       # put before each name\n",
    },
    VaultKind { name: "bw", at: At::Nowhere, names: Names::Titles, more: "" },
    VaultKind { name: "rbw", at: At::Nowhere, names: Names::Titles, more: "" },
    VaultKind { name: "op", at: At::Nowhere, names: Names::Titles, more: "" },
];

/// The kinds, for a question.
pub(super) fn names() -> String {
    KINDS.map(|kind| kind.name).join(", ")
}

/// The kind of this name, as people write it: `Bitwarden`, `1Password`, `Proton Pass`.
fn kind(name: &str) -> Option<&'static VaultKind> {
    let plain = |name: &str| name.to_lowercase().replace([' ', '-', '_'], "");
    let name = match plain(name).as_str() {
        "1password" => "onepassword".to_owned(),
        "keepassxc" => "keepass".to_owned(),
        "protonpass" | "proton" => "protonpass".to_owned(),
        "vaultwarden" => "bitwarden".to_owned(),
        other => other.to_owned(),
    };
    KINDS.iter().find(|kind| plain(kind.name) == name)
}

/// A vault of `--vault`: its kind, and its file.
#[derive(Debug)]
pub(super) struct Vault {
    kind: &'static VaultKind,
    path: Option<String>,
}

impl Vault {
    /// `TYPE` or `TYPE:PATH`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (name, path) = match text.split_once(':') {
            Some((name, path)) => (name, Some(path.trim())),
            None => (text, None),
        };
        let (name, path) = (name.trim(), path.filter(|path| !path.is_empty()));
        let Some(kind) = kind(name) else {
            let near = near::near(name, KINDS.iter().map(|kind| kind.name));
            let near = near::did_you_mean(&near).map_or(String::new(), |question| format!(": {question}"));
            return Err(format!("there is no such type of vault{near}; there are: {}", names()));
        };
        match (kind.at, path) {
            (At::Nowhere, Some(_)) => Err(format!("{} has no file: write it alone", kind.name)),
            (At::File(example), None) => Ok(Self { kind, path: Some(example.to_owned()) }),
            _ => Ok(Self { kind, path: path.map(str::to_owned) }),
        }
    }

    /// Its file or directory, as the manifest names it.
    pub(super) fn path(&self) -> Option<&str> {
        self.path.as_deref()
    }

    /// The lines below `vault:`.
    pub(super) fn lines(&self) -> String {
        let path = self.path.as_ref().map_or(String::new(), |path| format!("    path: {}\n", yaml(path)));
        format!("    type: {}\n{path}{}", self.kind.name, self.kind.more)
    }

    /// A reference to the text of an item of this title, which has several lines: a note, or a variable.
    pub(super) fn text(&self, title: &str) -> String {
        let notes = if self.kind.names == Names::Variables { "" } else { "#notes" };
        format!("{}{notes}", self.item(title))
    }

    /// A reference to an item of this title, in the naming of the kind.
    pub(super) fn item(&self, title: &str) -> String {
        let item = match self.kind.names {
            Names::Titles => title.to_owned(),
            Names::Paths => format!("homelab/{}", title.to_lowercase().replace(' ', "-")),
            Names::Variables => title.to_uppercase().replace([' ', '-'], "_"),
        };
        format!("vault:{item}")
    }
}
