//! Errors as the user sees them: hints, order, excerpts; and no value in any of them.

use super::*;

#[test]
fn hints_say_what_to_do() {
    for (text, want) in [
        (
            with_secrets("  a: { path: /a, from: vualt:A }"),
            "did you mean `vault`? sources here: ci, vault (and always env, file)",
        ),
        (
            with_secrets("  a: { path: /a, from: ci:A, mod: x }"),
            "did you mean `mode`? keys here: path, from, template, template_file, encoding, expect, format, generate, \
            absent, hash, owner, group, mode, directory_mode, directory_owner, newline, hosts, used_by, \
             kind, keep_old, restart, reload, try_restart, run_after, health, settle, output, apply_password, allow_empty, \
             allow_world_readable, allow",
        ),
        (with_secrets("  a: { path: /a, from: ci:A, mode: 0400 }"), "put it in quotes: \"0400\""),
        (with_secrets("  a: { path: /a, from: ci:A, newline: yes }"), "write `true`"),
        (
            with_secrets("  a: { path: /a, from: ci:A, hosts: [nod1] }"),
            "did you mean `node1`? hosts here: node1, node2",
        ),
        (with_secrets("  a: { path: /a, from: ci:A, hosts: [server] }"), "`server` is a tag: write `tag:server`"),
        (
            with_secrets("  a: { path: /a, from: ci:A, hosts: [\"tag:sever\"] }"),
            "did you mean `server`? tags here: server",
        ),
        (
            with_secrets("  a: { path: /a, from: vault:a#b#c }"),
            "write the long form if a name holds `:` or `#`: {source: …, item: …, field: …}",
        ),
        (with_secrets("  a: { path: /a, from: ci:A, hash: bcrypt }"), "there are: yescrypt, sha512crypt"),
        (
            with_secrets("  a: { path: /a, from: ci:A, password: x }"),
            "a manifest never holds a value: keep it in a source, and name it with `from: SOURCE:ITEM`",
        ),
        (with_secrets("  a: { path: /run/a, from: ci:A }"), "use /etc/secrets or /var/lib/secrets"),
        (
            "version: 1\nsources: {v: {type: bitwadren, path: x}}\n".into(),
            "did you mean `bitwarden`? there are: env, file, dotenv, bitwarden, onepassword, keepass, proton-pass, \
            lastpass, csv, pass, \
             gopass, passage, age, sops, exec, bw, rbw, op, secretspec, vals, credentials",
        ),
        (
            "version: 1\nhosts: {a: {shh: x}}\n".into(),
            "did you mean `ssh`? keys here: ssh, tags, become, become_password, ssh_options, persist_root, allow",
        ),
        ("version: 1\nsecret: {a: {path: /a}}\n".into(), "did you mean `secrets`?"),
        (
            "version: 1\nsecret: hunter2\n".into(),
            "a manifest never holds a value: keep it in a source, and name it with `from: SOURCE:ITEM`",
        ),
        (
            "version: 1\nsecrets: {a: {path: /a, from: 'x:A'}}\n".into(),
            "sources here: env and file; others are named under `sources`",
        ),
    ] {
        let errors = parse(&text).unwrap_err();
        assert_eq!(errors.problems()[0].hint.as_deref(), Some(want), "{text}");
    }
}

#[test]
fn a_password_or_an_argument_in_a_wrong_place_is_not_shown() {
    for keys in [
        "type: bitwarden, path: x, password: hunter2",
        "type: bitwarden, path: x, password: [hunter2]",
        "type: bitwarden, path: x, password: {value: hunter2}",
        "type: bitwarden, path: x, password: {exec: [a, hunter2, 5]}",
        "type: exec, argv: [tool, hunter2, [hunter2]]",
        "type: exec, argv: [tool, hunter2, 7], timeout: 0",
        "type: exec, argv: {tool: hunter2}",
    ] {
        let shown = parse(&format!("version: 1\nsources: {{v: {{{keys}}}}}\n")).unwrap_err().to_string();
        assert!(!shown.contains("hunter2"), "{keys}\n{shown}");
    }
}

#[test]
fn all_errors_come_at_once_in_the_files_order() {
    let text = "version: 3
sources:
  vault: { type: bitwarden }
  bad: { type: nope }
secrets:
  a:
    path: etc/a
    from: vualt:x
    mode: 0400
    newline: on
    colour: red
  b: { path: /b, from: vault:y, hosts: [nodee1, node1], mode: '0777' }
  b: {}
hosts:
  node1: { ssh: 7, tags: [true] }
";
    let want = [
        "1:10+1 version 3 of the manifest is not known",
        "3:3+5 a bitwarden source needs a `path`",
        "4:16+4 unknown type of source `nope`",
        "7:11+5 a path starts with `/`",
        "8:11+5 unknown source `vualt`",
        "9:11+4 `mode` is text, and this is a number",
        "10:14+2 `newline` is `true`, `false` or `ensure`, and this is `on`",
        "11:5+6 unknown key `colour`",
        "12:41+6 unknown host `nodee1`",
        "12:63+6 mode 0777 has an execute bit",
        "13:3+1 duplicate key `b`, first on line 12",
        "15:17+1 `ssh` is text, and this is a number",
        "15:27+4 a tag is text, and this is true or false",
    ];
    assert_eq!(complaints(text), want);
}

#[test]
fn an_error_looks_as_the_manual_shows_it() {
    let text = with_secrets("  k3s-token:\n    path: /etc/x\n    from: vualt:Homelab admin");
    let want = "error: dir/secrets.yaml:11:11: unknown source `vualt`
   11 |     from: vualt:Homelab admin
      |           ^^^^^
hint: did you mean `vault`? sources here: ci, vault (and always env, file)";
    assert_eq!(parse(&text).unwrap_err().to_string(), want);
    let text = "secrets:\n\ta: b\n";
    let want = "error: dir/secrets.yaml:2:2: a tab indents this line
    2 |  a: b
      |  ^
hint: YAML is indented with spaces";
    assert_eq!(parse(text).unwrap_err().to_string(), want);
}

#[test]
fn names_in_hints_cannot_drive_a_terminal() {
    let text = "version: 1\nhosts: {\"a\\e[2J\": }\nsecrets: {a: {path: /a, from: 'env:A', hosts: [b]}}\n";
    let errors = parse(text).unwrap_err();
    let hints: Vec<&str> = errors.problems().iter().filter_map(|problem| problem.hint.as_deref()).collect();
    assert_eq!(hints, ["hosts here: a\u{fffd}[2J"]);
    assert!(!errors.to_string().contains('\u{1b}'));
}

#[test]
fn what_may_be_a_value_is_never_shown() {
    for lines in [
        "  a: { path: /a, from: ci:A, value: hunter2 }",
        "  a: { path: /a, from: ci:A, value: hunter2, mode: 0400 }",
        "  a: { mode: 0400, password: \"hunter2\", path: /a, from: ci:A }",
        "  a: { mode: 0400, wifi_psk: [hunter2, hunter2], path: /a, from: ci:A }",
        "  a: { path: /a, from: ci:A, pasword: hunter2 }",
        "  a: { path: /a, from: ci:A, secret: { nested: hunter2 } }",
        "  a: { path: /a, from: hunter2 }",
        "  a: hunter2",
        "  a: [hunter2]",
        "  hunter: { path: x, from: ci:A, token: >-\n    hunter2 }",
        "  a:\n    path: /a\n    value: |\n      hunter2\n     hunter2\n",
        "  a:\n    path: /a\n    password: \"hunter2",
        "  a: { path: /a, value: hunter2",
        "  a:\n    password: a: hunter2",
        "  a:\n    password: 'a' hunter2",
        "  a:\n    password:\n      - hunter2\n      - hunter2: hunter2: x",
        "  a:\n    colour: { password: hunter2 }",
    ] {
        let shown = parse(&with_secrets(lines)).unwrap_err().to_string();
        assert!(!shown.contains("hunter2"), "{lines}\n{shown}");
        assert!(shown.starts_with("error: dir/secrets.yaml:"), "{shown}");
    }
    assert!(!parse("version: 1\nsecrets: hunter2\n").unwrap_err().to_string().contains("hunter2"));
    assert!(!parse("version: 1\npasswords: {a: hunter2}\n").unwrap_err().to_string().contains("hunter2"));
    // Text that cannot be a value is shown.
    let shown = parse(&with_secrets("  a: { path: /a, from: ci:A, colour: red }")).unwrap_err().to_string();
    assert!(shown.contains("colour: red }"), "{shown}");
}

#[test]
fn an_address_with_a_port_or_in_parts_is_shown_in_its_right_form() {
    for (host, want) in [
        ("ssh: 'root@10.0.0.1:22'", "write `ssh://root@10.0.0.1:22`"),
        ("ssh: 'node1:2222'", "write `ssh://node1:2222`"),
        ("ssh: 'root@[::1]:22'", "write `ssh://root@[::1]:22`"),
        ("ssh: 'a:b'", "`user@address`, `ssh://user@address:port`, or a name from your ssh configuration"),
        ("ssh: { user: root }", values::ADDRESS_IN_PARTS),
        ("port: 22", values::ADDRESS_IN_PARTS),
        ("user: root", values::ADDRESS_IN_PARTS),
        ("address: 10.0.0.1", values::ADDRESS_IN_PARTS),
        ("hostname: node1", values::ADDRESS_IN_PARTS),
        ("ansible_host: node1", values::ADDRESS_IN_PARTS),
        ("targetHost: node1", values::ADDRESS_IN_PARTS),
    ] {
        let errors = parse(&format!("version: 1\nhosts: {{ n: {{ {host} }} }}\n")).unwrap_err();
        assert_eq!(errors.problems()[0].hint.as_deref(), Some(want), "{host}");
    }
    for host in ["root@fe80::1", "::1", "ssh://root@[::1]:22", "node1", "a@b"] {
        assert!(parse(&format!("version: 1\nhosts: {{ n: {{ ssh: '{host}' }} }}\n")).is_ok(), "{host}");
    }
}

#[test]
fn a_list_is_shown_in_the_form_of_what_is_written_without_a_possible_value() {
    for (keys, want) in [
        ("run_after: echo hunter2", "write `run_after: [[echo, …]]`: no shell runs it"),
        ("run_after: reboot", "write `run_after: [[reboot]]`: no shell runs it"),
        ("run_after: hunter2", "write `run_after: [[PROGRAM, …]]`: no shell runs it"),
        ("run_after: [echo, hunter2]", "write `run_after: [[echo, …]]`: no shell runs it"),
        ("run_after: [echo hunter2, /bin/sync]", "write `run_after: [[echo, …], [/bin/sync]]`: no shell runs it"),
        ("run_after: 'echo hunter2 | logger'", "write `run_after: [[sh, -c, …]]`: no shell runs it"),
        ("health: test -f hunter2", "write `health: { command: [test, …] }`: no shell runs it"),
        ("health: [test, -f, hunter2]", "write `health: { command: [test, …] }`: no shell runs it"),
        ("health: { command: test hunter2 }", "write `command: [test, …]`: no shell runs it"),
        ("hosts: node1", "write `hosts: [node1]`"),
        ("hosts: 'node1, tag:server'", "write `hosts: [node1, tag:server]`"),
    ] {
        let errors = parse(&with_secrets(&format!("  a: {{ path: /a, from: ci:A, {keys} }}"))).unwrap_err();
        let [problem] = errors.problems() else { panic!("{keys}: one problem\n{errors}") };
        assert_eq!(problem.hint.as_deref(), Some(want), "{keys}");
        assert!(!errors.to_string().contains("hunter2"), "{errors}");
    }
}

#[test]
fn a_line_that_is_indented_too_little_or_too_much_is_one_problem_at_the_line() {
    // The mark precedes the line's first word: `<` for too little, `>` for too much.
    let secrets = |text: &str| format!("version: 1\nsecrets:\n{text}");
    for text in [
        secrets("  a:\n  <path: /a\n  from: env:A\n"),
        secrets("  a:\n    path: /a\n  <from: env:A\n"),
        secrets("  a:\n    path: /a\n  <hosts: [n]\n"),
        secrets("  a:\n    path: /a\n   <from: env:A\n"),
        secrets("  a:\n      path: /a\n    <from: env:A\n"),
        secrets("  a:\n    path: /a\n<from: env:A\n"),
        secrets("<a:\n  path: /a\n  from: env:A\n"),
        secrets("  a:\n    path: /a\n      >from: env:A\n"),
        secrets("  a:\n    path: /a\n     >from: env:A\n"),
        secrets("  a:\n    path: \"/a\"\n      >from: env:A\n"),
        secrets("  a:\n    hosts: [n]\n      >path: /a\n"),
        secrets("  a:\n    path: /a\n    from: env:A\n   >b:\n    path: /b\n"),
        secrets("  a:\n    path: /a\n    from: env:A\n    >b:\n      path: /b\n      from: env:A\n"),
        secrets("  a:\n    path: /a\n    from: env:A\n  >hosts:\n    n: { ssh: a }\n"),
        secrets("  a:\n    path: /a\n    from: env:A\n    run_after:\n    - [b]\n     >- [c]\n"),
        "version: 1\nhosts:\n  n:\n  <ssh: a\n".to_owned(),
        "version: 1\nhosts:\n  n:\n    tags: [a]\n    >m:\n      ssh: b\n".to_owned(),
        "version: 1\nsources:\n  v:\n  <type: bitwarden\n  path: x\n".to_owned(),
        " version: 1\n<secrets: {}\n".to_owned(),
    ] {
        let at = text.find(['<', '>']).unwrap();
        let want = match &text[at..=at] {
            "<" => "is this line indented too little?",
            _ => "is this line indented too much?",
        };
        let (line, column) = (text[..at].matches('\n').count() + 1, at - text[..at].rfind('\n').unwrap());
        let errors = parse(&text.replacen(['<', '>'], "", 1)).unwrap_err();
        let [problem] = errors.problems() else { panic!("{text}: one problem\n{errors}") };
        let location = problem.location.unwrap();
        assert_eq!((location.line, location.column, problem.message.as_str()), (line, column, want), "{text}");
    }
}

#[test]
fn names_that_are_also_keys_are_no_matter_of_indentation() {
    let text = "version: 1\nsources:\n  type: { type: file, path: x }\nsecrets:\n  \
                path: { path: /a, from: 'type:A' }\n  hosts: { path: /b, from: 'type:B', hosts: [ssh] }\nhosts:\n  \
                tags:\n  ssh: { ssh: a }\n  secrets: {}\n";
    parse(text).unwrap();
}
