//! A running node: a real `sshd` on loopback, in a root of its own, with stand-ins for systemd's programs. Everything
//! ends when it is dropped, and also when the test is killed: the processes of a node are in a PID namespace whose
//! first one dies with the test.
//!
//! Needs root, for namespaces and chroot.

use std::fmt::Write as _;
use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::run::Deaddrop;
use super::{Scratch, is_root, new_ssh_key, tool, write_program};

/// What systemctl is on a node: it notes what it is called with, and does as files in /srv say.
/// `/srv/units/NAME` holds what `show` answers, `/srv/on/NAME` is run by `restart` and `reload` and may fail.
const SYSTEMCTL: &str = r#"#!/bin/sh
PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin
verb=$1
shift
echo "$verb $*" >>/srv/systemctl.log
case $verb in
  show)
    while [ "$1" != -- ]; do shift; done
    shift
    first=yes
    for unit; do
      [ "$first" ] || echo
      first=
      if [ -e "/srv/units/$unit" ]; then
        cat "/srv/units/$unit"
      else
        echo LoadState=not-found
        echo ActiveState=inactive
      fi
    done
    ;;
  restart | try-restart | reload | reload-or-restart)
    [ "$1" != -- ] || shift
    set -- "${1%.service}.service"
    state=active
    status=0
    if [ -x "/srv/on/$1" ]; then
      "/srv/on/$1" "$verb" || { state=failed; status=1; }
    fi
    sed "s/^ActiveState=.*/ActiveState=$state/; s/^SubState=.*/SubState=$state/" "/srv/units/$1" >"/srv/units/.$1" &&
      mv "/srv/units/.$1" "/srv/units/$1"
    exit $status
    ;;
  is-active) ;;
esac
"#;

/// What journalctl is on a node.
const JOURNALCTL: &str = "#!/bin/sh\n[ \"$1\" != -u ] || cat \"/srv/journal/$2\" 2>/dev/null\n";

/// Starts the node inside a mount and a PID namespace of its own: $1 the root, $2 the port, $3 what goes over
/// /usr/local.
const START: &str = r#"
set -e
root=$1
mount --bind "$root" "$root"
if [ -e "$root/usr/bin/busybox" ]; then
  mount --bind /usr/lib "$root/usr/lib"
  mount -o remount,bind,ro "$root/usr/lib"
else
  mount --rbind /usr "$root/usr"
  mount -o remount,bind,ro "$root/usr"
fi
mount --bind "$3" "$root/usr/local"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mkdir -p "$root/run/sshd" "$root/run/systemd/system"
[ -z "$4" ] || eval "$4"
exec chroot "$root" /usr/sbin/sshd -D -e -f /etc/ssh/sshd_config -p "$2"
"#;

/// A node to be.
pub struct NodeBuilder {
    name: String,
    /// What `sh` is there; Debian's dash otherwise.
    shell: Option<PathBuf>,
    login_shell: String,
    sshd_config: String,
    /// Run before sshd, in the node's namespaces, `$root` being its root.
    mounts: String,
    without_systemd: bool,
    busybox: bool,
}

/// A running node.
pub struct Node {
    /// Its name in the manifest and in ssh's configuration.
    pub name: String,
    /// Its root, as it is seen from outside; what is mounted there is not.
    pub root: PathBuf,
    /// What is its /usr/local, as it is seen from outside.
    local: PathBuf,
    /// Where its sshd listens.
    pub port: u16,
    /// Ended when it is dropped.
    process: Child,
    log: PathBuf,
}

impl NodeBuilder {
    /// A node on which everything is Debian's.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            shell: None,
            login_shell: "/bin/sh".to_owned(),
            sshd_config: String::new(),
            mounts: String::new(),
            without_systemd: false,
            busybox: false,
        }
    }

    /// A node that has busybox, sshd and nothing else.
    pub fn busybox(mut self) -> Self {
        self.busybox = true;
        self
    }

    /// `sh` is this program there.
    pub fn shell(mut self, program: &str) -> Self {
        self.shell = Some(program.into());
        self
    }

    /// What people get when they log in.
    pub fn login_shell(mut self, program: &str) -> Self {
        self.login_shell = program.to_owned();
        self
    }

    /// Lines for its sshd_config.
    pub fn sshd(mut self, lines: &str) -> Self {
        self.sshd_config.push_str(lines);
        self
    }

    /// Commands before it starts, `$root` being its root: mounts.
    pub fn mounts(mut self, commands: &str) -> Self {
        self.mounts.push_str(commands);
        self
    }

    /// A node whose first process is another.
    pub fn without_systemd(mut self) -> Self {
        self.without_systemd = true;
        self
    }

    /// Makes its root and starts it; returns when it answers.
    pub fn start(self, scratch: &Scratch) -> Node {
        assert!(is_root(), "a node needs namespaces and chroot: run the tests as root");
        let ssh = keys(scratch);
        let root = scratch.join(format!("{}.root", self.name));
        make_root(&root, &self);
        let local = scratch.join(format!("{}.local", self.name));
        fs::create_dir_all(local.join("bin")).expect("making a directory of ours");
        if let Some(shell) = &self.shell {
            symlink(shell, local.join("bin/sh")).expect("making a link of ours");
        }
        if !self.without_systemd {
            write_program(&local.join("bin/systemctl"), SYSTEMCTL);
            write_program(&local.join("bin/journalctl"), JOURNALCTL);
        }
        fs::copy(ssh.join("id.pub"), root.join("root/.ssh/authorized_keys")).expect("copying a key");
        fs::copy(ssh.join("id.pub"), root.join("home/admin/.ssh/authorized_keys")).expect("copying a key");
        for path in ["home/admin", "home/admin/.ssh", "home/admin/.ssh/authorized_keys"] {
            std::os::unix::fs::chown(root.join(path), Some(1000), Some(1000)).expect("giving a file of ours away");
        }
        new_ssh_key(&root.join("etc/ssh/ssh_host_ed25519_key"));
        let config = format!(
            "HostKey /etc/ssh/ssh_host_ed25519_key\nListenAddress 127.0.0.1\nPidFile none\nUsePAM no\n\
             PermitRootLogin yes\n\
             StrictModes no\nLogLevel VERBOSE\nMaxStartups 200\nPasswordAuthentication no\nPrintMotd no\n{}",
            self.sshd_config
        );
        fs::write(root.join("etc/ssh/sshd_config"), config).expect("writing a file of ours");
        let log = scratch.join(format!("{}.log", self.name));
        let mounts = if self.without_systemd {
            format!("{}\nrmdir \"$root/run/systemd/system\"", self.mounts)
        } else {
            self.mounts.clone()
        };
        let (port, process) = start(&root, &local, &mounts, &log);
        let node = Node { name: self.name, root, local, port, process, log };
        node.remember(&ssh);
        node
    }
}

/// Starts sshd at a port that is free; another process may take it first, and then it tries the next.
fn start(root: &Path, local: &Path, mounts: &str, log: &Path) -> (u16, Child) {
    for _ in 0..20 {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port").port();
        let output = fs::File::create(log).expect("making a file of ours");
        let mut process = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child=KILL"])
            .args(["--propagation", "private", "sh", "-c", START, "sh"])
            .arg(root)
            .arg(port.to_string())
            .arg(local)
            .arg(mounts)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(output)
            .spawn()
            .expect("starting unshare");
        let until = Instant::now() + Duration::from_secs(60);
        while Instant::now() < until && matches!(process.try_wait(), Ok(None)) {
            if answers(port) {
                return (port, process);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = process.kill();
        let _ = process.wait();
    }
    panic!("sshd does not start: {}", fs::read_to_string(log).unwrap_or_default());
}

/// True when an sshd greets at this port.
fn answers(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return false };
    let mut greeting = [0; 4];
    let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
    stream.read_exact(&mut greeting).is_ok() && &greeting == b"SSH-"
}

/// The person's key and directory for ssh, once a scratch directory.
fn keys(scratch: &Scratch) -> PathBuf {
    let dir = scratch.join("ssh");
    if !dir.exists() {
        fs::create_dir(&dir).expect("making a directory of ours");
        new_ssh_key(&dir.join("id"));
        fs::write(dir.join("config"), "").expect("writing a file of ours");
        fs::write(dir.join("known_hosts"), "").expect("writing a file of ours");
    }
    dir
}

fn make_root(root: &Path, node: &NodeBuilder) {
    for (dir, mode) in [
        ("usr", 0o755),
        ("etc/ssh", 0o755),
        ("etc/secrets", 0o700),
        ("var/lib", 0o755),
        ("var/log", 0o755),
        ("root/.ssh", 0o700),
        ("home/admin/.ssh", 0o700),
        ("srv/units", 0o755),
        ("srv/on", 0o755),
        ("srv/journal", 0o755),
        ("tmp", 0o1777),
        ("run", 0o755),
        ("proc", 0o755),
        ("dev", 0o755),
    ] {
        fs::create_dir_all(root.join(dir)).expect("making a directory of ours");
        fs::set_permissions(root.join(dir), Permissions::from_mode(mode)).expect("setting its mode");
    }
    for name in ["bin", "sbin", "lib", "lib64"] {
        symlink(format!("usr/{name}"), root.join(name)).expect("making a link of ours");
    }
    if node.busybox {
        for dir in ["usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "usr/local"] {
            fs::create_dir_all(root.join(dir)).expect("making a directory of ours");
        }
        tool(Command::new("cp").arg("-aL").args(["/usr/bin/busybox", "/usr/sbin/sshd"]).arg(root.join("usr/sbin")));
        fs::rename(root.join("usr/sbin/busybox"), root.join("usr/bin/busybox")).expect("moving a file of ours");
        if Path::new("/usr/lib64").exists() {
            tool(Command::new("cp").arg("-aL").arg("/usr/lib64").arg(root.join("usr")));
        }
        let applets = tool(Command::new("busybox").arg("--list")).stdout;
        for applet in String::from_utf8_lossy(&applets).lines().filter(|applet| *applet != "busybox") {
            symlink("busybox", root.join("usr/bin").join(applet)).expect("making a link of ours");
        }
    }
    let shell = &node.login_shell;
    let write = |path: &str, text: &str| fs::write(root.join(path), text).expect("writing a file of ours");
    write(
        "etc/passwd",
        &format!(
            "root:x:0:0:root:/root:{shell}\nsshd:x:74:74::/run/sshd:/usr/sbin/nologin\n\
             admin:x:1000:1000::/home/admin:{shell}\nnobody:x:65534:65534::/:/usr/sbin/nologin\n"
        ),
    );
    write("etc/group", "root:x:0:\nsshd:x:74:\nadmin:x:1000:\nkeys:x:96:\nnogroup:x:65534:\n");
    write("etc/shadow", "root:*:19000:0:99999:7:::\nsshd:!:19000::::::\nadmin:*:19000:0:99999:7:::\n");
    write("etc/nsswitch.conf", "passwd: files\ngroup: files\nshadow: files\nhosts: files\n");
    write("etc/hosts", "127.0.0.1 localhost\n");
    write("etc/hostname", "node\n");
    fs::set_permissions(root.join("etc/shadow"), Permissions::from_mode(0o600)).expect("setting its mode");
    for path in ["/etc/ld.so.cache", "/etc/login.defs", "/etc/pam.d", "/etc/security"] {
        if Path::new(path).exists() {
            tool(Command::new("cp").arg("-a").arg(path).arg(root.join("etc")));
        }
    }
}

impl Node {
    /// Enters this node into ssh's configuration and known hosts.
    fn remember(&self, ssh: &Path) {
        let mut config = fs::read_to_string(ssh.join("config")).expect("reading a file of ours");
        let (name, port, dir) = (&self.name, self.port, ssh.display());
        let _ = write!(
            config,
            "Host {name}\n  HostName 127.0.0.1\n  Port {port}\n  User root\n  IdentityFile {dir}/id\n  \
             IdentitiesOnly yes\n  \
             UserKnownHostsFile {dir}/known_hosts\n  GlobalKnownHostsFile /dev/null\n"
        );
        fs::write(ssh.join("config"), config).expect("writing a file of ours");
        let key = fs::read_to_string(self.root.join("etc/ssh/ssh_host_ed25519_key.pub")).expect("reading a key");
        let mut known =
            fs::OpenOptions::new().append(true).open(ssh.join("known_hosts")).expect("opening a file of ours");
        writeln!(known, "[127.0.0.1]:{port} {key}").expect("writing a file of ours");
    }

    /// The place of an absolute path of the node, as it is seen from outside.
    pub fn at(&self, path: &str) -> PathBuf {
        self.root.join(path.strip_prefix('/').expect("an absolute path"))
    }

    /// A program of the node's own, which comes before Debian's of this name.
    pub fn add_program(&self, name: &str, text: &str) {
        write_program(&self.local.join("bin").join(name), text);
    }

    /// Debian's program of this name, with lines of shell that are run before it, in its process.
    pub fn wrap_program(&self, name: &str, before: &str) {
        self.add_program(name, &format!("#!/bin/sh\n{before}\nexec /usr/bin/{name} \"$@\"\n"));
    }

    /// A unit that runs.
    pub fn add_unit(&self, name: &str) {
        self.add_unit_in_state(name, "active");
    }

    /// A unit in this state.
    pub fn add_unit_in_state(&self, name: &str, state: &str) {
        let text = format!(
            "Type=simple\nLoadState=loaded\nActiveState={state}\nSubState={state}\nResult=success\nNRestarts=0\n"
        );
        fs::write(self.at("/srv/units").join(name), text).expect("writing a file of ours");
    }

    /// A shell script that runs when a unit is told to restart or reload; where it fails, so does the unit.
    pub fn on_restart(&self, unit: &str, script: &str) {
        write_program(&self.at("/srv/on").join(unit), &format!("#!/bin/sh\n{script}\n"));
    }

    /// What systemctl was called with, but for `show`.
    pub fn acts(&self) -> Vec<String> {
        let log = fs::read_to_string(self.at("/srv/systemctl.log")).unwrap_or_default();
        log.lines().filter(|line| !line.starts_with("show ")).map(str::to_owned).collect()
    }

    /// Forgets the calls so far.
    pub fn forget_acts(&self) {
        let _ = fs::remove_file(self.at("/srv/systemctl.log"));
    }

    /// What its sshd has said.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Nothing of deaddrop is left: no list, no temporary file. Panics with their names.
    #[track_caller]
    pub fn assert_clean(&self) {
        let mut left = Vec::new();
        find_left(&self.root, &mut left);
        assert!(left.is_empty(), "left behind: {left:?}");
    }

    /// Ends it: nobody answers at its port any more.
    pub fn stop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop();
    }
}

fn find_left(dir: &Path, left: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_name().to_string_lossy().contains("deaddrop") {
            left.push(path.clone());
        }
        if path.is_dir() && !path.is_symlink() {
            find_left(&path, left);
        }
    }
}

/// A run of deaddrop that reaches the nodes of this scratch directory.
pub fn deaddrop<'a>(scratch: &'a Scratch, args: &[&str]) -> Deaddrop<'a> {
    let config = scratch.join("ssh/config");
    Deaddrop::new(scratch).args(args).args([Path::new("--ssh-config"), &config])
}
