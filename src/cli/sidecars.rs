//! `--sidecars`: the files beside an image that was written.

use std::fs;
use std::path::Path;

use deaddrop_image::progress::Watch;
use deaddrop_image::sidecars;

use crate::run::message::{Failure, Message};

/// Refuses the option for what is no image file: a device, a directory.
///
/// # Errors
/// Exit 2.
pub fn check(image: &Path) -> Result<(), Failure> {
    if is_file(image) {
        return Ok(());
    }
    let message = Message::new(format!("--sidecars is for an image file, and `{}` is none", image.display()));
    Err(Failure::usage(message.hint("leave it out")))
}

/// Writes the sidecars of an image that was written, or with `asked` false finds those that it does not fit any more.
/// Returns lines for the user.
///
/// # Errors
/// If they cannot be written: the image stays.
pub fn see_to(image: &Path, asked: bool, watch: Watch<'_>) -> Result<Vec<String>, Message> {
    if !asked {
        let found = if is_file(image) { sidecars::of(image) } else { Vec::new() };
        let line = |sidecar| format!("{sidecar} does not fit the new {} (--sidecars writes it)", image.display());
        return Ok(found.into_iter().map(line).collect());
    }
    let written = sidecars::write(image, watch).map_err(|error| {
        let message = Message::new("--sidecars: the image is written, and what is beside it does not fit it");
        message.caused_by(&error).hint("the same command again writes the sidecars; with -o, add --force")
    })?;
    Ok(written.into_iter().map(|sidecar| format!("{sidecar} written")).collect())
}

/// True for a regular file, and for a name that nothing has yet.
fn is_file(path: &Path) -> bool {
    fs::metadata(path).map_or(true, |found| found.is_file())
}
