"""Contenders that run in turn, round after round, and what came out: for benches with a work directory of their own."""

import argparse
import json
import pathlib
import shutil
import signal
import subprocess
import sys

import facts
import table
from measure import Failed, adopt, end_children, measure, peak_memory


class Contender:
    name = title = program = ""
    # All are compared with one.
    of_one_kind = False

    def __init__(self, bench):
        self.bench, self.seconds = bench, []

    def missing(self):
        return None if shutil.which(self.program or self.bench.deaddrop) else f"{self.program} is not installed"

    def words(self):
        raise NotImplementedError

    def command(self):
        """Ends with 0 if nothing is found: the values are in none of the files."""
        return self.words()


def parser(name):
    parser = argparse.ArgumentParser(prog=f"scripts/bench --{name}")
    parser.add_argument("--work", required=True)
    parser.add_argument("--deaddrop", required=True)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--only")
    parser.add_argument("--json")
    parser.add_argument("--markdown")
    return parser


def places(name):
    """Work directory and binary, from the arguments."""
    options, _ = parser(name).parse_known_args()
    return options.work, options.deaddrop


def run(bench, kinds, usual, more_head, columns, goals, over, versions, marks):
    """Runs all contenders and prints the table. `usual` rounds, unless the arguments say another number; `more_head` and
    `columns` are what is beside the times, `over` says what was measured, `marks` are those of a Markdown file."""
    known = [kind.name for kind in kinds]
    options = parser(bench.name).parse_args()
    count = options.rounds or (3 if options.quick else usual)
    only = options.only.split(",") if options.only else known
    unknown = [name for name in only if name not in known]
    if unknown:
        sys.exit(f"bench: no contender {unknown[0]}; there are: {' '.join(known)}")
    adopt()

    def stop(number, _):
        raise SystemExit(128 + number)

    for name in (signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
        signal.signal(name, stop)
    results, skipped = {}, {}
    try:
        bench.prepare()
        runners = []
        for runner in (kind(bench) for kind in kinds if kind.name in only):
            why = runner.missing()
            if why:
                skipped[runner.name] = why
                continue
            # Once for the page cache, and for its memory.
            results[runner.name] = table.Result(runner, peak_memory(runner.command(), bench.path("log")))
            runners.append(runner)
        about = facts.facts(str(bench.work), [facts.deaddrop(options.deaddrop), *versions])
        for number in range(count):
            for runner in runners:
                results[runner.name].seconds.append(measure(runner.command(), bench.path("log")))
            print(f"round {number + 1} of {count}", file=sys.stderr)
    except KeyboardInterrupt:
        sys.exit(130)
    except Failed as error:
        sys.exit(f"bench: {error}")
    finally:
        end_children()
        subprocess.run(["rm", "-rf", str(bench.work)], check=False)
    head = ("", "median", "middle half", *more_head, "peak memory", "runs")
    cells = []
    for result in results.values():
        first, third = result.middle()
        cells.append((result.title, table.duration(result.median), f"{table.duration(first)} to {table.duration(third)}",
                      *columns(result), table.memory(result.peak), str(len(result.seconds))))
    judged = goals(results)
    print(f"\n{over()}\n\n{table.plain(head, cells, skipped, judged)}")
    if options.json:
        contestants = {name: {"title": result.title, "seconds": result.seconds, "median": result.median} for name, result in results.items()}
        found = [{"goal": goal, "measured": value, "met": met} for goal, value, met in judged]
        everything = {"facts": about, "over": over(), "contenders": contestants, "skipped": skipped, "goals": found}
        pathlib.Path(options.json).write_text(json.dumps(everything, indent=2) + "\n")
    if options.markdown:
        about["date"] += f", {over()},"
        table.put_between_marks(options.markdown, table.page(about, head, cells, skipped, judged), *marks)
