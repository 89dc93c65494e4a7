//! What `inspect` says of the NixOS in an image.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::kit::Scratch;
use crate::kit::ext4::Image;
use crate::kit::images::{RAW_EFI, SD};
use crate::kit::nixos::{LABEL, NixosRoot};
use crate::kit::run::Deaddrop;

/// The last line of `inspect IMAGE`, and what its JSON says of NixOS.
fn inspect(image: &Path) -> (String, Value) {
    let scratch = Scratch::new();
    let run = |args: &[&str]| Deaddrop::new(&scratch).args(args).run().expect_code(0);
    let image = image.to_str().unwrap();
    let text = run(&["inspect", image]).stdout();
    let mut json = run(&["inspect", image, "--json"]).json();
    (text.lines().last().unwrap().to_owned(), json["nixos"].take())
}

/// An image that is one ext4 with this content.
fn image_of(top: &Path) -> Image {
    Image::make("-t ext4 -L root", "16M", Some(top))
}

#[test]
fn the_last_line_names_the_system_and_its_generation() {
    for (layout, generation, end) in [(RAW_EFI, Some(1), ", generation 1"), (SD, None, "")] {
        let name = "nixos-system-node1-25.11.20251104.a1b2c3d";
        let want = (format!("NixOS: {name}{end}"), json!({ "name": name, "generation": generation }));
        assert_eq!(inspect(&layout.compressed()), want, "{}", layout.name);
    }
    let scratch = Scratch::new();
    let root = NixosRoot::new(&scratch);
    root.generation(12);
    let want = format!("NixOS: nixos-system-node1-{LABEL}, generation 12");
    assert_eq!(inspect(&image_of(root.path()).path).0, want);
}

#[test]
fn what_is_mounted_at_nix_is_read_as_a_root() {
    let scratch = Scratch::new();
    let root = NixosRoot::new(&scratch);
    root.only_nix();
    let want = format!("NixOS: nixos-system-node1-{LABEL}, generation 1");
    assert_eq!(inspect(&image_of(root.path()).path).0, want);
}

#[test]
fn a_system_that_cannot_be_chosen_says_why() {
    let scratch = Scratch::new();
    let root = NixosRoot::new(&scratch);
    root.without_profile();
    root.other_system("24.05.1.a", None);
    let (line, json) = inspect(&image_of(root.path()).path);
    assert!(line.starts_with("NixOS, not read: no profile and no boot loader names the system"), "{line}");
    assert!(json.is_null());
}

#[test]
fn an_image_without_nixos_has_no_such_line() {
    let scratch = Scratch::new();
    let top = scratch.join("debian");
    for directory in ["etc", "usr/bin", "nix/store/abc-hello"] {
        fs::create_dir_all(top.join(directory)).unwrap();
    }
    let (line, json) = inspect(&image_of(&top).path);
    assert!(line.starts_with("ext4: "), "{line}");
    assert!(json.is_null());
}
