//! Advice for the user: a text, or an action that the program words, because only it knows its commands and options,
//! and the name of the image.

use std::borrow::Cow;

/// What the user can do about an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hint {
    /// A text that names no command or option of the program.
    Text(Cow<'static, str>),
    /// An action.
    Remedy(Remedy),
}

/// An action that helps against an error, with the data that its wording needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remedy {
    /// Write the result to a new file.
    WriteToOutput,
    /// Name a file as the output, instead of standard output.
    NameOutput,
    /// Name a file in the directory that was given as the output.
    NameOutputInDirectory,
    /// Give no output, and change the image in place.
    OmitOutput,
    /// Choose another output, or replace the existing one.
    ReplaceOutput,
    /// Choose the container of the output explicitly, or a name that fits the image's.
    NameFormat {
        /// The format that the name of the output tells, if it can be written.
        named: Option<&'static str>,
    },
    /// Read the backing file of the image, which is trusted.
    FollowBacking,
    /// Check that the device is the intended one, and override that it is not removable.
    OverrideNotRemovable,
    /// Name the whole disk, or override that it is a partition.
    OverridePartition,
    /// Release the image from its holder, or override the refusal.
    OverrideHolder,
    /// Change the running system as a directory, instead of its device.
    ChangeRunningRoot,
    /// Name a directory for an undo file.
    NameUndoDirectory,
    /// Name another directory for undo files, or remove the foreign file there.
    ForeignUndoFile,
    /// Wait for the other run, or name another directory for undo files.
    UndoFileInUse,
    /// Recover the device of the undo file, or name another directory.
    UndoFileOfOtherDevice,
    /// Finish an interrupted commit.
    Recover {
        /// The image, as it is shown to the user.
        image: String,
    },
    /// Roll back an interrupted run from its undo file.
    RollBack {
        /// The device, as it is shown to the user.
        device: String,
        /// The directory of the undo file.
        undo: String,
    },
    /// Roll back an interrupted run from its undo file if there was one, otherwise the other hint.
    RollBackOr {
        /// The device, as it is shown to the user.
        device: String,
        /// The hint if there was no such run.
        otherwise: String,
    },
    /// Zero the free blocks of the image.
    Scrub,
    /// Check the file system with e2fsck, which repairs it by itself.
    CheckFileSystem,
    /// Check the file system with e2fsck, which asks before it repairs this damage.
    RepairFileSystem,
    /// Name the root partition, by its number or label.
    NameRoot,
    /// Name the root partition by its number, because several have the label.
    NameRootByNumber,
    /// Confirm the root partition by naming it.
    ConfirmRoot {
        /// Its number; `None` if it has none.
        number: Option<u32>,
    },
    /// The other hint; also, the mount back end inspects more file systems.
    InspectByKernel {
        /// The other hint.
        otherwise: Box<Hint>,
    },
    /// Use the mount back end.
    WriteByKernel,
    /// Use the mount back end, or the other hint.
    WriteByKernelOr {
        /// The other hint.
        otherwise: String,
    },
    /// Run as root, or use the native back end.
    RunAsRoot,
    /// Give the mount back end the privileges that it needs.
    GrantMountPrivileges,
    /// Name a subvolume that can be written, or make this one writable.
    NameWritableSubvolume,
}

impl Hint {
    /// The text; `None` for a remedy, which the program words.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Remedy(_) => None,
        }
    }
}

impl From<&str> for Hint {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned().into())
    }
}

impl From<String> for Hint {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}

impl From<Remedy> for Hint {
    fn from(remedy: Remedy) -> Self {
        Self::Remedy(remedy)
    }
}
