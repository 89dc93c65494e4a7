//! A manifest of secrets with random values, for one node.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::kit::Scratch;
use crate::kit::canary::Canary;
use crate::kit::node::{Node, NodeBuilder, deaddrop};
use crate::kit::run::{Deaddrop, Finished};

/// Secrets whose values are files beside the manifest.
pub struct Job<'a> {
    pub scratch: &'a Scratch,
    /// Name, path, more keys (`, mode: …`), value.
    pub secrets: Vec<(String, String, String, Canary)>,
    /// Every value that there ever was.
    pub planted: Vec<Canary>,
    /// What stands under `hosts`.
    pub hosts: String,
}

impl<'a> Job<'a> {
    pub fn new(scratch: &'a Scratch) -> Self {
        let hosts = "  node1: { ssh: node1 }\n".to_owned();
        Self { scratch, secrets: Vec::new(), planted: Vec::new(), hosts }
    }

    /// Adds a secret with a new value; `more` are keys for it, with a comma before them.
    pub fn add(&mut self, name: &str, path: &str, more: &str) -> &mut Self {
        let value = Canary::new(name);
        self.write_value(name, &value);
        self.secrets.push((name.to_owned(), path.to_owned(), more.to_owned(), value));
        self.write()
    }

    /// The host's keys.
    pub fn host(&mut self, keys: &str) -> &mut Self {
        self.hosts = format!("  node1: {{ {keys} }}\n");
        self.write()
    }

    /// Gives a secret a new value.
    pub fn change(&mut self, name: &str) -> &mut Self {
        let value = Canary::new(name);
        self.write_value(name, &value);
        self.secrets.iter_mut().find(|(secret, ..)| secret == name).expect("it is there").3 = value;
        self
    }

    /// Gives every secret a new value.
    pub fn change_all(&mut self) -> &mut Self {
        let names: Vec<String> = self.secrets.iter().map(|(name, ..)| name.clone()).collect();
        for name in names {
            self.change(&name);
        }
        self
    }

    /// Other keys for a secret.
    pub fn with(&mut self, name: &str, more: &str) -> &mut Self {
        self.secrets.iter_mut().find(|(secret, ..)| secret == name).expect("it is there").2 = more.to_owned();
        self.write()
    }

    fn write_value(&mut self, name: &str, value: &Canary) {
        self.planted.push(value.clone());
        let values = self.scratch.join("values");
        fs::create_dir_all(&values).expect("making a directory of ours");
        fs::write(values.join(name), value.bytes()).expect("writing a file of ours");
    }

    fn write(&mut self) -> &mut Self {
        let mut text = String::from("version: 1\nsecrets:\n");
        for (name, path, more, _) in &self.secrets {
            let path = serde_json::to_string(path).expect("text is JSON");
            let _ = writeln!(text, "  {name}: {{ path: {path}, from: 'file:values/{name}'{more} }}");
        }
        let _ = write!(text, "hosts:\n{}", self.hosts);
        self.scratch.write("secrets.yaml", text);
        self
    }

    /// A run with these arguments, every value planted.
    pub fn deaddrop(&self, args: &[&str]) -> Deaddrop<'a> {
        self.planted.iter().fold(deaddrop(self.scratch, args), Deaddrop::plant)
    }

    pub fn rotate(&self) -> Finished {
        self.deaddrop(&["rotate", "node1"]).run()
    }

    /// The content of each secret's file on the node, as `new`, `old` (another value that was planted), `none` or `?`.
    pub fn states(&self, node: &Node) -> Vec<&'static str> {
        let state = |(name, path, _, value): &(String, String, String, Canary)| match fs::read(node.at(path)) {
            Err(_) => "none",
            Ok(bytes) if bytes == value.bytes() => "new",
            Ok(bytes) if self.planted.iter().any(|old| old.bytes() == bytes) => "old",
            Ok(bytes) => panic!("{name}: {} bytes that are neither", bytes.len()),
        };
        self.secrets.iter().map(state).collect()
    }

    /// All files are as declared, and nothing else of ours is there.
    #[track_caller]
    pub fn assert_in_place(&self, node: &Node) {
        assert!(self.states(node).iter().all(|state| *state == "new"), "{:?}", self.states(node));
        node.assert_clean();
    }
}

/// On a node of each shell.
pub fn each_shell(test: impl Fn(&Scratch, NodeBuilder)) {
    let node = || NodeBuilder::new("node1");
    for builder in [node().shell("/usr/bin/dash"), node().shell("/usr/bin/bash"), node().busybox()] {
        test(&Scratch::new(), builder);
    }
}

/// Nothing on the node was written since. Panics with what was.
#[track_caller]
pub fn assert_untouched(node: &Node, before: &[Touched]) {
    let after = everything(node);
    let changed: Vec<&Touched> = after
        .iter()
        .filter(|now| !before.contains(now))
        .chain(before.iter().filter(|was| !after.contains(was)))
        .collect();
    assert!(changed.is_empty(), "{changed:#?}");
}

/// Path, inode, change time and size.
pub type Touched = (String, u64, i64, i64, u64);

/// Inode, change time and size of everything on a node.
pub fn everything(node: &Node) -> Vec<Touched> {
    let mut all = Vec::new();
    let mut rest = vec![node.root.clone()];
    while let Some(dir) = rest.pop() {
        for entry in fs::read_dir(dir).expect("listing a directory of the node").flatten() {
            let data = entry.metadata().expect("looking at a file of the node");
            let path = entry.path();
            // The stand-in for systemctl notes that it was asked.
            if path.ends_with("srv") {
                continue;
            }
            all.push((path.display().to_string(), data.ino(), data.ctime(), data.ctime_nsec(), data.size()));
            if data.is_dir() {
                rest.push(path);
            }
        }
    }
    all.sort();
    all
}

/// Mode with the kind, owner and group.
pub fn mode_and_owner(node: &Node, path: &str) -> (u32, u32, u32) {
    let data = fs::symlink_metadata(node.at(path)).expect("it stands");
    (data.mode(), data.uid(), data.gid())
}
