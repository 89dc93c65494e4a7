//! Stores and files that other programs encrypt, read by the whole program, and put into a directory: pass with the
//! real `pass` and `gpg`, gopass's layout by `gpg`, passage's by `age`, sops by the real `sops`.

mod gpg;
mod passage;
mod sops;

use std::fs;

use crate::kit::Scratch;
use crate::kit::run::{Deaddrop, Finished};

/// A run that puts the wanted values into the directory `root`, each a file. `sources` is YAML of one line; a wanted
/// value is `SOURCE:ITEM[#FIELD]`.
pub fn inject<'s>(scratch: &'s Scratch, sources: &str, wanted: &[&str]) -> Deaddrop<'s> {
    let mut manifest = format!("version: 1\nsources: {sources}\nsecrets:\n");
    for (index, wanted) in wanted.iter().enumerate() {
        let (source, item) = wanted.split_once(':').expect("SOURCE:ITEM");
        let (item, field) = item.split_once('#').map_or((item, String::new()), |(item, field)| {
            (item, format!(", field: {}", serde_json::to_string(field).expect("JSON of a text")))
        });
        let item = serde_json::to_string(item).expect("JSON of a text");
        manifest += &format!(
            "  s{index}: {{ path: /etc/s/s{index}, from: {{ source: {source}, item: {item}{field} }}, allow_empty: \
             true }}\n"
        );
    }
    scratch.write("secrets.yaml", manifest);
    let _ = fs::remove_dir_all(scratch.join("root"));
    fs::create_dir_all(scratch.join("root/etc")).expect("making a root");
    Deaddrop::new(scratch).args(["inject", "root"])
}

/// The values that a run of [`inject`] has put there.
pub fn values(scratch: &Scratch, run: Finished, count: usize) -> Vec<String> {
    run.expect_code(0);
    let read = |index| fs::read(scratch.join(format!("root/etc/s/s{index}"))).expect("a secret");
    (0..count).map(|index| String::from_utf8(read(index)).expect("text")).collect()
}
