//! What a person should see before a device is overwritten, and the question.

use std::fmt::Write;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};

use deaddrop_core::sys;
use deaddrop_core::text::size;
use deaddrop_image::flash::{Device, FlashImage};
use deaddrop_image::open::block_devices::{Number, System};
use deaddrop_image::table::{Partition, Table, TableKind};

use crate::report::Ui;
use crate::run::message::{Failure, Message};

/// Maximum length of an answer, in bytes; a terminal's own limit is 4095.
const LONGEST: u64 = 4096;

/// Shows what is on the device and what will be written, and asks, unless `yes`.
///
/// # Errors
/// Exit 1 if the answer is another one, or there is no terminal to ask on.
pub(super) fn ask(
    ui: &Ui,
    device: &Device,
    image: &FlashImage,
    notes: &[String],
    (host, secrets): (Option<&str>, usize),
    yes: bool,
) -> Result<(), Failure> {
    let name = device.name();
    let mut text = format!("{}\n", shown(&name, device));
    holds(&mut text, device.table().as_ref());
    let _ = write!(text, "  will be written: {}", content(image));
    let secrets = if secrets == 1 { "1 secret".to_owned() } else { format!("{secrets} secrets") };
    let _ = write!(text, ", with {secrets}{}", host.map_or(String::new(), |host| format!(" of {host}")));
    if let Some(map) = image.block_map() {
        let _ = write!(text, ", as far as {map} has it");
    }
    for note in notes {
        let _ = write!(text, "\n  note: {note}");
    }
    ui.info(&text);
    if yes {
        return Ok(());
    }
    let nothing =
        |why: String, hint: String| Err(Failure::refused(vec![Message::nothing_changed(&name).cause(why).hint(hint)]));
    let real = device.real().display().to_string();
    let short = device.real().file_name().map_or(real.clone(), |short| short.to_string_lossy().into_owned());
    let Ok(terminal) = sys::open_terminal() else {
        return nothing(
            "there is no terminal to ask on whether all of it may be overwritten".to_owned(),
            "--yes overwrites it without asking".to_owned(),
        );
    };
    match answer(terminal, &format!("Everything on {name} will be lost. Type its name ({short}) to go on: ")) {
        Ok(answer) if [&short, &real, &name].contains(&&answer) => Ok(()),
        Ok(_) => nothing("the answer was another name".to_owned(), format!("the name is {short}, or {real}")),
        Err(error) => nothing(format!("no answer: {error}"), String::new()),
    }
}

/// One line from the terminal, whatever standard input is.
fn answer(terminal: File, question: &str) -> io::Result<String> {
    io::Write::write_all(&mut &terminal, question.as_bytes())?;
    let mut line = Vec::new();
    BufReader::new(terminal.take(LONGEST)).read_until(b'\n', &mut line)?;
    Ok(String::from_utf8_lossy(&line).trim().to_owned())
}

/// "/dev/sdb: SanDisk Ultra Fit, 28.6 GiB, serial 4C530001".
fn shown(name: &str, device: &Device) -> String {
    let real = device.real().display().to_string();
    let name = if real == name || !device.is_device() { name.to_owned() } else { format!("{name} ({real})") };
    match device.number() {
        Some(number) => format!("{name}: {}", facts(&number)),
        None => format!("{name}: a file, {}", size(device.size())),
    }
}

/// Model, size and serial number of a disk.
pub(in crate::cli) fn facts(number: &Number) -> String {
    let system = System::running();
    let serial = system.serial(number).map(|serial| format!("serial {serial}"));
    let over = system.backing_file(number).map(|file| format!("over {}", file.display()));
    let parts = [Some(system.description(number)).filter(|text| !text.is_empty()), serial, over];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// What is on the device now.
fn holds(text: &mut String, table: Option<&Table>) {
    let _ = match table {
        None => writeln!(text, "  holds now: something whose partition table cannot be read"),
        Some(table) if table.kind == TableKind::None => match table.partitions.first() {
            Some(Partition { file_system: Some(_), .. }) => {
                writeln!(text, "  holds now: no partition table; {}", parts(table))
            }
            _ => writeln!(text, "  holds now: nothing that is known"),
        },
        Some(table) => writeln!(text, "  holds now: {}; {}", table.kind.name(), parts(table)),
    };
}

/// "partition 1 (vfat, ESP) 256 MiB, partition 2 (ext4, nixos) 3.7 GiB".
fn parts(table: &Table) -> String {
    const MOST: usize = 8;
    let shown = table.partitions.iter().take(MOST).map(|part| format!("{} {}", part.title(), size(part.size)));
    let mut parts: Vec<String> = shown.collect();
    match table.partitions.len() {
        0 => parts.push("no partitions".to_owned()),
        all if all > MOST => parts.push(format!("and {} more", all - MOST)),
        _ => {}
    }
    parts.join(", ")
}

/// "node1.img.zst, zstd, 4 GiB".
fn content(image: &FlashImage) -> String {
    let mut parts = vec![image.name().to_owned()];
    parts.extend(image.layers().iter().map(|layer| layer.kind.to_owned()));
    parts.push(match (image.size(), image.likely_size()) {
        (Some(known), _) => size(known),
        (None, Some(likely)) => format!("{} by its partition table", size(likely)),
        (None, None) => "of a size that only decoding tells".to_owned(),
    });
    parts.join(", ")
}
