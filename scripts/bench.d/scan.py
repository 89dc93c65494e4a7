"""Measures `deaddrop scan` beside ripgrep, over the same files in the page cache. Called by scripts/bench --scan."""

import os
import pathlib
import random
import shutil
import string
import subprocess

import facts
import rounds
import table
from rounds import Contender

VALUES = 100
# Of this machine's own programs, libraries and texts, as a store has them.
SOURCE = "/usr"
MOST_BYTES = 3 << 29
BEGIN = "<!-- scripts/bench --scan writes from here -->"
END = "<!-- to here: scan -->"


class Bench:
    """What is below the work directory."""

    name = "scan"

    def __init__(self, work, deaddrop):
        self.work, self.deaddrop = pathlib.Path(work) / "scan", deaddrop
        self.bytes = self.files = 0

    def path(self, name):
        return str(self.work / name)

    def prepare(self):
        subprocess.run(["rm", "-rf", str(self.work)], check=True)
        store = self.work / "root/nix/store"
        store.mkdir(parents=True)
        (self.work / "root/etc").mkdir()
        for top, directories, names in os.walk(SOURCE):
            directories.sort()
            for name in sorted(names):
                path = pathlib.Path(top, name)
                if path.is_symlink() or not path.is_file() or self.bytes > MOST_BYTES:
                    continue
                to = store / path.relative_to(SOURCE)
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, to)
                to.chmod(0o444)
                self.bytes, self.files = self.bytes + to.stat().st_size, self.files + 1
        size = (self.bytes * 5 // 4 >> 20) + 256
        subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", "-L", "nixos", "-d", self.path("root"), self.path("node1.img"),
                        f"{size}M"], check=True)
        self.write_values()

    def write_values(self):
        """Passwords and tokens of 12 to 44 characters, and what ripgrep searches for: them, or all their forms."""
        rng = random.Random(20)
        letters = string.ascii_letters + string.digits
        values = ["".join(rng.choices(letters, k=rng.randrange(12, 45))) for _ in range(VALUES)]
        (self.work / "values").mkdir(mode=0o700)
        lines = ["version: 1", "sources: { values: { type: file, path: values } }", "secrets:"]
        forms = []
        for number, value in enumerate(values):
            (self.work / "values" / f"v{number}").write_text(value)
            (self.work / "values" / f"v{number}").chmod(0o400)
            lines.append(f'  s{number}: {{ path: /etc/secrets/s{number}, from: "values:v{number}" }}')
            forms += [value, value.encode().hex(), value.encode().hex().upper(), *base64_forms(value.encode())]
        (self.work / "secrets.yaml").write_text("\n".join(lines) + "\n")
        (self.work / "values.txt").write_text("\n".join(values) + "\n")
        (self.work / "forms.txt").write_text("\n".join(forms) + "\n")


def base64_forms(value):
    """What base64 of a longer text has of a value, at each of the three places in a group."""
    from base64 import b64encode

    for before in range(3):
        text = b64encode(bytes(before) + value).decode()
        yield text[-(-before * 8 // 6):(before + len(value)) * 8 // 6]


class Image(Contender):
    name, title = "image", "**deaddrop scan IMAGE**"

    def words(self):
        return [self.bench.deaddrop, "scan", self.bench.path("node1.img"), "-m", self.bench.path("secrets.yaml")]


class Directory(Contender):
    name, title = "directory", "**deaddrop scan DIRECTORY**"

    def words(self):
        return [self.bench.deaddrop, "scan", self.bench.path("root"), "-m", self.bench.path("secrets.yaml")]


class Ripgrep(Contender):
    name, title, program = "rg", f"`rg -aF -f PATTERNS`, the {VALUES} values", "rg"
    patterns = "values.txt"

    def words(self):
        return ["rg", "-aF", "-f", self.bench.path(self.patterns), self.bench.path("root")]

    def command(self):
        # It ends with 1 if nothing is found.
        return ["sh", "-c", '"$@"; [ $? = 1 ]', "sh", *self.words()]


class RipgrepForms(Ripgrep):
    name, title = "rg-forms", "`rg -aF -f PATTERNS`, all forms that deaddrop searches for"
    patterns = "forms.txt"


ALL = (Image, Directory, Ripgrep, RipgrepForms)


def goals(results, size):
    def rate(name):
        return size / results[name].median / 1e9 if name in results else None

    rgs = [results[name].median for name in ("rg", "rg-forms") if name in results]

    def against(name):
        return results[name].median / min(rgs) if name in results and rgs else None

    found = []
    for name in ("image", "directory"):
        found.append(table.judged(f"{name}: at least 1 GB/s", rate(name), lambda r: r >= 1, "{:.2f} GB/s".format))
        found.append(table.judged(f"{name}: at most 1.5 times the faster `rg`", against(name), lambda r: r <= 1.5, "{:.2f}×".format))
    return found


def columns(result, size):
    """What is beside the times of a contender."""
    return [f"{size / result.median / 1e9:.2f}"]


def main():
    bench = Bench(*rounds.places("scan"))
    rounds.run(
        bench, ALL, 9, ("GB/s",), lambda result: columns(result, bench.bytes), lambda results: goals(results, bench.bytes),
        lambda: f"over {bench.files} files with {bench.bytes / 1e9:.2f} GB in the page cache",
        [facts.first_line("rg", "--version")] if shutil.which("rg") else [], (BEGIN, END))


main()
