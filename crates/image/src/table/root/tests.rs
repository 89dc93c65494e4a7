use deaddrop_core::error::{Hint, Remedy};

use super::*;
use crate::table::probe::Probe;

fn partition(number: u32, kind: Option<ContentKind>, label: &str) -> Partition {
    let label = (!label.is_empty()).then(|| label.to_owned());
    Partition {
        number: Some(number),
        start: u64::from(number) << 20,
        size: 1 << 20,
        type_name: Some("Linux"),
        type_id: Some("0x83".to_owned()),
        file_system: kind.map(|kind| Probe { kind, label, uuid: None, size: None, used: None }),
        ..Partition::default()
    }
}

const ROOT: &str = "4f68bce3-e8cd-4db1-96e7-fbcaf984b709";

fn typed(number: u32, kind: Option<ContentKind>, id: &str) -> Partition {
    Partition { type_id: Some(id.to_owned()), ..partition(number, kind, "") }
}

fn table(partitions: Vec<Partition>) -> Table {
    Table { kind: TableKind::Gpt, sector_size: 512, id: None, notes: Vec::new(), partitions }
}

/// The number and the reason, or the error's first line.
fn chosen(table: &Table, asked: Option<&str>, stores: &[u32]) -> Result<(u32, Reason), String> {
    let look = |p: &Partition| Ok(if stores.contains(&p.number.unwrap()) { TreeKind::Store } else { TreeKind::Root });
    match choose(table, asked, Backend::Native, &look, "x.img") {
        Ok(root) => Ok((root.partition.number.unwrap(), root.reason)),
        Err(e) => Err(e.to_string().lines().next().unwrap().to_owned()),
    }
}

#[test]
fn the_root_is_chosen_by_label_then_by_store_then_by_type_then_because_it_is_alone() {
    use ContentKind::{Btrfs, Ext4, Vfat};
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
            Err(
                "x.img: no root found: 2 partitions may hold it, none of them with a label of NixOS, with /nix/store, \
                 or alone with the type of a root",
            ),
        ),
        (
            "one of unknown content besides",
            vec![partition(1, Some(Ext4), "boot"), partition(2, None, "")],
            None,
            &[],
            Err(
                "x.img: no root found: 2 partitions may hold it, none of them with a label of NixOS, with /nix/store, \
                 or alone with the type of a root",
            ),
        ),
        (
            "unknown content that is no root, by its type",
            vec![partition(1, Some(Ext4), "a"), typed(2, None, "0x82"), typed(3, None, "0xef"), typed(4, None, "0x41")],
            None,
            &[],
            Ok((1, Reason::Only)),
        ),
        (
            "the same in a GPT",
            vec![
                typed(1, None, "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"),
                typed(2, None, "21686148-6449-6e6f-744e-656564454649"),
                typed(3, None, "9e1a2d38-c612-4316-aa26-8b49521e5a8b"),
                typed(4, None, "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f"),
                typed(5, None, "e3c9e316-0b5c-4db8-817d-f92df00215ae"),
                typed(6, Some(Ext4), "bc13c2ff-59e6-4262-a352-b275fd6f7172"),
                partition(7, Some(Ext4), ""),
            ],
            None,
            &[],
            Ok((7, Reason::Only)),
        ),
        (
            "an extended boot partition is no root",
            vec![typed(1, Some(Ext4), "0xea")],
            None,
            &[1],
            Err("x.img: no root found: no Linux file system"),
        ),
        ("but when it is asked for", vec![typed(1, Some(Ext4), "0xea")], Some("1"), &[], Ok((1, Reason::Asked))),
        (
            "type",
            vec![partition(1, Some(Ext4), "a"), typed(2, Some(Ext4), ROOT), partition(3, None, "")],
            None,
            &[],
            Ok((2, Reason::Type)),
        ),
        (
            "the store goes before the type",
            vec![partition(1, Some(Ext4), "a"), typed(2, Some(Ext4), ROOT)],
            None,
            &[1],
            Ok((1, Reason::Store)),
        ),
        (
            "two of the type",
            vec![typed(1, Some(Ext4), ROOT), typed(2, Some(Ext4), "b921b045-1df0-41c3-af44-4c6f280d3fae")],
            None,
            &[],
            Err(
                "x.img: no root found: 2 partitions may hold it, none of them with a label of NixOS, with /nix/store, \
                 or alone with the type of a root",
            ),
        ),
        (
            "the type, and nothing is known of it",
            vec![partition(1, Some(Ext4), "a"), typed(2, None, ROOT)],
            None,
            &[],
            Err("x.img: partition 2 holds no file system that is known"),
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
            vec![partition(2, Some(ContentKind::Luks), "")],
            None,
            &[],
            Err("x.img: the root is partition 2 (LUKS), and LUKS cannot be written"),
        ),
    ] {
        assert_eq!(chosen(&table(partitions), asked, stores), want.map_err(str::to_owned), "{name}");
    }
}

#[test]
fn of_a_root_that_is_only_alone_or_of_its_type_the_look_is_asked() {
    let choose =
        |table: &Table, asked, look: InspectPartition<'_>| choose(table, asked, Backend::Native, look, "x.img");
    let other: InspectPartition<'_> = &|_| Ok(TreeKind::Other);
    let feature: InspectPartition<'_> = &|_| Err(StorageError::unsupported("ext4 feature `bigalloc`", "hint"));
    let labelled = vec![partition(1, Some(ContentKind::Ext4), "nixos")];
    assert_eq!(choose(&table(labelled), None, other).unwrap().reason, Reason::Label);
    for alone in [partition(1, Some(ContentKind::Ext4), ""), typed(1, Some(ContentKind::Ext4), ROOT)] {
        let mut alone = table(vec![alone]);
        let error = choose(&alone, None, other).unwrap_err();
        assert!(error.to_string().contains("does not look like a root"), "{error}");
        assert!(matches!(error.hint(), Some(Hint::Remedy(Remedy::ConfirmRoot { number: Some(_) }))), "{error}");
        assert_eq!(choose(&alone, None, feature).unwrap_err().to_string(), "ext4 feature `bigalloc`");
        assert!(!choose(&alone, None, &|_| Ok(TreeKind::Unknown)).unwrap().doubtful);
        assert!(!choose(&alone, Some("1"), &|_| panic!("must not be read")).unwrap().doubtful);
        // A whole image is used without a check, but the doubt is reported.
        alone.kind = TableKind::None;
        assert!(choose(&alone, None, other).unwrap().doubtful);
        assert!(!choose(&alone, None, &|_| Ok(TreeKind::Root)).unwrap().doubtful);
    }
}

#[test]
fn every_error_lists_what_is_there() {
    let mut partitions = vec![partition(1, Some(ContentKind::Vfat), "ESP"), partition(2, Some(ContentKind::Swap), "")];
    partitions[1].problem = Some("it ends at 4 GiB".to_owned());
    let error = choose(&table(partitions), None, Backend::Native, &|_| Ok(TreeKind::Unknown), "x.img").unwrap_err();
    let lines: Vec<String> = error.to_string().lines().map(str::to_owned).collect();
    assert_eq!(lines[1], "  1       1 MiB  Linux                  vfat       ESP");
    assert_eq!(lines[2], "  2       1 MiB  Linux                  swap         (it ends at 4 GiB)");
    assert!(error.hint().is_some());
}

#[test]
fn a_root_that_is_not_wholly_in_the_image_is_refused_with_the_reason() {
    let mut root = partition(2, Some(ContentKind::Ext4), "nixos");
    root.problem = Some("it ends at 4 GiB, and the image at 1 GiB: the image is truncated".to_owned());
    let error =
        choose(&table(vec![root]), None, Backend::Native, &|_| panic!("must not be read"), "x.img").unwrap_err();
    let want = "x.img: partition 2 (ext4, nixos) cannot be used: it ends at 4 GiB, and the image at 1 GiB: \
                the image is truncated";
    assert_eq!(error.to_string(), want);
}

#[test]
fn a_gpt_name_is_asked_for_when_no_label_fits() {
    let mut root = partition(2, Some(ContentKind::Ext4), "");
    root.name = Some("primary".to_owned());
    assert_eq!(
        chosen(&table(vec![partition(1, Some(ContentKind::Ext4), "a"), root]), Some("primary"), &[]),
        Ok((2, Reason::Asked))
    );
}

#[test]
fn what_is_mounted_at_nix_is_chosen_where_nothing_else_may_be_the_root() {
    use ContentKind::{Ext4, Luks};
    let nix = || partition(2, Some(Ext4), "nix");
    for (name, partitions, kinds, want) in [
        ("alone", vec![nix()], &[(2, TreeKind::BelowNix)][..], Some((2, Reason::Store))),
        (
            "beside data",
            vec![nix(), partition(3, Some(Ext4), "persist")],
            &[(2, TreeKind::BelowNix), (3, TreeKind::Other)],
            Some((2, Reason::Store)),
        ),
        (
            "beside a root",
            vec![nix(), partition(3, Some(Ext4), "root")],
            &[(2, TreeKind::BelowNix), (3, TreeKind::Root)],
            None,
        ),
        (
            "beside what cannot be read",
            vec![nix(), partition(3, Some(Luks), "")],
            &[(2, TreeKind::BelowNix), (3, TreeKind::Unknown)],
            None,
        ),
        (
            "beside a root with the store",
            vec![nix(), partition(3, Some(Ext4), "a")],
            &[(2, TreeKind::BelowNix), (3, TreeKind::Store)],
            Some((3, Reason::Store)),
        ),
        (
            "beside a root by its type",
            vec![nix(), typed(3, Some(Ext4), ROOT)],
            &[(2, TreeKind::BelowNix), (3, TreeKind::Other)],
            None,
        ),
    ] {
        let look = |p: &Partition| {
            let (_, kind) = kinds.iter().find(|(number, _)| Some(*number) == p.number).unwrap();
            Ok(*kind)
        };
        let root = choose(&table(partitions), None, Backend::Native, &look, "x.img").ok();
        let root = root.map(|root| (root.partition.number.unwrap(), root.reason));
        assert_eq!(root, want, "{name}");
    }
}
