//! What vendors' programs say of the files: their schemas, and node for Forgejo's comment.

use std::cell::OnceCell;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::thread;

use super::{file, text, yaml};
use crate::kit::canary::Canary;
use crate::kit::{Scratch, tool, wait_until};

fn judged_by(schema: &str, files: &[PathBuf]) -> Command {
    let mut command = Command::new("check-jsonschema");
    command.args(["--builtin-schema", schema]).args(files);
    command
}

#[test]
#[ignore = "needs check-jsonschema: TEST_STAGES=ci scripts/test"]
fn the_vendors_schemas_accept_the_files_and_would_not_accept_others() {
    for (schema, files) in [
        ("vendor.github-actions", vec!["action.yml"]),
        // Forgejo publishes none; its syntax is GitHub's.
        ("vendor.github-workflows", vec!["contrib/ci/github.yml", "contrib/ci/forgejo.yml"]),
        ("vendor.gitlab-ci", vec!["contrib/ci/gitlab.yml", "contrib/ci/gitlab-ci.yml"]),
    ] {
        let files: Vec<PathBuf> = files.iter().map(|name| file(name)).collect();
        tool(&mut judged_by(schema, &files));
    }
    let scratch = Scratch::new();
    let wrong = "name: x\ndescription: x\nruns: { using: composite, steps: [{ run: 'true' }] }\n";
    let wrong = scratch.write("action.yml", wrong);
    let output = judged_by("vendor.github-actions", &[wrong]).output().expect("starting check-jsonschema");
    assert_eq!(output.status.code(), Some(1), "a script without a shell is accepted");
}

/// One request that `listener` gets and answers with this status: its head, and its body.
fn request(listener: &TcpListener, status: &str) -> (String, serde_json::Value) {
    let connection = OnceCell::new();
    wait_until("node connects", || listener.accept().is_ok_and(|(stream, _)| connection.set(stream).is_ok()));
    let mut stream = connection.into_inner().expect("a connection");
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(reader.read_line(&mut head).expect("a request") > 0, "it ended early");
    }
    let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.expect("the length of the body")];
    reader.read_exact(&mut body).unwrap();
    write!(stream, "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{{}}").unwrap();
    (head, serde_json::from_slice(&body).expect("JSON"))
}

#[test]
#[ignore = "needs a node of 18 or newer: TEST_STAGES=ci scripts/test"]
fn forgejo_gets_the_plan_as_a_comment_and_a_refusal_fails_the_job() {
    let workflow = yaml("contrib/ci/forgejo.yml");
    let steps = workflow["jobs"]["plan"]["steps"].as_array().expect("steps");
    let step = steps.iter().find(|step| step["name"] == "comment").expect("the step");
    let mut names: Vec<&String> = step["env"].as_object().expect("variables").keys().collect();
    names.sort();
    assert_eq!(names, ["ISSUES", "NUMBER", "PLAN", "TOKEN"]);

    let token = Canary::new("token");
    let scratch = Scratch::new();
    let plan = scratch.write("plan", "node1, root@192.0.2.1\n\n  + /etc/secrets/```x\n");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let issues = format!("http://{}/api/v1/repos/me/homelab/issues", listener.local_addr().unwrap());
    let comment = |status: &str| -> (Output, String, serde_json::Value) {
        let mut bash = Command::new("bash");
        bash.args(["-eo", "pipefail", "-c", text(&step["run"])]).env("TOKEN", token.text()).env("PLAN", &plan);
        bash.env("ISSUES", &issues).env("NUMBER", "7");
        thread::scope(|scope| {
            let server = scope.spawn(|| request(&listener, status));
            let output = bash.output().expect("starting bash");
            let (head, body) = server.join().expect("a request");
            (output, head, body)
        })
    };
    let (output, head, body) = comment("201 Created");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(head.starts_with("POST /api/v1/repos/me/homelab/issues/7/comments HTTP/1.1\r\n"), "another request");
    assert!(head.contains(&format!("authorization: token {}\r\n", token.text())), "the token is missing");
    let want = "### deaddrop\n\n    node1, root@192.0.2.1\n    \n      + /etc/secrets/```x\n    ";
    assert_eq!(body, serde_json::json!({ "body": want }));

    let (output, _, _) = comment("403 Forbidden");
    let said = [output.stdout, output.stderr].concat();
    assert!(token.found_in(&said).is_none(), "the token is in the log");
    assert!(!output.status.success() && String::from_utf8_lossy(&said).contains("the comment was refused: 403"));
}
