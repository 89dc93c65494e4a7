"""The images that the contenders work on, and the two sets of values that they put into them in turn."""

import json
import os
import pathlib
import random
import subprocess

# Files of an image, by its size. The small one is for what packs slowly.
FILES = {"512M": 1_500, "4G": 30_000, "64G": 30_000}
SECRETS = 20
# The root's partition, in sectors of 512 bytes: behind an ESP of 256 MiB.
TABLE = "label: gpt\n start=2048, size=524288, type=uefi, name=ESP\n start=526336, type=linux, name=root\n"
SIZES = {"512M": 512 << 20, "4G": 4 << 30, "64G": 64 << 30}
SETS = ("a", "b")
HOSTS = ("node1", "node2", "node3")


def secret(number):
    """The path of a secret in the root, without the first slash."""
    return f"etc/secrets/secret-{number:02}"


def run(*command, **options):
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, **options)


class Images:
    """What is below the work directory."""

    def __init__(self, work):
        self.work = pathlib.Path(work)
        self.here = pathlib.Path(__file__).parent
        self.start, self.size = 0, {}

    def path(self, name):
        return str(self.work / name)

    def values(self, which, number):
        """The file that holds a value of one of the two sets."""
        return self.path(f"values/{which}/value-{number:02}")

    def manifest(self, which):
        return self.path(f"{which}.yaml")

    def make_values(self):
        """Both sets, in files that only we can read; and a manifest for each."""
        rng = random.Random(4)
        for which in SETS:
            (self.work / "values" / which).mkdir(parents=True, exist_ok=True)
            lines = ["version: 1", "sources:", f"  values: {{ type: file, path: values/{which} }}", "secrets:"]
            for number in range(SECRETS):
                path = pathlib.Path(self.values(which, number))
                path.unlink(missing_ok=True)
                with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400), "wb") as file:
                    file.write(rng.randbytes(32).hex().encode())
                lines.append(f'  s{number:02}: {{ path: /{secret(number)}, from: "values:{path.name}" }}')
            lines.append(f"hosts: {{ {', '.join(f'{host}: {{}}' for host in HOSTS)} }}")
            pathlib.Path(self.manifest(which)).write_text("\n".join(lines) + "\n")

    def make_base(self, size):
        """A fresh image of `size`, made once and kept. Returns its name."""
        name = f"base-{size}.img"
        recipe = (self.here / "tree.py").read_text() + pathlib.Path(__file__).read_text()
        stamp = self.work / f"base-{size}.recipe"
        if not (self.work / name).exists() or not stamp.exists() or stamp.read_text() != recipe:
            stamp.unlink(missing_ok=True)
            tree = self.work / "tree"
            run("rm", "-rf", str(tree))
            run("python3", str(self.here / "tree.py"), str(tree), str(FILES[size]), str(SECRETS))
            (self.work / name).unlink(missing_ok=True)
            with open(self.work / name, "xb") as image:
                image.truncate(SIZES[size])
            run("sfdisk", "-q", self.path(name), input=TABLE.encode())
            start, blocks = self.partition(name)
            run("mke2fs", "-q", "-F", "-t", "ext4", "-L", "nixos", "-E", f"offset={start}", "-d", str(tree),
                self.path(name), f"{blocks}k")
            run("rm", "-rf", str(tree))
            stamp.write_text(recipe)
        self.start, self.size[size] = self.partition(name)[0], SIZES[size]
        return name

    def partition(self, name):
        """Where the root starts, in bytes, and its size in KiB."""
        table = subprocess.run(["sfdisk", "-J", self.path(name)], check=True, capture_output=True).stdout
        root = json.loads(table)["partitiontable"]["partitions"][1]
        return root["start"] * 512, root["size"] // 2

    def packed(self, base, pack, suffix):
        """A base image, compressed, made once. The values in it are neither set's, so that every run changes all of them."""
        path = self.path(f"{base}.{suffix}")
        if not os.path.exists(path) or os.path.getmtime(path) < os.path.getmtime(self.path(base)):
            with open(self.path(base), "rb") as raw, open(path, "wb") as packed:
                subprocess.run(pack.split(), check=True, stdin=raw, stdout=packed)
        return path

    def in_format(self, base, form):
        """A base image as qemu-img makes it in another format, made once; the base itself when it is raw."""
        if form == "raw":
            return self.path(base)
        path = self.path(f"{base}.{form}")
        if not os.path.exists(path) or os.path.getmtime(path) < os.path.getmtime(self.path(base)):
            run("qemu-img", "convert", "-f", "raw", "-O", form, self.path(base), path)
        return path

    def copy(self, base, name):
        """A copy of an image of its own for a contender: none of them sees what another did."""
        run("cp", "--sparse=always", self.path(base), self.path(name))
        self.forget(name)
        return self.path(name)

    def forget(self, name):
        """Out of the page cache, so that a contender finds in it what itself has read, and nothing else."""
        descriptor = os.open(self.path(name), os.O_RDWR)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
