"""What stands above a table: the machine, the disk, the programs."""

import datetime
import os
import pathlib
import platform
import shlex
import subprocess
import sys


def first_line(*command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).strip().splitlines()[0]


def deaddrop(program):
    """Our own version, with the commit that it was built from."""
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return f"{first_line(program, '--version')} ({commit.stdout.strip() or 'no git'})"


def facts(work, versions):
    """The machine, the disk below `work`, and these programs."""
    def field(path, name):
        lines = pathlib.Path(path).read_text().splitlines()
        return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(name)), "unknown")

    mount = subprocess.run(["findmnt", "-n", "-o", "SOURCE,FSTYPE,OPTIONS", "-T", work], capture_output=True, text=True,
                           check=False)
    ours = ("--work", "--deaddrop")
    words = [word for at, word in enumerate(sys.argv[1:], 1) if word not in ours and sys.argv[at - 1] not in ours]
    # A path in the repository says where in it, not where this machine has it.
    words = [word.removeprefix(f"{os.getcwd()}/") for word in words]
    kind = pathlib.Path(sys.argv[0]).stem
    by = ["scripts/bench", *([f"--{kind}"] if kind != "bench" else []), *words]
    return {
        "date": datetime.date.today().isoformat(),
        "command": shlex.join(by),
        "load": " ".join(f"{load:.2f}" for load in os.getloadavg()),
        "processor": f"{field('/proc/cpuinfo', 'model name')}, {os.cpu_count()} cores",
        "memory": f"{int(field('/proc/meminfo', 'MemTotal').split()[0]) / (1 << 20):.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "disk": " ".join(mount.stdout.split()) or "unknown",
        "versions": "; ".join(dict.fromkeys(versions)),
    }
