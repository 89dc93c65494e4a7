//! The feature words: the names of their bits, and which features the writer supports.
//!
//! Names are those of `tune2fs -O`; bits are from the kernel documentation, ext4, "Super Block" (`s_feature_compat`,
//! `s_feature_incompat`, `s_feature_ro_compat`).

use std::path::Path;

use deaddrop_core::error::{Hint, Remedy, StorageError};
use deaddrop_core::sys;

use super::superblock::Superblock;

/// One feature word of 32 bits.
macro_rules! word {
    ($name:ident, $doc:literal, $letter:literal, { $($constant:ident = $bit:literal, $text:literal;)* }) => {
        #[doc = $doc]
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct $name(pub u32);

        impl $name {
            $(
                #[doc = concat!("`", $text, "`.")]
                pub const $constant: u32 = 1 << $bit;
            )*

            /// True if all of `bits` are set.
            #[must_use]
            pub fn has(self, bits: u32) -> bool {
                self.0 & bits == bits
            }

            /// Names of the set bits, lowest first.
            pub fn names(self) -> impl Iterator<Item = String> {
                (0..32_u32).filter(move |bit| self.0 & (1 << bit) != 0).map(|bit| match bit {
                    $($bit => $text.to_owned(),)*
                    _ => format!(concat!("FEATURE_", $letter, "{}"), bit),
                })
            }
        }
    };
}

word!(Compat, "`s_feature_compat`: a program that does not know a bit may still write.", "C", {
    DIR_PREALLOC = 0, "dir_prealloc";
    IMAGIC_INODES = 1, "imagic_inodes";
    HAS_JOURNAL = 2, "has_journal";
    EXT_ATTR = 3, "ext_attr";
    RESIZE_INODE = 4, "resize_inode";
    DIR_INDEX = 5, "dir_index";
    LAZY_BG = 6, "lazy_bg";
    SNAPSHOT_BITMAP = 8, "snapshot_bitmap";
    SPARSE_SUPER2 = 9, "sparse_super2";
    FAST_COMMIT = 10, "fast_commit";
    STABLE_INODES = 11, "stable_inodes";
    ORPHAN_FILE = 12, "orphan_file";
});

word!(Incompat, "`s_feature_incompat`: a program that does not know a bit must not even read.", "I", {
    COMPRESSION = 0, "compression";
    FILETYPE = 1, "filetype";
    NEEDS_RECOVERY = 2, "needs_recovery";
    JOURNAL_DEV = 3, "journal_dev";
    META_BG = 4, "meta_bg";
    EXTENT = 6, "extent";
    BITS_64 = 7, "64bit";
    MMP = 8, "mmp";
    FLEX_BG = 9, "flex_bg";
    EA_INODE = 10, "ea_inode";
    DIRDATA = 12, "dirdata";
    METADATA_CSUM_SEED = 13, "metadata_csum_seed";
    LARGE_DIR = 14, "large_dir";
    INLINE_DATA = 15, "inline_data";
    ENCRYPT = 16, "encrypt";
    CASEFOLD = 17, "casefold";
});

word!(RoCompat, "`s_feature_ro_compat`: a program that does not know a bit may read, but must not write.", "R", {
    SPARSE_SUPER = 0, "sparse_super";
    LARGE_FILE = 1, "large_file";
    HUGE_FILE = 3, "huge_file";
    UNINIT_BG = 4, "uninit_bg";
    DIR_NLINK = 5, "dir_nlink";
    EXTRA_ISIZE = 6, "extra_isize";
    SNAPSHOT = 7, "snapshot";
    QUOTA = 8, "quota";
    BIGALLOC = 9, "bigalloc";
    METADATA_CSUM = 10, "metadata_csum";
    REPLICA = 11, "replica";
    READ_ONLY = 12, "read-only";
    PROJECT = 13, "project";
    SHARED_BLOCKS = 14, "shared_blocks";
    VERITY = 15, "verity";
    ORPHAN_PRESENT = 16, "orphan_present";
});

/// The three words of one file system. All zero before revision 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Features {
    /// `s_feature_compat`, 0x5C, u32.
    pub compat: Compat,
    /// `s_feature_incompat`, 0x60, u32.
    pub incompat: Incompat,
    /// `s_feature_ro_compat`, 0x64, u32.
    pub ro_compat: RoCompat,
}

impl Features {
    /// Names of all features, in the order of `dumpe2fs`.
    #[must_use]
    pub fn names(self) -> Vec<String> {
        self.compat.names().chain(self.incompat.names()).chain(self.ro_compat.names()).collect()
    }
}

/// Incompat features that the writer and both readers are tested with. `needs_recovery` is handled when the file system
/// is opened.
const WRITTEN_INCOMPAT: u32 = Incompat::FILETYPE
    | Incompat::EXTENT
    | Incompat::BITS_64
    | Incompat::FLEX_BG
    | Incompat::EA_INODE
    | Incompat::METADATA_CSUM_SEED
    | Incompat::LARGE_DIR
    | Incompat::INLINE_DATA;

/// Ro_compat features that the writer and both readers are tested with. `orphan_present` is handled when the file
/// system is opened.
const WRITTEN_RO_COMPAT: u32 = RoCompat::SPARSE_SUPER
    | RoCompat::LARGE_FILE
    | RoCompat::HUGE_FILE
    | RoCompat::UNINIT_BG
    | RoCompat::DIR_NLINK
    | RoCompat::EXTRA_ISIZE
    | RoCompat::METADATA_CSUM;

/// State left by a mount (journal or orphans): not features of the format, so never refused by name.
const STATE_INCOMPAT: u32 = Incompat::NEEDS_RECOVERY;
const STATE_RO_COMPAT: u32 = RoCompat::ORPHAN_PRESENT;

/// Incompat features that our reader does not support: it would report their structures as damage.
const UNREADABLE_INCOMPAT: u32 = !(WRITTEN_INCOMPAT
    | STATE_INCOMPAT
    | Incompat::META_BG
    | Incompat::MMP
    | Incompat::DIRDATA
    | Incompat::ENCRYPT
    | Incompat::CASEFOLD);

/// The hint for a file system that is only read.
const HINT: &str = "make the file system without it (mke2fs -O ^FEATURE; some can be turned off by tune2fs -O \
    ^FEATURE); docs/ext4.md lists what is supported";

/// The hint for a file system that is not written: the kernel, if this machine's kernel can write it, otherwise
/// `otherwise`.
fn hint(superblock: &Superblock, otherwise: &str) -> Hint {
    match kernel_writes(superblock) {
        true => Remedy::WriteByKernelOr { otherwise: otherwise.to_owned() }.into(),
        false => otherwise.into(),
    }
}

/// True if the running kernel mounts a file system with these features, block size and inode size read-write.
///
/// /sys/fs/ext4/features lists the features that depend on the kernel's build (fs/ext4/sysfs.c). Every kernel since 4.4
/// has the rest (fs/ext4/ext4.h, `EXT4_FEATURE_INCOMPAT_SUPP` and `EXT4_FEATURE_RO_COMPAT_SUPP`); `verity` since 5.4,
/// which a kernel with `fast_commit` (5.10) has. Quota support is not reported anywhere.
fn kernel_writes(superblock: &Superblock) -> bool {
    const BUILT_IN: u32 = WRITTEN_INCOMPAT | STATE_INCOMPAT | Incompat::META_BG | Incompat::MMP;
    const BUILT_IN_RO: u32 = WRITTEN_RO_COMPAT | STATE_RO_COMPAT | RoCompat::BIGALLOC;
    let there = |path: &str| Path::new(path).exists();
    let bits = |there: bool, bits: u32| if there { bits } else { 0 };
    let incompat = BUILT_IN
        | bits(there("/sys/fs/ext4/features/encryption"), Incompat::ENCRYPT)
        | bits(there("/sys/fs/ext4/features/casefold"), Incompat::CASEFOLD);
    let verity = ["verity", "fast_commit"].iter().any(|name| there(&format!("/sys/fs/ext4/features/{name}")));
    let ro_compat = BUILT_IN_RO | bits(verity, RoCompat::VERITY);
    let block_size = 1024_u64.checked_shl(superblock.log_block_size).unwrap_or(u64::MAX);
    there("/sys/fs/ext4")
        && superblock.features.incompat.0 & !incompat == 0
        && superblock.features.ro_compat.0 & !ro_compat == 0
        && (block_size <= sys::page_size() || there("/sys/fs/ext4/features/blocksize_gt_pagesize"))
}

/// Refuses a file system with features that the writer does not support. A dirty journal and orphans are handled
/// elsewhere: see `recover`.
///
/// # Errors
/// [`StorageError::Unsupported`] with the features' names.
pub fn check_written(superblock: &Superblock) -> Result<(), StorageError> {
    let features = superblock.features;
    let refused: Vec<String> = Incompat(features.incompat.0 & !(WRITTEN_INCOMPAT | STATE_INCOMPAT))
        .names()
        .chain(RoCompat(features.ro_compat.0 & !(WRITTEN_RO_COMPAT | STATE_RO_COMPAT)).names())
        .map(|name| format!("`{name}`"))
        .collect();
    let unsupported = |what: String| Err(StorageError::unsupported(what, hint(superblock, HINT)));
    match refused.as_slice() {
        [] => {}
        [one] => return unsupported(format!("ext4 feature {one}")),
        many => return unsupported(format!("ext4 features {}", many.join(", "))),
    }
    // To the kernel a file system that names an external journal in addition to its own is damaged, and e2fsck opens
    // none that names one.
    if superblock.names_external_journal || (features.compat.has(Compat::HAS_JOURNAL) && superblock.journal_inode == 0)
    {
        return Err(StorageError::unsupported("ext4 with an external journal", EXTERNAL_JOURNAL_HINT));
    }
    if superblock.log_block_size > 2 {
        let what = format!("ext4 blocks of {} KiB", 1_u32.checked_shl(superblock.log_block_size).unwrap_or(0));
        let otherwise = "make the file system with blocks of 4 KiB (mke2fs -b 4096)";
        return Err(StorageError::unsupported(what, hint(superblock, otherwise)));
    }
    if superblock.creator != 0 {
        return Err(StorageError::unsupported(
            format!("ext4 made by an operating system other than Linux ({})", superblock.creator),
            "make the file system on Linux; docs/ext4.md lists what is supported",
        ));
    }
    Ok(())
}

/// Refuses a file system with features that our reader does not support. With `bigalloc` the bits of bitmaps are
/// clusters.
///
/// # Errors
/// As [`check_written`].
pub fn check_readable(superblock: &Superblock) -> Result<(), StorageError> {
    let features = superblock.features;
    if features.incompat.0 & UNREADABLE_INCOMPAT != 0 || features.ro_compat.has(RoCompat::BIGALLOC) {
        return check_written(superblock);
    }
    Ok(())
}

/// A mount does not replay an external journal without its device either.
const EXTERNAL_JOURNAL_HINT: &str =
    "make its journal an internal one: `tune2fs -O ^has_journal`, then `e2fsck -f`, then `tune2fs -j`";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_have_the_names_of_tune2fs() {
        let features =
            Features { compat: Compat(0x103C), incompat: Incompat(0x2C2 | (1 << 20)), ro_compat: RoCompat(0x1_046B) };
        assert_eq!(
            features.names().join(" "),
            "has_journal ext_attr resize_inode dir_index orphan_file filetype extent 64bit flex_bg FEATURE_I20 \
             sparse_super large_file huge_file dir_nlink extra_isize metadata_csum orphan_present"
        );
    }
}
