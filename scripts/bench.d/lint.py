"""Measures `deaddrop lint` beside `plan` and `inject`, on images with and without a NixOS. Called by scripts/bench --lint."""

import pathlib
import random
import subprocess
import sys

import rounds
import table
from rounds import Contender
from tree_names import store_hash

FILES = 30000
# Of the store's paths: 190 units, as many scripts, the rest of the system. The others are packages.
STORE_PATHS = 400
UNITS = 190
SECRETS = 20
BEGIN = "<!-- scripts/bench --lint writes from here -->"
END = "<!-- to here: lint -->"


class Bench:
    """What is below the work directory: an image with a system, and the same one without."""

    name = "lint"

    def __init__(self, work, deaddrop):
        self.work, self.deaddrop = pathlib.Path(work) / "lint", deaddrop

    def path(self, name):
        return str(self.work / name)

    def prepare(self):
        subprocess.run(["rm", "-rf", str(self.work)], check=True)
        self.work.mkdir(parents=True)
        tree = pathlib.Path(__file__).with_name("tree.py")
        subprocess.run([sys.executable, str(tree), self.path("root"), str(FILES - 2 * UNITS), str(SECRETS)], check=True)
        self.image("plain.img")
        self.system()
        self.image("nixos.img")
        lines = ["version: 1", "secrets:"]
        for number in range(SECRETS):
            lines.append(f"  s{number}: {{ path: /etc/secrets/secret-{number:02}, from: env:S{number} }}")
        (self.work / "secrets.yaml").write_text("\n".join(lines) + "\n")

    def image(self, name):
        subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", "-L", "nixos", "-d", self.path("root"), self.path(name), "2G"],
                       check=True)

    def write(self, path, text):
        at = self.work / f"root{path}"
        at.parent.mkdir(parents=True, exist_ok=True)
        at.write_text(text)

    def link(self, path, target):
        at = self.work / f"root{path}"
        at.parent.mkdir(parents=True, exist_ok=True)
        at.symlink_to(target)

    def system(self):
        """A system in our own words: units that each start a script, half of which read a secret; users; mounts."""
        rng = random.Random(7)

        def store(name):
            return f"/nix/store/{store_hash(rng)}-{name}"

        toplevel, etc, units = store("nixos-system-node1-25.11"), store("etc"), store("system-units")
        users = store("users-groups.json")
        self.write(users, '{"mutableUsers": false, "groups": [], "users": []}')
        self.write(f"{toplevel}/activate", f"#!/bin/sh\n/x/perl -w {store('update-users-groups.pl')} {users}\n")
        self.write(f"{toplevel}/boot.json", "{}")
        self.link(f"{toplevel}/etc", f"{etc}/etc")
        self.link("/nix/var/nix/profiles/system-1-link", toplevel)
        self.link("/nix/var/nix/profiles/system", "system-1-link")
        fstab = store("etc-fstab")
        self.write(fstab, "/dev/disk/by-label/nixos / ext4 x-initrd.mount 0 1\n")
        self.link(f"{etc}/etc/fstab", fstab)
        self.link(f"{etc}/etc/systemd/system", units)
        for number in range(UNITS):
            name, script, unit = f"app{number}.service", store(f"app{number}-start"), store(f"unit-app{number}.service")
            secret = f"cat /etc/secrets/secret-{number % SECRETS:02}" if number % 2 else "true"
            self.write(f"{script}/bin/app{number}-start", f"#!/bin/sh\nX=$({secret})\nexec /x/app --port {number}\n" + "# text\n" * 60)
            self.write(f"{unit}/{name}", f"[Unit]\nDescription=x\n[Service]\nExecStart={script}/bin/app{number}-start \n")
            self.link(f"{units}/{name}", f"{unit}/{name}")


class Run(Contender):
    command_words, image = (), "nixos.img"

    def words(self):
        values = [f"S{number}={'first-' + '0' * 58}" for number in range(SECRETS)]
        return ["env", *values, self.bench.deaddrop, *self.command_words, self.bench.path(self.image), "-m", self.bench.path("secrets.yaml")]


class Lint(Run):
    name, title, command_words = "lint", "**deaddrop lint**, NixOS", ("lint",)


class LintValues(Run):
    name, title, command_words = "lint-values", "deaddrop lint --values, NixOS", ("lint", "--values")


class Plan(Run):
    name, title, command_words = "plan", "deaddrop plan, NixOS", ("plan",)


class PlanPlain(Plan):
    name, title, image = "plan-plain", "deaddrop plan, the same without a system", "plain.img"


class Inject(Run):
    name, title, command_words = "inject", "deaddrop inject, NixOS, nothing to change", ("inject",)


class InjectPlain(Inject):
    name, title, image = "inject-plain", "deaddrop inject, the same without a system", "plain.img"


def goals(results):
    def median(name):
        return results[name].median if name in results else None

    def more(one, other):
        return results[one].median - results[other].median if one in results and other in results else None

    return [
        table.judged("lint: at most 0.3 s", median("lint"), lambda s: s <= 0.3, table.duration),
        table.judged("plan: the system costs at most 60 ms", more("plan", "plan-plain"), lambda s: s <= 0.06, table.duration),
        table.judged("inject: the system costs at most 60 ms", more("inject", "inject-plain"), lambda s: s <= 0.06, table.duration),
    ]


def main():
    bench = Bench(*rounds.places("lint"))
    kinds = (Lint, LintValues, Plan, PlanPlain, Inject, InjectPlain)
    over = f"on an image with {FILES} files and {STORE_PATHS} and more store paths, {UNITS} of them units"
    rounds.run(bench, kinds, 15, (), lambda result: [], goals, lambda: over, [], (BEGIN, END))


main()
