//! `hashedPasswordFile` on running nodes, for each kind of user management: what applies it, and the way back. What
//! makes the users is a stand-in that does to the shadow file what NixOS's programs do.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::kit::canary::Canary;
use crate::kit::decrypt::{By, HOST_KEY};
use crate::kit::nixos::{NixosRoot, Users, store_path};
use crate::kit::nixos_node::{nixos_node, set_shadow, shadow_field};
use crate::kit::node::{Node, NodeBuilder, deaddrop};
use crate::kit::run::Finished;
use crate::kit::{Scratch, write_program};
use serde_json::json;

const FILE: &str = "/etc/secrets/admin-password";
/// What update-users-groups.pl does of importance here: the file of a user's hash becomes its field, a missing one `!`.
const PERL: &str = r#"#!/bin/sh
echo "$PATH|$*" >>/srv/perl.log
for user in admin carol; do
  file=/etc/secrets/$user-password
  grep -q "^$user:" /etc/shadow || continue
  if [ -e "$file" ]; then hash=$(cat "$file"); else hash='!'; fi
  sed -i "s|^$user:[^:]*:|$user:$hash:|" /etc/shadow
done
"#;
/// What userborn does.
const USERBORN: &str = "hash=$(cat /etc/secrets/admin-password 2>/dev/null) || hash='!*'\n\
                        sed -i \"s|^admin:[^:]*:|admin:$hash:|\" /etc/shadow";

struct Case {
    scratch: Scratch,
    root: NixosRoot,
    value: Canary,
}

impl Case {
    fn new(users: Users) -> Self {
        let scratch = Scratch::new();
        let mut root = NixosRoot::new(&scratch);
        root.users(users);
        write_store_program(&root, &NixosRoot::perl(), PERL);
        root.link(&format!("{}/bin", store_path("coreutils-9.8")), "/usr/bin");
        let case = Self { scratch, root, value: Canary::new("password") };
        case.declare("");
        case
    }

    /// The manifest: the admin's password with these keys, and these further secrets.
    fn declare(&self, keys: &str) -> &Self {
        self.declare_with(keys, "")
    }

    fn declare_with(&self, keys: &str, more: &str) -> &Self {
        let used_by = "used_by: users.users.admin.hashedPasswordFile";
        self.scratch.write(
            "secrets.yaml",
            format!(
                "version: 1\nsecrets:\n  admin: {{ path: {FILE}, from: env:A, hash: yescrypt, {used_by}{keys} }}\n{more}hosts:\n  \
                 node1: {{ ssh: node1 }}\n"
            ),
        );
        self
    }

    fn start(&self) -> Node {
        self.start_with(|builder| builder)
    }

    fn start_with(&self, change: impl FnOnce(NodeBuilder) -> NodeBuilder) -> Node {
        let node = change(nixos_node("node1", &self.root)).start(&self.scratch);
        set_shadow(&node, "root:*:19000:0:99999:7:::\nadmin:!:19000::::::\n");
        node
    }

    fn run(&self, args: &[&str]) -> Finished {
        self.run_with(args, &self.value)
    }

    fn run_with(&self, args: &[&str], value: &Canary) -> Finished {
        deaddrop(&self.scratch, args).env("A", value.text()).plant(&self.value).plant(value).run()
    }

    fn rotate(&self) -> Finished {
        self.run(&["rotate", "node1"])
    }
}

fn write_store_program(root: &NixosRoot, path: &str, text: &str) {
    root.write(path, "");
    write_program(&root.host(path), text);
    fs::set_permissions(root.host(path), fs::Permissions::from_mode(0o555)).unwrap();
}

/// The hash in the file is that of the shadow file.
#[track_caller]
fn assert_in_force(node: &Node) {
    let hash = fs::read_to_string(node.at(FILE)).unwrap();
    assert!(hash.starts_with("$y$") && hash.ends_with('\n'));
    assert!(shadow_field(node, "admin") == hash.trim_end(), "the shadow file has another hash");
    node.assert_clean();
}

/// Nothing was written.
#[track_caller]
fn assert_untouched(node: &Node) {
    assert_eq!(shadow_field(node, "admin"), "!");
    assert!(!node.at(FILE).exists());
    assert!(!node.at("/srv/perl.log").exists());
    node.assert_clean();
}

fn set_by_chpasswd(node: &Node) {
    for program in ["chpasswd", "usermod"] {
        let before = format!("echo \"{program} $*\" >>/srv/argv.log\nenv >>/srv/argv.log");
        node.add_program(program, &format!("#!/bin/sh\n{before}\nexec /usr/sbin/{program} \"$@\"\n"));
    }
}

#[test]
fn where_the_perl_script_makes_immutable_users_its_command_is_run_and_nothing_else_of_activation() {
    let case = Case::new(Users::Perl { mutable: false });
    let node = case.start();
    let command = format!(
        "{} -w {} {}",
        NixosRoot::perl(),
        store_path("update-users-groups.pl"),
        store_path("users-groups.json")
    );
    case.run(&["rotate", "node1", "--dry-run"]).expect_code(0).expect_error(&format!("would run `{command}`"));
    case.run(&["plan", "@node1"]).expect_code(0).expect_output("would run `/nix/store/");
    assert_untouched(&node);
    let run = case.rotate().expect_code(0).expect_error(&format!("password of admin in force (by `{command}`)"));
    assert!(!run.stderr().contains("DD501"), "{}", run.stderr());
    assert_in_force(&node);
    let path = |name: &str| format!("{0}/bin:{0}/sbin", store_path(name));
    let want = format!(
        "/empty:{}:{}:{}|{}\n",
        path("bash-5.3"),
        path("coreutils-9.8"),
        path("shadow-4.18"),
        command.split_once(' ').unwrap().1
    );
    let want = want.replace(&format!("{}:", path("bash-5.3")), "");
    assert_eq!(fs::read_to_string(node.at("/srv/perl.log")).unwrap(), want);
    // A second run has nothing to do, and runs nothing.
    case.rotate().expect_code(0).expect_error("nothing to do");
    assert_eq!(fs::read_to_string(node.at("/srv/perl.log")).unwrap().lines().count(), 1);
}

#[test]
fn after_a_failing_health_check_the_files_and_the_hash_are_back() {
    for (users, old) in [
        (Users::Perl { mutable: false }, "!"),
        (Users::Userborn { mutable: Some(true), directory: "/etc" }, "!"),
        (Users::Perl { mutable: true }, "!"),
        (Users::Perl { mutable: true }, "*"),
        (Users::Perl { mutable: true }, ""),
        (Users::Perl { mutable: true }, "$6$salt$0123456789012345678901234567890123456789"),
        (Users::Sysusers, "!$y$j9T$aaaaaaaaaaaaaaaaaaaaaa$bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"),
    ] {
        let (by_chpasswd, by_userborn) =
            (matches!(users, Users::Perl { mutable: true } | Users::Sysusers), matches!(users, Users::Userborn { .. }));
        let case = Case::new(users);
        let node = case.start();
        node.add_unit("userborn.service");
        node.on_restart("userborn.service", USERBORN);
        set_by_chpasswd(&node);
        set_shadow(&node, &format!("root:*:19000:0:99999:7:::\nadmin:{old}:19000::::::\n"));
        case.declare(
            ", apply_password: true, health: { command: [grep, -q, '^admin:[$]6', /etc/shadow, /none], timeout: 1 }",
        );
        let run = case.rotate().expect_code(1).expect_error("the old files are back");
        assert!(!run.stderr().contains("with the old files too"), "{}", run.stderr());
        assert_eq!(shadow_field(&node, "admin"), old);
        assert!(!node.at(FILE).exists());
        node.assert_clean();
        let argv = fs::read_to_string(node.at("/srv/argv.log")).unwrap_or_default();
        assert!(!argv.contains("$y$") && !argv.contains("$6$"), "a hash is in an argument or the environment");
        let called = |program: &str| argv.lines().filter(|line| line.starts_with(program)).count();
        let (set, put_back) = match (by_chpasswd, old.contains('$')) {
            // It writes `!*` where there is no password.
            (false, _) => (0, usize::from(by_userborn)),
            (true, false) => (1, 1),
            (true, true) => (2, 0),
        };
        assert_eq!((called("chpasswd -e"), called("usermod -p")), (set, put_back), "{old}");
    }
}

#[test]
fn where_a_users_file_is_missing_the_script_would_lock_that_user_and_is_not_run() {
    let mut case = Case::new(Users::Perl { mutable: false });
    case.root.user("carol", Some(1001), Some("/etc/secrets/carol-password"));
    let node = case.start();
    set_shadow(&node, "root:*:1::::::\nadmin:!:1::::::\ncarol:$y$j9T$abc$def:1::::::\n");
    case.rotate().expect_code(1).expect_error("/etc/secrets/carol-password").expect_error("would lock carol");
    assert_untouched(&node);
    // In the same run it is no longer missing.
    let more = "  carol: { path: /etc/secrets/carol-password, from: env:A, hash: yescrypt, \
                used_by: users.users.carol.hashedPasswordFile }\n";
    case.declare_with("", more);
    case.rotate().expect_code(0).expect_error("password of carol in force");
    assert_in_force(&node);
    assert!(shadow_field(&node, "carol").starts_with("$y$j9T$") && shadow_field(&node, "carol") != "$y$j9T$abc$def");
}

#[test]
fn userborn_applies_the_file_when_its_unit_is_restarted() {
    let case = Case::new(Users::Userborn { mutable: Some(false), directory: "/etc" });
    let node = case.start();
    case.run(&["rotate", "node1", "--dry-run"]).expect_code(1).expect_error("there is no unit userborn.service");
    node.add_unit("userborn.service");
    node.on_restart("userborn.service", USERBORN);
    case.run(&["rotate", "node1", "--dry-run"]).expect_code(0).expect_error("would restart userborn.service");
    node.forget_acts();
    let run = case.run(&["rotate", "node1", "--json"]).expect_code(0);
    let host = &run.json()["hosts"][0];
    assert_eq!(host["restarted"], json!(["userborn.service"]));
    assert_eq!(
        host["passwords"],
        json!([{ "secret": "admin", "user": "admin", "by": "userborn.service", "in_force": true }])
    );
    assert_eq!(node.acts(), ["restart -- userborn.service"]);
    assert_in_force(&node);
    // A unit that does not do it: why not is said, and all is as before.
    node.on_restart("userborn.service", "true");
    let run = case.run_with(&["rotate", "node1"], &Canary::new("another password")).expect_code(1);
    run.expect_error("the password of admin is not in force: /etc/shadow has another hash: the old files are back");
    assert_in_force(&node);
}

#[test]
fn where_a_line_stays_the_file_is_refused_or_the_hash_is_set_over_standard_input() {
    for (users, shell) in [(Users::Perl { mutable: true }, "/usr/bin/dash"), (Users::Sysusers, "/usr/bin/bash")] {
        let case = Case::new(users);
        let node = case.start_with(|node| node.shell(shell));
        set_by_chpasswd(&node);
        let refused = case.rotate().expect_code(1).expect_error("admin: NX101").expect_error("`apply_password: true`");
        refused.expect_error("allow: { NX101");
        case.run(&["plan", "@node1"]).expect_code(1).expect_error("NX101");
        assert_untouched(&node);
        case.declare(", apply_password: true");
        let dry = case.run(&["rotate", "node1", "--dry-run"]).expect_code(0);
        dry.expect_error("would set the password of admin by chpasswd");
        assert_untouched(&node);
        let run = case.rotate().expect_code(0).expect_error("password of admin in force (by chpasswd)");
        assert!(!run.stderr().contains("DD501") && !run.stderr().contains("NX101"), "{}", run.stderr());
        assert_in_force(&node);
        let argv = fs::read_to_string(node.at("/srv/argv.log")).unwrap();
        assert!(argv.starts_with("chpasswd -e\n") && !argv.contains("$y$"), "a hash is in an argument");
        let line = fs::read_to_string(node.at("/etc/shadow")).unwrap();
        assert!(!line.contains(":19000::::::"), "the day of change is the old one");
        case.rotate().expect_code(0).expect_error("nothing to do");
        // Somebody has set another password since: the file is the same, and the password is applied again.
        set_shadow(&node, "root:*:1::::::\nadmin:!:1::::::\n");
        case.run(&["verify", "@node1"]).expect_code(3).expect_output("1 of 1 secret is not as declared");
        let plan = case.run(&["plan", "@node1"]).expect_code(0).expect_output("1 change: 1 of a password alone;");
        assert!(!plan.stdout().contains("/etc/shadow"), "{}", plan.stdout());
        case.rotate().expect_code(0).expect_error("1 changed, password of admin in force");
        assert_in_force(&node);
    }
}

#[test]
fn a_trap_that_is_allowed_leaves_the_old_password_and_says_so() {
    let case = Case::new(Users::Perl { mutable: true });
    let node = case.start();
    case.declare(", allow: { NX101: 'the next image has it' }");
    case.rotate().expect_code(0).expect_error("NX101").expect_error("DD501");
    assert_eq!(shadow_field(&node, "admin"), "!");
    assert!(node.at(FILE).exists());
    // What stands is not refused, whatever the shadow file says.
    case.declare("");
    case.rotate().expect_code(0).expect_error("nothing to do");
}

#[test]
fn without_chpasswd_nothing_is_written() {
    let case = Case::new(Users::Perl { mutable: true });
    case.declare(", apply_password: true");
    let node = case.start_with(NodeBuilder::busybox);
    case.run(&["rotate", "node1", "--dry-run"]).expect_code(1).expect_error("it has no chpasswd");
    case.rotate().expect_code(1).expect_error("it has no chpasswd");
    assert_untouched(&node);
}

/// What chpasswd is in a busybox that has it: it takes any text for a hash.
const CHPASSWD: &str = r#"#!/bin/sh
printf "%s\n" "$*" >>/srv/chpasswd.log
IFS=: read -r user hash
sed -i "s|^$user:[^:]*:|$user:$hash:|" /etc/shadow
"#;

#[test]
fn busybox_alone_sets_the_password_and_puts_it_back() {
    let case = Case::new(Users::Perl { mutable: true });
    case.declare(", apply_password: true");
    let node = case.start_with(NodeBuilder::busybox);
    node.add_program("chpasswd", CHPASSWD);
    case.declare(", apply_password: true, health: { command: ['false'], timeout: 1 }");
    case.rotate().expect_code(1).expect_error("the old files are back");
    // There is no usermod.
    assert_eq!(shadow_field(&node, "admin"), "!");
    case.declare(", apply_password: true");
    case.rotate().expect_code(0).expect_error("password of admin in force (by chpasswd)");
    assert_in_force(&node);
    assert!(fs::read_to_string(node.at("/srv/chpasswd.log")).unwrap().lines().all(|line| line == "-e"));
}

#[test]
fn a_password_that_sops_nix_makes_is_changed_there() {
    let mut case = Case::new(Users::Perl { mutable: true });
    let file = case.root.sops_file("node1.yaml", &["age1x"]);
    case.root.user("admin", Some(1000), Some("/run/secrets-for-users/admin"));
    let secrets = [("admin", "/run/secrets-for-users/admin", file.as_str())];
    case.root.sops_nix_for_users(By::Activation, json!({ "ageSshKeyPaths": [HOST_KEY] }), &secrets);
    case.declare(", apply_password: true");
    let node = case.start();
    let run = case.rotate().expect_code(1).expect_error("sops-nix makes /run/secrets-for-users/admin");
    assert!(!run.stderr().contains("apply_password") && !run.stderr().contains("allow:"), "{}", run.stderr());
    assert_untouched(&node);
}

#[test]
fn a_run_that_changes_nothing_reads_nothing_of_the_system() {
    let case = Case::new(Users::Perl { mutable: false });
    let node = case.start();
    node.wrap_program("stat", "echo \"$*\" >>/srv/stat.log");
    case.rotate().expect_code(0);
    assert!(fs::read_to_string(node.at("/srv/stat.log")).unwrap().contains("/nix/store/"));
    fs::remove_file(node.at("/srv/stat.log")).unwrap();
    case.rotate().expect_code(0).expect_error("nothing to do");
    let log = fs::read_to_string(node.at("/srv/stat.log")).unwrap();
    assert!(!log.contains("/nix") && !log.contains("current-system"), "{log}");
}

#[test]
fn on_a_node_without_nixos_nothing_is_applied() {
    let scratch = Scratch::new();
    // A link of this name alone is no NixOS.
    let node = NodeBuilder::new("node1").mounts("ln -s /etc \"$root/run/current-system\"\n").start(&scratch);
    let case = Case { root: NixosRoot::new(&scratch), scratch, value: Canary::new("password") };
    case.declare("");
    let run = case.rotate().expect_code(0).expect_error("DD501");
    assert!(!run.stderr().contains("NX119"), "{}", run.stderr());
    assert_eq!(shadow_field(&node, "admin"), "*");
}
