//! A real sshd on loopback, with a configuration and keys of its own, killed when dropped.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::kit::{Scratch, is_root};

/// It listens on 127.0.0.1, shows one host key, and lets the keys of one file in.
pub struct Sshd {
    child: Child,
    pub port: u16,
    log: PathBuf,
}

impl Sshd {
    /// Starts one in a directory of its own in `scratch`. `authorized` are lines of authorized_keys.
    pub fn start(scratch: &Scratch, host_key: &Path, authorized: &str) -> Self {
        let home = scratch.join("sshd");
        fs::create_dir_all(&home).unwrap();
        let keys = home.join("authorized_keys");
        fs::write(&keys, authorized).unwrap();
        fs::set_permissions(&keys, fs::Permissions::from_mode(0o600)).unwrap();
        let (config, log) = (home.join("config"), home.join("log"));
        // Another process may take the port before sshd has it: then another one is tried.
        for _ in 0..20 {
            let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
            let lines = format!(
                "ListenAddress 127.0.0.1\nPort {port}\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\n\
                 PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n\
                 StrictModes no\nUsePAM no\nLogLevel VERBOSE\n",
                host_key.display(),
                keys.display()
            );
            fs::write(&config, lines).unwrap();
            if let Some(child) = serve(&config, &log, port) {
                return Self { child, port, log };
            }
        }
        panic!("sshd does not start:\n{}", fs::read_to_string(log).unwrap_or_default());
    }

    /// What it wrote about itself.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

/// sshd, once it listens; none if it ended before.
fn serve(config: &Path, log: &Path, port: u16) -> Option<Child> {
    // sshd of root wants /run/sshd, which only a system that runs one has: it gets a /run of its own.
    let script = "if [ \"$(id -u)\" = 0 ]; then mount -t tmpfs tmpfs /run && mkdir -m 0755 /run/sshd; fi; \
                  exec /usr/sbin/sshd -D -f \"$0\" -E \"$1\"";
    // Whatever happens to the test, sshd ends with it.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]);
    if is_root() {
        command.args(["unshare", "--mount"]);
    }
    command.args(["sh", "-c", script]).arg(config).arg(log).stdin(Stdio::null());
    let mut child = command.spawn().expect("running setpriv (Debian package util-linux)");
    for _ in 0..500 {
        if child.try_wait().expect("asking for a child of ours").is_some() {
            return None;
        }
        if TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Some(child);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = child.kill();
    let _ = child.wait();
    None
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The user who runs the tests, and so the one that sshd can log in.
pub fn user() -> String {
    let output = crate::kit::tool(Command::new("id").arg("-un"));
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}
