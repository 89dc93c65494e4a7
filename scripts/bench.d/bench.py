"""Measures the contenders, round after round. Called by scripts/bench, which builds what is measured."""

import argparse
import json
import os
import pathlib
import signal
import subprocess
import sys

import contenders
import facts
import table
from images import SETS, Images
from measure import Failed, adopt, end_children


def arguments():
    parser = argparse.ArgumentParser(prog="scripts/bench")
    parser.add_argument("--work", required=True)
    parser.add_argument("--containers", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--only")
    parser.add_argument("--json")
    parser.add_argument("--markdown")
    parsed = parser.parse_args()
    parsed.rounds = parsed.rounds or (8 if parsed.quick else 40)
    if parsed.rounds < 1:
        parser.error("--rounds takes a number of rounds")
    known = [contender.name for contender in contenders.ALL]
    usual = [contender.name for contender in contenders.ALL if contender.of_one_kind == parsed.containers]
    parsed.only = parsed.only.split(",") if parsed.only else usual
    unknown = [name for name in parsed.only if name not in known]
    if unknown:
        parser.error(f"no contender {unknown[0]}; there are: {' '.join(known)}")
    return parsed


def clean_up(work):
    """Takes back what an interrupted contender left: processes, mounts, loop devices."""
    end_children()
    for line in reversed(pathlib.Path("/proc/self/mounts").read_text().splitlines()):
        place = line.split()[1].replace("\\040", " ")
        if place.startswith(f"{work}/"):
            subprocess.run(["umount", place], check=False)
    end_children()
    if os.geteuid() == 0:
        loops = subprocess.run(["losetup", "--json", "--list", "--output", "NAME,BACK-FILE"], capture_output=True, check=False)
        for loop in json.loads(loops.stdout or "{}").get("loopdevices", []):
            if (loop["back-file"] or "").startswith(f"{work}/"):
                subprocess.run(["losetup", "--detach", loop["name"]], check=False)


def check(runner, which):
    """The values are where they belong, by deaddrop's own word; and the file system is whole, by e2fsck's."""
    image = runner.result()
    if image is None:
        return
    deaddrop = [runner.images.path("deaddrop"), "verify", image, "-m", runner.images.manifest(which), "-q"]
    if subprocess.run(deaddrop, check=False).returncode != 0:
        raise Failed(f"{runner.name}: the image does not hold the values of set {which}")
    if image.endswith(".img") and runner.name.startswith("deaddrop"):
        fsck = ["e2fsck", "-fn", f"{image}?offset={runner.images.start}"]
        if subprocess.run(fsck, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode != 0:
            raise Failed(f"{runner.name}: e2fsck finds fault with the image")


def prepare(options):
    """The contenders that can run, each with its image, warm; their peaks of memory; and why the others cannot."""
    images = Images(options.work)
    images.make_values()
    runners, peaks, skipped = [], {}, {}
    for kind in contenders.ALL:
        runner = kind(images)
        if runner.name not in options.only:
            continue
        why = runner.missing()
        if why:
            skipped[runner.name] = why
            continue
        print(f"preparing {runner.name}", file=sys.stderr)
        try:
            runner.prepare()
            # Once with each set: what it reads is in the page cache, and where it writes to, the disk has room for it.
            runner.run(SETS[0])
            peaks[runner.name] = runner.peak(SETS[1])
            check(runner, SETS[1])
            runners.append(runner)
        except Failed as error:
            skipped[runner.name] = f"it fails here: {str(error).strip().splitlines()[0]}"
            clean_up(options.work)
    os.sync()
    return runners, peaks, skipped


def main():
    options = arguments()
    adopt()

    def stop(number, _):
        raise SystemExit(128 + number)

    for name in (signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
        signal.signal(name, stop)
    try:
        runners, peaks, skipped = prepare(options)
        if not runners:
            sys.exit("bench: no contender can run: " + "; ".join(f"{name}: {why}" for name, why in skipped.items()))
        versions = [version for version in (runner.version() for runner in runners) if version]
        about = facts.facts(str(runners[0].images.work), versions)
        if os.getloadavg()[0] > 0.5 * (os.cpu_count() or 1):
            print(f"the machine is busy (load {about['load']}): look at the ratios only", file=sys.stderr)
        results = {runner.name: table.Result(runner, peaks[runner.name]) for runner in runners}
        runs = dict.fromkeys(results, 0)
        for number in range(options.rounds):
            for runner in runners:
                if number % runner.every == 0 and runs[runner.name] < runner.most:
                    # The warm-up ended with the second set: never the same twice.
                    results[runner.name].seconds.append(runner.run(SETS[runs[runner.name] % 2]))
                    runs[runner.name] += 1
            if sys.stderr.isatty():
                print(f"\rround {number + 1} of {options.rounds}", end="", file=sys.stderr)
        for runner in runners:
            check(runner, SETS[(runs[runner.name] - 1) % 2])
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        sys.exit(130)
    except Failed as error:
        sys.exit(f"bench: {error}")
    finally:
        clean_up(options.work)
    print(f"\n{table.text(results, skipped)}")
    if options.json:
        goals = [{"goal": goal, "measured": value, "met": met} for goal, value, met in table.goals(results)]
        contestants = {
            name: {"title": result.title, "seconds": result.seconds, "median": result.median, "peak_kib": result.peak}
            for name, result in results.items()
        }
        everything = {"facts": about, "contenders": contestants, "skipped": skipped, "goals": goals}
        pathlib.Path(options.json).write_text(json.dumps(everything, indent=2) + "\n")
    if options.markdown:
        marks = table.OF_CONTAINERS if options.containers else (table.BEGIN, table.END)
        table.put_between_marks(options.markdown, table.markdown(about, results, skipped), *marks)


main()
