//! The programs that read what is made: each reads files, and gives back what it understood.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::kit::tool;

/// python-dotenv, as scripts/test brings it: a wheel, from which Python imports as it is.
fn python_dotenv() -> PathBuf {
    const WHEEL: &str = "deaddrop/python-dotenv-1.2.4/python_dotenv-1.2.4-py3-none-any.whl";
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache")));
    let wheel = cache.expect("HOME is set").join(WHEEL);
    assert!(
        wheel.is_file(),
        "{} is missing: scripts/test brings it, or: pip download --no-deps python-dotenv==1.2.4",
        wheel.display()
    );
    wheel
}

/// Runs a program of Python with these arguments; what it prints.
pub fn python(program: &str, args: &[&Path]) -> String {
    let mut command = Command::new("python3");
    command.arg("-c").arg(program).args(args).env("PYTHONDONTWRITEBYTECODE", "1");
    String::from_utf8(tool(&mut command).stdout).expect("text")
}

/// How a file of `V=…` is read. Each writes what it understood to OUT.
pub enum Reader {
    /// systemd's own parser of `EnvironmentFile`, called in its library: a service manager cannot run here.
    Systemd,
    /// `. FILE` in this shell.
    Shell(&'static [&'static str]),
    /// python-dotenv, as programs use it.
    Dotenv,
}

impl Reader {
    /// The name for messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Systemd => "systemd",
            Self::Shell(words) => words[0],
            Self::Dotenv => "python-dotenv",
        }
    }

    /// The value of `V` in each of `count` files FROM/0, FROM/1, …, in that order.
    pub fn values(&self, from: &Path, out: &Path, count: usize) -> Vec<Vec<u8>> {
        let _ = fs::remove_dir_all(out);
        fs::create_dir(out).expect("making a directory of ours");
        match self {
            Self::Shell(words) => {
                let script = "cd \"$1\"; i=0; while [ $i -lt \"$3\" ]; do unset V; . ./$i; printf %s \"$V\" \
                              >\"$2/$i\"; i=$((i+1)); done";
                let mut command = Command::new(words[0]);
                command.args(&words[1..]).args(["-c", script, "sh"]).args([from, out]).arg(count.to_string());
                tool(command.stdin(Stdio::null()));
            }
            Self::Systemd => {
                python(SYSTEMD, &[from, out, Path::new(&count.to_string())]);
            }
            Self::Dotenv => {
                python(DOTENV, &[from, out, Path::new(&count.to_string()), &python_dotenv()]);
            }
        }
        (0..count).map(|index| fs::read(out.join(index.to_string())).expect("a value")).collect()
    }
}

const SYSTEMD: &str = r#"
import ctypes, glob, sys
names = glob.glob("/usr/lib/*/systemd/libsystemd-shared-*.so") + glob.glob("/usr/lib*/systemd/libsystemd-shared-*.so")
if not names:
    sys.exit("libsystemd-shared is missing: Debian package systemd")
library = ctypes.CDLL(names[0])
# int load_env_file(FILE *f, const char *fname, char ***ret), src/basic/env-file.c: what reads EnvironmentFile.
load = library.load_env_file
load.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.POINTER(ctypes.POINTER(ctypes.c_char_p))]
source, out, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
for index in range(count):
    result = ctypes.POINTER(ctypes.c_char_p)()
    code = load(None, f"{source}/{index}".encode(), ctypes.byref(result))
    lines = []
    while code >= 0 and result and result[len(lines)] is not None:
        lines.append(result[len(lines)])
    if len(lines) != 1 or not lines[0].startswith(b"V="):
        sys.exit(f"systemd reads {len(lines)} assignments in file {index}, code {code}")
    open(f"{out}/{index}", "wb").write(lines[0][2:])
"#;

const DOTENV: &str = r#"
import sys
source, out, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
sys.path.insert(0, sys.argv[4])
import dotenv
for index in range(count):
    values = dotenv.dotenv_values(f"{source}/{index}")
    if list(values) != ["V"]:
        sys.exit(f"python-dotenv reads {len(values)} names in file {index}")
    open(f"{out}/{index}", "wb").write(values["V"].encode())
"#;
