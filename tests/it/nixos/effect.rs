//! What is injected takes effect: files lie where the booted system sees them, and passwords are applied, or the run is
//! refused with a better way.

use std::fs;
use std::os::unix::fs::MetadataExt;

use serde_json::json;

use crate::kit::canary::Canary;
use crate::kit::nixos::{HASH, NixosRoot, Overlay, Users};
use crate::kit::run::{Deaddrop, Finished};
use crate::kit::{Scratch, skipped_without_root};

const TMPFS: &str = "none / tmpfs x-initrd.mount,mode=755 0 0\n/dev/disk/by-label/nixos /nix ext4 x-initrd.mount 0 1\n\
                     /nix/persist /persist none x-initrd.mount,bind 0 0\n/persist/etc/secrets /etc/secrets none bind 0 0\n";

/// A manifest of one secret `a` with these keys, and more lines.
struct Case {
    scratch: Scratch,
    root: NixosRoot,
    value: Canary,
}

impl Case {
    fn new() -> Self {
        let scratch = Scratch::new();
        let root = NixosRoot::new(&scratch);
        Self { scratch, root, value: Canary::new("a password") }
    }

    fn declare(&self, top: &str, keys: &str) {
        self.scratch.write("secrets.yaml", format!("version: 1\n{top}secrets:\n  a: {{ from: env:A, {keys} }}\n"));
    }

    fn run(&self, args: &[&str]) -> Finished {
        let run = Deaddrop::new(&self.scratch).args(args).env("A", self.value.text()).plant(&self.value);
        run.run()
    }

    fn hash_in_shadow(&self, path: &str) -> String {
        let shadow = fs::read_to_string(self.root.host(path)).unwrap();
        shadow.lines().find_map(|line| line.strip_prefix("admin:")).unwrap().split(':').next().unwrap().to_owned()
    }
}

#[test]
fn with_a_mutable_overlay_a_file_of_etc_goes_where_it_shows() {
    for said in [Overlay::Activation, Overlay::Links, Overlay::NixosInit] {
        let mut case = Case::new();
        case.root.overlay(said, true);
        case.declare("", "path: /etc/secrets/a");
        let plan = case.run(&["plan", "root"]).expect_code(0);
        let plan = plan.expect_output("written to /.rw-etc/upper/secrets/a");
        plan.expect_output("! NX102");
        let object = case.run(&["inject", "root", "--json"]).expect_code(0).json();
        let change = json!({ "secret": "a", "path": "/etc/secrets/a", "action": "create",
            "written_to": "/.rw-etc/upper/secrets/a" });
        assert_eq!(object["changes"], json!([change]));
        assert!(!case.root.host("/etc/secrets").exists());
        assert_eq!(fs::metadata(case.root.host("/.rw-etc/upper")).unwrap().mode() & 0o777, 0o755);
        assert_eq!(fs::metadata(case.root.host("/.rw-etc/upper/secrets")).unwrap().mode() & 0o777, 0o700);
        case.run(&["verify", "root"]).expect_code(0);
        // Without activation it is this directory that tells a mutable overlay.
        if said == Overlay::NixosInit {
            continue;
        }
        // The directories above it are as open as those of /etc.
        case.root.remove("/.rw-etc");
        case.declare("", "path: /etc/ssh/key");
        case.run(&["inject", "root"]).expect_code(0);
        for directory in ["/.rw-etc", "/.rw-etc/upper", "/.rw-etc/upper/ssh"] {
            assert_eq!(fs::metadata(case.root.host(directory)).unwrap().mode() & 0o777, 0o755, "{directory}");
        }
    }
}

#[test]
fn a_scan_knows_a_secrets_own_file_where_it_was_written() {
    let mut case = Case::new();
    case.root.overlay(Overlay::Links, true);
    case.declare("", "path: /etc/motd, mode: '0444', allow_world_readable: true");
    case.run(&["inject", "root"]).expect_code(0);
    case.run(&["scan", "root"]).expect_code(0);
    case.root.write("/.rw-etc/upper/issue", case.value.text());
    case.run(&["scan", "root"]).expect_code(3).expect_output("/.rw-etc/upper/issue");
}

#[test]
fn a_host_key_that_cloud_init_deletes_is_refused() {
    let case = Case::new();
    case.scratch.write(
        "secrets.yaml",
        "version: 1\nsecrets: { a: { path: /etc/ssh/ssh_host_ed25519_key, generate: ssh-host-ed25519 } }\n",
    );
    case.run(&["plan", "root"]).expect_code(0);
    case.root.etc_entry("cloud/cloud.cfg", Some("cloud_config_modules:\n- ssh\n"));
    // Without its units nothing runs it.
    case.run(&["plan", "root"]).expect_code(0);
    case.root.unit("cloud-config.service", "[Service]\nExecStart=cloud-init modules --mode=config\n");
    case.run(&["inject", "root"]).expect_refusal("deleted", 1, &["NX115", "ssh_deletekeys = false"]);
    case.root.etc_entry("cloud/cloud.cfg", Some("cloud_config_modules:\n- ssh\nssh_deletekeys: false\n"));
    case.run(&["plan", "root"]).expect_code(0);
}

#[test]
fn with_a_configuration_extension_the_roots_own_etc_is_the_right_place() {
    let mut case = Case::new();
    case.root.confext(&[]);
    for path in ["/etc/secrets/a", "/etc/hosts.d"] {
        case.declare("", &format!("path: {path}"));
        case.run(&["plan", "root"]).expect_code(0);
    }
    case.root.confext(&["--mutable=no"]);
    case.run(&["plan", "root"]).expect_refusal("nothing is kept", 1, &["NX008"]);
}

#[test]
fn what_boot_hides_is_refused_with_the_better_path() {
    let refused = |change: &dyn Fn(&mut NixosRoot), path: &str, texts: &[&str]| {
        let mut case = Case::new();
        change(&mut case.root);
        case.declare("", &format!("path: {path}"));
        for command in ["plan", "inject", "verify"] {
            case.run(&[command, "root"]).expect_refusal(path, 1, texts);
        }
        let code = texts[0];
        case.declare("", &format!("path: {path}, allow: {{ {code}: 'because-I-say-so' }}"));
        case.run(&["plan", "root"]).expect_code(0).expect_output("because-I-say-so");
    };
    for said in [Overlay::Activation, Overlay::Links, Overlay::NixosInit] {
        let change = |root: &mut NixosRoot| {
            root.overlay(said, false);
        };
        refused(&change, "/etc/secrets/a", &["NX008", "/var/lib/secrets"]);
    }
    let tmpfs = |root: &mut NixosRoot| {
        root.fstab(TMPFS);
    };
    refused(&tmpfs, "/var/lib/secrets/a", &["NX007", "persist_root: /persist"]);
    refused(&tmpfs, "/etc/secrets/a", &["NX006", "/persist/etc/secrets/a", "persist_root: /persist"]);
    let other = |root: &mut NixosRoot| {
        root.fstab("/dev/disk/by-label/nixos / ext4 x-initrd.mount 0 1\n/dev/disk/by-label/data /srv ext4 x 0 2\n");
    };
    refused(&other, "/srv/a", &["NX006", "/srv", "--root-partition"]);
}

#[test]
fn below_persist_root_a_file_persists_and_both_paths_are_shown() {
    let case = Case::new();
    case.root.fstab(TMPFS).only_nix();
    for top in ["defaults: { persist_root: /persist }\n", "hosts: { n: { persist_root: /persist } }\n"] {
        for (path, written_to, here) in [
            ("/etc/secrets/a", "/nix/persist/etc/secrets/a", "/persist/etc/secrets/a"),
            ("/var/lib/x/a", "/nix/persist/var/lib/x/a", "/persist/var/lib/x/a"),
            ("/persist/secrets/a", "/nix/persist/secrets/a", "/persist/secrets/a"),
        ] {
            case.declare(top, &format!("path: {path}"));
            let host: &[&str] = if top.starts_with("hosts") { &["--host", "n"] } else { &[] };
            let run = |command: &str| case.run(&[&[command, "root", "--json"], host].concat());
            let object = run("inject").expect_code(0).json();
            assert_eq!(object["changes"][0]["written_to"], written_to);
            assert_eq!(object["changes"][0]["path"], path);
            assert_eq!(fs::read_to_string(case.root.host(here)).unwrap(), case.value.text(), "{path}");
            run("verify").expect_code(0);
            case.root.remove("/persist");
        }
    }
}

#[test]
fn what_is_mounted_at_nix_takes_no_file_of_the_root() {
    let case = Case::new();
    case.declare("", "path: /etc/secrets/a");
    case.root.fstab("/dev/disk/by-label/root / ext4 x-initrd.mount 0 1\n/dev/disk/by-label/nixos /nix ext4 x 0 2\n");
    case.root.only_nix();
    case.run(&["inject", "root"]).expect_refusal("the root is elsewhere", 1, &["NX006"]);
    // No system that can be chosen: nothing says where /etc lies.
    let case = Case::new();
    case.declare("", "path: /etc/secrets/a");
    case.root.without_profile().other_system("second", None);
    case.root.only_nix();
    case.run(&["inject", "root"]).expect_refusal("which system", 1, &["mounts at /nix", "--system"]);
    assert!(!case.root.host("/etc").exists());
}

#[test]
fn the_shadow_trap_is_told_exactly_where_the_password_would_not_be_applied() {
    let perl = |mutable| Users::Perl { mutable };
    let userborn = |mutable| Users::Userborn { mutable, directory: "/etc" };
    let standing = "root:!:1::::::\nadmin:!:1::::::\n";
    let none = "root:!:1::::::\n";
    for (name, users, shadow, code) in [
        ("mutable users, a line of the build", perl(true), standing, Some("NX101")),
        ("mutable users, no line yet", perl(true), none, None),
        ("immutable users", perl(false), standing, None),
        ("userborn", userborn(Some(true)), standing, None),
        ("an older userborn", userborn(None), standing, None),
        ("sysusers", Users::Sysusers, standing, Some("NX101")),
        ("static userborn", Users::UserbornStatic, standing, Some("NX011")),
    ] {
        // By `used_by`, and by the configuration alone.
        for used_by in [", used_by: users.users.admin.hashedPasswordFile", ""] {
            let mut case = Case::new();
            case.root.users(users.clone()).shadow(shadow);
            // A static userborn has no JSON of users.
            if used_by.is_empty() && matches!(users, Users::UserbornStatic | Users::Sysusers) {
                continue;
            }
            case.declare("", &format!("path: /etc/secrets/admin-password, hash: yescrypt{used_by}"));
            let run = case.run(&["plan", "root"]);
            match code {
                None => {
                    let said = run.expect_code(0).stdout();
                    assert!(!said.contains("NX1") && !said.contains("NX011"), "{name}: {said}");
                }
                Some(code) => {
                    let ways: &[&str] = match code {
                        "NX101" => &[code, "mutableUsers = false", "apply_password: true", "admin"],
                        _ => &[code, "static = false"],
                    };
                    run.expect_refusal(name, 1, ways);
                }
            }
        }
    }
}

#[test]
fn with_apply_password_the_hash_is_in_the_line_that_boot_sees_and_nothing_else_changes() {
    if skipped_without_root("giving files to root") {
        return;
    }
    let keys = "path: /etc/secrets/admin-password, hash: yescrypt, apply_password: true, \
                used_by: users.users.admin.hashedPasswordFile";
    for overlay in [false, true] {
        let mut case = Case::new();
        let (shadow, secret) = match overlay {
            false => ("/etc/shadow", "/etc/secrets/admin-password"),
            true => ("/.rw-etc/upper/shadow", "/.rw-etc/upper/secrets/admin-password"),
        };
        let lines = "root:!:1::::::\nadmin:!:20000:0:99999:7:::\nlast:*:1";
        if overlay {
            case.root.overlay(Overlay::Links, true);
        }
        case.root.write(shadow, lines);
        std::os::unix::fs::chown(case.root.host(shadow), Some(0), Some(318)).unwrap();
        fs::set_permissions(case.root.host(shadow), std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
        case.declare("", keys);
        let plan = case.run(&["plan", "root", "--json"]).expect_code(0).json();
        let entries: Vec<_> =
            plan["changes"].as_array().unwrap().iter().map(|c| (c["path"].clone(), c["action"].clone())).collect();
        assert_eq!(
            entries,
            [(json!("/etc/secrets/admin-password"), json!("create")), (json!("/etc/shadow"), json!("replace"))]
        );
        case.run(&["verify", "root"]).expect_code(3).expect_output("/etc/shadow");
        case.run(&["inject", "root"]).expect_code(0).expect_error("1 secret written");
        let hash = fs::read_to_string(case.root.host(secret)).unwrap();
        assert_eq!(case.hash_in_shadow(shadow), hash.trim_end(), "the same hash in both");
        let after = fs::read_to_string(case.root.host(shadow)).unwrap();
        assert_eq!(after.replace(hash.trim_end(), "!"), lines, "only the field changes");
        let data = fs::metadata(case.root.host(shadow)).unwrap();
        assert_eq!((data.mode() & 0o7777, data.uid(), data.gid()), (0o640, 0, 318));
        // In force now: nothing is left to do.
        case.run(&["verify", "root"]).expect_code(0);
        case.run(&["inject", "root"]).expect_code(0).expect_error("nothing to do");
    }
    // Where there is no trap, it changes nothing.
    for (users, shadow) in
        [(Users::Perl { mutable: false }, "admin:!:1::::::\n"), (Users::Perl { mutable: true }, "root:!:1::::::\n")]
    {
        let mut case = Case::new();
        case.root.users(users).shadow(shadow);
        case.declare("", keys);
        let plan = case.run(&["plan", "root", "--json"]).expect_code(0).json();
        assert_eq!(plan["changes"].as_array().unwrap().len(), 1, "{plan}");
        case.run(&["inject", "root"]).expect_code(0);
        assert_eq!(fs::read_to_string(case.root.host("/etc/shadow")).unwrap(), shadow);
    }
    // A hash of the vault goes in as it is; two users, two secrets, one file.
    let mut case = Case::new();
    case.root.user("second", Some(1001), Some("/etc/secrets/second")).shadow("admin:!:1::::::\nsecond:*:2::::::\n");
    let secret =
        |name: &str, path: &str| format!("  {name}: {{ path: {path}, from: 'file:hash', apply_password: true }}\n");
    case.scratch.write("hash", format!("{HASH}\n"));
    let both = [secret("a", "/etc/secrets/admin-password"), secret("b", "/etc/secrets/second")].concat();
    case.scratch.write("secrets.yaml", format!("version: 1\nsecrets:\n{both}"));
    let object = case.run(&["inject", "root", "--json"]).expect_code(0).json();
    assert_eq!(object["changes"].as_array().unwrap().len(), 4);
    let shadow = fs::read_to_string(case.root.host("/etc/shadow")).unwrap();
    assert_eq!(shadow, format!("admin:{HASH}:1::::::\nsecond:{HASH}:2::::::\n"));
    // Nobody's password.
    case.declare("", "path: /etc/secrets/x, hash: yescrypt, apply_password: true");
    case.run(&["inject", "root"]).expect_refusal("nobody", 1, &["apply_password", "used_by"]);
}

#[test]
fn before_the_first_boot_a_name_is_the_number_that_the_configuration_fixes() {
    if skipped_without_root("giving files to other users") {
        return;
    }
    let mut case = Case::new();
    case.root.user("app", Some(4711), None).never_booted();
    case.declare("", "path: /var/lib/secrets/a, owner: app, group: users");
    case.run(&["inject", "root"]).expect_code(0);
    let data = fs::metadata(case.root.host("/var/lib/secrets/a")).unwrap();
    assert_eq!((data.uid(), data.gid()), (4711, 100));
    // Without a fixed number it is given at the first boot, and that cannot be allowed.
    case.declare("", "path: /etc/secrets/b, owner: wpa_supplicant");
    let texts = ["NX107", "wpa_supplicant", "users.users.wpa_supplicant.uid"];
    let run = case.run(&["inject", "root"]).expect_refusal("no number", 1, &texts);
    assert!(!run.stderr().contains("allow:"), "{}", run.stderr());
}

#[test]
fn without_nixos_no_rule_of_a_closure_fires_and_with_one_that_cannot_be_read_it_is_said() {
    let case = Case::new();
    case.declare("", "path: /etc/secrets/a, hash: yescrypt, used_by: users.users.admin.hashedPasswordFile");
    case.root.remove("/nix").remove("/etc/NIXOS").remove("/etc/static");
    let said = case.run(&["plan", "root"]).expect_code(0).stdout();
    assert!(!said.contains("NX"), "{said}");
    let case = Case::new();
    case.declare("", "path: /srv/a");
    case.root.without_profile().other_system("another", None);
    let said = case.run(&["plan", "root"]).expect_code(0).stdout();
    assert!(said.contains("! NX119") && said.contains("--system"), "{said}");
    let said = case.run(&["plan", "root", "--system", case.root.toplevel()]).expect_code(0).stdout();
    assert!(!said.contains("NX119"), "{said}");
    for wrong in ["/nix/store/nothing", "/etc", "relative", ""] {
        let run = case.run(&["plan", "root", "--system", wrong]);
        run.expect_refusal(wrong, 1, &["--system", "hint: name a system in its store"]);
    }
}
