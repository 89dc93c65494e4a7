//! Runs `qemu-img convert`. It parses hostile input: so it opens nothing but the two files that it is given, the driver
//! of each is named (nothing is probed, and no name is parsed for a protocol), backing files are excluded, and its time,
//! its memory and what it writes are bounded.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::Duration;

use deaddrop_core::error::StorageError;
use deaddrop_core::sys::{ChildLimits, end_with_parent, limit_child};
use deaddrop_core::text;

/// Bytes of the disk that are not zero: so many from any image, and from each byte of one beyond that.
const FREE: u64 = 512 << 20;
const RATIO: u64 = 50;
/// Seconds of the processor's time for any image, and bytes of an image for one more.
const SECONDS: u64 = 3;
const BYTES_PER_SECOND: u64 = 16 << 20;
const ADDRESS_SPACE: u64 = 600_000_000;
/// Of each of its up to 64 threads; 8 MiB each would be more than the address space.
const STACK: u64 = 1 << 20;
/// The largest disk.
const MOST_DISK: u64 = 2 << 40;
/// Characters of what it says, at most.
const MOST_SAID: u64 = 4096;
/// How often it is looked at.
const TICK: Duration = Duration::from_millis(5);

/// What hostile input may become.
pub(super) struct Measure {
    stored: u64,
    seconds: u64,
}

impl Measure {
    /// For an image of `size` bytes.
    pub(super) fn of(size: u64) -> Self {
        let seconds = SECONDS.saturating_add(size / BYTES_PER_SECOND);
        Self { stored: FREE.max(size.saturating_mul(RATIO)), seconds }
    }
}

/// A conversion.
pub(super) struct Job<'a> {
    /// qemu's name of the format of `from`.
    pub(super) driver: &'static str,
    pub(super) from: &'a File,
    pub(super) to: &'a File,
    /// The image's name, for messages.
    pub(super) what: &'a str,
    pub(super) measure: Option<Measure>,
}

impl Job<'_> {
    /// Runs `qemu-img convert -O format -o options`.
    ///
    /// # Errors
    /// `Unsupported` if there is no such program; `Corrupt` if it fails, or exceeds a limit; `Io`.
    pub(super) fn convert(&self, format: &str, options: &str) -> Result<(), StorageError> {
        let starting = |e| StorageError::io(format!("running qemu-img for {}", self.what), e);
        let backing = if self.driver == "vmdk" { ",\"backing\":null" } else { "" };
        // Its own lock is not taken: ours is on the file, for as long as it runs.
        let from = format!(
            "json:{{\"driver\":\"{}\",\"file\":{{\"driver\":\"file\",\"filename\":\"/proc/self/fd/0\",\
             \"locking\":\"off\"}}{backing}}}",
            self.driver
        );
        let mut command = Command::new("qemu-img");
        command.arg("convert").args(["-O", format]);
        if !options.is_empty() {
            command.args(["-o", options]);
        }
        command.args([from.as_str(), "/proc/self/fd/1"]).current_dir("/").env_clear().env("LC_ALL", "C");
        // An arena for each thread would be more than the address space, too.
        command.env("MALLOC_ARENA_MAX", "1");
        command.envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        command.stdin(Stdio::from(self.from.try_clone().map_err(starting)?));
        command.stdout(Stdio::from(self.to.try_clone().map_err(starting)?)).stderr(Stdio::piped());
        end_with_parent(&mut command);
        let (address_space, seconds, file_size) = match &self.measure {
            Some(measure) => (ADDRESS_SPACE, measure.seconds, MOST_DISK),
            None => (u64::MAX, u64::MAX, u64::MAX),
        };
        limit_child(&mut command, ChildLimits { address_space, stack: STACK, seconds, file_size });
        let mut child = command.spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => self.missing(),
            _ => starting(error),
        })?;
        let stderr = child.stderr.take();
        // On a thread of its own, or a full pipe would stop it.
        let said = std::thread::spawn(move || words(stderr));
        let ended = self.wait(&mut child);
        if ended.is_err() {
            // It may have ended meanwhile.
            let _ = child.kill();
            let _ = child.wait();
        }
        let said = said.join().unwrap_or_default();
        let status = ended?;
        if status.success() { Ok(()) } else { Err(self.failed(status, &said)) }
    }

    /// Waits until it ends; an error if it has written more than it may.
    fn wait(&self, child: &mut Child) -> Result<ExitStatus, StorageError> {
        let waiting = |e| StorageError::io(format!("waiting for qemu-img, which converts {}", self.what), e);
        loop {
            if let Some(status) = child.try_wait().map_err(waiting)? {
                return Ok(status);
            }
            if let Some(measure) = &self.measure {
                let stored = self.to.metadata().map_err(waiting)?.blocks().saturating_mul(512);
                if stored > measure.stored {
                    return Err(self.harmful(&format!("{} came out of it", text::size(stored))));
                }
            }
            sleep(TICK);
        }
    }

    fn failed(&self, status: ExitStatus, said: &str) -> StorageError {
        // SIGXCPU, or SIGKILL at the hard limit: setrlimit(2).
        match (status.signal(), &self.measure) {
            (Some(9 | 24), Some(measure)) => self.harmful(&format!("qemu-img took over {} s for it", measure.seconds)),
            _ if said.is_empty() => StorageError::corrupt(format!("qemu-img failed for {}: {status}", self.what)),
            _ => StorageError::corrupt(format!("qemu-img failed for {}: {said}", self.what)),
        }
    }

    fn harmful(&self, what: &str) -> StorageError {
        StorageError::corrupt(format!(
            "{}: {what}, and it goes on: this is no disk image, or one made to harm (convert it by hand with qemu-img \
             convert -O raw if you trust it)",
            self.what
        ))
    }

    fn missing(&self) -> StorageError {
        StorageError::unsupported(
            format!("{} needs the program qemu-img, and there is none in $PATH", self.what),
            "install it (Debian: qemu-utils, Fedora: qemu-img, Nix: qemu-utils), or convert the image where there is one",
        )
    }
}

/// The last line of what it says, safe for a terminal, without the words by which we name the files.
fn words(stderr: Option<impl Read>) -> String {
    let mut said = Vec::new();
    let Some(mut stderr) = stderr else { return String::new() };
    // What cannot be read is not shown.
    let _ = (&mut stderr).take(MOST_SAID).read_to_end(&mut said);
    let _ = io::copy(&mut stderr, &mut io::sink());
    let said = String::from_utf8_lossy(&said);
    let line = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
    let line = line.strip_prefix("qemu-img: ").unwrap_or(line);
    let line = match (line.find("json:{"), line.rfind("}': ")) {
        (Some(start), Some(end)) if start < end => line.get(end + 4..).unwrap_or(line),
        _ => line,
    };
    text::shown_text(line).unwrap_or_default()
}
