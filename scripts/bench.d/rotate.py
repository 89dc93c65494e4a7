"""Measures the rotation of 10 secrets on 20 nodes, beside one ssh with a tar pipe a host, and beside Ansible. Called by scripts/bench --rotate."""

import argparse
import json
import os
import pathlib
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time

import facts
import table
from measure import Failed, adopt, end_children
from nodes import Nodes

NODES, SECRETS, PARALLEL = 20, 10, 16
SETS = ("a", "b")
BEGIN = "<!-- scripts/bench --rotate writes from here -->"
END = "<!-- to here: rotation -->"
PLACE = "/etc/secrets"


def secret(number):
    return f"secret-{number:02}"


class Contender:
    """One way to put all values onto all nodes."""

    name = title = ""
    # Whether the nodes hold nothing before it runs, or what it puts there.
    first = True
    # At most so many runs.
    most = 10**6
    needs = ()
    peak = 0

    # All are compared with one.
    of_one_kind = False

    def __init__(self, bench):
        self.bench, self.seconds = bench, []

    def missing(self):
        return next((f"{program} is not installed" for program in self.needs if not shutil.which(program)), None)

    def command(self, which):
        raise NotImplementedError

    def environment(self):
        return {}

    def run(self, which):
        """Seconds, from its start until it has ended."""
        log = self.bench.path(f"{self.name}.log")
        with open(log, "wb") as words:
            start = time.perf_counter()
            done = subprocess.run(self.command(which), stdin=subprocess.DEVNULL, stdout=words, stderr=words, check=False,
                                  env={**os.environ, **self.environment()}, timeout=1800)
            seconds = time.perf_counter() - start
        if done.returncode != 0:
            raise Failed(f"{self.name} ended with {done.returncode}: {pathlib.Path(log).read_text(errors='replace')[-2000:]}")
        return seconds


class Floor(Contender):
    name, title = "floor", f"floor: one `ssh` with a tar pipe a host, {PARALLEL} at a time"
    needs = ("xargs", "tar")

    def command(self, which):
        one = (f"tar -C {shlex.quote(self.bench.path(f'tree/{which}'))} -cf - etc | "
               f"ssh -F {shlex.quote(self.bench.nodes.config)} \"$1\" tar -C / -xpf -")
        names = " ".join(self.bench.nodes.names)
        return ["sh", "-c", f"printf '%s\\n' {names} | xargs -n 1 -P {PARALLEL} sh -c {shlex.quote(one)} sh"]


class Deaddrop(Contender):
    name, title = "first", "**deaddrop rotate**, first run"

    def command(self, which):
        return [self.bench.deaddrop, "rotate", "--all", "-m", self.bench.path(f"{which}.yaml"), "-q",
                "--ssh-config", self.bench.nodes.config, "--parallel", str(PARALLEL)]


class Unchanged(Deaddrop):
    name, title, first = "unchanged", "**deaddrop rotate**, nothing to do", False


class Ansible(Contender):
    name, title, most = "ansible", "Ansible", 1
    needs = ("ansible-playbook",)
    pipelining = "False"

    def command(self, which):
        return ["ansible-playbook", "-i", self.bench.path("inventory.ini"), "-f", str(PARALLEL),
                "-e", f"values={self.bench.path(f'tree/{which}/etc/secrets')}", self.bench.path("play.yml")]

    def environment(self):
        return {"ANSIBLE_PIPELINING": self.pipelining, "ANSIBLE_HOME": self.bench.path("ansible"), "ANSIBLE_NOCOWS": "1",
                "ANSIBLE_SSH_CONTROL_PATH_DIR": self.bench.path("cp"), "LC_ALL": "C.UTF-8"}

    def run(self, which):
        seconds = super().run(which)
        # Its ssh masters stay for a minute.
        end_masters(self.bench)
        return seconds


class Pipelining(Ansible):
    name, title, pipelining = "ansible-pipelining", "Ansible with pipelining", "True"


class PipeliningUnchanged(Pipelining):
    name, title, first = "ansible-unchanged", "Ansible with pipelining, nothing to do", False


ALL = (Floor, Deaddrop, Unchanged, Ansible, Pipelining, PipeliningUnchanged)


def end_masters(bench):
    for path in pathlib.Path(bench.path("cp")).glob("*"):
        subprocess.run(["ssh", "-o", f"ControlPath={path}", "-O", "exit", "any"], capture_output=True, check=False)


class Bench:
    """What is below the work directory."""

    def __init__(self, work, deaddrop):
        self.work, self.deaddrop = pathlib.Path(work) / "rotate", deaddrop
        self.nodes = Nodes(self.work, NODES)

    def path(self, name):
        return str(self.work / name)

    def prepare(self):
        subprocess.run(["rm", "-rf", str(self.work)], check=True)
        self.work.mkdir(parents=True, mode=0o700)
        (self.work / "cp").mkdir()
        rng = random.Random(9)
        for which in SETS:
            place = self.work / "tree" / which / "etc/secrets"
            place.mkdir(parents=True)
            os.chmod(place, 0o700)
            lines = ["version: 1", "sources:", f"  values: {{ type: file, path: tree/{which}/etc/secrets }}", "hosts:"]
            lines += [f"  {name}: {{ ssh: {name} }}" for name in self.nodes.names]
            lines.append("secrets:")
            for number in range(SECRETS):
                value = place / secret(number)
                with open(os.open(value, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400), "wb") as file:
                    file.write(rng.randbytes(32).hex().encode())
                lines.append(f'  s{number:02}: {{ path: {PLACE}/{secret(number)}, from: "values:{secret(number)}" }}')
            pathlib.Path(self.path(f"{which}.yaml")).write_text("\n".join(lines) + "\n")
        self.nodes.start()
        self.write_play()

    def write_play(self):
        inventory = ["[nodes]", *self.nodes.names, "[nodes:vars]", f"ansible_ssh_common_args=-F {self.nodes.config}",
                     "ansible_python_interpreter=/usr/bin/python3"]
        pathlib.Path(self.path("inventory.ini")).write_text("\n".join(inventory) + "\n")
        numbers = [f"{number:02}" for number in range(SECRETS)]
        play = ["- hosts: nodes", "  gather_facts: false", "  tasks:", "    - name: directory",
                f'      file: {{ path: {PLACE}, state: directory, mode: "0700" }}', "    - name: secrets", "      no_log: true",
                "      copy:", '        src: "{{ values }}/secret-{{ item }}"', f'        dest: "{PLACE}/secret-{{{{ item }}}}"',
                '        mode: "0400"', "        owner: root", "        group: root", f"      loop: {numbers}"]
        pathlib.Path(self.path("play.yml")).write_text("\n".join(play) + "\n")

    def renew(self, contender, which):
        """The nodes as the contender is to find them."""
        if contender.first:
            self.nodes.everywhere(f"rm -rf {PLACE} /var/lib/deaddrop")
        else:
            contender.run(which)

    def check(self, contender, which):
        """The values are where they belong, and nobody else can read them; by other means than any contender's."""
        tree = self.work / "tree" / which / "etc/secrets"
        want = "".join(f"400 0 0 {name} {(tree / name).read_text()}\n" for name in map(secret, range(SECRETS)))
        command = f'cd {PLACE} && for f in *; do printf "%s %s\\n" "$(stat -c "%a %u %g %n" "$f")" "$(cat "$f")"; done'
        for name in self.nodes.names:
            found = subprocess.run(["ssh", "-F", self.nodes.config, name, command], capture_output=True, text=True, check=False)
            if found.stdout != want:
                raise Failed(f"{contender.name}: {name} does not hold the values of set {which}")


def goals(results):
    def ratio(one, other):
        return results[one].median / results[other].median if one in results and other in results else None

    return [
        table.judged("first run: at most 1.3 times the floor", ratio("first", "floor"), lambda r: r <= 1.3, "{:.2f}×".format),
        table.judged("nothing to do: at most 1.08 times the floor", ratio("unchanged", "floor"), lambda r: r <= 1.08, "{:.2f}×".format),
        table.judged("at least 40 times as fast as Ansible with pipelining", ratio("ansible-pipelining", "first"), lambda r: r >= 40, "{:.0f}×".format),
    ]


def rows(results):
    base = results.get("first")
    for result in results.values():
        first, third = result.middle()
        against = "" if base is None else f"{result.median / base.median:.2f}"
        yield (result.title, table.duration(result.median), f"{table.duration(first)} to {table.duration(third)}", against,
               str(len(result.seconds)))


HEAD = ("", "median", "middle half", "× first run", "runs")


def arguments():
    parser = argparse.ArgumentParser(prog="scripts/bench --rotate")
    parser.add_argument("--work", required=True)
    parser.add_argument("--deaddrop", required=True)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--only")
    parser.add_argument("--json")
    parser.add_argument("--markdown")
    parsed = parser.parse_args()
    parsed.rounds = parsed.rounds or (3 if parsed.quick else 9)
    known = [contender.name for contender in ALL]
    parsed.only = parsed.only.split(",") if parsed.only else known
    unknown = [name for name in parsed.only if name not in known]
    if unknown:
        parser.error(f"no contender {unknown[0]}; there are: {' '.join(known)}")
    return parsed


def measure_all(bench, options):
    """All results, and why some are missing."""
    results, skipped = {}, {}
    runners = []
    for kind in ALL:
        if kind.name not in options.only:
            continue
        runner = kind(bench)
        why = runner.missing()
        if why:
            skipped[runner.name] = why
        else:
            runners.append(runner)
            results[runner.name] = table.Result(runner, 0)
    # Once for the caches; Ansible is left out of that, since it takes minutes.
    for runner in runners:
        if not isinstance(runner, Ansible):
            bench.renew(runner, SETS[0])
            runner.run(SETS[0])
            bench.check(runner, SETS[0])
    for number in range(options.rounds):
        for runner in runners:
            if len(results[runner.name].seconds) < runner.most:
                which = SETS[number % 2]
                bench.renew(runner, which)
                results[runner.name].seconds.append(runner.run(which))
                bench.check(runner, which)
        print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
    return results, skipped


def main():
    options = arguments()
    if os.geteuid() != 0:
        sys.exit("bench: --rotate starts sshds with roots of their own, which needs root")
    adopt()

    def stop(number, _):
        raise SystemExit(128 + number)

    for name in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, stop)
    bench = Bench(options.work, options.deaddrop)
    try:
        bench.prepare()
        about = facts.facts(str(bench.work), [facts.deaddrop(options.deaddrop), facts.first_line("ssh", "-V"),
                                              *([facts.first_line("ansible-playbook", "--version")] if shutil.which("ansible-playbook") else [])])
        results, skipped = measure_all(bench, options)
    except KeyboardInterrupt:
        sys.exit(130)
    except Failed as error:
        sys.exit(f"bench: {error}")
    finally:
        end_masters(bench)
        bench.nodes.stop()
        end_children()
        subprocess.run(["rm", "-rf", str(bench.work)], check=False)
    judged = goals(results)
    print(f"\n{table.plain(HEAD, list(rows(results)), skipped, judged)}")
    if options.json:
        contestants = {name: {"title": result.title, "seconds": result.seconds, "median": result.median} for name, result in results.items()}
        found = [{"goal": goal, "measured": value, "met": met} for goal, value, met in judged]
        pathlib.Path(options.json).write_text(json.dumps({"facts": about, "contenders": contestants, "skipped": skipped, "goals": found}, indent=2) + "\n")
    if options.markdown:
        table.put_between_marks(options.markdown, table.page(about, HEAD, list(rows(results)), skipped, judged), BEGIN, END)


main()
