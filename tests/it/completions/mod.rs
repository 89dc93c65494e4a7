//! Completions of the command line: in the shells themselves, and as the program answers.

mod answers;
mod shells;

use std::fs;

use crate::kit::Scratch;

/// A scratch directory with a manifest, images, and names that a shell must not run.
fn scratch() -> Scratch {
    let scratch = Scratch::new();
    scratch.write(
        "secrets.yaml",
        "version: 1
sources: { vault: { type: bitwarden, path: vault.json } }
secrets: { wifi: { path: /etc/wifi, from: env:A }, login: { path: /etc/login, from: env:A } }
hosts:
  alpha: { ssh: root@192.0.2.1, tags: [server, edge] }
  beta: { ssh: root@192.0.2.2, tags: [server] }
  '$(touch ran)': { tags: ['`touch ran`'] }
  'two words': {}
",
    );
    scratch.write("other.json", r#"{"version": 1, "hosts": {"gamma": null}}"#);
    fs::create_dir_all(scratch.join("result")).unwrap();
    fs::create_dir_all(scratch.join("home")).unwrap();
    for file in ["a.img", "old disk.img.zst", "$(touch ran).img", "q'`touch ran`\".img", "result/x.qcow2", "home/h.img"]
    {
        scratch.write(file, "");
    }
    scratch.write("home/m.yaml", "hosts: { delta: }\n");
    scratch.write("notes.txt", "");
    scratch
}
