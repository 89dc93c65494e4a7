//! Nodes for many at once: an sshd each on loopback, with an /etc, a /var and a /root of its own (overlays over this
//! machine's, in a mount namespace), which costs some megabytes a node. What a node has written is seen from outside in
//! its upper directories. All of it ends with the test, however the test ends.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::kit::{Scratch, is_root, new_ssh_key, tool, write_program};

/// What each node has for itself, over this machine's.
const OWN: [&str; 2] = ["etc", "var"];

/// A stand-in for systemd: notes what it is called with in /var/calls. All units run; on a node with /etc/broken-unit
/// they fail with a first secret that begins with `new`.
const SYSTEMCTL: &str = r#"#!/bin/sh
echo "$*" >>/var/calls
broken=
if [ -e /etc/broken-unit ] && grep -q ^new /etc/secrets/s00; then broken=yes; fi
case $1 in
  show)
    while [ "$1" != -- ]; do shift; done
    shift
    first=yes
    for unit; do
      [ "$first" ] || echo
      first=
      state=active
      [ -z "$broken" ] || state=failed
      printf 'Type=simple\nLoadState=loaded\nActiveState=%s\nSubState=%s\nResult=success\nNRestarts=0\n' $state $state
    done
    ;;
  restart | try-restart | reload) [ -z "$broken" ] ;;
esac
"#;

/// So many nodes, called node000, node001, …
pub struct Nodes {
    /// Where everything is; runs start here.
    pub scratch: Scratch,
    ports: Vec<u16>,
    running: Vec<Option<Child>>,
}

impl Nodes {
    /// Starts them, and waits until each listens.
    pub fn start(count: usize) -> Self {
        assert!(is_root(), "sshds with roots of their own need root");
        let scratch = Scratch::new();
        for key in ["user", "host"] {
            new_ssh_key(&scratch.join(key));
        }
        let bin = scratch.join("bin");
        fs::create_dir(&bin).unwrap();
        write_program(&bin.join("systemctl"), SYSTEMCTL);
        // Held until all are found, so that none comes twice.
        let listeners: Vec<TcpListener> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let ports: Vec<u16> = listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect();
        drop(listeners);
        let mut nodes = Self { scratch, ports, running: Vec::new() };
        nodes.write_client_files();
        for number in 0..count {
            let child = nodes.spawn(number);
            nodes.running.push(Some(child));
        }
        (0..count).for_each(|number| nodes.wait_for(number));
        nodes
    }

    /// A node's name in the ssh configuration and in manifests.
    pub fn name(number: usize) -> String {
        format!("node{number:03}")
    }

    /// The lines below `hosts:` of a manifest, all with the keys `keys`.
    pub fn hosts(&self, keys: &str) -> String {
        (0..self.ports.len()).map(|number| format!("  {0}: {{ ssh: {0}{keys} }}\n", Self::name(number))).collect()
    }

    /// What a node has of its own at an absolute path; the file need not be there.
    pub fn path(&self, number: usize, path: &str) -> PathBuf {
        self.scratch.join(format!("nodes/{}{path}", Self::name(number)))
    }

    /// The content of a node's file; none when it has none of its own.
    pub fn read(&self, number: usize, path: &str) -> Option<Vec<u8>> {
        fs::read(self.path(number, path)).ok()
    }

    /// Runs a shell command on a node.
    pub fn shell(&self, number: usize, command: &str) {
        let config = self.scratch.join("ssh_config");
        tool(Command::new("ssh").arg("-F").arg(config).arg(Self::name(number)).arg(command).stdin(Stdio::null()));
    }

    /// How often somebody connected to it.
    pub fn connections(&self, number: usize) -> usize {
        let log = fs::read_to_string(self.log(number)).expect("an sshd's log");
        log.lines().filter(|line| line.starts_with("Connection from")).count()
    }

    /// Ends a node: from here on nobody listens there.
    pub fn stop(&mut self, number: usize) {
        if let Some(mut child) = self.running[number].take() {
            // unshare passes its end on to all that it started.
            let _ = child.kill();
            let _ = child.wait();
        }
        while TcpStream::connect(("127.0.0.1", self.ports[number])).is_ok() {
            sleep(Duration::from_millis(5));
        }
    }

    /// Makes the client believe that a node once had another host key.
    pub fn forget_host_key(&self, number: usize) {
        let other = self.scratch.join("other-host");
        new_ssh_key(&other);
        let known = fs::read_to_string(self.scratch.join("known_hosts")).unwrap();
        let place = format!("[127.0.0.1]:{} ", self.ports[number]);
        let line = |line: &str| match line.starts_with(&place) {
            true => format!("{place}{}\n", key_of(&other.with_extension("pub"))),
            false => format!("{line}\n"),
        };
        fs::write(self.scratch.join("known_hosts"), known.lines().map(line).collect::<String>()).unwrap();
    }

    fn log(&self, number: usize) -> PathBuf {
        self.scratch.join(format!("nodes/{}.log", Self::name(number)))
    }

    fn write_client_files(&self) {
        let key = key_of(&self.scratch.join("host.pub"));
        let known: String = self.ports.iter().map(|port| format!("[127.0.0.1]:{port} {key}\n")).collect();
        self.scratch.write("known_hosts", known);
        let mut config = String::new();
        for (number, port) in self.ports.iter().enumerate() {
            config.push_str(&format!("Host {}\n  Port {port}\n", Self::name(number)));
        }
        let at = |name: &str| self.scratch.join(name).display().to_string();
        config.push_str(&format!(
            "Host *\n  HostName 127.0.0.1\n  User root\n  IdentityFile {}\n  IdentitiesOnly yes\n  \
             UserKnownHostsFile {}\n",
            at("user"),
            at("known_hosts")
        ));
        self.scratch.write("ssh_config", config);
    }

    fn spawn(&self, number: usize) -> Child {
        let mut script = "set -e\n".to_owned();
        for own in OWN {
            let (upper, inner) = (self.path(number, &format!("/{own}")), self.path(number, &format!("/.{own}")));
            fs::create_dir_all(&upper).unwrap();
            fs::create_dir_all(&inner).unwrap();
            let options = format!("lowerdir=/{own},upperdir={},workdir={}", upper.display(), inner.display());
            script.push_str(&format!("mount -t overlay -o '{options}' overlay /{own}\n"));
        }
        // An empty home: what this machine's own shells do as they start is nothing that a test shall wait for.
        let home = self.path(number, "/root");
        fs::create_dir_all(&home).unwrap();
        script.push_str(&format!("mount --bind '{}' /root\n", home.display()));
        script.push_str("mount -t tmpfs -o mode=0755 tmpfs /run\nmkdir -p /run/sshd /run/systemd/system\n");
        let at = |name: &str| self.scratch.join(name).display().to_string();
        // The stand-in, whatever PATH a session has.
        script.push_str(&format!(
            "if [ -e /usr/bin/systemctl ]; then mount --bind '{}' /usr/bin/systemctl; fi\n",
            at("bin/systemctl")
        ));
        let options = [
            "ListenAddress=127.0.0.1".to_owned(),
            format!("AuthorizedKeysFile={}", at("user.pub")),
            format!("SetEnv=PATH={}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", at("bin")),
            "StrictModes=no".to_owned(),
            "UsePAM=no".to_owned(),
            "PidFile=none".to_owned(),
            "PermitRootLogin=yes".to_owned(),
            "LogLevel=VERBOSE".to_owned(),
            "PrintMotd=no".to_owned(),
        ];
        let options: String = options.iter().map(|option| format!(" -o '{option}'")).collect();
        let port = self.ports[number];
        script.push_str(&format!("exec /usr/sbin/sshd -D -e -f /dev/null -p {port} -h '{}'{options}\n", at("host")));
        let log = fs::File::create(self.log(number)).unwrap();
        let mut command = Command::new("setpriv");
        // Also when the test itself is killed.
        command.args([
            "--pdeathsig",
            "KILL",
            "unshare",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child=KILL",
            "--mount-proc",
        ]);
        command.args(["sh", "-c", &script]).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        command.spawn().unwrap_or_else(|error| panic!("starting setpriv and unshare: {error}"))
    }

    fn wait_for(&self, number: usize) {
        let deadline = Instant::now() + Duration::from_secs(60);
        let listens = || fs::read_to_string(self.log(number)).is_ok_and(|log| log.contains("Server listening"));
        while !listens() {
            let log = || fs::read_to_string(self.log(number)).unwrap_or_default();
            assert!(Instant::now() < deadline, "an sshd does not start (Debian package openssh-server): {}", log());
            sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        for child in self.running.iter_mut().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Type and key of a public key's file, as known_hosts wants them.
fn key_of(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}
