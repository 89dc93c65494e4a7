use super::*;
use crate::nixos::closure::UserManagement;
use crate::nixos::closure::wants::Wants;

/// Lines of an fstab: what, place, type, options.
fn closure(fstab: &str, etc: Etc) -> Closure {
    let mount = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        Mount {
            what: fields[0].to_owned(),
            place: fields[1].to_owned(),
            fs_type: fields[2].to_owned(),
            options: fields[3].split(',').map(str::to_owned).collect(),
        }
    };
    Closure {
        toplevel: "/nix/store/x-nixos-system-a".to_owned(),
        name: "nixos-system-a".to_owned(),
        generation: None,
        etc,
        mounts: fstab.lines().map(mount).collect(),
        users: UserManagement::Perl { mutable: true },
        users_script: None,
        accounts: Accounts::default(),
        deletes_host_keys: false,
        wants: Wants::default(),
        decrypters: Vec::new(),
        unread: Vec::new(),
    }
}

const PLAIN: &str = "/dev/disk/by-label/nixos / ext4 x-initrd.mount\n/dev/disk/by-label/ESP /boot vfat defaults\n\
                     /dev/disk/by-label/data /srv ext4 defaults";
const TMPFS: &str = "none / tmpfs x-initrd.mount,mode=755\n/dev/disk/by-label/nixos /nix ext4 defaults\n\
                     /nix/persist /persist none x-initrd.mount,bind\n/persist/home /home none bind\n\
                     /persist/etc/secrets /etc/secrets none bind\n/persist/var/other /var/lib/app none bind";
const ROLLED_BACK: &str = "/dev/disk/by-label/nixos / ext4 x-initrd.mount\n\
                           /dev/disk/by-label/keep /persist ext4 x-initrd.mount";

fn located(
    fstab: &str,
    etc: Etc,
    is_below_nix: bool,
    persist_root: Option<&str>,
    path: &str,
) -> (String, String, Vec<&'static str>) {
    let open = OpenFileSystem { label: Some("nixos".to_owned()), ..OpenFileSystem::default() };
    let closure = closure(fstab, etc);
    let found = Places::new(&closure, &open, is_below_nix, persist_root).locate(path, true);
    (found.path, found.in_tree, found.findings.iter().map(|finding| finding.code).collect())
}

#[test]
fn each_path_is_where_the_booted_system_sees_it_or_is_refused() {
    const P: Option<&str> = Some("/persist");
    for (name, fstab, etc, persist, path, written_to, in_tree, codes) in [
        ("plain", PLAIN, Etc::Plain, None, "/etc/a", "/etc/a", "/etc/a", &[][..]),
        ("another file system", PLAIN, Etc::Plain, None, "/srv/a", "/srv/a", "/srv/a", &["NX006", "NX104"]),
        ("root on tmpfs", TMPFS, Etc::Plain, None, "/var/lib/a", "/var/lib/a", "/var/lib/a", &["NX007"]),
        ("an early bind", TMPFS, Etc::Plain, None, "/persist/a", "/nix/persist/a", "/persist/a", &[]),
        (
            "a late bind",
            TMPFS,
            Etc::Plain,
            None,
            "/etc/secrets/a",
            "/etc/secrets/a",
            "/etc/secrets/a",
            &["NX006", "NX104"],
        ),
        (
            "persist_root",
            TMPFS,
            Etc::Plain,
            P,
            "/var/lib/a",
            "/nix/persist/var/lib/a",
            "/persist/var/lib/a",
            &["NX104"],
        ),
        (
            "its late bind",
            TMPFS,
            Etc::Plain,
            P,
            "/etc/secrets/a",
            "/nix/persist/etc/secrets/a",
            "/persist/etc/secrets/a",
            &["NX104"],
        ),
        (
            "a late bind of something else",
            TMPFS,
            Etc::Plain,
            P,
            "/var/lib/app/a",
            "/var/lib/app/a",
            "/var/lib/app/a",
            &["NX006", "NX104"],
        ),
        ("below it already", TMPFS, Etc::Plain, P, "/persist/a", "/nix/persist/a", "/persist/a", &[]),
        ("a mount that persists", TMPFS, Etc::Plain, P, "/nix/a", "/nix/a", "/a", &[]),
        (
            "an overlay",
            PLAIN,
            Etc::OverlayMutable,
            None,
            "/etc/x/a",
            "/.rw-etc/upper/x/a",
            "/.rw-etc/upper/x/a",
            &["NX102"],
        ),
        ("outside of it", PLAIN, Etc::OverlayMutable, None, "/var/lib/a", "/var/lib/a", "/var/lib/a", &[]),
        ("an immutable overlay", PLAIN, Etc::OverlayImmutable, None, "/etc/a", "/etc/a", "/etc/a", &["NX008"]),
        ("a confext", PLAIN, Etc::Confext { kept: true }, None, "/etc/a", "/etc/a", "/etc/a", &[]),
        ("one that keeps nothing", PLAIN, Etc::Confext { kept: false }, None, "/etc/a", "/etc/a", "/etc/a", &["NX008"]),
        (
            "an overlay on tmpfs",
            TMPFS,
            Etc::OverlayMutable,
            None,
            "/etc/a",
            "/.rw-etc/upper/a",
            "/.rw-etc/upper/a",
            &["NX007", "NX102"],
        ),
    ] {
        let found = located(fstab, etc, fstab == TMPFS, persist, path);
        assert_eq!(found, (written_to.to_owned(), in_tree.to_owned(), codes.to_vec()), "{name}");
    }
    // A root that looks rolled back, and a mount that activation does not see yet.
    assert_eq!(located(ROLLED_BACK, Etc::Plain, false, None, "/etc/a").2, ["NX103"]);
    assert_eq!(located(ROLLED_BACK, Etc::Plain, false, P, "/etc/a").2, ["NX006", "NX104"]);
    // A root that the fstab does not name.
    let nix = "/dev/disk/by-label/nixos /nix ext4 x-initrd.mount";
    assert_eq!(located(nix, Etc::Plain, true, None, "/etc/a").2, ["NX006"]);
    let late = "/dev/disk/by-label/os / ext4 x-initrd.mount\n/dev/disk/by-label/nixos /srv ext4 defaults";
    let found = located(late, Etc::Plain, false, None, "/srv/a");
    assert_eq!((found.1.as_str(), found.2.as_slice()), ("/a", &["NX104"][..]));
}
