"""Measures `deaddrop flash` beside dd, onto one loop device, as it is and throttled. Called by scripts/bench --flash."""

import atexit
import os
import pathlib
import shlex
import subprocess

import rounds
import table
from rounds import Contender

MIB = 1 << 20
SIZE = 1024 * MIB
# Bytes a second of the throttled device: those of a fast card.
SLOW = 150 * 1000 * 1000
BLKIO = pathlib.Path("/sys/fs/cgroup/blkio")
BEGIN = "<!-- scripts/bench --flash writes from here -->"
END = "<!-- to here: flash -->"


class Bench:
    """What is below the work directory: an image, and a device that is larger."""

    name = "flash"

    def __init__(self, work, deaddrop):
        self.work, self.deaddrop = pathlib.Path(work) / "flash", deaddrop
        self.device, self.group = None, BLKIO / f"deaddrop-bench-{os.getpid()}"

    def path(self, name):
        return str(self.work / name)

    def prepare(self):
        subprocess.run(["rm", "-rf", str(self.work)], check=True)
        self.work.mkdir(parents=True)
        image = self.path("base.img")
        with open("/dev/urandom", "rb") as noise, open(image, "wb") as to:
            for _ in range(SIZE // MIB):
                to.write(noise.read(MIB))
        subprocess.run(["sfdisk", "-q", image], input=b"label: gpt\n start=2048, size=200000, type=linux, name=nixos\n", check=True)
        subprocess.run(["mkfs.ext4", "-q", "-F", "-L", "nixos", "-E", "offset=1048576,nodiscard", image, "100000k"], check=True)
        for directory in ("etc", "usr"):
            subprocess.run(["debugfs", "-w", "-R", f"mkdir {directory}", f"{image}?offset=1048576"], check=True, capture_output=True)
        (self.work / "secrets.yaml").write_text("version: 1\nsecrets:\n  token: { path: /etc/secrets/token, from: env:TOKEN }\n")
        with open(self.path("device.img"), "wb") as device:
            device.write(bytes(SIZE + 64 * MIB))
        made = subprocess.run(["losetup", "--find", "--show", self.path("device.img")], check=True, capture_output=True, text=True)
        self.device = made.stdout.strip()
        atexit.register(self.give_back)
        if BLKIO.is_dir():
            self.group.mkdir()
            numbers = os.stat(self.device).st_rdev
            for direction in ("read", "write"):
                limit = f"{os.major(numbers)}:{os.minor(numbers)} {SLOW}"
                (self.group / f"blkio.throttle.{direction}_bps_device").write_text(limit)
        # All of both are in the page cache, or on the disk.
        subprocess.run(["dd", f"if={image}", "of=/dev/null", "bs=4M", "status=none"], check=True)
        subprocess.run(["sync"], check=True)

    def give_back(self):
        subprocess.run(["losetup", "-d", self.device], check=False)
        if self.group.is_dir():
            self.group.rmdir()


class OnDevice(Contender):
    slow = False

    def missing(self):
        if os.geteuid() != 0:
            return "only root has loop devices"
        return "there is no blkio controller of cgroups" if self.slow and not BLKIO.is_dir() else None

    def words(self):
        words = self.run()
        if self.slow:
            return ["sh", "-c", f"echo $$ > {self.bench.group}/tasks; exec {shlex.join(words)}"]
        return words


class Write(OnDevice):
    name, title = "dd", "`dd bs=4M oflag=direct conv=fsync`"

    def run(self):
        return ["dd", f"if={self.bench.path('base.img')}", f"of={self.bench.device}", "bs=4M", "oflag=direct", "conv=fsync", "status=none"]


class Read(OnDevice):
    name, title = "dd-read", "`dd iflag=direct bs=4M of=/dev/null`"

    def run(self):
        return ["dd", f"if={self.bench.device}", "iflag=direct", "bs=4M", "of=/dev/null", "count=256", "status=none"]


class Flash(OnDevice):
    name, title, more = "flash", "**deaddrop flash --no-read-back**", ("--no-read-back",)

    def run(self):
        return ["env", "TOKEN=first", self.bench.deaddrop, "flash", self.bench.path("base.img"), self.bench.device, "-q", "--yes",
                "-m", self.bench.path("secrets.yaml"), *self.more]


class FlashAndRead(Flash):
    name, title, more = "flash-read", "**deaddrop flash**", ()


class WriteSlow(Write):
    name, title, slow = "dd-slow", "`dd` to write, 150 MB/s", True


class ReadSlow(Read):
    name, title, slow = "dd-read-slow", "`dd` to read, 150 MB/s", True


class FlashSlow(Flash):
    name, title, slow = "flash-slow", "deaddrop flash --no-read-back, 150 MB/s", True


class FlashAndReadSlow(FlashAndRead):
    name, title, slow = "flash-read-slow", "deaddrop flash, 150 MB/s", True


def goals(results):
    def of(name):
        return results[name].median if name in results else None

    def speed(dd, ours, minus=None):
        times = [of(dd), of(ours), of(minus) if minus else 0]
        return times[0] / (times[1] - times[2]) if None not in times and times[1] > times[2] else None

    def line(what, value):
        return table.judged(what, value, lambda found: found >= 0.95, "{:.2f}×".format)

    return [
        line("writing: at least 0.95 times the speed of dd", speed("dd", "flash")),
        line("reading back: at least 0.95 times the speed of dd", speed("dd-read", "flash-read", "flash")),
        line("writing, throttled: at least 0.95", speed("dd-slow", "flash-slow")),
        line("reading back, throttled: at least 0.95", speed("dd-read-slow", "flash-read-slow", "flash-slow")),
    ]


def main():
    bench = Bench(*rounds.places("flash"))
    kinds = (Write, Flash, Read, FlashAndRead, WriteSlow, FlashSlow, ReadSlow, FlashAndReadSlow)
    over = "an image of 1 GiB of random bytes and one secret, onto a loop device over a file"
    rounds.run(bench, kinds, 7, (), lambda result: [], goals, lambda: over, [], (BEGIN, END))


main()
