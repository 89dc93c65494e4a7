//! The devices that an image could be written to.

use std::path::PathBuf;

use deaddrop_image::open::block_devices::{Number, System};

use super::ask::facts;
use crate::report::{Ui, json};
use crate::run::message::{Exit, Failure};

/// Their paths and numbers, in order of their names. Reads `/sys` and `/proc`, and opens no device.
pub(in crate::cli) fn devices() -> Vec<(PathBuf, Number)> {
    let system = System::running();
    let is_meant = |number: &Number| {
        system.is_removable(number) && !system.is_read_only(number) && system.runs_from(number).is_none()
    };
    system.disks().into_iter().filter(|(_, number)| is_meant(number)).collect()
}

/// Lists them: removable, writable, and without the running system.
///
/// # Errors
/// If standard output cannot be written.
pub(super) fn run(ui: &Ui) -> Result<Exit, Failure> {
    let system = System::running();
    let devices: Vec<_> = devices()
        .iter()
        .map(|(path, number)| {
            let path = path.display().to_string();
            let in_use = system
                .mounted_at(number)
                .map(|place| format!("mounted at {place}"))
                .or_else(|| system.is_swap(number).then(|| "in use as swap".to_owned()))
                .or_else(|| system.used_by(number).map(|by| format!("used by {by}")));
            (path, facts(number), in_use)
        })
        .collect();
    ui.print_json(|| json::devices(&devices))?;
    let width = devices.iter().map(|(device, ..)| device.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (device, description, in_use) in &devices {
        let in_use = in_use.as_ref().map_or(String::new(), |by| format!("; {by}"));
        text.push_str(&format!("{device:width$}  {description}{in_use}\n"));
    }
    ui.print(&text)?;
    if devices.is_empty() {
        ui.info("no removable device is there; deaddrop flash IMAGE DEVICE --force writes to another disk");
    } else {
        ui.info("deaddrop flash IMAGE DEVICE --host NAME writes an image to one of them");
    }
    Ok(Exit::Done)
}
