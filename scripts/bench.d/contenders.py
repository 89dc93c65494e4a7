"""Who is measured. Each replaces the same 20 files by the same values, and leaves them on the disk for good."""

import os
import pathlib
import re
import shlex
import shutil
import subprocess

import facts
from facts import first_line
from images import HOSTS, SECRETS, SETS, secret
from measure import measure, peak_memory


class Contender:
    """One way to do it."""

    # How it is called on the command line, and in the table.
    name = title = ""
    # It runs in every so many rounds.
    every = 1
    # At most so many runs.
    most = 10**6
    # Programs that it needs.
    needs = ()
    needs_root = False
    # The size of its image; none when it makes a file.
    size = "4G"
    of_one_kind = False
    # The file to be synced after the command, where that does not sync.
    then_fsync = None

    def __init__(self, images):
        self.images = images
        self.image = None

    def missing(self):
        """Why it cannot run here; none if it can."""
        for program in self.needs:
            if not shutil.which(program):
                return f"{program} is not installed"
        if self.needs_root and os.geteuid() != 0:
            return "needs root"
        return None

    def prepare(self):
        self.image = self.images.copy(self.images.make_base(self.size), f"{self.name}.img")

    def command(self, which):
        """The command that puts the values of set `which` into the image."""
        raise NotImplementedError

    def run(self, which):
        """Seconds."""
        return measure(self.command(which), self.images.path(f"{self.name}.log"), self.then_fsync)

    def peak(self, which):
        """KiB of resident memory."""
        return peak_memory(self.command(which), self.images.path(f"{self.name}.log"))

    def result(self):
        """The image that holds the values afterwards; none when it holds none."""
        return self.image

    def version(self):
        """The program and its version, as a person would ask for it; none for our own."""
        return None

    def script(self, name, lines):
        path = pathlib.Path(self.images.path(f"{self.name}-{name}"))
        path.write_text("\n".join(lines) + "\n")
        return str(path)


class Deaddrop(Contender):
    name, title = "deaddrop", "**deaddrop inject**, in place"

    def command(self, which):
        return [self.images.path("deaddrop"), "inject", self.image, "-m", self.images.manifest(which), "-q"]

    def version(self):
        return facts.deaddrop(self.images.path("deaddrop"))


class Deaddrop64(Deaddrop):
    name, title, size = "deaddrop-64", "the same on 64 GiB", "64G"

    def version(self):
        return None


class Floor(Contender):
    """What the disk alone costs."""

    name, title = "floor", "floor: as many 4 KiB reads, writes and flushes"
    needs = ("strace",)
    counts = None

    def prepare(self):
        super().prepare()
        # Counted once, in a run that changes all values, on an image of its own.
        counted = Deaddrop(self.images)
        counted.image = self.images.copy(self.images.make_base(self.size), "counted.img")
        for which in SETS:
            counted.run(which)
        log = self.images.path("counted.strace")
        calls = "trace=pread64,pwrite64,fdatasync,fsync"
        subprocess.run(["strace", "-f", "-y", "-qq", "-e", calls, "-o", log, *counted.command(SETS[0])], check=True)
        of_image = [line for line in pathlib.Path(log).read_text().splitlines() if f"<{counted.image}>" in line]
        count = lambda call: sum(f" {call}(" in line for line in of_image)
        self.counts = (count("pread64"), count("pwrite64"), count("fdatasync") + count("fsync"))
        self.title = "floor: {} scattered 4 KiB reads, {} writes, {} flushes".format(*self.counts)
        os.unlink(counted.image)
        os.unlink(log)

    def command(self, which):
        numbers = [str(number) for number in (*self.counts, 1 + SETS.index(which))]
        return [self.images.path("floor"), self.image, *numbers]

    def result(self):
        return None


class Debugfs(Contender):
    name, title, needs = "debugfs", "`debugfs -w`, then one fsync", ("debugfs",)

    def prepare(self):
        super().prepare()
        self.then_fsync = self.image
        for which in SETS:
            lines = []
            for number in range(SECRETS):
                lines += [f"rm /{secret(number)}", f"write {self.images.values(which, number)} /{secret(number)}"]
            self.script(which, lines)

    def command(self, which):
        script = self.images.path(f"{self.name}-{which}")
        return ["debugfs", "-w", "-f", script, f"{self.image}?offset={self.images.start}"]

    def version(self):
        return first_line("debugfs", "-V").replace("debugfs", "e2fsprogs")


class OnMount(Contender):
    """Something that mounts, installs the files, and unmounts."""

    needs_root = True

    def mount_point(self):
        return self.images.path(f"{self.name}.mnt")

    def prepare(self):
        super().prepare()
        os.makedirs(self.mount_point(), exist_ok=True)
        for which in SETS:
            place, image, start = self.mount_point(), self.image, self.images.start
            install = [
                shlex.join(["install", "-m", "0400", self.images.values(which, number), f"{place}/{secret(number)}"])
                for number in range(SECRETS)
            ]
            lines = ["set -e", *self.mount(shlex.quote(image), start, shlex.quote(place)), *install]
            self.script(which, [*lines, f"sync -f {shlex.quote(place)}", *self.unmount(shlex.quote(place))])

    def command(self, which):
        return ["sh", self.images.path(f"{self.name}-{which}")]


class Mount(OnMount):
    name, title, every = "mount", "losetup, mount, install, sync, umount", 4
    needs = ("losetup", "mount", "install")

    def mount(self, image, start, place):
        return [f"device=$(losetup --find --show --offset {start} {image})", f'mount -t ext4 "$device" {place}']

    def unmount(self, place):
        return [f"umount {place}", 'losetup --detach "$device"']

    def version(self):
        return first_line("losetup", "--version")


class Fuse2fs(OnMount):
    name, title, every = "fuse2fs", "fuse2fs, install, sync, umount", 4
    needs = ("fuse2fs",)

    def missing(self):
        return super().missing() or (None if os.path.exists("/dev/fuse") else "there is no /dev/fuse")

    def prepare(self):
        super().prepare()
        self.then_fsync = self.image

    def mount(self, image, start, place):
        return [f"fuse2fs {image} {place} -o offset={start}"]

    def unmount(self, place):
        return [f"umount {place}"]


class Ansible(Contender):
    name, title, every, most = "ansible", "Ansible: local actions on a loop mount", 20, 2
    needs, needs_root = ("ansible-playbook",), True

    def mount_point(self):
        return self.images.path(f"{self.name}.mnt")

    def prepare(self):
        super().prepare()
        os.makedirs(self.mount_point(), exist_ok=True)
        self.script("play.yml", [
            "- hosts: localhost",
            "  connection: local",
            "  gather_facts: false",
            "  tasks:",
            "    - name: mount",
            f"      command: mount -o loop,offset={self.images.start} {self.image} {self.mount_point()}",
            "    - name: secrets",
            "      copy:",
            '        src: "{{ values }}/value-{{ item }}"',
            f'        dest: "{self.mount_point()}/etc/secrets/secret-{{{{ item }}}}"',
            '        mode: "0400"',
            "        owner: root",
            "        group: root",
            f"      loop: {[f'{number:02}' for number in range(SECRETS)]}",
            "    - name: umount",
            f"      command: umount {self.mount_point()}",
        ])

    def command(self, which):
        values = os.path.dirname(self.images.values(which, 0))
        play = self.images.path(f"{self.name}-play.yml")
        return ["ansible-playbook", "-i", "localhost,", "-e", f"values={values}", play]

    def version(self):
        return first_line("ansible-playbook", "--version")


class Guestfish(Contender):
    name, title, every, most = "guestfish", "guestfish", 20, 2
    needs, needs_root = ("guestfish",), True

    def missing(self):
        if not shutil.which("guestfish"):
            return "not installed (Debian: libguestfs-tools, which also needs qemu-system and a kernel in /boot)"
        # It starts a virtual machine: whether it can is only known when it does.
        probe = subprocess.run(["guestfish", "-a", "/dev/null", "run"], capture_output=True, text=True, check=False)
        return None if probe.returncode == 0 else f"its virtual machine does not start: {probe.stderr.strip()[-200:]}"

    def prepare(self):
        super().prepare()
        self.then_fsync = self.image
        for which in SETS:
            lines = [f"add {self.image} format:raw", "run", "mount /dev/sda2 /"]
            for number in range(SECRETS):
                lines += [f"upload {self.images.values(which, number)} /{secret(number)}", f"chmod 0400 /{secret(number)}"]
            self.script(which, [*lines, "umount-all", "shutdown"])

    def command(self, which):
        return ["guestfish", "-f", self.images.path(f"{self.name}-{which}")]

    def version(self):
        return first_line("guestfish", "--version")


class Packed(Contender):
    """A compressed image, unpacked and packed again by the compressor's own programs."""

    every, most, of_one_kind = 8, 7, True
    # What packs from standard input to standard output, what unpacks, and the suffix.
    pack = unpack = suffix = ""

    def __init__(self, images):
        super().__init__(images)
        self.title = self.title or f"`{self.unpack} IN | {self.pack} > OUT`, then one fsync"
        self.needs = (self.pack.split()[0],)

    def prepare(self):
        self.image = self.images.packed(self.images.make_base(self.size), self.pack, self.suffix)
        self.out = self.images.path(f"{self.name}-out.{self.suffix}")
        self.then_fsync = self.out
        self.script("pipe", [f"{self.unpack} {shlex.quote(self.image)} | {self.pack} > {shlex.quote(self.out)}"])

    def command(self, which):
        pathlib.Path(self.out).unlink(missing_ok=True)
        return ["sh", self.images.path(f"{self.name}-pipe")]

    def result(self):
        return None


class DeaddropPacked(Packed):
    """The same by deaddrop, which also puts the values in."""

    def prepare(self):
        super().prepare()
        self.then_fsync = None

    def command(self, which):
        pathlib.Path(self.out).unlink(missing_ok=True)
        manifest = self.images.manifest(which)
        return [self.images.path("deaddrop"), "inject", self.image, "-m", manifest, "-q", "-o", self.out]

    def result(self):
        return self.out


class Zstd(Packed):
    name, unpack, pack, suffix = "zstd", "zstd -dcq", "zstd -T0 -q", "zst"

    def version(self):
        return "zstd " + re.search(r"v([\d.]+)", first_line("zstd", "--version")).group(1)


class DeaddropZstd(DeaddropPacked):
    name, title = "deaddrop-zstd", "**deaddrop inject IN -o OUT**, zst to zst"
    pack, unpack, suffix = Zstd.pack, Zstd.unpack, Zstd.suffix


class Singles(DeaddropPacked):
    """An image of each of three hosts, by a run for each."""

    name, title = "singles", "**deaddrop inject IN.zst -o OUT.img** for three hosts, one after the other"
    pack, unpack, suffix = Zstd.pack, Zstd.unpack, Zstd.suffix
    out_suffix = "img"

    def pattern(self):
        return self.images.path(f"{self.name}-{{host}}.{self.out_suffix}")

    def inject(self, which):
        return [self.images.path("deaddrop"), "inject", self.image, "-m", self.images.manifest(which), "-q"]

    def command(self, which):
        self.out = self.pattern().replace("{host}", HOSTS[0])
        for host in HOSTS:
            pathlib.Path(self.pattern().replace("{host}", host)).unlink(missing_ok=True)
        return self.runs(which)

    def runs(self, which):
        each = [shlex.join([*self.inject(which), "--host", host, "-o", self.pattern()]) for host in HOSTS]
        return ["sh", self.script(f"runs-{which}", ["set -e", *each])]


class Several(Singles):
    name, title = "several", "**deaddrop inject IN.zst --all-hosts -o '{host}.img'**"

    def runs(self, which):
        return [*self.inject(which), "--all-hosts", "-o", self.pattern()]


class SinglesZstd(Singles):
    name, title, out_suffix = "singles-zstd", "the three runs, to .zst", "img.zst"


class SeveralZstd(Several):
    name, title, out_suffix = "several-zstd", "the one run, to .zst", "img.zst"


class Gzip(Packed):
    name, unpack, pack, suffix = "gzip", "pigz -dc", "pigz -c", "gz"

    def version(self):
        return first_line("pigz", "--version")


class DeaddropGzip(DeaddropPacked):
    name, title = "deaddrop-gzip", "**deaddrop inject IN -o OUT**, gz to gz"
    pack, unpack, suffix = Gzip.pack, Gzip.unpack, Gzip.suffix


class Xz(Packed):
    name, unpack, pack, suffix, every, most = "xz", "xz -dc -T0", "xz -c -T0", "xz", 20, 2
    size = "512M"
    title = f"`{unpack} IN | {pack} > OUT` on 512 MiB, then one fsync"

    def version(self):
        return first_line("xz", "--version")


class DeaddropXz(DeaddropPacked):
    name, title, every, most = "deaddrop-xz", "**deaddrop inject IN -o OUT**, xz to xz on 512 MiB", 20, 2
    pack, unpack, suffix, size = Xz.pack, Xz.unpack, Xz.suffix, Xz.size


class Qcow2(Packed):
    """A disk image that qemu-img copies into a new qcow2."""

    name, title = "qcow2", "`qemu-img convert -f qcow2 -O qcow2 IN OUT`, then one fsync"
    pack, suffix, source = "qemu-img convert", "qcow2", "qcow2"

    def prepare(self):
        self.image = self.images.in_format(self.images.make_base(self.size), self.source)
        self.out = self.images.path(f"{self.name}-out.{self.suffix}")
        self.then_fsync = self.out

    def command(self, which):
        pathlib.Path(self.out).unlink(missing_ok=True)
        return ["qemu-img", "convert", "-f", self.source, "-O", "qcow2", self.image, self.out]

    def version(self):
        return first_line("qemu-img", "--version").split(" (")[0].replace(" version", "")


class DeaddropQcow2(Qcow2):
    """The same by deaddrop, which also puts the values in."""

    name, title = "deaddrop-qcow2", "**deaddrop inject IN -o OUT**, qcow2 to qcow2"

    def prepare(self):
        super().prepare()
        self.then_fsync = None

    def command(self, which):
        pathlib.Path(self.out).unlink(missing_ok=True)
        inject = [self.images.path("deaddrop"), "inject", self.image, "-m", self.images.manifest(which), "-q"]
        return [*inject, "--format", "qcow2", "-o", self.out]

    def result(self):
        return self.out

    def version(self):
        return None


class RawQcow2(Qcow2):
    name, title, source = "raw-qcow2", "`qemu-img convert -f raw -O qcow2 IN OUT`, then one fsync", "raw"

    def version(self):
        return None


class DeaddropRawQcow2(DeaddropQcow2):
    name, title, source = "deaddrop-raw-qcow2", "**deaddrop inject IN --format qcow2 -o OUT**, raw to qcow2", "raw"


ALL = (Floor, Deaddrop, Deaddrop64, Debugfs, Fuse2fs, Mount, Ansible, Guestfish, Zstd, DeaddropZstd,
       Singles, Several, SinglesZstd, SeveralZstd, Gzip, DeaddropGzip, Xz, DeaddropXz,
       Qcow2, DeaddropQcow2, RawQcow2, DeaddropRawQcow2)
