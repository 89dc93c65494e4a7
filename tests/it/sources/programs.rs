//! The programs of password managers, played by shell scripts that print what the real ones print. `bw`, `op` and
//! `vals` need an account or a server; what the scripts know of them is in the manual's section of each.

use super::{calls, injected, manifest, path, program, root};
use crate::kit::Scratch;
use crate::kit::run::Deaddrop;

fn inject(scratch: &Scratch) -> Deaddrop<'_> {
    Deaddrop::new(scratch).args(["inject", "root", "-m", "secrets.yaml"]).env("PATH", path(scratch))
}

const RBW: &str = r#"
case "$1 $2" in
  'list --fields') printf '%s\t%s\t%s\n' 11111111-1111-4111-8111-111111111111 Wifi Homelab \
      22222222-2222-4222-8222-222222222222 Wifi Work 33333333-3333-4333-8333-333333333333 'Node admin' '' ;;
  'get --raw') case "$3" in
    1111*) printf '{"id":"%s","folder":"Homelab","name":"Wifi",
      "data":{"username":"u","password":"pä\\"ss$\\n","totp":null,"uris":null},
      "fields":[{"name":"PIN","value":"1234","type":"hidden"}],"notes":null,"history":[]}' "$3" ;;
    3333*) printf '{"id":"%s","folder":null,"name":"Node admin","data":{"username":null,
      "password":"admin-password","totp":null,"uris":[{"uri":"https://n","match_type":null}]},"fields":[],
      "notes":"two\\nlines","history":[]}' "$3" ;;
    esac ;;
esac"#;

#[test]
fn rbw_is_asked_for_the_list_once_and_for_each_wanted_item_once() {
    let scratch = Scratch::new();
    root(&scratch);
    program(&scratch, "rbw", RBW);
    manifest(
        &scratch,
        "  v: { type: rbw }\n",
        &[
            ("wifi", "v:Homelab/Wifi"),
            ("pin", "v:Homelab/Wifi#PIN"),
            ("admin", "v:Node admin"),
            ("notes", "v:33333333-3333-4333-8333-333333333333#notes"),
            ("uri", "v:Node admin#uri"),
        ],
    );
    inject(&scratch).run().expect_code(0);
    for (name, want) in [
        ("wifi", "pä\"ss$\n"),
        ("pin", "1234"),
        ("admin", "admin-password"),
        ("notes", "two\nlines"),
        ("uri", "https://n"),
    ] {
        assert_eq!(injected(&scratch, name), want.as_bytes(), "{name}");
    }
    assert_eq!(
        calls(&scratch),
        [
            "rbw get --raw 11111111-1111-4111-8111-111111111111",
            "rbw get --raw 33333333-3333-4333-8333-333333333333",
            "rbw list --fields id,name,folder",
        ]
    );
}

#[test]
fn two_items_of_one_name_and_a_missing_field_are_told_without_a_value() {
    let scratch = Scratch::new();
    root(&scratch);
    program(&scratch, "rbw", RBW);
    manifest(&scratch, "  v: { type: rbw }\n", &[("a", "v:Wifi"), ("b", "v:Node admin#pin"), ("c", "v:Node")]);
    let run = inject(&scratch).run().expect_refusal(
        "rbw",
        1,
        &[
            "two items are called \"Wifi\"",
            "22222222-2222",
            "item \"Node admin\" has no",
            "no item \"Node\"",
            "v:Node admin",
        ],
    );
    assert!(!run.stderr().contains("admin-password"));
}

const OP: &str = r#"
case "$*" in
  'item list --format json') cat <<'END'
[{"id":"aaa","title":"Wifi","version":1,"vault":{"id":"v1","name":"Homelab"},"category":"LOGIN",
  "updated_at":"2026-01-02T03:04:05Z"},
 {"id":"bbb","title":"Deploy key","vault":{"id":"v1","name":"Homelab"},"category":"SSH_KEY"},
 {"id":"ccc","title":"Unwanted","vault":{"id":"v2","name":"Private"},"category":"LOGIN"}]
END
  ;;
  'item get - --format json') cat >$HERE/stdin; cat <<'END'
{"id":"aaa","title":"Wifi","vault":{"id":"v1","name":"Homelab"},"category":"LOGIN",
 "urls":[{"href":"https://second"},{"primary":true,"href":"https://first"}],
 "fields":[{"id":"username","type":"STRING","purpose":"USERNAME","label":"username","value":"u"},
  {"id":"password","type":"CONCEALED","purpose":"PASSWORD","label":"password","value":"wifi $password"},
  {"id":"notesPlain","type":"STRING","purpose":"NOTES","label":"notesPlain"},
  {"id":"x","section":{"id":"s","label":"More"},"type":"CONCEALED","label":"PIN","value":"1234"},
  {"id":"y","type":"OTP","label":"one-time password","value":"otpauth://totp/x?secret=ABC","totp":"123456"}],
 "files":[{"id":"f1","name":"key.bin","size":3,"content_path":"/v1/x"}]}
{"id":"bbb","title":"Deploy key","vault":{"id":"v1","name":"Homelab"},"category":"SSH_KEY",
 "fields":[{"id":"public_key","type":"STRING","label":"public key","value":"ssh-ed25519 AAAA"},
  {"id":"private_key","type":"SSHKEY","label":"private key","value":"-----BEGIN PRIVATE KEY-----\n",
   "ssh_formats":{"openssh":{"reference":"op://x","value":"-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAABG5vbmU=\n-----END OPENSSH PRIVATE KEY-----\n"}}}]}
END
  ;;
  'read --no-newline op://v1/aaa/f1') printf 'a\0b' ;;
  *) echo "unexpected: $*" >&2; exit 9 ;;
esac"#;

#[test]
fn op_is_asked_once_for_names_and_once_for_all_wanted_items() {
    let scratch = Scratch::new();
    root(&scratch);
    program(&scratch, "op", OP);
    manifest(
        &scratch,
        "  v: { type: op }\n",
        &[
            ("wifi", "v:Homelab/Wifi"),
            ("user", "v:Wifi#username"),
            ("pin", "v:aaa#PIN"),
            ("totp", "v:Wifi#totp"),
            ("uri", "v:Wifi#uri"),
            ("key", "v:Deploy key#private_key"),
            ("public", "v:Deploy key#public_key"),
            ("file", "{ source: v, item: Wifi, field: \"file:key.bin\" }"),
        ],
    );
    inject(&scratch).run().expect_code(0);
    for (name, want) in [
        ("wifi", "wifi $password"),
        ("user", "u"),
        ("pin", "1234"),
        ("totp", "otpauth://totp/x?secret=ABC"),
        ("uri", "https://first"),
        (
            "key",
            "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAABG5vbmU=\n\
             -----END OPENSSH PRIVATE KEY-----\n",
        ),
        ("public", "ssh-ed25519 AAAA"),
        ("file", "a\0b"),
    ] {
        assert_eq!(injected(&scratch, name), want.as_bytes(), "{name}");
    }
    assert_eq!(
        calls(&scratch),
        ["op item get - --format json", "op item list --format json", "op read --no-newline op://v1/aaa/f1"]
    );
    let asked: serde_json::Value = serde_json::from_slice(&std::fs::read(scratch.join("stdin")).unwrap()).unwrap();
    assert_eq!(asked, serde_json::json!([{"id":"aaa","vault":{"id":"v1"}},{"id":"bbb","vault":{"id":"v1"}}]));

    let listed =
        Deaddrop::new(&scratch).args(["sources", "list", "v"]).env("PATH", path(&scratch)).run().expect_code(0);
    assert!(listed.stdout().contains("Homelab/Wifi") && listed.stdout().contains("Private/Unwanted"));
}

#[test]
fn vals_gets_all_expressions_in_one_call_on_its_standard_input() {
    let scratch = Scratch::new();
    root(&scratch);
    program(
        &scratch,
        "vals",
        r#"cat >$HERE/stdin
printf '{"v0":"first","v1":42}'"#,
    );
    manifest(
        &scratch,
        "  v: { type: vals }\n",
        &[("a", "'v:ref+vault://secret/data/k3s#/token'"), ("b", "{ source: v, item: 'ref+file://x' }")],
    );
    inject(&scratch).run().expect_code(0);
    assert_eq!((injected(&scratch, "a"), injected(&scratch, "b")), (b"first".to_vec(), b"42".to_vec()));
    assert_eq!(calls(&scratch), ["vals eval -f - -o json"]);
    let asked: serde_json::Value = serde_json::from_slice(&std::fs::read(scratch.join("stdin")).unwrap()).unwrap();
    assert_eq!(asked, serde_json::json!({"v0": "ref+vault://secret/data/k3s#/token", "v1": "ref+file://x"}));

    manifest(&scratch, "  v: { type: vals }\n", &[("a", "'v:plain'")]);
    inject(&scratch).run().expect_refusal("no expression", 1, &["this is no expression of vals", "begins with `ref+`"]);
}

#[test]
fn secretspec_exports_once_or_gets_each_where_that_fails() {
    let scratch = Scratch::new();
    root(&scratch);
    program(&scratch, "secretspec", r#"[ "$1" = export ] && printf '{"A":"one","B":"two\\n"}'"#);
    manifest(&scratch, "  v: { type: secretspec }\n", &[("a", "v:A"), ("b", "v:B")]);
    inject(&scratch).run().expect_code(0);
    assert_eq!((injected(&scratch, "a"), injected(&scratch, "b")), (b"one".to_vec(), b"two\n".to_vec()));
    assert_eq!(calls(&scratch), ["secretspec export --format json"]);

    program(&scratch, "secretspec", r#"[ "$1" = get ] || exit 2; printf '%s' "value of $2"; echo"#);
    inject(&scratch).run().expect_code(0);
    assert_eq!(injected(&scratch, "a"), b"value of A");

    manifest(&scratch, "  v: { type: secretspec }\n", &[("a", "v:A#field")]);
    inject(&scratch).run().expect_code(2);
}

#[test]
fn a_program_that_is_missing_fails_hangs_or_prints_nonsense_is_told_by_its_name_and_nothing_else() {
    let scratch = Scratch::new();
    root(&scratch);
    manifest(&scratch, "  v: { type: rbw }\n", &[("a", "v:A")]);
    let only_ours =
        Deaddrop::new(&scratch).args(["inject", "root", "-m", "secrets.yaml"]).env("PATH", scratch.join("bin"));
    only_ours.run().expect_refusal("missing", 1, &["rbw there is no such program", "install it"]);
    program(&scratch, "rbw", "echo 'agent is locked' >&2; echo planted-output; exit 3");
    let run = inject(&scratch).run().expect_code(1).expect_error("rbw ended with status 3").expect_error("rbw unlock");
    assert!(run.stderr().contains("agent is locked"), "what it says is shown");
    assert!(!run.stderr().contains("planted-output"), "what it prints is not");
    program(&scratch, "rbw", "kill -9 $$");
    inject(&scratch).run().expect_refusal("signal", 1, &["rbw was ended by signal 9"]);
    program(&scratch, "rbw", "echo planted-output");
    inject(&scratch).run().expect_refusal("nonsense", 1, &["rbw: a line of its list has no tabs"]);
    program(&scratch, "rbw", "exec sleep infinity");
    manifest(&scratch, "  v: { type: rbw, timeout: 1 }\n", &[("a", "v:A")]);
    inject(&scratch).run().expect_refusal("hangs", 1, &["took over 1 s", "timeout: SECONDS"]);
}

#[test]
fn a_child_does_not_get_the_variables_that_hold_values_or_passwords() {
    let scratch = Scratch::new();
    root(&scratch);
    program(&scratch, "rbw", "env >>$HERE/environment\nprintf '11111111-1111-4111-8111-111111111111\\tA\\t\\n'");
    let sources = "  v: { type: rbw }\n  ci: { type: env, prefix: HOMELAB_ }\n  \
                   other: { type: bitwarden, path: x, password: { env: VAULT_PASSWORD } }\n";
    manifest(&scratch, sources, &[("a", "v:A"), ("b", "ci:TOKEN"), ("c", "env:PLAIN")]);
    let run = inject(&scratch)
        .env("HOMELAB_TOKEN", "planted-one")
        .env("PLAIN", "planted-two")
        .env("VAULT_PASSWORD", "planted-three")
        .env("OTHER", "stays")
        .run();
    run.expect_code(1);
    let environment = std::fs::read_to_string(scratch.join("environment")).unwrap();
    assert!(!environment.contains("planted"), "a value reached a child");
    assert!(environment.contains("OTHER=stays"));
}

#[test]
fn systemd_s_credentials_are_files_of_its_directory() {
    let scratch = Scratch::new();
    root(&scratch);
    std::fs::create_dir(scratch.join("credentials")).unwrap();
    scratch.write("credentials/token", b"a\0b\n");
    manifest(&scratch, "  c: { type: credentials }\n", &[("a", "c:token")]);
    let with = || inject(&scratch).env("CREDENTIALS_DIRECTORY", scratch.join("credentials"));
    with().run().expect_code(0);
    assert_eq!(injected(&scratch, "a"), b"a\0b\n");
    inject(&scratch).run().expect_refusal("not set", 1, &["$CREDENTIALS_DIRECTORY is not set"]);
    manifest(&scratch, "  c: { type: credentials }\n", &[("a", "c:../token"), ("b", "c:none")]);
    with().run().expect_refusal("not there", 1, &["no credential is called so", "there is no such file"]);
}

const BW: &str = r#"
[ "$BW_NOINTERACTION" = true ] || exit 7
case "$*" in
  'list items') printf '[{"object":"item","id":"i1","folderId":"f1","type":1,"name":"Wifi",
      "collectionIds":[],"login":{"username":"u","password":"home wifi"}},
    {"object":"item","id":"i2","folderId":null,"type":1,"name":"Wifi","collectionIds":["c1"],
      "login":{"password":"office wifi"}},
    {"object":"item","id":"i3","folderId":null,"type":2,"name":"Key","notes":"n",
      "attachments":[{"id":"a9","fileName":"key.bin","size":"3"}]}]' ;;
  'list folders') printf '[{"object":"folder","id":"f1","name":"Homelab"},
    {"object":"folder","id":null,"name":"No Folder"}]' ;;
  'list collections') printf '[{"object":"collection","id":"c1","name":"Office"}]' ;;
  'get attachment a9 --itemid i3 --raw') printf 'a\0b' ;;
  *) exit 9 ;;
esac"#;

#[test]
fn bw_is_asked_once_for_all_items_and_for_folders_only_where_one_is_named() {
    let scratch = Scratch::new();
    root(&scratch);
    program(&scratch, "bw", BW);
    let key = ("key", "{ source: v, item: Key, field: \"file:key.bin\" }");
    manifest(&scratch, "  v: { type: bw }\n", &[("a", "v:i1"), ("notes", "v:Key#notes"), key]);
    inject(&scratch).run().expect_code(0);
    assert_eq!(injected(&scratch, "a"), b"home wifi");
    assert_eq!(injected(&scratch, "key"), b"a\0b");
    assert_eq!(calls(&scratch), ["bw get attachment a9 --itemid i3 --raw", "bw list items"]);

    std::fs::remove_file(scratch.join("calls")).unwrap();
    manifest(&scratch, "  v: { type: bw }\n", &[("a", "v:Homelab/Wifi"), ("b", "v:Office/Wifi")]);
    inject(&scratch).run().expect_code(0);
    assert_eq!((injected(&scratch, "a"), injected(&scratch, "b")), (b"home wifi".to_vec(), b"office wifi".to_vec()));
    assert_eq!(calls(&scratch), ["bw list collections", "bw list folders", "bw list items"]);

    manifest(&scratch, "  v: { type: bw }\n", &[("a", "v:Wifi")]);
    inject(&scratch).run().expect_refusal("two", 1, &["two items are called \"Wifi\""]);
    program(&scratch, "bw", "exit 1");
    inject(&scratch).run().expect_refusal("locked", 1, &["bw ended with status 1", "BW_SESSION=$(bw unlock --raw)"]);
}

#[test]
fn exec_runs_a_program_once_and_picks_values_by_pointer() {
    let scratch = Scratch::new();
    root(&scratch);
    program(
        &scratch,
        "tool",
        r#"pwd >$HERE/where; printf '{"db":{"user":"u","password":"p$\\"\\n"},"port":5432,"list":["a","b"]}'"#,
    );
    manifest(
        &scratch,
        "  v: { type: exec, argv: [tool, --env, planted-argument] }\n",
        &[("a", "v:/db/password"), ("b", "v:port"), ("c", "v:/list/1"), ("d", "v:db#user")],
    );
    inject(&scratch).run().expect_code(0);
    for (name, want) in [("a", "p$\"\n"), ("b", "5432"), ("c", "b"), ("d", "u")] {
        assert_eq!(injected(&scratch, name), want.as_bytes(), "{name}");
    }
    assert_eq!(calls(&scratch), ["tool --env planted-argument"]);
    assert_eq!(std::fs::read_to_string(scratch.join("where")).unwrap().trim(), scratch.path().to_str().unwrap());

    for (body, texts) in [
        ("exit 3", &["v: tool ended with status 3"][..]),
        ("echo planted-output", &["v: tool: what it printed, line 1, column 1"]),
        ("echo '{\"db\":1}'", &["no item \"/db/password\""]),
    ] {
        program(&scratch, "tool", body);
        let run = inject(&scratch).run().expect_refusal(body, 1, texts);
        assert!(!run.stderr().contains("planted"), "{body}: {}", run.stderr());
    }
}

#[test]
fn a_source_is_read_from_standard_input() {
    let scratch = Scratch::new();
    root(&scratch);
    manifest(&scratch, "  v: { type: dotenv, path: '-' }\n", &[("a", "v:A")]);
    inject(&scratch).stdin("A='from a pipe'\n").run().expect_code(0);
    assert_eq!(injected(&scratch, "a"), b"from a pipe");
}

#[test]
fn a_value_in_which_a_program_has_replaced_bytes_is_refused() {
    // What Go writes for the bytes "p\xff"; and the character itself.
    for (kind, name, body, item) in [
        ("exec, argv: [tool]", "tool", r#"printf '{"a": "p\\ufffd"}'"#, "a"),
        ("exec, argv: [tool]", "tool", "printf '{\"a\": {\"b\": \"\\357\\277\\275\"}}'", "/a/b"),
        ("vals", "vals", r#"printf '{"v0": "p\\ufffd"}'"#, "ref+echo://x"),
        ("secretspec", "secretspec", r#"printf '{"A": "p\\ufffd"}'"#, "A"),
        ("secretspec", "secretspec", "[ $1 = get ] || exit 1; printf 'p\\357\\277\\275\\n'", "A"),
        ("bw", "bw", r#"printf '[{"id":"1","type":1,"name":"A","login":{"password":"p\\ufffd"}}]'"#, "A"),
        (
            "op",
            "op",
            r#"case "$2" in list) printf '[{"id":"a","title":"A","vault":{"id":"v","name":"V"}}]' ;;
            get) printf '{"id":"a","title":"A","fields":[{"id":"password","purpose":"PASSWORD","value":"p\\ufffd"}]}' ;;
            esac"#,
            "A",
        ),
        (
            "rbw",
            "rbw",
            r#"case "$1" in list) printf '1\tA\t\n' ;; get) printf '{"data":{"password":"p\\ufffd"}}' ;; esac"#,
            "A",
        ),
    ] {
        let scratch = Scratch::new();
        root(&scratch);
        program(&scratch, name, body);
        let from = format!("{{ source: v, item: \"{item}\" }}");
        manifest(&scratch, &format!("  v: {{ type: {kind} }}\n"), &[("a", &from)]);
        let hint = "`encoding: base64`";
        inject(&scratch).run().expect_refusal(kind, 1, &[&format!("v: \"{item}\": it holds U+FFFD"), hint]);
        assert!(!scratch.join("root/etc/a").exists(), "{kind}");
    }
}
