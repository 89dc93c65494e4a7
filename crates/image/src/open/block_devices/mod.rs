//! Information about block devices: their kind, the devices above and below them, their mount points, and whether the
//! running system is on them. Read from `/sys` and `/proc` only; the device itself is never opened.
//!
//! Used by `destination` and [`crate::open::holders`]. Layout of `/sys`: kernel documentation, admin-guide, "Rules on
//! how to access information in sysfs", and ABI/stable/sysfs-block.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use deaddrop_core::text;

/// Mount points of the parts of a running system.
const SYSTEM_PLACES: [&str; 9] = ["/", "/nix", "/nix/store", "/boot", "/boot/efi", "/efi", "/usr", "/var", "/etc"];

/// Maximum number of stacked devices that are followed: more than any real setup has.
const MAX_LAYERS: u32 = 16;

/// A device's `major:minor`, as in `/proc` and `/sys`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Number(String);

impl Number {
    /// The number of a device node: `st_rdev` of stat(2).
    #[must_use]
    pub fn of(rdev: u64) -> Self {
        Self(format!("{}:{}", nix::sys::stat::major(rdev), nix::sys::stat::minor(rdev)))
    }

    /// A number from a file of `/sys` or a field of `/proc`. `None` for anything but two numbers.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        let (major, minor) = text.split_once(':')?;
        (is_number(major) && is_number(minor)).then(|| Self(text.to_owned()))
    }
}

/// One line of mountinfo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountedAt {
    /// The device; an anonymous one (`0:…`) for file systems that allocate their own device number.
    pub number: Number,
    /// The mount point.
    pub place: String,
    /// The mounted source: usually a device's path.
    pub source: String,
    /// The type of the file system.
    pub kind: String,
}

/// The running system's `/sys`, `/proc` and the names in `/dev`; in a test, a directory with the relevant parts of
/// them.
#[derive(Debug, Clone)]
pub struct System {
    root: PathBuf,
}

impl System {
    /// The running system.
    #[must_use]
    pub fn running() -> Self {
        Self::at(Path::new("/"))
    }

    /// The system described by the files below `root`.
    #[must_use]
    pub fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// The mount point (`/`, `/nix`, …) of a part of the running system on `device`: on the device itself, on one of
    /// its partitions, or on a device made of them (RAID, LVM, LUKS, a loop device); also if `device` is a loop device
    /// over such a device. `None` if there is none.
    #[must_use]
    pub fn runs_from(&self, device: &Number) -> Option<String> {
        let wanted = self.with_backing(device);
        let system = |mount: &MountedAt| SYSTEM_PLACES.contains(&mount.place.as_str());
        self.mounts().into_iter().filter(system).find_map(|mount| {
            let mut below = BTreeSet::new();
            self.devices_of(&mount).iter().for_each(|start| self.add_below(start, &mut below));
            (!below.is_disjoint(&wanted)).then_some(mount.place)
        })
    }

    /// The mount point of the first mount of `device`, of one of its partitions, or of the device that it is a loop
    /// device over.
    #[must_use]
    pub fn mounted_at(&self, device: &Number) -> Option<String> {
        let wanted: BTreeSet<Number> =
            self.with_backing(device).iter().flat_map(|number| self.with_partitions(number)).collect();
        let mounts = self.mounts().into_iter();
        mounts.filter(|mount| !self.devices_of(mount).is_disjoint(&wanted)).map(|mount| mount.place).next()
    }

    /// The path of a device on top of `device` or of one of its partitions: a RAID, a logical volume, an encrypted one
    /// (`holders`).
    #[must_use]
    pub fn used_by(&self, device: &Number) -> Option<String> {
        self.with_partitions(device).iter().find_map(|number| {
            let holder = fs::read_dir(self.device(number)?.join("holders")).ok()?.flatten().next()?;
            Some(format!("/dev/{}", holder.file_name().to_string_lossy()))
        })
    }

    /// True if `device`, or one of its partitions, is swap (proc(5), `/proc/swaps`).
    #[must_use]
    pub fn is_swap(&self, device: &Number) -> bool {
        // Without /proc, or in a kernel without swap: a device in use is still refused when it is opened for writing.
        let swaps = fs::read_to_string(self.root.join("proc/swaps")).unwrap_or_default();
        let wanted = self.with_partitions(device);
        let paths = swaps.lines().skip(1).filter_map(|line| line.split_whitespace().next());
        paths.filter_map(|path| self.number_of(&unescaped(path))).any(|number| wanted.contains(&number))
    }

    /// The loop devices: each device's path and number, and its backing file or device.
    #[must_use]
    pub fn loop_devices(&self) -> Vec<(String, Number, PathBuf)> {
        // Without /sys in a container there are no loop devices to be found.
        let Ok(devices) = fs::read_dir(self.root.join("sys/block")) else { return Vec::new() };
        let found = devices.flatten().filter_map(|device| {
            // First what few devices have: each file of /sys takes time.
            let backing = backing_file_in(&device.path())?;
            let number = number_in(&device.path())?;
            Some((format!("/dev/{}", device.file_name().to_string_lossy()), number, backing))
        });
        found.collect()
    }

    /// The file or device behind a loop device or a partition of one.
    #[must_use]
    pub fn backing_file(&self, device: &Number) -> Option<PathBuf> {
        backing_file_in(&self.disk(device)?)
    }

    /// True if `device` is a loop device that the kernel frees at its last close.
    #[must_use]
    pub fn is_autoclear(&self, device: &Number) -> bool {
        let flag = self.disk(device).and_then(|disk| fs::read_to_string(disk.join("loop/autoclear")).ok());
        flag.is_some_and(|flag| flag.trim_end() == "1")
    }

    /// The whole disk of `device`, which is the disk or a partition of it.
    #[must_use]
    pub fn disk_of(&self, device: &Number) -> Option<Number> {
        number_in(&self.disk(device)?)
    }

    /// True if `device` is a partition of a disk.
    #[must_use]
    pub fn is_partition(&self, device: &Number) -> bool {
        self.device(device).is_some_and(|place| place.join("partition").exists())
    }

    /// True if `device` is removable: `removable` says so, or it is connected by USB, FireWire, PCMCIA or an SD card
    /// slot (the buses that lsblk(8) calls hotplug), or it is a loop device over a file, which a user attached
    /// explicitly. A device made of other devices is removable if all of them are. False if `/sys` does not tell.
    #[must_use]
    pub fn is_removable(&self, device: &Number) -> bool {
        self.is_removable_within(device, MAX_LAYERS)
    }

    fn is_removable_within(&self, device: &Number, layers: u32) -> bool {
        let (Some(disk), Some(layers)) = (self.disk(device), layers.checked_sub(1)) else { return false };
        if let Some(file) = self.backing_file(device) {
            return self
                .number_of(&file.to_string_lossy())
                .is_none_or(|below| self.is_removable_within(&below, layers));
        }
        let slaves = self.slaves(&disk);
        if !slaves.is_empty() {
            return slaves.iter().all(|below| self.is_removable_within(below, layers));
        }
        fs::read_to_string(disk.join("removable")).is_ok_and(|text| text.trim() == "1") || self.is_hotplug(&disk)
    }

    /// The device of a disk in `/sys`, and the buses and devices that it is attached to, the nearest first.
    fn places_above(&self, disk: &Path) -> Vec<PathBuf> {
        let Ok(start) = fs::canonicalize(disk.join("device")) else { return Vec::new() };
        let Ok(end) = fs::canonicalize(self.root.join("sys/devices")) else { return Vec::new() };
        start.ancestors().take_while(|place| **place != end).map(Path::to_owned).collect()
    }

    /// True if a hotplug bus is between the disk and the machine.
    fn is_hotplug(&self, disk: &Path) -> bool {
        self.places_above(disk).iter().any(|place| {
            let bus = fs::read_link(place.join("subsystem"));
            let bus = bus.ok().and_then(|bus| Some(bus.file_name()?.to_string_lossy().into_owned()));
            match bus.as_deref() {
                Some("usb" | "ieee1394" | "pcmcia" | "ccw") => true,
                // A card; eMMC (`MMC`) is soldered to the board.
                Some("mmc") => fs::read_to_string(place.join("type")).is_ok_and(|kind| kind.trim() != "MMC"),
                _ => false,
            }
        })
    }

    /// The description of the disk for the user: "SanDisk Ultra Fit, 28.6 GiB". Empty if `/sys` does not tell.
    #[must_use]
    pub fn description(&self, device: &Number) -> String {
        let Some(disk) = self.disk(device) else { return String::new() };
        let read = |name: &str| {
            let text = fs::read_to_string(disk.join(name)).ok()?;
            text::shown_text(text.trim())
        };
        // The vendor of a SATA disk is always "ATA". `device/name` is an SD card's.
        let vendor = read("device/vendor").filter(|vendor| vendor != "ATA" && !vendor.starts_with("0x"));
        let model = read("device/model").or_else(|| read("device/name")).or_else(|| read("dm/name"));
        // In units of 512 bytes, regardless of the disk's sector size.
        let size = read("size").and_then(|size| size.parse().ok()).and_then(|size: u64| size.checked_mul(512));
        let name = [vendor, model].into_iter().flatten().collect::<Vec<String>>().join(" ");
        let parts = [Some(name).filter(|name| !name.is_empty()), size.map(text::size)];
        parts.into_iter().flatten().collect::<Vec<String>>().join(", ")
    }

    /// The disk of a device, and the disks that it lies on.
    #[must_use]
    pub fn disks_below(&self, device: &Number) -> BTreeSet<Number> {
        let mut all = BTreeSet::new();
        self.add_below(device, &mut all);
        all.iter().filter_map(|number| self.disk_of(number)).collect()
    }

    /// The serial number of the disk: of the disk itself, or of the USB device that it is in. `None` if `/sys` does not
    /// tell.
    #[must_use]
    pub fn serial(&self, device: &Number) -> Option<String> {
        let disk = self.disk(device)?;
        let read = |path: PathBuf| {
            let text = fs::read_to_string(path).ok()?;
            text::shown_text(text.trim()).filter(|text| !text.is_empty())
        };
        let above = self.places_above(&disk);
        std::iter::once(&disk).chain(&above).find_map(|place| read(place.join("serial")))
    }

    /// The whole disks, each with its path, in order of their names. Without those that have no medium.
    #[must_use]
    pub fn disks(&self) -> Vec<(PathBuf, Number)> {
        let entries = fs::read_dir(self.root.join("sys/block")).into_iter().flatten().flatten();
        let mut disks: Vec<(PathBuf, Number)> = entries
            .filter(|entry| fs::read_to_string(entry.path().join("size")).is_ok_and(|size| size.trim() != "0"))
            .filter_map(|entry| {
                // `cciss!c0d0` in /sys is /dev/cciss/c0d0.
                let name = entry.file_name().to_str()?.replace('!', "/");
                Some((Path::new("/dev").join(name), number_in(&entry.path())?))
            })
            .collect();
        disks.sort();
        disks
    }

    /// True for a disk that the kernel takes for read-only.
    #[must_use]
    pub fn is_read_only(&self, device: &Number) -> bool {
        self.disk(device).is_some_and(|disk| fs::read_to_string(disk.join("ro")).is_ok_and(|flag| flag.trim() == "1"))
    }

    /// Powers the device of a disk off, so that it can be taken out: a USB device is removed from its port, another SCSI
    /// disk from the kernel. Nothing may have it open. False if there is no way.
    ///
    /// # Errors
    /// If the kernel refuses it.
    pub fn power_off(&self, device: &Number) -> io::Result<bool> {
        let Some(place) = self.disk(device).and_then(|disk| fs::canonicalize(disk.join("device")).ok()) else {
            return Ok(false);
        };
        // Documentation/ABI/testing/sysfs-bus-usb, `remove`: only a USB device that is no hub's interface has it.
        let usb = place.ancestors().find(|place| place.join("idVendor").exists()).map(|place| place.join("remove"));
        let way = usb.filter(|file| file.exists()).unwrap_or_else(|| place.join("delete"));
        if !way.exists() {
            return Ok(false);
        }
        fs::write(way, "1").map(|()| true)
    }

    /// The device's directory in `/sys`.
    fn device(&self, number: &Number) -> Option<PathBuf> {
        fs::canonicalize(self.root.join("sys/dev/block").join(&number.0)).ok()
    }

    /// The directory of the whole disk of a device.
    fn disk(&self, number: &Number) -> Option<PathBuf> {
        let device = self.device(number)?;
        if device.join("partition").exists() { device.parent().map(Path::to_owned) } else { Some(device) }
    }

    /// A block device's number and those of its partitions.
    fn with_partitions(&self, number: &Number) -> Vec<Number> {
        let mut numbers = vec![number.clone()];
        let children = self.device(number).and_then(|device| fs::read_dir(device).ok());
        for child in children.into_iter().flatten().flatten() {
            if child.path().join("partition").exists() {
                numbers.extend(number_in(&child.path()));
            }
        }
        numbers
    }

    /// The devices that a disk is made of.
    fn slaves(&self, disk: &Path) -> Vec<Number> {
        let Ok(slaves) = fs::read_dir(disk.join("slaves")) else { return Vec::new() };
        slaves.flatten().filter_map(|slave| number_in(&slave.path())).collect()
    }

    /// The device itself, and the devices that it is a loop device over.
    fn with_backing(&self, device: &Number) -> BTreeSet<Number> {
        let mut all = BTreeSet::new();
        let mut next = Some(device.clone());
        while let Some(number) = next.filter(|number| !all.contains(number)) {
            next = self.backing_file(&number).and_then(|file| self.number_of(&file.to_string_lossy()));
            all.insert(number);
        }
        all
    }

    /// Adds the device, its disk, and all devices that these are made of.
    fn add_below(&self, start: &Number, all: &mut BTreeSet<Number>) {
        let mut waiting = vec![start.clone()];
        while let Some(number) = waiting.pop() {
            if !all.insert(number.clone()) {
                continue;
            }
            if let Some(disk) = self.disk(&number) {
                waiting.extend(number_in(&disk));
                waiting.extend(self.slaves(&disk));
            }
            waiting.extend(self.backing_file(&number).and_then(|file| self.number_of(&file.to_string_lossy())));
        }
    }

    /// The devices of a mount. A btrfs has an anonymous number, and may have several devices.
    fn devices_of(&self, mount: &MountedAt) -> BTreeSet<Number> {
        let by_path = self.number_of(&mount.source);
        let mut devices: BTreeSet<Number> = by_path.iter().cloned().chain([mount.number.clone()]).collect();
        if let ("btrfs", Some(one)) = (mount.kind.as_str(), by_path) {
            let file_systems = fs::read_dir(self.root.join("sys/fs/btrfs")).into_iter().flatten().flatten();
            for file_system in file_systems {
                let members = fs::read_dir(file_system.path().join("devices")).into_iter().flatten().flatten();
                let members: Vec<Number> = members.filter_map(|member| number_in(&member.path())).collect();
                if members.contains(&one) {
                    devices.extend(members);
                }
            }
        }
        devices
    }

    /// The number of a device by its path in `/dev`, links followed. `None` for any other path.
    fn number_of(&self, path: &str) -> Option<Number> {
        let path = path.strip_prefix('/')?;
        let dev = fs::canonicalize(self.root.join("dev")).ok()?;
        let real = fs::canonicalize(self.root.join(path)).ok()?;
        let name = real.strip_prefix(dev).ok()?.to_str()?;
        // `/dev/cciss/c0d0` is `cciss!c0d0` in /sys.
        number_in(&self.root.join("sys/class/block").join(name.replace('/', "!")))
    }

    /// proc(5), mountinfo: the third field is `major:minor`, the fifth the mount point, and after the single `-` come
    /// the type of the file system and its source.
    fn mounts(&self) -> Vec<MountedAt> {
        // Without /proc: a mounted device is still refused when it is opened for writing.
        let lines = fs::read_to_string(self.root.join("proc/self/mountinfo")).unwrap_or_default();
        let parse = |line: &str| {
            let (mount, source) = line.split_once(" - ")?;
            let mut fields = mount.split(' ');
            let number = Number::parse(fields.nth(2)?)?;
            let place = unescaped(fields.nth(1)?);
            let (kind, rest) = source.split_once(' ')?;
            let source = unescaped(rest.split(' ').next()?);
            Some(MountedAt { number, place, source, kind: kind.to_owned() })
        };
        lines.lines().filter_map(parse).collect()
    }
}

/// The number in the file `dev` of a directory in `/sys`.
fn number_in(directory: &Path) -> Option<Number> {
    Number::parse(&fs::read_to_string(directory.join("dev")).ok()?)
}

/// What the loop device with this directory in `/sys` is over.
fn backing_file_in(directory: &Path) -> Option<PathBuf> {
    let file = fs::read_to_string(directory.join("loop/backing_file")).ok()?;
    Some(PathBuf::from(file.strip_suffix('\n').unwrap_or(&file)))
}

/// Decodes a path of mountinfo or swaps, in which space, tab, newline and backslash are written as `\040` and so on.
fn unescaped(path: &str) -> String {
    let plain = |text: String, (code, character): (&str, &str)| text.replace(code, character);
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")].into_iter().fold(path.to_owned(), plain)
}
