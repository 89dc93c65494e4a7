use std::os::unix::fs::symlink;

use super::*;

/// A machine made of files. Devices are laid out as in the kernel: below `sys/devices`, with links from elsewhere.
struct Machine(tempfile::TempDir);

impl Machine {
    fn new() -> Self {
        let machine = Self(tempfile::tempdir().unwrap());
        for directory in ["dev", "proc/self", "sys/block", "sys/class/block", "sys/dev/block", "sys/fs/btrfs"] {
            fs::create_dir_all(machine.at(directory)).unwrap();
        }
        machine
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn system(&self) -> System {
        System::at(self.0.path())
    }

    fn write(&self, path: &str, content: &str) -> &Self {
        let path = self.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        self
    }

    /// A link at `path` to `target` (both from the top), relative as in the kernel.
    fn link(&self, path: &str, target: &str) -> &Self {
        let up = "../".repeat(path.matches('/').count());
        fs::create_dir_all(self.at(path).parent().unwrap()).unwrap();
        symlink(format!("{up}{target}"), self.at(path)).unwrap();
        self
    }

    /// A disk or a partition in this directory of `sys/devices`; the last path component is its name.
    fn device(&self, place: &str, number: &str) -> &Self {
        let name = place.rsplit('/').next().unwrap();
        self.write(&format!("{place}/dev"), &format!("{number}\n")).write(&format!("{place}/size"), "2097152\n");
        self.link(&format!("sys/class/block/{name}"), place).link(&format!("sys/dev/block/{number}"), place);
        self.write(&format!("dev/{}", name.replace('!', "/")), "")
    }

    fn disk(&self, place: &str, number: &str) -> &Self {
        let name = place.rsplit('/').next().unwrap();
        self.write(&format!("{place}/removable"), "0\n");
        self.device(place, number).link(&format!("sys/block/{name}"), place)
    }

    fn partition(&self, place: &str, number: &str) -> &Self {
        self.write(&format!("{place}/partition"), "1\n").device(place, number)
    }

    /// Declares that the disk `above` is made of `below`.
    fn made_of(&self, above: &str, below: &str) -> &Self {
        let name = |place: &str| place.rsplit('/').next().unwrap().to_owned();
        self.link(&format!("{above}/slaves/{}", name(below)), below);
        self.link(&format!("{below}/holders/{}", name(above)), above)
    }

    fn mounts(&self, lines: &[&str]) -> &Self {
        let lines: String = lines.iter().map(|line| format!("{line}\n")).collect();
        self.write("proc/self/mountinfo", &lines)
    }
}

const SDA: &str = "sys/devices/pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0/block/sda";
const SDB: &str = "sys/devices/pci0000:00/0000:00:14.0/usb1/1-2/1-2:1.0/host6/target6:0:0/6:0:0:0/block/sdb";
const SDC: &str = "sys/devices/pci0000:00/0000:00:1f.2/ata2/host1/target1:0:0/1:0:0:0/block/sdc";
const CARD: &str = "sys/devices/platform/soc/mmc0/mmc0:aaaa/block/mmcblk0";
const EMMC: &str = "sys/devices/platform/soc/mmc1/mmc1:0001/block/mmcblk1";
const DM: &str = "sys/devices/virtual/block/dm-0";
const MD: &str = "sys/devices/virtual/block/md127";
const LOOP: &str = "sys/devices/virtual/block/loop0";

fn number(text: &str) -> Number {
    Number::parse(text).unwrap()
}

/// Two SATA disks, a USB stick, an SD card, eMMC, each with two partitions.
fn machine() -> Machine {
    let machine = Machine::new();
    for (disk, major, minor) in [(SDA, 8, 0), (SDB, 8, 16), (SDC, 8, 32), (CARD, 179, 0), (EMMC, 179, 8)] {
        machine.disk(disk, &format!("{major}:{minor}"));
        let name = disk.rsplit('/').next().unwrap();
        let p = if name.starts_with("mmc") { "p" } else { "" };
        for part in [1, 2] {
            machine.partition(&format!("{disk}/{name}{p}{part}"), &format!("{major}:{}", minor + part));
        }
        // As on a real machine, `device` is a link two levels up.
        let device = disk.rsplit_once("/block/").unwrap().0;
        machine.link(&format!("{disk}/device"), device);
    }
    for (place, bus) in [
        ("sys/devices/pci0000:00/0000:00:1f.2", "sys/bus/pci"),
        ("sys/devices/pci0000:00/0000:00:14.0", "sys/bus/pci"),
        ("sys/devices/pci0000:00/0000:00:14.0/usb1/1-2", "sys/bus/usb"),
        ("sys/devices/pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0", "sys/bus/scsi"),
        ("sys/devices/platform/soc/mmc0/mmc0:aaaa", "sys/bus/mmc"),
        ("sys/devices/platform/soc/mmc1/mmc1:0001", "sys/bus/mmc"),
    ] {
        machine.link(&format!("{place}/subsystem"), bus);
    }
    machine.write("sys/devices/platform/soc/mmc0/mmc0:aaaa/type", "SD\n");
    machine.write("sys/devices/platform/soc/mmc0/mmc0:aaaa/name", "SC32G\n");
    machine.write("sys/devices/platform/soc/mmc1/mmc1:0001/type", "MMC\n");
    let sda = SDA.rsplit_once("/block/").unwrap().0;
    machine.write(&format!("{sda}/vendor"), "ATA     \n").write(&format!("{sda}/model"), "Samsung SSD 870 \n");
    let sdb = SDB.rsplit_once("/block/").unwrap().0;
    machine.write(&format!("{sdb}/vendor"), "SanDisk \n").write(&format!("{sdb}/model"), "Ultra \u{1b}Fit\n");
    machine
}

#[test]
fn a_disk_is_removable_by_its_flag_its_bus_or_as_a_loop_device_over_a_file() {
    let machine = machine();
    let removable = |text: &str| machine.system().is_removable(&number(text));
    for (name, device, want) in [
        ("a SATA disk", "8:0", false),
        ("a partition of it", "8:1", false),
        ("a USB stick", "8:16", true),
        ("a partition of it", "8:18", true),
        ("an SD card", "179:0", true),
        ("a partition of it", "179:2", true),
        ("eMMC, which is soldered", "179:8", false),
        ("a device that /sys does not know", "9:9", false),
    ] {
        assert_eq!(removable(device), want, "{name}");
    }
    machine.write(&format!("{SDA}/removable"), "1\n");
    assert!(removable("8:0") && removable("8:2"), "the flag of a reader of cards");
    machine.write(&format!("{SDA}/removable"), "0\n");

    // A device made of other devices is as removable as all of them.
    machine.disk(DM, "253:0").made_of(DM, &format!("{SDB}/sdb2"));
    assert!(removable("253:0"));
    machine.made_of(DM, &format!("{SDA}/sda1"));
    assert!(!removable("253:0"));

    // A file, a path that only looks like a device's, a device, and a cycle.
    machine.disk(LOOP, "7:0").partition(&format!("{LOOP}/loop0p1"), "259:0");
    for (backing, want) in [
        ("/home/me/sdb", true),
        ("/home/me/sda", true),
        ("/dev/sda", false),
        ("/dev/sdb1", true),
        ("/dev/loop0", false),
    ] {
        machine.write(&format!("{LOOP}/loop/backing_file"), &format!("{backing}\n"));
        assert_eq!((removable("7:0"), removable("259:0")), (want, want), "{backing}");
    }
}

#[test]
fn a_device_is_described_by_its_model_and_size() {
    let system = machine();
    let system = system.system();
    for (device, want) in [
        ("8:2", "Samsung SSD 870, 1 GiB"),
        ("8:16", "SanDisk Ultra \u{fffd}Fit, 1 GiB"),
        ("179:1", "SC32G, 1 GiB"),
        ("8:32", "1 GiB"),
        ("9:9", ""),
    ] {
        assert_eq!(system.description(&number(device)), want, "{device}");
    }
}

#[test]
fn the_running_system_is_found_through_every_layer() {
    let dm_on = |machine: &Machine, below: &str| {
        machine.disk(DM, "253:0").made_of(DM, below);
    };
    let root_on = |machine: &Machine, number: &str, kind: &str, source: &str| {
        machine.mounts(&[
            "22 27 0:21 / /proc rw - proc proc rw",
            &format!("27 1 {number} / / rw,relatime shared:1 - {kind} {source} rw"),
        ]);
    };
    type Case<'a> = (&'a str, &'a dyn Fn(&Machine), &'a [(&'a str, bool)]);
    let cases: [Case<'_>; 6] = [
        (
            "a plain partition",
            &|machine| root_on(machine, "8:2", "ext4", "/dev/sda2"),
            &[("8:2", true), ("8:0", true), ("8:1", false), ("8:16", false), ("8:17", false)],
        ),
        (
            "a logical volume",
            &|machine| {
                dm_on(machine, &format!("{SDA}/sda2"));
                root_on(machine, "253:0", "ext4", "/dev/mapper/root");
            },
            &[("253:0", true), ("8:2", true), ("8:0", true), ("8:1", false), ("8:32", false)],
        ),
        (
            "a partition of a RAID below LUKS",
            &|machine| {
                machine.disk(MD, "9:127").made_of(MD, &format!("{SDA}/sda1")).made_of(MD, SDC);
                machine.partition(&format!("{MD}/md127p1"), "259:1");
                dm_on(machine, &format!("{MD}/md127p1"));
                root_on(machine, "253:0", "ext4", "/dev/dm-0");
            },
            &[
                ("253:0", true),
                ("259:1", true),
                ("9:127", true),
                ("8:0", true),
                ("8:1", true),
                ("8:32", true),
                ("8:16", false),
            ],
        ),
        (
            "btrfs over two disks, with a number of its own and a link for a name",
            &|machine| {
                let devices = "sys/fs/btrfs/0a/devices";
                machine.link(&format!("{devices}/sda2"), &format!("{SDA}/sda2"));
                machine.link(&format!("{devices}/sdc"), SDC);
                machine.link("sys/fs/btrfs/0b/devices/sdb1", &format!("{SDB}/sdb1"));
                machine.link("dev/disk/by-label/my\\root", "dev/sda2");
                root_on(machine, "0:30", "btrfs", "/dev/disk/by-label/my\\134root");
            },
            &[("8:2", true), ("8:0", true), ("8:32", true), ("8:33", false), ("8:16", false), ("8:17", false)],
        ),
        (
            "a loop device over a device",
            &|machine| {
                machine.disk(LOOP, "7:0").write(&format!("{LOOP}/loop/backing_file"), "/dev/sdb2\n");
                root_on(machine, "7:0", "squashfs", "/dev/loop0");
            },
            &[("7:0", true), ("8:18", true), ("8:16", true), ("8:17", false)],
        ),
        (
            "nothing that is known, in a container",
            &|machine| root_on(machine, "0:99", "overlay", "overlay"),
            &[("8:0", false), ("8:2", false)],
        ),
    ];
    for (name, layers, devices) in cases {
        let machine = machine();
        layers(&machine);
        for (device, want) in devices {
            let found = machine.system().runs_from(&number(device));
            assert_eq!(found, want.then(|| "/".to_owned()), "{name}: {device}");
        }
    }
    // A loop device over the disk gives access to it too.
    let machine = machine();
    root_on(&machine, "8:2", "ext4", "/dev/sda2");
    machine.disk(LOOP, "7:0").write(&format!("{LOOP}/loop/backing_file"), "/dev/sda\n");
    assert_eq!(machine.system().runs_from(&number("7:0")), Some("/".to_owned()));
    assert_eq!(machine.system().mounted_at(&number("7:0")), Some("/".to_owned()));
}

#[test]
fn the_store_and_the_boot_partition_are_the_running_system_too_and_a_disk_of_data_is_not() {
    let machine = machine();
    machine.mounts(&[
        "30 27 8:33 / /nix rw - ext4 /dev/sdc1 rw",
        "31 27 8:17 / /boot rw - vfat /dev/sdb1 rw",
        "32 27 8:1 / /mnt/a\\040b rw - ext4 /dev/sda1 rw",
        "a line of another kind",
    ]);
    let system = machine.system();
    for (device, runs, mounted) in [
        ("8:32", Some("/nix"), Some("/nix")),
        ("8:16", Some("/boot"), Some("/boot")),
        ("8:0", None, Some("/mnt/a b")),
        ("8:1", None, Some("/mnt/a b")),
        ("8:2", None, None),
        ("179:0", None, None),
    ] {
        let device = number(device);
        assert_eq!(system.runs_from(&device).as_deref(), runs, "{device:?}");
        assert_eq!(system.mounted_at(&device).as_deref(), mounted, "{device:?}");
    }
}

#[test]
fn swap_and_holders_are_seen_on_the_disk_and_on_its_partition() {
    let machine = machine();
    machine.write(
        "proc/swaps",
        "Filename\tType\tSize\tUsed\tPriority\n/dev/sda1  partition\t1\t0\t-2\n/swap file\t1\t0\t-3\n",
    );
    machine.disk(DM, "253:0").made_of(DM, &format!("{SDC}/sdc2"));
    let system = machine.system();
    for (device, swap, above) in [
        ("8:0", true, None),
        ("8:1", true, None),
        ("8:2", false, None),
        ("8:32", false, Some("/dev/dm-0")),
        ("8:34", false, Some("/dev/dm-0")),
        ("8:33", false, None),
    ] {
        let device = number(device);
        assert_eq!((system.is_swap(&device), system.used_by(&device).as_deref()), (swap, above), "{device:?}");
    }
}

#[test]
fn where_nothing_is_told_nothing_is_known_and_nothing_is_removable() {
    let empty = tempfile::tempdir().unwrap();
    let system = System::at(empty.path());
    let device = number("8:0");
    assert_eq!(system.runs_from(&device), None);
    assert_eq!(system.mounted_at(&device), None);
    assert!(!system.is_removable(&device) && !system.is_swap(&device) && system.loop_devices().is_empty());
    for text in ["", ":", "8", "8:", ":0", "../../etc:1", "8:0/..", "-1:0"] {
        assert_eq!(Number::parse(text), None, "{text}");
    }
}
