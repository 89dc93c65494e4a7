//! Names for partition types of images of Linux systems.

/// GPT types, by their GUID in lower case. UEFI 2.10 section 5.3.3; the UAPI group's "Discoverable Partitions
/// Specification"; the rest as named by util-linux and gdisk.
const GPT: &[(&str, &str)] = &[
    ("c12a7328-f81f-11d2-ba4b-00a0c93ec93b", "EFI system"),
    ("21686148-6449-6e6f-744e-656564454649", "BIOS boot"),
    ("bc13c2ff-59e6-4262-a352-b275fd6f7172", "Linux extended boot"),
    ("0fc63daf-8483-4772-8e79-3d69d8477de4", "Linux"),
    ("8484680c-9521-48c6-9c11-b0720656f69e", "Linux /usr (x86-64)"),
    ("b0e01050-ee5f-4390-949a-9101b17104e9", "Linux /usr (ARM64)"),
    ("2c7357ed-ebd2-46d9-aec1-23d437ec2bf5", "Linux root verity (x86-64)"),
    ("df3300ce-d69f-4c92-978c-9bfb0f38d820", "Linux root verity (ARM64)"),
    ("77ff5f63-e7b6-4633-acf4-1565b864c0e6", "Linux /usr verity (x86-64)"),
    ("6e11a4e7-fbca-4ded-b9e9-e1a512bb664e", "Linux /usr verity (ARM64)"),
    ("933ac7e1-2eb4-4f13-b844-0e14e2aef915", "Linux home"),
    ("3b8f8425-20e0-4f3b-907f-1a25a76f98e8", "Linux server data"),
    ("4d21b016-b534-45c2-a9fb-5c16e091fd2d", "Linux var"),
    ("0657fd6d-a4ab-43c4-84e5-0933c84b4f4f", "Linux swap"),
    ("e6d6d379-f507-44c2-a23c-238f2a3df928", "Linux LVM"),
    ("a19d880f-05fc-4d3b-a006-743f0f84911e", "Linux RAID"),
    ("ca7d7ccb-63ed-4c53-861c-1742536059cc", "Linux LUKS"),
    ("6a898cc3-1dd2-11b2-99a6-080020736631", "ZFS"),
    ("6a945a3b-1dd2-11b2-99a6-080020736631", "Solaris reserved"),
    ("ebd0a0a2-b9e5-4433-87c0-68b6b72699c7", "Microsoft basic data"),
    ("e3c9e316-0b5c-4db8-817d-f92df00215ae", "Microsoft reserved"),
    ("9e1a2d38-c612-4316-aa26-8b49521e5a8b", "PowerPC PReP boot"),
    ("fe3a2a5d-4f32-41a7-b725-accc3285a309", "ChromeOS kernel"),
    ("3cb8e202-3b7e-47dd-8a3c-7ff2a13cfcec", "ChromeOS root"),
    ("516e7cb5-6ecf-11d6-8ff8-00022d09712b", "FreeBSD swap"),
    ("516e7cb6-6ecf-11d6-8ff8-00022d09712b", "FreeBSD UFS"),
    ("516e7cba-6ecf-11d6-8ff8-00022d09712b", "FreeBSD ZFS"),
    ("48465300-0000-11aa-aa11-00306543ecac", "Apple HFS+"),
];

/// GPT types of a root, one per architecture. "Discoverable Partitions Specification", "Defined Partition Type UUIDs".
const ROOTS: &[(&str, &str)] = &[
    ("6523f8ae-3eb1-4e2a-a05a-18b695ae656f", "Linux root (Alpha)"),
    ("d27f46ed-2919-4cb8-bd25-9531f3c16534", "Linux root (ARC)"),
    ("69dad710-2ce4-4e3c-b16c-21a1d49abed3", "Linux root (ARM)"),
    ("b921b045-1df0-41c3-af44-4c6f280d3fae", "Linux root (ARM64)"),
    ("993d8d3d-f80e-4225-855a-9daf8ed7ea97", "Linux root (IA-64)"),
    ("77055800-792c-4f94-b39a-98c91b762bb6", "Linux root (LoongArch 64)"),
    ("e9434544-6e2c-47cc-bae2-12d6deafb44c", "Linux root (MIPS)"),
    ("d113af76-80ef-41b4-bdb6-0cff4d3d4a25", "Linux root (MIPS64)"),
    ("37c58c8a-d913-4156-a25f-48b1b64e07f0", "Linux root (MIPS LE)"),
    ("700bda43-7a34-4507-b179-eeb93d7a7ca3", "Linux root (MIPS64 LE)"),
    ("1aacdb3b-5444-4138-bd9e-e5c2239b2346", "Linux root (PA-RISC)"),
    ("1de3f1ef-fa98-47b5-8dcd-4a860a654d78", "Linux root (PPC)"),
    ("912ade1d-a839-4913-8964-a10eee08fbd2", "Linux root (PPC64)"),
    ("c31c45e6-3f39-412e-80fb-4809c4980599", "Linux root (PPC64 LE)"),
    ("60d5a7fe-8e7d-435c-b714-3dd8162144e1", "Linux root (RISC-V 32)"),
    ("72ec70a6-cf74-40e6-bd49-4bda08e8f224", "Linux root (RISC-V 64)"),
    ("08a7acea-624c-4a20-91e8-6e0fa67d23f9", "Linux root (s390)"),
    ("5eead9a9-fe09-4a1e-a1d7-520d00531306", "Linux root (s390x)"),
    ("c50cdd70-3862-4cc3-90e1-809a8c93ee2c", "Linux root (TILE-Gx)"),
    ("44479540-f297-41b2-9af7-d131d5f0458a", "Linux root (x86)"),
    ("4f68bce3-e8cd-4db1-96e7-fbcaf984b709", "Linux root (x86-64)"),
];

/// Types, of either table, of partitions that are never the root, whatever their content: the system partitions of
/// firmware and boot loaders, swap, and Microsoft reserved. "Linux extended boot" (XBOOTLDR) is separate: it has a
/// Linux file system.
const NO_ROOT: &[&str] = &[
    "c12a7328-f81f-11d2-ba4b-00a0c93ec93b",
    "21686148-6449-6e6f-744e-656564454649",
    "9e1a2d38-c612-4316-aa26-8b49521e5a8b",
    "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f",
    "e3c9e316-0b5c-4db8-817d-f92df00215ae",
    "0xef",
    "0x41",
    "0x82",
];

/// XBOOTLDR in a GPT and in an MBR.
const EXTENDED_BOOT: [&str; 2] = ["bc13c2ff-59e6-4262-a352-b275fd6f7172", "0xea"];

/// MBR types, as named by util-linux.
const MBR: &[(u8, &str)] = &[
    (0x01, "FAT12"),
    (0x04, "FAT16 (small)"),
    (0x05, "extended"),
    (0x06, "FAT16"),
    (0x07, "NTFS or exFAT"),
    (0x0b, "FAT32"),
    (0x0c, "FAT32 (LBA)"),
    (0x0e, "FAT16 (LBA)"),
    (0x0f, "extended (LBA)"),
    (0x41, "PReP boot"),
    (0x82, "Linux swap"),
    (0x83, "Linux"),
    (0x85, "Linux extended"),
    (0x8e, "Linux LVM"),
    (0xa5, "FreeBSD"),
    (0xea, "Linux extended boot"),
    (0xee, "GPT protective"),
    (0xef, "EFI system"),
    (0xfd, "Linux RAID"),
];

/// The name of a GPT type; `guid` as the `uuid` crate prints it.
pub(super) fn gpt(guid: &str) -> Option<&'static str> {
    GPT.iter().chain(ROOTS).find(|(known, _)| *known == guid).map(|(_, name)| *name)
}

/// True for the type of a root, of any architecture; `id` as in [`super::Partition`].
pub(super) fn is_root(id: &str) -> bool {
    ROOTS.iter().any(|(known, _)| *known == id)
}

/// True for the type of a partition that is not the root whatever its content.
pub(super) fn is_no_root(id: &str) -> bool {
    NO_ROOT.contains(&id) || is_extended_boot(id)
}

/// True for the type of a second boot partition, which contains kernels.
pub(super) fn is_extended_boot(id: &str) -> bool {
    EXTENDED_BOOT.contains(&id)
}

/// The name of an MBR type.
pub(super) fn mbr(id: u8) -> Option<&'static str> {
    MBR.iter().find(|(known, _)| *known == id).map(|(_, name)| *name)
}
