//! The keys that sops-nix and agenix decrypt with: which of their files a key opens, by the real `age`, `sops` and
//! `ssh-keygen`; what is said of a new key; and where a key must lie.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use deaddrop::nixos::closure::decrypt::{IdentityKind, Tool};
use deaddrop::nixos::closure::{self, Closure, Found};
use deaddrop::nixos::open_file_system::OpenFileSystem;
use deaddrop::place::Survey;
use deaddrop::place::survey::{SystemChoice, survey_disk};
use deaddrop::run::decrypt::{self, GivenKey};
use deaddrop_core::tree::directory::DirectoryTree;
use serde_json::{Value, json};

use crate::kit::canary::Canary;
use crate::kit::decrypt::{By, HOST_KEY, RSA_KEY};
use crate::kit::nixos::{NixosRoot, Users};
use crate::kit::run::{Deaddrop, Finished};
use crate::kit::{Scratch, block_below, tool};

const OTHER: &str = "age1lggyhqrw2nlhcxprm67z43rta597azn8gknawjehu9d9dl0jq3yqqvfafg";
const BOTH: [By; 2] = [By::Activation, By::Unit];

struct Case {
    scratch: Scratch,
    root: NixosRoot,
}

impl Case {
    fn new() -> Self {
        let scratch = Scratch::new();
        let root = NixosRoot::new(&scratch);
        Self { scratch, root }
    }

    /// Declares `key` at a path with these keys of the manifest.
    fn declare(&self, top: &str, path: &str, keys: &str) -> &Self {
        let text = format!("version: 1\n{top}secrets:\n  key: {{ path: {path}, {keys} }}\n");
        self.scratch.write("secrets.yaml", text);
        self
    }

    /// A new key of ssh-keygen with these options, in the scratch directory; its public line.
    fn ssh_key(&self, name: &str, options: &[&str]) -> (PathBuf, String) {
        let path = self.scratch.join(name);
        tool(Command::new("ssh-keygen").args(["-q", "-N", "", "-f"]).arg(&path).args(options));
        let public = fs::read_to_string(path.with_extension("pub")).unwrap();
        (path, public.split(' ').take(2).collect::<Vec<_>>().join(" ").trim().to_owned())
    }

    /// What `age` encrypts for these recipients, with more options, in the store.
    fn age_file(&self, name: &str, recipients: &[&str], options: &[&str]) -> String {
        let plain = self.scratch.write("plain", "a secret");
        let encrypted = self.scratch.join("encrypted");
        let mut age = Command::new("age");
        age.args(recipients.iter().flat_map(|recipient| ["-r", recipient]));
        tool(age.args(options).arg("-o").arg(&encrypted).arg(plain));
        self.root.store(name, fs::read(encrypted).unwrap())
    }

    fn run(&self, args: &[&str]) -> Finished {
        Deaddrop::new(&self.scratch).args(args).plant(&self.canary()).run()
    }

    /// The private part of the key that is given.
    fn canary(&self) -> Canary {
        let key = fs::read_to_string(self.scratch.join("key")).unwrap_or_default();
        let line = key.lines().filter(|line| !line.starts_with(['-', '#'])).nth(1).unwrap_or("a value of none");
        Canary::of("the key", line.as_bytes())
    }

    /// The warnings of NX117 and NX118 of `plan` and of `inject`, which say the same.
    #[track_caller]
    fn warnings(&self) -> Vec<Value> {
        let of = |command: &str| -> Vec<Value> {
            let object = self.run(&[command, "root", "--json"]).expect_code(0).json();
            let all = object["warnings"].as_array().unwrap().clone();
            all.into_iter().filter(|warning| ["NX117", "NX118"].iter().any(|code| warning["code"] == *code)).collect()
        };
        let planned = of("plan");
        assert_eq!(of("inject"), planned);
        planned
    }

    fn closure(&self) -> Closure {
        match closure::read(&DirectoryTree::open(self.root.path()).unwrap(), None).unwrap() {
            Found::System(closure) => *closure,
            other => panic!("no system: {other:?}"),
        }
    }

    fn survey(&self) -> Survey {
        let tree = DirectoryTree::open(self.root.path()).unwrap();
        survey_disk(&tree, &[], &SystemChoice::default(), &OpenFileSystem::default()).unwrap()
    }
}

fn message(warning: &Value) -> &str {
    warning["message"].as_str().unwrap()
}

/// The recipient of a key, as the program itself prints it for a key that it keeps.
fn recipient_of(key: &Path) -> String {
    let known = decrypt::known(&fs::read(key).unwrap()).unwrap();
    known.recipients[0].clone()
}

#[test]
fn what_sops_nix_decrypts_is_read_from_activation_and_from_units() {
    for by in BOTH {
        let mut case = Case::new();
        let shared = case.root.sops_file("node1.yaml", &[OTHER]);
        let keys = json!({ "ageSshKeyPaths": [HOST_KEY], "ageKeyFile": "/var/lib/sops/key.txt" });
        case.root.sops_nix(by, keys.clone(), &[("wifi", "/run/secrets/wifi", &shared), ("k3s", "/etc/k3s", &shared)]);
        case.root.sops_nix_for_users(by, keys, &[("admin", "/run/secrets-for-users/admin", &shared)]);
        let closure = case.closure();
        assert_eq!(closure.unread, Vec::<String>::new());
        let [decrypter] = &closure.decrypters[..] else { panic!("{:?}", closure.decrypters) };
        assert_eq!(decrypter.tool, Tool::SopsNix);
        let identities: Vec<(&str, IdentityKind)> =
            decrypter.identities.iter().map(|identity| (identity.path.as_str(), identity.kind)).collect();
        assert_eq!(
            identities,
            [
                (HOST_KEY, IdentityKind::SshAsAge),
                ("/var/lib/sops/key.txt", IdentityKind::AgeKeyFile),
                (RSA_KEY, IdentityKind::SshAsGpg)
            ]
        );
        let mut secrets: Vec<(&str, bool)> =
            decrypter.secrets.iter().map(|secret| (secret.name.as_str(), secret.for_users)).collect();
        secrets.sort_unstable();
        assert_eq!(secrets, [("admin", true), ("k3s", false), ("wifi", false)]);
        assert_eq!(decrypter.files.len(), 1, "one file, read once");
        for path in ["/run/secrets/wifi", "/etc/k3s", "/run/secrets/k3s", "/run/secrets-for-users/admin"] {
            assert!(closure.makes(path), "{path}");
        }
        assert!(!closure.makes("/run/secrets/other") && closure.is_read_by_activation(HOST_KEY));
    }
}

#[test]
fn what_agenix_decrypts_is_read_from_activation_and_from_units() {
    for by in BOTH {
        let mut case = Case::new();
        let file = case.age_file("wifi.age", &[OTHER], &[]);
        case.root.agenix(by, &[RSA_KEY, HOST_KEY], &[("wifi", "/etc/wifi", &file)]);
        let closure = case.closure();
        assert_eq!(closure.unread, Vec::<String>::new());
        let [decrypter] = &closure.decrypters[..] else { panic!("{:?}", closure.decrypters) };
        assert_eq!((decrypter.tool, decrypter.identities.len(), decrypter.files.len()), (Tool::Agenix, 2, 1));
        assert!(closure.makes("/run/agenix/wifi") && closure.makes("/etc/wifi") && !closure.makes("/run/agenix/x"));
    }
}

#[test]
fn parts_that_cannot_be_read_are_named_and_the_rest_is_judged() {
    let mut case = Case::new();
    let no_sops = case.root.store("no.yaml", "a: b\n");
    let good = case.root.sops_file("node1.yaml", &[OTHER]);
    let secrets = [("a", "/a", no_sops.as_str()), ("b", "/b", "/nix/store/gone"), ("c", "/c", &good)];
    case.root.sops_nix(By::Activation, json!({}), &secrets);
    case.root.agenix(By::Activation, &[HOST_KEY], &[("d", "/d", "/nix/store/gone.age")]);
    let closure = case.closure();
    assert_eq!((closure.decrypters.len(), closure.unread.len()), (2, 3), "{:?}", closure.unread);
    assert!(closure.unread.iter().any(|why| why.ends_with("no.yaml: it is no file of sops")), "{:?}", closure.unread);
    // A manifest that is none, one of too many secrets, one that is missing.
    for text in ["[1]".to_owned(), "{".to_owned(), format!(r#"{{"secrets":[{}{{}}]}}"#, "{},".repeat(20_000))] {
        let mut case = Case::new();
        case.root.sops_nix(By::Unit, json!({}), &[]);
        case.root.store("manifest.json", text);
        let closure = case.closure();
        assert!(closure.decrypters.is_empty() && closure.unread[0].contains("not a manifest of sops-nix"));
    }
    let mut case = Case::new();
    case.root.sops_nix(By::Unit, json!({}), &[]).agenix(By::Unit, &[HOST_KEY], &[]);
    case.root.remove(&crate::kit::nixos::store_path("manifest.json"));
    case.root.remove(&crate::kit::nixos::store_path("agenix-install"));
    assert_eq!(case.closure().unread.len(), 2);
}

#[test]
fn a_key_of_sops_nix_that_is_no_recipient_is_told_with_the_recipient_and_the_command() {
    for by in BOTH {
        let mut case = Case::new();
        let (key, _) = case.ssh_key("key", &["-t", "ed25519"]);
        let recipient = recipient_of(&key);
        case.declare("", HOST_KEY, "from: 'file:key'");
        let open = case.root.sops_file("open.yaml", &[OTHER, &recipient]);
        case.root.sops_nix(by, json!({ "ageSshKeyPaths": [HOST_KEY] }), &[("a", "/run/secrets/a", &open)]);
        assert_eq!(case.warnings(), Vec::<Value>::new());

        let closed = case.root.sops_file("closed.yaml", &[OTHER]);
        let secrets = [("a", "/run/secrets/a", open.as_str()), ("b", "/run/secrets/b", &closed), ("c", "/c", &closed)];
        case.root.sops_nix(by, json!({ "ageSshKeyPaths": [HOST_KEY] }), &secrets);
        let [warning] = &case.warnings()[..] else { panic!("one warning") };
        assert_eq!((&warning["code"], &warning["secret"]), (&json!("NX118"), &json!("key")));
        let want = format!(
            "the key of {HOST_KEY} does not open 1 of the 2 files that sops-nix decrypts: {recipient} is no recipient \
             of closed.yaml: add {recipient} to .sops.yaml, then `sops updatekeys closed.yaml`"
        );
        assert_eq!(message(warning), want);
        case.run(&["plan", "root"]).expect_code(0).expect_output("! NX118");
        case.declare("", HOST_KEY, "from: 'file:key', allow: { NX118: 'the next system has it' }");
        assert_eq!(case.warnings(), Vec::<Value>::new());
        // Another place's key, and files that something else may open.
        case.declare("", "/etc/ssh/another", "from: 'file:key'");
        assert_eq!(case.warnings(), Vec::<Value>::new());
    }
}

#[test]
fn what_the_real_sops_writes_names_its_recipients_in_every_format() {
    let mut case = Case::new();
    let (key, public) = case.ssh_key("key", &["-t", "ed25519"]);
    let recipient = recipient_of(&key);
    case.declare("", HOST_KEY, "from: 'file:key'");
    let plain = [
        ("a.yaml", "a: b\nlist: [1, 2]\n"),
        ("b.json", "{\"a\": \"b\"}"),
        ("c.env", "A=b\n"),
        ("d.ini", "[x]\na = b\n"),
        ("e.bin", "bytes"),
    ];
    let scratch = Scratch::new();
    let encrypt = |root: &NixosRoot, recipients: &str| {
        plain.map(|(name, content)| {
            let file = scratch.write(name, content);
            tool(Command::new("sops").args(["--encrypt", "--in-place", "--age", recipients]).arg(&file));
            root.store(name, fs::read(file).unwrap())
        })
    };
    let files = encrypt(&case.root, &format!("{OTHER},{recipient}"));
    let secrets: Vec<_> = files.iter().map(|file| ("a", "/run/secrets/a", file.as_str())).collect();
    case.root.sops_nix(By::Activation, json!({ "ageSshKeyPaths": [HOST_KEY] }), &secrets);
    assert_eq!(case.closure().unread, Vec::<String>::new());
    assert_eq!(case.warnings(), Vec::<Value>::new());
    encrypt(&case.root, OTHER);
    let [warning] = &case.warnings()[..] else { panic!("one warning") };
    assert!(message(warning).contains("opens none of the 5 files"), "{warning}");
    // sops encrypts for an SSH key too.
    encrypt(&case.root, &format!("{OTHER},{public}"));
    assert_eq!(case.warnings(), Vec::<Value>::new());
}

#[test]
fn hostile_configurations_end_with_a_word() {
    let paths = ["", "relative", "/", "/../../etc/shadow", "/a//b", "/a\0b", "/etc/static", "/proc/self/mem"];
    let long = "x".repeat(100_000);
    for by in BOTH {
        let mut case = Case::new();
        let file = case.root.sops_file("node1.yaml", &[OTHER]);
        let many: Vec<&str> = paths.iter().copied().chain([long.as_str()]).collect();
        case.root.sops_nix(by, json!({ "ageSshKeyPaths": many, "ageKeyFile": long }), &[("a", &long, &file)]);
        case.root.agenix(by, &["''", "relative", "/../x", "/\u{1b}[31m"], &[("../../a", "/b", "/nix/store/../../etc")]);
        case.declare("", "/etc/secrets/a", "generate: token");
        let said = case.run(&["inject", "root"]).expect_code(0).stderr();
        assert!(said.contains("NX119") && !said.contains('\u{1b}') && said.len() < 4000, "{said}");
        let judged = decrypt::judge(&case.survey(), &BTreeMap::new());
        assert_eq!((judged.lines.len(), judged.findings.len()), (2, 2));
        assert!(judged.lines.iter().all(|line| !line.contains('\u{1b}')), "{:?}", judged.lines);
    }
}

#[test]
fn a_file_of_keys_of_age_opens_by_any_of_them_and_what_is_no_key_is_not_judged() {
    let mut case = Case::new();
    let path = "/var/lib/sops/key.txt";
    let first = tool(&mut Command::new("age-keygen")).stdout;
    let second = tool(&mut Command::new("age-keygen")).stdout;
    case.scratch.write("key", [first, second.clone()].concat());
    let text = String::from_utf8(second).unwrap();
    let recipient = text.lines().find_map(|line| line.strip_prefix("# public key: ")).unwrap();
    let file = case.root.sops_file("node1.yaml", &[recipient]);
    case.root.sops_nix(By::Unit, json!({ "ageKeyFile": path }), &[("a", "/run/secrets/a", &file)]);
    case.declare("", path, "from: 'file:key'");
    assert_eq!(case.warnings(), Vec::<Value>::new());
    case.root.sops_file("node1.yaml", &[OTHER]);
    assert_eq!(case.warnings().len(), 1);
    case.scratch.write("key", "AGE-PLUGIN-TPM-1QQQQ\nno key at all\n");
    assert_eq!(case.warnings(), Vec::<Value>::new());
    // GnuPG and services may open it by other means.
    let other = "sops:\n    pgp:\n        - fp: A\n    age: []\n    version: 3\n";
    case.root.store("node1.yaml", other);
    case.declare("", RSA_KEY, "from: 'file:rsa'");
    case.ssh_key("rsa", &["-t", "rsa", "-b", "2048"]);
    assert_eq!(case.warnings(), Vec::<Value>::new());
}

#[test]
fn agenix_opens_by_the_tag_of_an_ssh_key_of_each_kind() {
    for (name, options) in [
        ("ed25519", &["-t", "ed25519"][..]),
        ("rsa", &["-t", "rsa", "-b", "2048"]),
        ("pem", &["-t", "rsa", "-b", "2048", "-m", "PEM"]),
    ] {
        for (by, armor) in [(By::Activation, &[][..]), (By::Unit, &["-a"][..])] {
            let mut case = Case::new();
            let path = if name == "ed25519" { HOST_KEY } else { RSA_KEY };
            let (_, public) = case.ssh_key("key", options);
            case.declare("", path, "from: 'file:key'");
            let file = case.age_file("wifi.age", &[OTHER, &public], armor);
            case.root.agenix(by, &[RSA_KEY, HOST_KEY], &[("wifi", "/etc/wifi", &file)]);
            assert_eq!(case.warnings(), Vec::<Value>::new(), "{name}");
            let (_, other) = case.ssh_key("other", options);
            case.age_file("wifi.age", &[OTHER, &other], armor);
            let [warning] = &case.warnings()[..] else { panic!("{name}: one warning") };
            assert!(message(warning).starts_with(&format!("the key of {path} does not open the file that agenix")));
            let said = case.run(&["plan", "root"]).expect_code(0).stdout();
            let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
            let add = if name == "ed25519" { public } else { format!("`ssh-keygen -y -f {path}`") };
            assert!(said.contains(&add) && said.contains("then `agenix -r`"), "{said}");
        }
    }
    // One with a passphrase is not judged, and a key of age may be the one that the file hides.
    let mut case = Case::new();
    let file = case.age_file("wifi.age", &[OTHER], &[]);
    case.root.agenix(By::Activation, &["/persist/age", HOST_KEY], &[("wifi", "/etc/wifi", &file)]);
    case.ssh_key("key", &["-t", "ed25519", "-N", "a passphrase"]);
    case.declare("", HOST_KEY, "from: 'file:key'");
    assert_eq!(case.warnings(), Vec::<Value>::new());
    case.scratch.write("key", tool(&mut Command::new("age-keygen")).stdout);
    case.declare("", "/persist/age", "from: 'file:key'");
    assert_eq!(case.warnings(), Vec::<Value>::new());
}

#[test]
fn a_new_key_is_told_with_what_is_to_be_added_and_a_kept_one_is_judged() {
    for by in BOTH {
        let mut case = Case::new();
        let file = case.root.sops_file("node1.yaml", &[OTHER]);
        case.root.sops_nix(by, json!({ "ageSshKeyPaths": [HOST_KEY] }), &[("a", "/run/secrets/a", &file)]);
        let aged = case.age_file("wifi.age", &[OTHER], &[]);
        case.root.agenix(by, &[HOST_KEY], &[("wifi", "/etc/wifi", &aged)]);
        case.declare("", HOST_KEY, "generate: ssh-host-ed25519");
        let said = case.run(&["plan", "root"]).expect_code(0).stdout();
        assert!(!said.contains("NX11"), "{said}");
        let run = case.run(&["inject", "root", "--public-out", "keys.json"]).expect_code(0);
        let said = run.stderr();
        assert!(!said.contains("NX11"), "{said}");
        let recipient = recipient_of(&case.root.host(HOST_KEY));
        let public = fs::read_to_string(case.root.host(HOST_KEY).with_extension("pub")).unwrap();
        let public = public.split(' ').take(2).collect::<Vec<_>>().join(" ");
        let lines = [
            format!(
                "sops-nix decrypts with the new key of {HOST_KEY}: add {recipient} to .sops.yaml, then \
                 `sops updatekeys node1.yaml`"
            ),
            format!("agenix decrypts with the new key of {HOST_KEY}: add {public} to secrets.nix, then `agenix -r`"),
        ];
        for line in &lines {
            assert!(said.contains(line), "{line}: {said}");
        }
        let keys: Value = serde_json::from_slice(&fs::read(case.scratch.join("keys.json")).unwrap()).unwrap();
        assert_eq!((&keys["keys"][0]["age_recipient"], &keys["keys"][0]["to_add"]), (&json!(recipient), &json!(lines)));
        // Kept now: what was not done yet is told, and then no more.
        assert_eq!(case.warnings().len(), 2);
        case.root.sops_file("node1.yaml", &[OTHER, &recipient]);
        case.age_file("wifi.age", &[OTHER, &public], &[]);
        assert_eq!(case.warnings(), Vec::<Value>::new());
        assert!(!case.run(&["inject", "root"]).expect_code(0).stderr().contains("to add"));
    }
}

#[test]
fn a_key_must_lie_where_activation_finds_it() {
    let codes = |change: &dyn Fn(&mut NixosRoot), top: &str, path: &str| {
        let mut case = Case::new();
        let file = case.root.sops_file("node1.yaml", &[OTHER]);
        case.root.sops_nix(By::Activation, json!({ "ageKeyFile": path }), &[("a", "/run/secrets/a", &file)]);
        change(&mut case.root);
        let allow = "allow: { NX006: x, NX007: x }";
        case.declare(top, path, &format!("generate: age, {allow}"));
        let object = case.run(&["plan", "root", "--json"]).expect_code(0).json();
        let codes = object["warnings"].as_array().unwrap().iter().map(|warning| warning["code"].to_string());
        codes.map(|code| code.trim_matches('"').to_owned()).collect::<Vec<_>>()
    };
    let late = |root: &mut NixosRoot| {
        root.fstab("/dev/disk/by-label/nixos / ext4 x-initrd.mount 0 1\n/dev/disk/by-label/nixos /keys ext4 x 0 2\n");
    };
    let tmpfs = |root: &mut NixosRoot| {
        root.fstab(
            "none / tmpfs x-initrd.mount 0 0\n/dev/disk/by-label/nixos /nix ext4 x-initrd.mount 0 1\n\
             /nix/persist /persist none x-initrd.mount,bind 0 0\n/persist/etc/ssh /etc/ssh none bind 0 0\n",
        )
        .only_nix();
    };
    assert_eq!(codes(&|_| {}, "", "/var/lib/key"), Vec::<String>::new());
    assert_eq!(codes(&late, "", "/keys/key"), ["NX006", "NX104"]);
    assert_eq!(codes(&tmpfs, "", "/var/lib/key"), ["NX007"]);
    assert_eq!(codes(&tmpfs, "", "/etc/ssh/key"), ["NX006", "NX104"]);
    assert_eq!(codes(&tmpfs, "", "/persist/key"), Vec::<String>::new());
    let persist = "defaults: { persist_root: /persist }\n";
    assert_eq!(codes(&tmpfs, persist, "/var/lib/key"), ["NX104"]);
    assert_eq!(codes(&tmpfs, persist, "/persist/key"), Vec::<String>::new());
}

#[test]
fn a_key_that_is_written_below_persist_root_is_the_one_that_the_system_reads_there() {
    let mut case = Case::new();
    let file = case.root.sops_file("node1.yaml", &[OTHER]);
    let keys = json!({ "ageSshKeyPaths": [format!("/persist{HOST_KEY}")] });
    case.root.sops_nix(By::Activation, keys, &[("a", "/run/secrets/a", &file)]);
    case.root.fstab(
        "none / tmpfs x-initrd.mount 0 0\n/dev/disk/by-label/nixos /nix ext4 x-initrd.mount 0 1\n\
         /nix/persist /persist none x-initrd.mount,bind 0 0\n/persist/etc/ssh /etc/ssh none bind 0 0\n",
    );
    case.root.only_nix();
    case.declare("defaults: { persist_root: /persist }\n", HOST_KEY, "generate: ssh-host-ed25519");
    let said = case.run(&["inject", "root"]).expect_code(0).stderr();
    assert!(said.contains("sops-nix decrypts with the new key of") && !said.contains("NX1"), "{said}");
    let recipient = recipient_of(&case.root.host(&format!("/persist{HOST_KEY}")));
    assert!(said.contains(&recipient), "{said}");
    let [warning] = &case.warnings()[..] else { panic!("kept, and no recipient") };
    assert_eq!((&warning["code"], &warning["secret"]), (&json!("NX118"), &json!("key")));
    // The same by its declared path.
    let tree = DirectoryTree::open(case.root.path()).unwrap();
    let choice = SystemChoice { persist_root: Some("/persist".into()), ..SystemChoice::default() };
    let survey = survey_disk(&tree, &[], &choice, &OpenFileSystem::default()).unwrap();
    let standing = decrypt::known(&fs::read(case.root.host(&format!("/persist{HOST_KEY}"))).unwrap()).unwrap();
    let given = BTreeMap::from([(HOST_KEY.to_owned(), GivenKey::Known(standing))]);
    let judged = decrypt::judge(&survey, &given);
    assert_eq!(judged.findings[0].path.as_deref(), Some(HOST_KEY));
    assert!(judged.lines[0].ends_with("; the manifest gives it"), "{:?}", judged.lines);
}

#[test]
fn keys_that_stand_and_keys_that_nothing_provides_are_judged_for_lint() {
    let mut case = Case::new();
    let (key, _) = case.ssh_key("key", &["-t", "ed25519"]);
    let file = case.root.sops_file("node1.yaml", &[&recipient_of(&key)]);
    let secrets = [("a", "/run/secrets/a", file.as_str()), ("b", "/run/secrets/b", &file)];
    case.root.sops_nix(By::Activation, json!({ "ageSshKeyPaths": [HOST_KEY] }), &secrets);
    let judge = |case: &Case, given: &[(&str, GivenKey)]| {
        let given: BTreeMap<String, GivenKey> =
            given.iter().map(|(path, key)| ((*path).to_owned(), key.clone())).collect();
        let judged = decrypt::judge(&case.survey(), &given);
        let codes: Vec<&str> = judged.findings.iter().map(|told| told.finding.code).collect();
        (codes, judged.lines.join("\n"))
    };
    let said = |how: &str| format!("2 secrets of sops-nix need {HOST_KEY}; {how}");
    assert_eq!(judge(&case, &[]), (vec!["NX117"], said("nothing provides it")));
    assert_eq!(judge(&case, &[(HOST_KEY, GivenKey::Unknown)]), (vec![], said("the manifest gives it")));
    assert_eq!(judge(&case, &[(HOST_KEY, GivenKey::Generated)]), (vec![], said("the manifest gives it")));
    // sshd makes a new one over an empty file.
    case.root.write(HOST_KEY, "");
    assert_eq!(judge(&case, &[]).0, ["NX117"]);
    case.root.write(HOST_KEY, fs::read(&key).unwrap());
    assert_eq!(judge(&case, &[]), (vec![], said("it stands in the image")));
    assert_eq!(judge(&case, &[(HOST_KEY, GivenKey::Absent)]).0, ["NX117"]);
    let other = decrypt::known(&fs::read(case.ssh_key("other", &["-t", "ed25519"]).0).unwrap()).unwrap();
    assert_eq!(judge(&case, &[(HOST_KEY, GivenKey::Known(other))]).0, ["NX118"]);
    case.root.sops_file("node1.yaml", &[OTHER]);
    assert_eq!(judge(&case, &[]).0, ["NX118"]);
    case.root.write(HOST_KEY, vec![b'x'; 100_000]);
    assert_eq!(judge(&case, &[]).0, Vec::<&str>::new(), "over the limit: not known");

    // A file of keys that is missing ends sops-nix, whatever else is there; unless the system makes it.
    let keys = json!({ "ageSshKeyPaths": [HOST_KEY], "ageKeyFile": "/var/lib/key" });
    case.root.sops_nix(By::Activation, keys, &secrets);
    let (codes, line) = judge(&case, &[]);
    assert_eq!((codes, line.as_str()), (vec!["NX117"], "2 secrets of sops-nix need /var/lib/key; nothing provides it"));
    case.root.snippet("generate-age-key", "/nix/store/age/bin/age-keygen -o /var/lib/key");
    assert_eq!(judge(&case, &[]).0, Vec::<&str>::new());

    // agenix: one is enough.
    let mut case = Case::new();
    let (_, public) = case.ssh_key("key", &["-t", "ed25519"]);
    let file = case.age_file("wifi.age", &[&public], &[]);
    case.root.agenix(By::Activation, &[RSA_KEY, HOST_KEY], &[("wifi", "/etc/wifi", &file)]);
    let (codes, line) = judge(&case, &[]);
    let need = format!("1 secret of agenix needs one of {RSA_KEY}, {HOST_KEY}");
    assert_eq!((codes, line), (vec!["NX117"], format!("{need}; nothing provides it")));
    let judged = decrypt::judge(&case.survey(), &BTreeMap::new());
    let hint = format!("give it: a secret with `path: {HOST_KEY}`, and `from` a vault or `generate: ssh-host-ed25519`");
    assert_eq!(judged.findings[0].finding.instead, hint);
    case.root.write(HOST_KEY, fs::read(case.scratch.join("key")).unwrap());
    assert_eq!(judge(&case, &[]), (vec![], format!("{need}; {HOST_KEY} stands in the image")));
}

#[test]
fn a_password_that_the_system_makes_and_does_not_apply_is_told_for_lint() {
    let told = |users: Users, shadow: &str| {
        let mut case = Case::new();
        let file = case.root.sops_file("node1.yaml", &[OTHER]);
        let path = "/run/secrets-for-users/admin";
        case.root.sops_nix_for_users(By::Activation, json!({}), &[("admin", path, &file)]);
        case.root.user("admin", Some(1000), Some(path)).users(users).shadow(shadow);
        let found = decrypt::passwords_not_applied(&case.survey());
        found.into_iter().map(|told| (told.finding.code, told.finding.refuse, told.path)).collect::<Vec<_>>()
    };
    let path = Some("/run/secrets-for-users/admin".to_owned());
    for field in ["!", "*", "$y$j9T$abc"] {
        let found = told(Users::Perl { mutable: true }, &format!("admin:{field}:1::::::\n"));
        assert_eq!(found, [("NX101", false, path.clone())], "{field}");
    }
    assert_eq!(told(Users::Perl { mutable: false }, "admin:!:1::::::\n"), []);
    assert_eq!(told(Users::Perl { mutable: true }, "root:!:1::::::\n"), []);
    assert_eq!(told(Users::Userborn { mutable: None, directory: "/etc" }, "admin:!:1::::::\n"), []);
}

#[test]
fn the_examples_of_the_manual_are_silent_where_they_are_followed() {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/nixos.md")).unwrap();
    for by in BOTH {
        let mut case = Case::new();
        let (_, public) = case.ssh_key("key", &["-t", "ed25519"]);
        let sops = case.root.sops_file("node1.yaml", &[&recipient_of(&case.scratch.join("key"))]);
        case.root.sops_nix(by, json!({ "ageSshKeyPaths": [HOST_KEY] }), &[("a", "/run/secrets/a", &sops)]);
        case.scratch.write("secrets.yaml", block_below(&page, "sops-nix"));
        let run = case.run(&["inject", "root", "--host", "node1"]).expect_code(0);
        assert!(!run.stderr().contains("! "), "{}", run.stderr());
        assert!(run.stderr().contains("sops-nix decrypts with the new key of "), "{}", run.stderr());

        let mut case = Case { root: NixosRoot::at(&case.scratch.join("second")), ..case };
        let file = case.age_file("wifi.age", &[&public], &[]);
        case.root.agenix(by, &[HOST_KEY], &[("wifi", "/etc/wifi", &file)]);
        case.scratch.write("secrets.yaml", block_below(&page, "agenix"));
        fs::create_dir(case.scratch.join("keys")).unwrap_or_default();
        fs::copy(case.scratch.join("key"), case.scratch.join("keys/node1")).unwrap();
        let run = case.run(&["inject", "second", "--host", "node1"]).expect_code(0);
        assert!(!run.stderr().contains("! ") && !run.stderr().contains("to add"), "{}", run.stderr());
    }
}
