//! `lint`: what a system reads, and whether it is given where it takes effect.

use serde_json::{Value, json};

use crate::kit::canary::Canary;
use crate::kit::decrypt::{By, HOST_KEY};
use crate::kit::nixos::{HASH, NixosRoot, Overlay, Users, store_path};
use crate::kit::run::{Deaddrop, Finished};
use crate::kit::{Scratch, new_ssh_key, tool};

/// A root whose users are made from the configuration alone, and a manifest.
struct Case {
    scratch: Scratch,
    root: NixosRoot,
    value: Canary,
}

impl Case {
    /// One with nothing to object to: the admin's password is given.
    fn new() -> Self {
        let scratch = Scratch::new();
        let mut root = NixosRoot::new(&scratch);
        root.users(Users::Perl { mutable: false });
        let case = Self { scratch, root, value: Canary::new("a value") };
        case.declare("");
        case
    }

    /// The manifest with the admin's password and these secrets.
    fn declare(&self, more: &str) {
        self.scratch.write(
            "secrets.yaml",
            format!(
                "version: 1\nsecrets:\n  admin: {{ path: /etc/secrets/admin-password, from: env:A, hash: yescrypt, \
                 used_by: users.users.admin.hashedPasswordFile }}\n{more}"
            ),
        );
    }

    fn lint(&self, args: &[&str]) -> Finished {
        let run = Deaddrop::new(&self.scratch).args(["lint", "root"]).args(args);
        run.env("A", self.value.text()).plant(&self.value).run()
    }

    /// Code, level, secret and path of each finding.
    fn findings(&self, args: &[&str], code: i32) -> Vec<Value> {
        let object = self.lint(&[args, &["--json"]].concat()).expect_code(code).json();
        let of = |warning: &Value| json!([warning["code"], warning["level"], warning["secret"], warning["path"]]);
        let findings: Vec<Value> = object["warnings"].as_array().unwrap().iter().map(of).collect();
        let levels = |level: &str| findings.iter().filter(|finding| finding[1] == level).count();
        assert_eq!(object["summary"], json!({ "refuse": levels("refuse"), "warn": levels("warn") }));
        assert_eq!((&object["command"], &object["changes"]), (&json!("lint"), &json!([])));
        findings
    }
}

#[test]
fn on_a_clean_root_there_is_no_finding() {
    let case = Case::new();
    let lint = case.lint(&[]).expect_code(0).expect_output("nixos-system-node1-");
    lint.expect_output("users.users.admin.hashedPasswordFile").expect_output("secret admin");
    assert_eq!(case.findings(&["--strict"], 0), Vec::<Value>::new());
    assert_eq!(case.findings(&["--values", "--strict"], 0), Vec::<Value>::new());
}

/// Lays a change into a clean root, declares secrets, and gives the expected findings.
type Row = (&'static str, fn(&mut NixosRoot), &'static str, i32, fn() -> Vec<Value>);

const K3S: &str = "[Service]\nExecStart=/nix/store/x/bin/k3s server \\\n  --token-file /etc/secrets/k3s-token\n";

const ROWS: &[Row] = &[
    (
        "a token of k3s that nothing gives",
        |root| {
            root.unit("k3s.service", K3S);
        },
        "",
        0,
        || vec![json!(["NX111", "warn", null, "/etc/secrets/k3s-token"])],
    ),
    (
        "a typing mistake shows as both",
        |root| {
            root.unit("k3s.service", K3S);
        },
        "  token: { path: /etc/secrets/k3s_token, from: env:A }\n",
        0,
        || {
            vec![
                json!(["NX111", "warn", null, "/etc/secrets/k3s-token"]),
                json!(["NX112", "warn", "token", "/etc/secrets/k3s_token"]),
            ]
        },
    ),
    (
        "used_by silences it",
        |_| (),
        "  token: { path: /etc/secrets/other, from: env:A, used_by: services.mine.file }\n",
        0,
        Vec::new,
    ),
    (
        "a unit that reads as another user",
        |root| {
            let text = "[Service]\nUser=app\nExecStart=/nix/store/x/bin/app --config /etc/secrets/app\n";
            root.unit("app.service", text);
        },
        "  app: { path: /etc/secrets/app, from: env:A }\n",
        0,
        || vec![json!(["NX106", "warn", "app", "/etc/secrets/app"])],
    ),
    (
        "a unit whose user may read it",
        |root| {
            let text = "[Service]\nUser=app\nExecStart=/nix/store/x/bin/app --config /etc/secrets/app\n";
            root.unit("app.service", text);
        },
        "  app: { path: /etc/secrets/app, from: env:A, owner: 990 }\n",
        0,
        Vec::new,
    ),
    (
        "a secret of the initrd",
        |root| {
            let script = "#!/bin/sh\ncp -a /etc/secrets/initrd \"$tmp/.initrd-secrets//etc/key\"\n";
            let store = root.store("append-initrd-secrets", script);
            root.link(&format!("{}/append-initrd-secrets", root.toplevel()), &store);
        },
        "  initrd: { path: /etc/secrets/initrd, from: env:A }\n",
        0,
        || vec![json!(["NX105", "warn", "initrd", "/etc/secrets/initrd"])],
    ),
    (
        "a token in clear",
        |root| {
            root.unit("k3s.service", "[Service]\nExecStart=/x/k3s server --token some-token\n");
        },
        "",
        0,
        || vec![json!(["NX109", "warn", null, format!("{}/etc/systemd/system/k3s.service", toplevel())])],
    ),
    (
        "a hash in clear",
        |root| {
            let user = json!({ "name": "root", "uid": 0, "group": "root", "home": "/root", "hashedPassword": HASH });
            root.declare(user);
        },
        "",
        0,
        || vec![json!(["NX109", "warn", null, toplevel()])],
    ),
    (
        "another generation that wants more",
        |root| {
            let other = root.other_system("25.05", Some(7));
            root.remove(&format!("{other}/etc")).link(&format!("{other}/etc"), "/nix/store/none");
        },
        "",
        0,
        || vec![json!(["NX114", "warn", null, null])],
    ),
    (
        "a token of a cluster",
        |_| (),
        "  t: { path: /var/lib/rancher/k3s/server/token, from: env:A }\n",
        0,
        || vec![json!(["NX113", "warn", "t", "/var/lib/rancher/k3s/server/token"])],
    ),
    (
        "an immutable overlay",
        |root| {
            root.overlay(Overlay::Links, false);
        },
        "",
        3,
        || vec![json!(["NX008", "refuse", "admin", "/etc/secrets/admin-password"])],
    ),
    (
        "a key that nothing gives",
        |root| {
            sops_nix(root);
        },
        "",
        0,
        || vec![json!(["NX117", "warn", null, HOST_KEY])],
    ),
    (
        "a key that is made, or comes from a vault that is not read",
        |root| {
            sops_nix(root);
        },
        "  key: { path: /etc/ssh/ssh_host_ed25519_key, generate: ssh-host-ed25519 }\n",
        0,
        Vec::new,
    ),
    (
        "what sops-nix makes is given",
        |root| {
            sops_nix(root);
            root.unit("app.service", "[Service]\nExecStart=/x/app --config /etc/app/token\n");
        },
        "  key: { path: /etc/ssh/ssh_host_ed25519_key, from: env:A }\n",
        0,
        Vec::new,
    ),
    (
        "a password that sops-nix makes and NixOS does not apply",
        |root| {
            let file = root.sops_file("node1.yaml", &[RECIPIENT]);
            let path = "/run/secrets-for-users/login";
            root.sops_nix_for_users(By::Activation, json!({ "ageKeyFile": "/var/lib/key" }), &[("login", path, &file)]);
            root.user("login", Some(1001), Some(path)).users(Users::Perl { mutable: true });
            root.shadow("root:!:1::::::\nlogin:!:1::::::\n");
        },
        "  key: { path: /var/lib/key, generate: age }\n",
        0,
        || vec![json!(["NX101", "warn", null, "/run/secrets-for-users/login"])],
    ),
    (
        "a key of agenix that nothing gives is told once",
        |root| {
            let file = root.store("wifi.age", "age-encryption.org/v1\n-> X25519 abc\nabc\n--- abc\n");
            root.agenix(By::Activation, &[HOST_KEY], &[("wifi", "/run/agenix/wifi", &file)]);
        },
        "",
        0,
        || vec![json!(["NX117", "warn", null, HOST_KEY])],
    ),
    (
        "the shadow trap",
        |root| {
            root.users(Users::Perl { mutable: true });
        },
        "",
        3,
        || vec![json!(["NX101", "refuse", "admin", "/etc/secrets/admin-password"])],
    ),
    (
        "a name without a number",
        |_| (),
        "  w: { path: /etc/secrets/w, from: env:A, group: wpa_supplicant, mode: '0440', used_by: x.y }\n",
        3,
        || vec![json!(["NX107", "refuse", "w", "/etc/secrets/w"])],
    ),
];

const RECIPIENT: &str = "age1lggyhqrw2nlhcxprm67z43rta597azn8gknawjehu9d9dl0jq3yqqvfafg";

/// sops-nix, which makes /etc/app/token with the SSH host key.
fn sops_nix(root: &mut NixosRoot) {
    let file = root.sops_file("node1.yaml", &[RECIPIENT]);
    root.sops_nix(By::Activation, json!({ "ageSshKeyPaths": [HOST_KEY] }), &[("app", "/etc/app/token", &file)]);
}

fn toplevel() -> String {
    store_path(&format!("nixos-system-node1-{}", crate::kit::nixos::LABEL))
}

#[test]
fn each_rule_finds_what_it_is_for_and_nothing_else() {
    for (name, change, secrets, code, want) in ROWS {
        let mut case = Case::new();
        change(&mut case.root);
        case.declare(secrets);
        assert_eq!(case.findings(&[], *code), want(), "{name}");
    }
}

#[test]
fn plan_and_inject_tell_what_is_about_the_paths_at_hand() {
    let case = Case::new();
    let text =
        "[Service]\nUser=app\nEnvironmentFile=/etc/secrets/app.env\nExecStart=/x/app --config /etc/secrets/app\n";
    case.root.unit("app.service", text);
    case.root.unit("k3s.service", K3S);
    let secrets = "  app: { path: /etc/secrets/app, from: env:A }\n  env: { path: /etc/secrets/app.env, template: \"N= {{ \
                   secret('env:A') }}\\n\" }\n";
    case.declare(secrets);
    let run =
        |args: &[&str]| Deaddrop::new(&case.scratch).args(args).env("A", case.value.text()).plant(&case.value).run();
    for command in ["plan", "inject"] {
        let object = run(&[command, "root", "--json"]).expect_code(0).json();
        let of = |warning: &Value| json!([warning["code"], warning["secret"]]);
        let warnings: Vec<Value> = object["warnings"].as_array().unwrap().iter().map(of).collect();
        // The token that nothing gives is for `lint` alone.
        assert_eq!(json!(warnings), json!([["NX106", "app"], ["NX110", "env"]]), "{command}");
    }
    let with_values = case.findings(&["--values"], 0);
    let codes: Vec<&Value> = with_values.iter().map(|finding| &finding[0]).collect();
    assert_eq!(codes, ["NX106", "NX110", "NX111"]);
    case.declare(&secrets.replace("N= ", "N=").replace("env:A') }}", "env:A') | systemd_quote }}"));
    let plan = run(&["plan", "root"]).expect_code(0).expect_output("NX106");
    assert!(!plan.stdout().contains("NX110"));
    // What is allowed is no warning.
    case.declare("  app: { path: /etc/secrets/app, from: env:A, allow: { NX106: it is root here } }\n");
    assert!(!run(&["plan", "root"]).stdout().contains("NX106"));
}

#[test]
fn a_key_is_held_against_the_files_that_it_has_to_open() {
    let mut case = Case::new();
    sops_nix(&mut case.root);
    new_ssh_key(&case.scratch.join("key"));
    let key = |more: &str| format!("  key: {{ path: {HOST_KEY}, from: 'file:key'{more} }}\n");
    case.declare(&key(""));
    let need = format!("1 secret of sops-nix needs {HOST_KEY}; ");
    // Whether it is a recipient is known by its value.
    case.lint(&["--strict"]).expect_code(0).expect_output(&format!("{need}the manifest gives it"));
    assert_eq!(case.findings(&["--values"], 0), [json!(["NX118", "warn", "key", HOST_KEY])]);
    case.declare(&key(", allow: { NX118: the next system is encrypted for it }"));
    assert_eq!(case.findings(&["--values"], 0), Vec::<Value>::new());
    // One that stands is judged as well, and without a manifest nothing is missing.
    case.declare("");
    case.lint(&[]).expect_code(0).expect_output(&format!("{need}nothing provides it")).expect_output("NX117");
    std::fs::remove_file(case.scratch.join("secrets.yaml")).unwrap();
    let lint = case.lint(&["--strict"]).expect_code(0).expect_output("nothing provides it");
    lint.expect_output("init --image root");
    case.root.write(HOST_KEY, std::fs::read(case.scratch.join("key")).unwrap());
    assert_eq!(case.findings(&[], 0), [json!(["NX118", "warn", null, HOST_KEY])]);
}

#[test]
fn a_first_manifest_has_the_key_that_decrypts() {
    let init = |change: &dyn Fn(&mut NixosRoot)| {
        let mut case = Case::new();
        std::fs::remove_file(case.scratch.join("secrets.yaml")).unwrap();
        change(&mut case.root);
        Deaddrop::new(&case.scratch).args(["init", "--image", "root", "--vault", "env"]).run().expect_code(0);
        Deaddrop::new(&case.scratch).args(["check"]).run().expect_code(0);
        std::fs::read_to_string(case.scratch.join("secrets.yaml")).unwrap()
    };
    let text = init(&sops_nix);
    let lines = "  # sops-nix decrypts 1 secret with it.\n  # `generate: ssh-host-ed25519` in place of `from` makes one, and \
                 tells what is to be encrypted for it.\n  ssh-host-ed25519-key:\n    path: \
                 /etc/ssh/ssh_host_ed25519_key\n    from: \"vault:SSH_HOST_ED25519_KEY\"\n";
    assert!(text.contains(lines), "{text}");
    let with_file = |root: &mut NixosRoot| {
        let file = root.sops_file("node1.yaml", &[RECIPIENT]);
        let keys = json!({ "ageSshKeyPaths": [HOST_KEY], "ageKeyFile": "/var/lib/sops/key.txt" });
        root.sops_nix(By::Activation, keys, &[("app", "/run/secrets/app", &file)]);
    };
    let text = init(&with_file);
    assert!(text.contains("path: /var/lib/sops/key.txt\n") && text.contains("`generate: age`"), "{text}");
    assert!(!text.contains(HOST_KEY), "one is enough: {text}");
    // Neither a key that stands nor one that the system makes.
    let made = |root: &mut NixosRoot| {
        with_file(root);
        root.snippet("generate-age-key", "/nix/store/age/bin/age-keygen -o /var/lib/sops/key.txt");
    };
    assert!(!init(&made).contains("key.txt"));
    let stands = |root: &mut NixosRoot| {
        sops_nix(root);
        root.write(HOST_KEY, "a key");
    };
    assert!(!init(&stands).contains(HOST_KEY));
}

#[test]
fn exit_codes_say_what_could_be_judged() {
    let case = Case::new();
    case.root.unit("k3s.service", K3S);
    case.lint(&[]).expect_code(0);
    case.lint(&["--strict"]).expect_code(3);
    // Without a manifest it lists what the system reads, and nothing is missed.
    std::fs::remove_file(case.scratch.join("secrets.yaml")).unwrap();
    assert_eq!(case.findings(&["--strict"], 0), Vec::<Value>::new());
    case.lint(&[]).expect_code(0).expect_output("/etc/secrets/k3s-token").expect_output("init --image root");
    case.lint(&["--host", "node1"]).expect_code(2);
    case.lint(&["-m", "none.yaml"]).expect_code(2);
    // Several systems, and nothing says which: none is judged, until one is chosen.
    let other = case.root.other_system("25.05", None);
    case.root.without_profile();
    case.lint(&[]).expect_refusal("several", 1, &["NX119", "--system"]);
    case.lint(&["--system", &other]).expect_code(0);
    case.lint(&["--system", "/nix/store/none"]).expect_code(1);
    Deaddrop::new(&case.scratch).args(["lint", "@node1"]).run().expect_code(2);
    // Without NixOS there is nothing to judge.
    for directory in ["debian/etc", "debian/usr/bin"] {
        std::fs::create_dir_all(case.scratch.join(directory)).unwrap();
    }
    Deaddrop::new(&case.scratch).args(["lint", "debian"]).run().expect_code(0).expect_output("no NixOS");
}

#[test]
fn a_system_that_is_read_in_parts_is_judged_with_a_word() {
    let case = Case::new();
    case.root.remove(&store_path("etc-fstab"));
    let findings = case.findings(&[], 0);
    assert_eq!(findings, [json!(["NX119", "warn", null, null])]);
}

#[test]
fn a_first_manifest_is_made_of_what_the_system_reads() {
    let mut case = Case::new();
    std::fs::remove_file(case.scratch.join("secrets.yaml")).unwrap();
    case.root.unit("k3s.service", K3S);
    let text = "[Service]\nUser=app\nEnvironmentFile=/etc/secrets/app.env\nEnvironmentFile=-/etc/secrets/more.env\n";
    case.root.unit("app.service", text);
    let wifi = case.root.store("wpa_supplicant.conf", "ext_password_backend=file:/etc/secrets/wifi\n");
    let text = format!("[Service]\nExecStart=/nix/store/x/bin/wpa_supplicant -c {wifi}\nUser=wpa_supplicant\n");
    case.root.unit("wpa_supplicant.service", &text);
    case.root.users(Users::Perl { mutable: true });
    let init = Deaddrop::new(&case.scratch).args(["init", "--image", "root", "--vault", "env"]).run();
    init.expect_code(0).expect_error("4 secrets, 1 host").expect_error("deaddrop plan root --host node1");
    let text = std::fs::read_to_string(case.scratch.join("secrets.yaml")).unwrap();
    for line in [
        "used_by: users.users.admin.hashedPasswordFile",
        "apply_password: true",
        "used_by: services.k3s.tokenFile",
        "kind: k3s-token",
        "used_by: systemd.services.app.serviceConfig.EnvironmentFile",
        "format: dotenv",
        "used_by: networking.wireless.secretsFile",
        "  node1: {}",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    assert!(!text.contains("more.env"));
    Deaddrop::new(&case.scratch).args(["check"]).run().expect_code(0);
    let codes: Vec<Value> = case.findings(&[], 0).iter().map(|finding| finding[0].clone()).collect();
    assert_eq!(codes, ["NX106"], "the number of wpa_supplicant's group is not known yet");
    Deaddrop::new(&case.scratch).args(["init", "--image", "none.img", "-o", "b.yaml"]).run().expect_code(1);
}

#[test]
fn a_file_system_of_another_name_than_the_configuration_says_is_told() {
    let case = Case::new();
    for (label, want) in [("nixos", json!([])), ("other", json!([["NX116", "warn", null, null]]))] {
        let image = case.scratch.join("node1.img");
        let mut make = std::process::Command::new("mke2fs");
        make.args(["-q", "-F", "-t", "ext4", "-L", label, "-d"]).arg(case.root.path()).arg(&image).arg("64M");
        tool(&mut make);
        let lint = Deaddrop::new(&case.scratch).args(["lint", "node1.img", "--json"]).run().expect_code(0).json();
        let of = |warning: &Value| json!([warning["code"], warning["level"], warning["secret"], warning["path"]]);
        let found: Vec<Value> = lint["warnings"].as_array().unwrap().iter().map(of).collect();
        assert_eq!(json!(found), want, "{label}");
    }
}

#[test]
fn a_specialisation_that_reads_more_is_told() {
    let case = Case::new();
    let special = case.root.specialisation("with-k3s");
    assert_eq!(case.findings(&["--strict"], 0), Vec::<Value>::new());
    // An etc tree of its own, with one more unit.
    let (etc, units) = (store_path("etc-2"), store_path("system-units-2"));
    case.root.link(&format!("{special}/etc"), &format!("{etc}/etc"));
    case.root.link(&format!("{etc}/etc/fstab"), &store_path("etc-fstab"));
    case.root.link(&format!("{etc}/etc/systemd/system"), &units);
    case.root.write(&format!("{units}/k3s.service"), K3S);
    assert_eq!(case.findings(&[], 0), [json!(["NX114", "warn", null, null])]);
    case.lint(&[]).expect_output("(/etc/secrets/k3s-token)");
}

#[test]
fn a_hostile_closure_ends_soon_with_a_word() {
    let case = Case::new();
    let long = "ExecStart=/x --token-file /etc/secrets/k3s-token\n".repeat(5000);
    for number in 0..400 {
        case.root.unit(&format!("long{number}.service"), &format!("[Service]\n{long}"));
    }
    // Units that are links to each other.
    let units = store_path("system-units");
    case.root.link(&format!("{units}/a.service"), "b.service").link(&format!("{units}/b.service"), "a.service");
    case.root.link("/nix/store/loop", "/nix/store/loop");
    case.root.unit("loop.service", "[Service]\nExecStart=/nix/store/loop --config /nix/store/loop\n");
    let lint = Deaddrop::new(&case.scratch).args(["lint", "root"]).limited().run();
    lint.expect_code(0).expect_output("NX119").expect_output("NX111");
}
