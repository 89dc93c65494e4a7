//! What is made of values, and what values must be, from outside: templates read back by the programs that such files
//! are for, references with the host's name in them, encodings, expectations, formats, warnings. And every example of
//! docs/templates.md.

mod again;
mod examples;
mod hosts;
mod limits;
mod quoting;
mod readers;
mod refusals;
mod ssh_keys;
mod template_errors;
mod warnings;

use std::fs;
use std::path::PathBuf;

use crate::kit::Scratch;
use crate::kit::run::Deaddrop;

/// A directory `root` as the target, and a manifest; values are files below `values`.
struct Place {
    scratch: Scratch,
}

impl Place {
    /// With this manifest, without its first line (`version: 1`).
    fn new(manifest: &str) -> Self {
        let scratch = Scratch::new();
        for directory in ["root/etc", "values"] {
            fs::create_dir_all(scratch.join(directory)).expect("making a directory of ours");
        }
        let place = Self { scratch };
        place.declare(manifest);
        place
    }

    /// Writes another manifest.
    fn declare(&self, manifest: &str) {
        self.scratch.write("secrets.yaml", format!("version: 1\n{manifest}"));
    }

    /// The value of `file:values/NAME`.
    fn value(&self, name: &str, value: impl AsRef<[u8]>) -> &Self {
        self.scratch.write(format!("values/{name}"), value);
        self
    }

    /// A run of these words.
    fn run(&self, args: &[&str]) -> Deaddrop<'_> {
        Deaddrop::new(&self.scratch).args(args)
    }

    /// The place in this system of a path in the target.
    fn at(&self, path: &str) -> PathBuf {
        self.scratch.join("root").join(path.trim_start_matches('/'))
    }

    /// What a file of the target holds.
    fn read(&self, path: &str) -> String {
        let bytes = fs::read(self.at(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        String::from_utf8(bytes).expect("text")
    }
}
