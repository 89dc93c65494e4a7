use super::*;
use crate::image::probe::Probe;

fn partition(number: u32, kind: Option<Kind>, label: &str) -> Partition {
    let label = (!label.is_empty()).then(|| label.to_owned());
    Partition {
        number: Some(number),
        start: u64::from(number) << 20,
        size: 1 << 20,
        type_name: Some("Linux"),
        type_id: Some("0x83".to_owned()),
        uuid: None,
        name: None,
        bootable: false,
        file_system: kind.map(|kind| Probe { kind, label, uuid: None, size: None, used: None }),
        problem: None,
    }
}

fn table(partitions: Vec<Partition>) -> Table {
    Table { kind: TableKind::Gpt, sector_size: 512, id: None, notes: Vec::new(), partitions }
}

/// The number and the reason, or the error's first line.
fn chosen(table: &Table, asked: Option<&str>, stores: &[u32]) -> Result<(u32, Reason), String> {
    let holds_store = |p: &Partition| stores.contains(&p.number.unwrap());
    match choose(table, asked, Backend::Native, &holds_store, "x.img") {
        Ok(root) => Ok((root.partition.number.unwrap(), root.reason)),
        Err(e) => Err(e.to_string().lines().next().unwrap().to_owned()),
    }
}

#[test]
fn the_root_is_chosen_by_label_then_by_store_then_because_it_is_alone() {
    use Kind::{Btrfs, Ext4, Vfat};
    let esp = || partition(1, Some(Vfat), "ESP");
    for (name, partitions, asked, stores, want) in [
        (
            "label",
            vec![esp(), partition(2, Some(Ext4), "nixos"), partition(3, Some(Ext4), "data")],
            None,
            &[3][..],
            Ok((2, Reason::Label)),
        ),
        ("sd label", vec![esp(), partition(2, Some(Ext4), "NIXOS_SD")], None, &[], Ok((2, Reason::Label))),
        (
            "an ESP is no root, whatever its label",
            vec![partition(1, Some(Vfat), "nixos"), partition(2, Some(Ext4), "a")],
            None,
            &[],
            Ok((2, Reason::Only)),
        ),
        (
            "store",
            vec![partition(1, Some(Ext4), "a"), partition(2, Some(Ext4), "b")],
            None,
            &[2],
            Ok((2, Reason::Store)),
        ),
        ("only", vec![esp(), partition(2, Some(Ext4), "")], None, &[], Ok((2, Reason::Only))),
        (
            "asked by number",
            vec![esp(), partition(2, Some(Ext4), "nixos"), partition(3, Some(Ext4), "b")],
            Some("3"),
            &[],
            Ok((3, Reason::Asked)),
        ),
        (
            "asked by label",
            vec![partition(2, Some(Ext4), "nixos"), partition(3, Some(Ext4), "b")],
            Some("b"),
            &[],
            Ok((3, Reason::Asked)),
        ),
        (
            "two labels",
            vec![partition(1, Some(Ext4), "nixos"), partition(2, Some(Ext4), "NIXOS_SD")],
            None,
            &[],
            Err("x.img: 2 partitions have the label of a NixOS root"),
        ),
        (
            "two stores",
            vec![partition(1, Some(Ext4), "a"), partition(2, Some(Ext4), "b")],
            None,
            &[1, 2],
            Err("x.img: 2 partitions hold /nix/store"),
        ),
        (
            "two, no store",
            vec![partition(1, Some(Ext4), "a"), partition(2, Some(Btrfs), "b")],
            None,
            &[],
            Err("x.img: no root found: 2 Linux file systems, none of them with a label of NixOS or with /nix/store"),
        ),
        ("nothing", vec![esp()], None, &[], Err("x.img: no root found: no Linux file system")),
        ("empty table", vec![], None, &[], Err("x.img: no root found: no Linux file system")),
        ("asked for what is not there", vec![esp()], Some("7"), &[], Err("x.img: there is no partition `7`")),
        (
            "asked for a label that two have",
            vec![partition(1, Some(Ext4), "a"), partition(2, Some(Ext4), "a")],
            Some("a"),
            &[],
            Err("x.img: 2 partitions are called `a`"),
        ),
        (
            "asked for an unknown one",
            vec![partition(1, None, "")],
            Some("1"),
            &[],
            Err("x.img: partition 1 holds no file system that is known"),
        ),
        (
            "btrfs root",
            vec![esp(), partition(2, Some(Btrfs), "nixos")],
            None,
            &[],
            Err("x.img: the root is partition 2 (btrfs, nixos), and btrfs cannot be written"),
        ),
        (
            "asked for the ESP",
            vec![esp()],
            Some("ESP"),
            &[],
            Err("x.img: the root is partition 1 (vfat, ESP), and vfat cannot be written"),
        ),
        (
            "LUKS root",
            vec![partition(2, Some(Kind::Luks), "")],
            None,
            &[],
            Err("x.img: the root is partition 2 (LUKS), and LUKS cannot be written"),
        ),
    ] {
        assert_eq!(chosen(&table(partitions), asked, stores), want.map_err(str::to_owned), "{name}");
    }
}

#[test]
fn every_error_lists_what_is_there() {
    let mut partitions = vec![partition(1, Some(Kind::Vfat), "ESP"), partition(2, Some(Kind::Swap), "")];
    partitions[1].problem = Some("it ends at 4 GiB".to_owned());
    let error = choose(&table(partitions), None, Backend::Native, &|_| false, "x.img").unwrap_err();
    let lines: Vec<String> = error.to_string().lines().map(str::to_owned).collect();
    assert_eq!(lines[1], "  1       1 MiB  Linux                  vfat       ESP");
    assert_eq!(lines[2], "  2       1 MiB  Linux                  swap         (it ends at 4 GiB)");
    assert!(error.hint().is_some());
}

#[test]
fn a_root_that_is_not_wholly_in_the_image_is_refused_with_the_reason() {
    let mut root = partition(2, Some(Kind::Ext4), "nixos");
    root.problem = Some("it ends at 4 GiB, and the image at 1 GiB: the image is truncated".to_owned());
    let error =
        choose(&table(vec![root]), None, Backend::Native, &|_| panic!("must not be read"), "x.img").unwrap_err();
    let want = "x.img: partition 2 (ext4, nixos) cannot be used: it ends at 4 GiB, and the image at 1 GiB: \
                the image is truncated";
    assert_eq!(error.to_string(), want);
}

#[test]
fn a_gpt_name_is_asked_for_when_no_label_fits() {
    let mut root = partition(2, Some(Kind::Ext4), "");
    root.name = Some("primary".to_owned());
    assert_eq!(
        chosen(&table(vec![partition(1, Some(Kind::Ext4), "a"), root]), Some("primary"), &[]),
        Ok((2, Reason::Asked))
    );
}
