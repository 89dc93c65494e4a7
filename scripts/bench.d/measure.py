"""Runs one command, from its start until it and everything that it started has ended and its result is on the disk."""

import ctypes
import os
import pathlib
import signal
import sys
import time

PR_SET_CHILD_SUBREAPER = 36


def adopt():
    """What a command leaves running in the background becomes our child, so that it can be waited for."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        sys.exit("bench: prctl(PR_SET_CHILD_SUBREAPER) failed")


class Failed(Exception):
    """A command that did not do what it should."""


def measure(command, log, then_fsync=None, timeout=600):
    """Runs `command`; its words go to the file `log`. Returns seconds by the clock. With `then_fsync`, the time includes one
    fsync of that file."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        actions = [(os.POSIX_SPAWN_DUP2, descriptor, 1), (os.POSIX_SPAWN_DUP2, descriptor, 2)]
        signal.alarm(timeout)
        start = time.perf_counter()
        codes, _ = run(command, actions)
        if then_fsync:
            image = os.open(then_fsync, os.O_RDWR)
            os.fsync(image)
            os.close(image)
        seconds = time.perf_counter() - start
        signal.alarm(0)
    finally:
        os.close(descriptor)
    if codes[0] != 0:
        raise Failed(f"{command[0]} ended with {codes[0]}: {pathlib.Path(log).read_text(errors='replace')[-2000:]}")
    return seconds


def run(command, actions):
    """Runs `command`, and waits for it and for what it left running. Returns the exit codes, its own first, and the peak of
    resident memory, in KiB, of the largest process that it left running."""
    pid = os.posix_spawnp(command[0], command, os.environ, file_actions=actions)
    own, others, peak = None, [], 0
    while True:
        try:
            ended, status, usage = os.wait4(-1, 0)
        except ChildProcessError:
            return [own, *others], peak
        if ended == pid:
            own = os.waitstatus_to_exitcode(status)
        else:
            others.append(os.waitstatus_to_exitcode(status))
            peak = max(peak, usage.ru_maxrss)


def peak_memory(command, log):
    """Runs `command`, and returns the peak of resident memory, in KiB, of the largest process of it.

    What the kernel counts of a process begins with what its parent had, and Python is large: so time(1) starts it."""
    with open(log, "w", encoding="utf-8") as words:
        actions = [(os.POSIX_SPAWN_DUP2, words.fileno(), 1), (os.POSIX_SPAWN_DUP2, words.fileno(), 2)]
        codes, left = run(["time", "-f", "%M", "-o", f"{log}.peak", *command], actions)
    counted = pathlib.Path(f"{log}.peak")
    if codes[0] != 0:
        raise Failed(f"{command[0]} ended with {codes[0]}: {pathlib.Path(log).read_text(errors='replace')[-2000:]}")
    peak = max(left, int(counted.read_text().split()[-1]))
    counted.unlink()
    return peak


def end_children():
    """Ends what still runs. For when we are interrupted."""
    children = f"/proc/{os.getpid()}/task/{os.getpid()}/children"
    for name in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with open(children, encoding="ascii") as file:
                pids = [int(pid) for pid in file.read().split()]
            if not pids:
                return
            for pid in pids:
                try:
                    os.kill(pid, name)
                    os.waitpid(pid, os.WNOHANG)
                except (ProcessLookupError, ChildProcessError):
                    pass
            time.sleep(0.05)
