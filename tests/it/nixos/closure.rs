//! The reader of a closure, on roots that imitate what NixOS makes; and on hostile ones, which must end with a word.

use std::fs::{self, File};

use deaddrop::nixos::closure::{self, Closure, Etc, Found, UserManagement};
use deaddrop_core::tree::directory::DirectoryTree;
use serde_json::json;

use crate::kit::Scratch;
use crate::kit::nixos::{HASH, LABEL, NixosRoot, Overlay, Users, store_path};

fn found(root: &NixosRoot, system: Option<&str>) -> Found {
    closure::read(&DirectoryTree::open(root.path()).unwrap(), system).unwrap()
}

#[track_caller]
fn read(root: &NixosRoot) -> Closure {
    match found(root, None) {
        Found::System(closure) => *closure,
        other => panic!("no system: {other:?}"),
    }
}

#[track_caller]
fn unreadable(root: &NixosRoot, system: Option<&str>) -> String {
    match found(root, system) {
        Found::Unreadable(why) => why,
        other => panic!("not unreadable: {other:?}"),
    }
}

/// A change of the root, its name, and what is then read.
type Row<W> = (&'static str, fn(&mut NixosRoot), W);

#[test]
fn a_plain_system_is_read_whole() {
    let scratch = Scratch::new();
    let root = NixosRoot::new(&scratch);
    let closure = read(&root);
    assert_eq!(closure.toplevel, root.toplevel());
    assert_eq!(closure.name, format!("nixos-system-node1-{LABEL}"));
    assert_eq!(closure.generation, Some(1));
    assert_eq!(closure.etc, Etc::Plain);
    assert_eq!(closure.users, UserManagement::Perl { mutable: true });
    assert_eq!(closure.unread, Vec::<String>::new());
    let [mount] = closure.mounts.as_slice() else { panic!("{:?}", closure.mounts) };
    assert_eq!((mount.what.as_str(), mount.place.as_str()), ("/dev/disk/by-label/nixos", "/"));
    assert!(mount.in_initrd() && !mount.is_bind() && !mount.is_tmpfs());
    let admin = closure.accounts.users.iter().find(|user| user.name == "admin").unwrap();
    assert_eq!((admin.uid, admin.group.as_str(), admin.home.as_str()), (Some(1000), "users", "/home/admin"));
    assert_eq!(admin.hashed_password_file.as_deref(), Some("/etc/secrets/admin-password"));
    let wifi = closure.accounts.users.iter().find(|user| user.name == "wpa_supplicant").unwrap();
    assert_eq!((wifi.uid, wifi.is_system), (None, true));
    assert_eq!(closure.accounts.groups.iter().map(|group| group.gid).collect::<Vec<_>>(), [Some(0), Some(100), None]);
}

#[test]
fn the_system_that_boots_is_found_in_each_kind_of_image() {
    let rows: [Row<Option<u32>>; 10] = [
        (
            "a profile that went on",
            |root| {
                root.generation(7);
            },
            Some(7),
        ),
        (
            "an SD image",
            |root| {
                root.never_booted();
            },
            None,
        ),
        (
            "systemd-boot",
            |root| {
                root.without_profile().systemd_boot(4, root.toplevel());
            },
            Some(4),
        ),
        (
            "systemd-boot and two systems",
            |root| {
                root.without_profile().systemd_boot(4, root.toplevel());
                root.other_system("24.05.1.a", None);
            },
            Some(4),
        ),
        (
            "grub and two systems",
            |root| {
                root.without_profile().grub(root.toplevel());
                root.other_system("24.05.1.a", None);
            },
            None,
        ),
        (
            "only the store",
            |root| {
                root.without_profile();
            },
            None,
        ),
        (
            "only the store, with a specialisation",
            |root| {
                root.without_profile();
                root.specialisation("desktop");
            },
            None,
        ),
        (
            "the file system of /nix",
            |root| {
                root.only_nix();
            },
            Some(1),
        ),
        (
            "the file system of /nix, never booted",
            |root| {
                root.never_booted().only_nix();
            },
            None,
        ),
        (
            "a boot loader that names no system",
            |root| {
                root.without_profile().write("/boot/extlinux/extlinux.conf", "DEFAULT x\nLABEL x\nAPPEND quiet\n");
            },
            None,
        ),
    ];
    for (name, change, generation) in rows {
        let scratch = Scratch::new();
        let mut root = NixosRoot::new(&scratch);
        change(&mut root);
        let closure = read(&root);
        assert_eq!(closure.toplevel, root.toplevel(), "{name}");
        assert_eq!(closure.generation, generation, "{name}");
        assert_eq!(closure.unread, Vec::<String>::new(), "{name}");
        assert_eq!((closure.mounts.len(), closure.accounts.users.len()), (1, 3), "{name}");
    }
}

#[test]
fn a_system_that_is_asked_for_is_read() {
    let scratch = Scratch::new();
    let root = NixosRoot::new(&scratch);
    let other = root.other_system("24.05.1.a", Some(3));
    let special = root.specialisation("desktop");
    for (path, toplevel, generation) in [
        (other.as_str(), &other, Some(3)),
        ("/nix/var/nix/profiles/system-3-link", &other, Some(3)),
        (&format!("{}/specialisation/desktop", root.toplevel()), &special, None),
        ("/nix/var/nix/profiles/system", &root.toplevel().to_owned(), Some(1)),
    ] {
        let Found::System(closure) = found(&root, Some(path)) else { panic!("{path}") };
        assert_eq!((&closure.toplevel, closure.generation), (toplevel, generation), "{path}");
    }
    for (path, why) in [
        ("/nix/store/none", "--system /nix/store/none: /nix/store/none is not there"),
        ("/nix/store", "--system /nix/store: /nix/store is no NixOS system"),
        ("result", "--system result: it is no absolute path"),
    ] {
        assert_eq!(unreadable(&root, Some(path)), why);
    }
}

#[test]
fn several_systems_and_nothing_that_chooses_are_named() {
    let scratch = Scratch::new();
    let root = NixosRoot::new(&scratch);
    root.without_profile();
    let other = root.other_system("24.05.1.a", None);
    let why = unreadable(&root, None);
    for part in [root.toplevel(), &other, "--system PATH"] {
        assert!(why.contains(part), "{why}");
    }
}

#[test]
fn other_roots_are_no_nixos() {
    let scratch = Scratch::new();
    for (name, paths) in [
        ("empty", [].as_slice()),
        ("debian", &["etc", "usr/bin", "var"]),
        ("debian with nix", &["etc", "nix/store/abc-hello", "nix/var/nix/profiles"]),
        ("a directory named store", &["store/fruit", "etc"]),
    ] {
        let top = scratch.join(name);
        fs::create_dir(&top).unwrap();
        paths.iter().for_each(|path| fs::create_dir_all(top.join(path)).unwrap());
        assert_eq!(closure::read(&DirectoryTree::open(&top).unwrap(), None).unwrap(), Found::None, "{name}");
    }
}

#[test]
fn each_kind_of_etc_is_told_apart() {
    let rows: [Row<Etc>; 10] = [
        (
            "activation, mutable",
            |root| {
                root.overlay(Overlay::Activation, true);
            },
            Etc::OverlayMutable,
        ),
        (
            "activation, immutable",
            |root| {
                root.overlay(Overlay::Activation, false);
            },
            Etc::OverlayImmutable,
        ),
        (
            "links, mutable",
            |root| {
                root.overlay(Overlay::Links, true);
            },
            Etc::OverlayMutable,
        ),
        (
            "links, immutable",
            |root| {
                root.overlay(Overlay::Links, false);
            },
            Etc::OverlayImmutable,
        ),
        (
            "nixos-init, mutable",
            |root| {
                root.overlay(Overlay::NixosInit, true);
            },
            Etc::OverlayMutable,
        ),
        (
            "nixos-init, immutable",
            |root| {
                root.overlay(Overlay::NixosInit, false);
            },
            Etc::OverlayImmutable,
        ),
        (
            "links, mutable, before the first boot",
            |root| {
                root.overlay(Overlay::Links, true).remove("/.rw-etc");
            },
            Etc::OverlayMutable,
        ),
        (
            "confext",
            |root| {
                root.confext(&["--force"]);
            },
            Etc::Confext { kept: true },
        ),
        (
            "confext, read-only",
            |root| {
                root.confext(&["--mutable=no"]);
            },
            Etc::Confext { kept: false },
        ),
        (
            "a container's nixos-init.json",
            |root| {
                let (top, init) =
                    (root.toplevel().to_owned(), json!({ "etc_metadata_image": "/nix/store/x", "etc_basedir": "y" }));
                root.remove(&format!("{top}/boot.json")).remove(&format!("{top}/activate"));
                root.write(&format!("{top}/prepare-root"), "");
                root.write(&format!("{top}/nixos-init.json"), init.to_string());
            },
            Etc::OverlayImmutable,
        ),
    ];
    for (name, change, etc) in rows {
        let scratch = Scratch::new();
        let mut root = NixosRoot::new(&scratch);
        change(&mut root);
        assert_eq!(read(&root).etc, etc, "{name}");
    }
}

#[test]
fn each_manager_of_users_is_told_apart() {
    let rows: [Row<UserManagement>; 7] = [
        (
            "perl, after a snippet",
            |root| {
                root.snippet("persist", "# update-users-groups.pl");
            },
            UserManagement::Perl { mutable: true },
        ),
        (
            "perl, immutable",
            |root| {
                root.users(Users::Perl { mutable: false });
            },
            UserManagement::Perl { mutable: false },
        ),
        (
            "userborn, older",
            |root| {
                root.users(Users::Userborn { mutable: None, directory: "/etc" });
            },
            UserManagement::Userborn { mutable: None, directory: "/etc".into() },
        ),
        (
            "userborn",
            |root| {
                root.users(Users::Userborn { mutable: Some(false), directory: "/var/lib/nixos" });
            },
            UserManagement::Userborn { mutable: Some(false), directory: "/var/lib/nixos".into() },
        ),
        (
            "userborn at build",
            |root| {
                root.users(Users::UserbornStatic);
            },
            UserManagement::UserbornStatic,
        ),
        (
            "sysusers",
            |root| {
                root.users(Users::Sysusers);
            },
            UserManagement::Sysusers,
        ),
        (
            "userborn is masked, and sysusers stands",
            |root| {
                root.users(Users::Sysusers).mask("userborn.service");
            },
            UserManagement::Sysusers,
        ),
    ];
    for (name, change, want) in rows {
        let scratch = Scratch::new();
        let mut root = NixosRoot::new(&scratch);
        change(&mut root);
        let closure = read(&root);
        assert_eq!(closure.users, want, "{name}");
        assert_eq!(closure.unread, Vec::<String>::new(), "{name}");
        if want != UserManagement::UserbornStatic {
            let file = closure.accounts.users.iter().find_map(|user| user.hashed_password_file.as_deref());
            assert_eq!(file, Some("/etc/secrets/admin-password"), "{name}");
        }
    }
}

#[test]
fn hashes_of_the_users_json_are_secrets() {
    let scratch = Scratch::new();
    let mut root = NixosRoot::new(&scratch);
    root.declare(
        json!({ "name": "old", "uid": 7, "group": "users", "passwordFile": "/etc/old", "hashedPassword": HASH }),
    );
    let closure = read(&root);
    let old = closure.accounts.users.iter().find(|user| user.name == "old").unwrap();
    assert_eq!(old.hashed_password_file.as_deref(), Some("/etc/old"));
    assert_eq!(old.hashed_password.as_ref().unwrap().expose(), HASH.as_bytes());
    assert!(!format!("{closure:?}").contains("saltsalt"));
}

#[test]
fn mounts_come_from_the_closure_and_its_units() {
    let scratch = Scratch::new();
    let root = NixosRoot::new(&scratch);
    root.fstab(
        "none / tmpfs x-initrd.mount,mode=755 0 0\n/dev/disk/by-label/nix /nix ext4 x-initrd.mount\n\
         /nix/persist /persist none x-initrd.mount,bind\n/dev/vdb /data ext4 nofail\n/dev/vdc /masked ext4 defaults\n",
    );
    root.mount_unit("/persist/etc/secrets", "/etc/secrets", "bind,X-fstrim.notrim").mask("masked.mount");
    root.unit("data.mount", "[Mount]\nWhat=/dev/vdd\nWhere=/data/\nType=xfs\n");
    // The image's own fstab is another's word.
    root.remove("/etc/fstab").write("/etc/fstab", "/dev/sda9 /etc/secrets ext4 defaults\n");
    let closure = read(&root);
    let seen: Vec<(&str, &str, &str)> = closure
        .mounts
        .iter()
        .map(|mount| (mount.what.as_str(), mount.place.as_str(), mount.fs_type.as_str()))
        .collect();
    assert_eq!(
        seen,
        [
            ("none", "/", "tmpfs"),
            ("/dev/disk/by-label/nix", "/nix", "ext4"),
            ("/nix/persist", "/persist", "none"),
            ("/dev/vdd", "/data", "xfs"),
            ("/persist/etc/secrets", "/etc/secrets", ""),
        ]
    );
    let early: Vec<bool> = closure.mounts.iter().map(closure::Mount::in_initrd).collect();
    assert_eq!(early, [true, true, true, false, false]);
    let binds: Vec<bool> = closure.mounts.iter().map(closure::Mount::is_bind).collect();
    assert_eq!(binds, [false, false, true, false, true]);
}

#[test]
fn what_cannot_be_read_is_named_and_the_rest_is_read() {
    let rows: [Row<&str>; 9] = [
        (
            "the etc tree is cut off",
            |root| {
                root.remove(&store_path("etc"));
            },
            "symbolic link on the way leads to nothing",
        ),
        (
            "the users JSON is cut",
            |root| {
                root.store("users-groups.json", "{\"users\":[{\"name\":\"admin\",\"hashedPassword\":\"$6$canary");
            },
            "not the JSON of at most 100000 users",
        ),
        (
            "a user's number is text",
            |root| {
                root.store("users-groups.json", "{\"users\":[{\"name\":\"admin\",\"uid\":\"canary\"}]}");
            },
            "not the JSON of at most 100000 users",
        ),
        (
            "too many users",
            |root| {
                let users = vec!["{\"name\":\"a\"}"; 100_001].join(",");
                root.store("users-groups.json", format!("{{\"users\":[{users}]}}"));
            },
            "not the JSON of at most 100000 users",
        ),
        (
            "the users JSON is 1 GB",
            |root| {
                File::create(root.host(&store_path("users-groups.json"))).unwrap().set_len(1 << 30).unwrap();
            },
            "it has over 64 MiB",
        ),
        (
            "activation is 2 MiB",
            |root| {
                let activate = format!("{}/activate", root.toplevel());
                root.remove(&activate).write(&activate, vec![b'#'; 2 << 20]);
            },
            "it has over 1 MiB",
        ),
        (
            "boot.json is cut",
            |root| {
                root.write(&format!("{}/boot.json", root.toplevel()), "{\"a\":");
            },
            "it is no JSON",
        ),
        (
            "links go round",
            |root| {
                let json = store_path("users-groups.json");
                root.remove(&json).link(&json, &json);
            },
            "more than 40 symbolic links",
        ),
        (
            "100,000 units",
            |root| {
                let units = root.host(&store_path("system-units"));
                fs::create_dir_all(&units).unwrap();
                (0..100_000).for_each(|number| drop(File::create(units.join(format!("x{number}.service"))).unwrap()));
            },
            "it has 20000 units or more; its mount units are not read",
        ),
    ];
    for (name, change, word) in rows {
        let scratch = Scratch::new();
        let mut root = NixosRoot::new(&scratch);
        change(&mut root);
        let closure = read(&root);
        assert_eq!(closure.generation, Some(1), "{name}");
        assert!(closure.unread.iter().any(|why| why.contains(word)), "{name}: {:?}", closure.unread);
        assert!(!format!("{closure:?}").contains("canary"), "{name}");
    }
}

#[test]
fn a_system_that_is_cut_off_or_not_there_is_unreadable() {
    let rows: [Row<&str>; 5] = [
        (
            "the toplevel is gone",
            |root| {
                root.remove(root.toplevel());
            },
            "leads to nothing",
        ),
        (
            "the toplevel is empty",
            |root| {
                root.remove(root.toplevel()).directory(root.toplevel());
            },
            "is no NixOS system",
        ),
        (
            "the profile goes round",
            |root| {
                root.link("/nix/var/nix/profiles/system", "system");
            },
            "more than 40",
        ),
        (
            "the boot loader's system is gone",
            |root| {
                root.without_profile().extlinux("/nix/store/none-nixos-system-x");
            },
            "/boot/extlinux/extlinux.conf: /nix/store/none-nixos-system-x is not there",
        ),
        (
            "the store is on another file system",
            |root| {
                root.remove("/nix");
            },
            "is its store on another file system",
        ),
    ];
    for (name, change, word) in rows {
        let scratch = Scratch::new();
        let mut root = NixosRoot::new(&scratch);
        change(&mut root);
        let why = unreadable(&root, None);
        assert!(why.contains(word), "{name}: {why}");
    }
}

#[test]
fn a_store_of_thousands_of_paths_is_searched_with_few_open_files() {
    let scratch = Scratch::new();
    let root = NixosRoot::new(&scratch);
    root.without_profile();
    (0..5000).for_each(|number| {
        root.directory(&format!("/nix/store/x-{number}"));
    });
    assert_eq!(read(&root).toplevel, root.toplevel());
}
