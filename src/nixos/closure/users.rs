//! Who makes the users, and which users the configuration declares.
//!
//! nixpkgs: `nixos/modules/config/users-groups.nix`, `nixos/modules/services/system/userborn.nix`,
//! `nixos/modules/systemd/sysusers.nix`; sysusers.d(5).

use deaddrop_core::secret::Secret;
use deaddrop_core::tree::Tree;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::bounded::Bounded;
use super::units::{self, Entry, Unit};
use super::view::View;
use super::{Account, Accounts, Group, UserManagement, UsersScript};

/// Maximum size of the users JSON, in bytes.
const JSON_LIMIT: u64 = 64 << 20;
/// Maximum size of a sysusers.d file, in bytes.
const SYSUSERS_LIMIT: u64 = 4 << 20;
/// Maximum number of users, and of groups.
const MOST_ACCOUNTS: usize = 100_000;
/// The prefix of the credential with a user's hash (systemd-sysusers.service(8)).
const HASH_CREDENTIAL: &str = "passwd.hashed-password.";

/// Who makes the users of the system with this etc tree, and the declared ones. `activate` is the text of its
/// activation script, if it has one. What cannot be read is added to `unread`.
pub fn find<T: Tree>(
    view: &View<'_, T>,
    etc: &str,
    activate: Option<&str>,
    unread: &mut Vec<String>,
) -> (UserManagement, Accounts) {
    manager(view, etc, activate, unread).unwrap_or_else(|why| {
        unread.push(why);
        (UserManagement::Unknown, Accounts::default())
    })
}

fn manager<T: Tree>(
    view: &View<'_, T>,
    etc: &str,
    activate: Option<&str>,
    unread: &mut Vec<String>,
) -> Result<(UserManagement, Accounts), String> {
    if let Some(path) = activate.and_then(perl_json) {
        let declared = declared(view, &path)?;
        // The option's default: the JSON always says it.
        let mutable = declared.mutable_users.unwrap_or(true);
        return Ok((UserManagement::Perl { mutable }, declared.accounts()));
    }
    let directory = format!("{etc}/systemd/system");
    if let Entry::Unit(unit) = units::read(view, &directory, "userborn.service")? {
        let (path, manager) = userborn(&unit).ok_or("userborn.service: its ExecStart names no JSON of users")?;
        let accounts = declared(view, &path).map(Declared::accounts).unwrap_or_else(|why| {
            unread.push(why);
            Accounts::default()
        });
        return Ok((manager, accounts));
    }
    // The files of the store itself: no unit makes them.
    if view.find(&format!("{etc}/shadow")).is_ok_and(|shadow| shadow.is_some()) {
        return Ok((UserManagement::UserbornStatic, Accounts::default()));
    }
    if let Entry::Unit(unit) = units::read(view, &directory, "systemd-sysusers.service")? {
        let text = view.text(&format!("{etc}/sysusers.d/00-nixos.conf"), SYSUSERS_LIMIT).unwrap_or_else(|why| {
            unread.push(why);
            None
        });
        return Ok((UserManagement::Sysusers, sysusers(&text.unwrap_or_default(), &unit)));
    }
    Err("nothing says who makes its users: no update-users-groups.pl in its activation, no userborn, no sysusers"
        .into())
}

/// The JSON that update-users-groups.pl is given: the last word of the command that runs it.
fn perl_json(activate: &str) -> Option<String> {
    perl_command(activate)?.pop()
}

/// The words of the command that runs update-users-groups.pl.
fn perl_command(activate: &str) -> Option<Vec<String>> {
    let joined = activate.replace("\\\n", " ");
    let is_command = |line: &&str| !line.trim_start().starts_with('#') && line.contains("update-users-groups.pl ");
    let words = units::words(joined.lines().find(is_command)?);
    words.last()?.starts_with('/').then_some(words)
}

/// The line above a part of an activation script (nixpkgs, `nixos/modules/system/activation/activation-script.nix`).
const SNIPPET: &str = "#### Activation script snippet ";

/// The command of the snippet `users`, and the PATH that is set above all snippets: `export PATH=/empty`, then a loop
/// over packages that adds `bin` and `sbin` of each.
pub fn script(activate: &str) -> Option<UsersScript> {
    let (above, snippets) = activate.split_once(SNIPPET)?;
    let users = snippets.split(SNIPPET).find_map(|snippet| snippet.strip_prefix("users:"))?;
    let command = perl_command(users).filter(|command| command.first().is_some_and(|word| is_plain_path(word)))?;
    Some(UsersScript { path: script_path(above), command })
}

fn is_plain_path(word: &str) -> bool {
    word.starts_with('/') && !word.contains(['$', '`', '"', '\''])
}

fn script_path(above: &str) -> Option<String> {
    let above = above.replace("\\\n", " ");
    let mut path: Option<String> = None;
    let mut packages: Vec<&str> = Vec::new();
    for line in above.lines().map(str::trim) {
        let line = line.strip_prefix("export ").unwrap_or(line);
        if let Some(list) = line.strip_prefix("for i in ") {
            let list = list.split(';').next().unwrap_or_default();
            packages = list.split_whitespace().filter(|word| is_plain_path(word)).collect();
        } else if let Some(value) = line.strip_prefix("PATH=") {
            let value = value.trim_matches('"');
            match value.strip_prefix("$PATH:$i/") {
                Some(_) => {
                    let whole = path.get_or_insert_default();
                    for package in std::mem::take(&mut packages) {
                        whole.push_str(&format!(":{package}/bin:{package}/sbin"));
                    }
                }
                None if !value.contains(['$', '`', '(']) => path = Some(value.to_owned()),
                None => {}
            }
        }
    }
    path
}

/// The JSON that userborn is given, and how it works.
fn userborn(unit: &Unit) -> Option<(String, UserManagement)> {
    let command = unit.commands("ExecStart").into_iter().next()?;
    let [_, json, directory, ..] = command.as_slice() else { return None };
    let mutable = match unit.variable("USERBORN_MUTABLE_USERS").as_deref() {
        Some("true") => Some(true),
        Some("false") => Some(false),
        _ => None,
    };
    Some((json.clone(), UserManagement::Userborn { mutable, directory: directory.trim_end_matches('/').to_owned() }))
}

/// The JSON of update-users-groups.pl and of userborn.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Declared {
    mutable_users: Option<bool>,
    #[serde(default)]
    users: Bounded<DeclaredUser, MOST_ACCOUNTS>,
    #[serde(default)]
    groups: Bounded<Group, MOST_ACCOUNTS>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DeclaredUser {
    name: String,
    uid: Option<u32>,
    group: Option<String>,
    home: Option<String>,
    is_system_user: Option<bool>,
    hashed_password_file: Option<String>,
    /// Its name before 23.11.
    password_file: Option<String>,
    hashed_password: Option<String>,
    initial_hashed_password: Option<String>,
    password: Option<IgnoredAny>,
    initial_password: Option<IgnoredAny>,
}

impl Declared {
    fn accounts(self) -> Accounts {
        Accounts { users: self.users.0.into_iter().map(Account::from).collect(), groups: self.groups.0 }
    }
}

impl From<DeclaredUser> for Account {
    fn from(user: DeclaredUser) -> Self {
        Self {
            name: user.name,
            uid: user.uid,
            group: user.group.unwrap_or_default(),
            home: user.home.unwrap_or_default(),
            hashed_password_file: user.hashed_password_file.or(user.password_file),
            hashed_password: user.hashed_password.map(Secret::from),
            initial_hashed_password: user.initial_hashed_password.map(Secret::from),
            has_clear_password: user.password.is_some() || user.initial_password.is_some(),
            is_system: user.is_system_user.unwrap_or_default(),
        }
    }
}

fn declared<T: Tree>(view: &View<'_, T>, path: &str) -> Result<Declared, String> {
    let content = view.content(path, JSON_LIMIT)?.ok_or_else(|| format!("{path} is not there"))?;
    // The error's own text may hold a value of the file.
    serde_json::from_slice(content.expose()).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        format!("{path}: line {line}, column {column}: not the JSON of at most {MOST_ACCOUNTS} users and groups")
    })
}

/// The users of sysusers.d's lines (`u NAME ID GECOS HOME SHELL`, `g NAME ID`), with the hashes and files of hashes
/// that the unit gives as credentials.
fn sysusers(text: &str, unit: &Unit) -> Accounts {
    let mut accounts = Accounts::default();
    for line in text.lines().take(MOST_ACCOUNTS) {
        let fields = units::words(line);
        let field = |at: usize| fields.get(at).map(String::as_str).filter(|field| *field != "-");
        let Some(name) = field(1).map(str::to_owned) else { continue };
        // `UID:GID` or `UID:GROUP`
        let (id, group) = field(2).map_or(("", None), |id| match id.split_once(':') {
            Some((id, group)) => (id, Some(group.to_owned())),
            None => (id, None),
        });
        let id = id.parse().ok();
        match field(0) {
            Some("u" | "u!") => accounts.users.push(Account {
                group: group.unwrap_or_else(|| name.clone()),
                home: field(4).unwrap_or("/").to_owned(),
                hashed_password_file: credential(unit, "LoadCredential", &name).map(str::to_owned),
                hashed_password: credential(unit, "SetCredential", &name).map(|hash| Secret::from(hash.to_owned())),
                initial_hashed_password: None,
                has_clear_password: false,
                // What is in /etc/passwd with another number was not made by sysusers.
                is_system: true,
                uid: id,
                name,
            }),
            Some("g") => accounts.groups.push(Group { name, gid: id }),
            _ => {}
        }
    }
    accounts
}

/// What the credential with a user's hash is given by a setting.
fn credential<'u>(unit: &'u Unit, setting: &str, user: &str) -> Option<&'u str> {
    let of_user = |value: &'u str| value.strip_prefix(HASH_CREDENTIAL)?.strip_prefix(user)?.strip_prefix(':');
    unit.list("Service", setting).into_iter().filter_map(of_user).next_back()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_of_users_is_the_last_word_of_the_perl_command() {
        let text = "# update-users-groups.pl is here: \ninstall -m 0700\n/nix/store/p/bin/perl \\\n  \
                    -w /nix/store/h-update-users-groups.pl /nix/store/h-users-groups.json\necho\n";
        assert_eq!(perl_json(text).as_deref(), Some("/nix/store/h-users-groups.json"));
        assert_eq!(perl_json("setup-etc.pl /nix/store/x"), None);
    }

    #[test]
    fn the_command_of_the_snippet_users_is_taken_with_the_path_of_its_script() {
        let text = "#!/nix/store/b/bin/bash\n\nsystemConfig='/nix/store/s'\n\nexport PATH=/empty\nfor i in \
                    /nix/store/a-coreutils /nix/store/b-shadow; do\n    PATH=$PATH:$i/bin:$i/sbin\ndone\n\n\
                    #### Activation script snippet etc:\nperl update-users-groups.pl /no\n\
                    #### Activation script snippet users:\ninstall -m 0700 -d /root\n/nix/store/p/bin/perl \\\n\
                    -w /nix/store/u-update-users-groups.pl /nix/store/j.json\n\
                    #### Activation script snippet var:\n";
        let found = script(text).unwrap();
        assert_eq!(
            found.command,
            ["/nix/store/p/bin/perl", "-w", "/nix/store/u-update-users-groups.pl", "/nix/store/j.json"]
        );
        let path = "/empty:/nix/store/a-coreutils/bin:/nix/store/a-coreutils/sbin:/nix/store/b-shadow/bin:\
                    /nix/store/b-shadow/sbin";
        assert_eq!(found.path.as_deref(), Some(path));
        let plain = text.replace("export PATH=/empty\nfor", "for").replace("PATH=$PATH:$i/bin:$i/sbin", "true");
        assert_eq!(script(&plain).unwrap().path, None);
        assert_eq!(script("/nix/store/p/bin/perl /nix/store/u-update-users-groups.pl /nix/store/j.json"), None);
        assert_eq!(script(&text.replace("/nix/store/p/bin/perl", "$perl")), None);
    }

    #[test]
    fn users_of_sysusers_have_their_credentials() {
        let mut unit = Unit::default();
        unit.add(
            "[Service]\nLoadCredential=passwd.hashed-password.admin:/etc/secrets/admin\n\
                  SetCredential=passwd.hashed-password.root:!\n",
        );
        let text =
            "# users\ng wheel 1\nu! admin 999:users \"An admin\" /home/admin /bin/sh\nu root 0 - - -\nm admin wheel\n";
        let accounts = sysusers(text, &unit);
        let admin = &accounts.users[0];
        assert_eq!((admin.uid, admin.group.as_str(), admin.home.as_str()), (Some(999), "users", "/home/admin"));
        assert_eq!(admin.hashed_password_file.as_deref(), Some("/etc/secrets/admin"));
        assert_eq!(accounts.users[1].hashed_password.as_ref().unwrap().expose(), b"!");
        assert_eq!(accounts.groups, [Group { name: "wheel".into(), gid: Some(1) }]);
    }
}
