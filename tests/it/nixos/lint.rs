//! `lint`: what a system reads, and whether it is given where it takes effect.

use serde_json::{Value, json};

use crate::kit::Scratch;
use crate::kit::canary::Canary;
use crate::kit::nixos::{HASH, NixosRoot, Overlay, Users, store_path};
use crate::kit::run::{Deaddrop, Finished};

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
