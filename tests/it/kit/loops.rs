//! Loop devices that always go.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::{is_root, program, shout, tool};

/// True where loop devices can be used; else it says what is skipped.
pub fn has_loop_devices() -> bool {
    let has = is_root() && Path::new("/dev/loop-control").exists();
    if !has {
        shout("SKIPPED: this test needs root and loop devices");
    }
    has
}

/// A loop device over a file, or over another device, with a node for each partition.
pub struct Loop(pub String);

impl Loop {
    pub fn new(file: impl AsRef<Path>) -> Self {
        Self::with(file, &[])
    }

    /// With further arguments of losetup.
    pub fn with(file: impl AsRef<Path>, arguments: &[&str]) -> Self {
        let output = tool(Command::new("losetup").args(["--find", "--show"]).args(arguments).arg(file.as_ref()));
        Self(String::from_utf8(output.stdout).unwrap().trim().to_owned())
    }

    /// Over `size` bytes of a file.
    pub fn over_part(file: impl AsRef<Path>, offset: u64, size: u64) -> Self {
        Self::with(file, &["--offset", &offset.to_string(), "--sizelimit", &size.to_string()])
    }

    /// Adds the partitions' nodes, whether or not the kernel reads tables by itself. The path of partition 2.
    pub fn second_partition(&self) -> String {
        // Fails where they are there already.
        let _ = Command::new("partx").args(["-a", &self.0]).output();
        let path = format!("{}p2", self.0);
        assert!(Path::new(&path).exists(), "{path} did not appear");
        path
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new(program("partx")).args(["-d", &self.0]).output();
        let _ = Command::new(program("losetup")).args(["-d", &self.0]).output();
        // It goes with the last who has it open: a child that another test just started, for a moment.
        let backing = format!("/sys/block/{}/loop", self.0.trim_start_matches("/dev/"));
        for _ in 0..100 {
            if !Path::new(&backing).exists() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
