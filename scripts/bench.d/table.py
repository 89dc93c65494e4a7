"""What came out, as a table for people, as Markdown between two marks of a file, and against the goals."""

import os
import pathlib
import statistics

import bars

BEGIN = "<!-- scripts/bench writes from here -->"
END = "<!-- to here -->"
OF_CONTAINERS = ("<!-- scripts/bench --containers writes from here -->", "<!-- to here: containers -->")


def duration(seconds):
    return f"{seconds * 1000:.2f} ms" if seconds < 0.1 else f"{seconds:.2f} s"


def memory(kib):
    return f"{kib / 1024:.1f} MiB"


class Result:
    """All runs of one contender."""

    def __init__(self, contender, peak):
        self.name, self.title, self.peak = contender.name, contender.title, peak
        # Compared with another that works on the same container, and not with a change in place.
        self.of_one_kind = contender.of_one_kind
        self.seconds = []

    @property
    def median(self):
        return statistics.median(self.seconds)

    def middle(self):
        """The half of the runs in the middle: from the first to the third quartile."""
        if len(self.seconds) < 4:
            return min(self.seconds), max(self.seconds)
        first, _, third = statistics.quantiles(self.seconds, n=4)
        return first, third


def judged(goal, value, met, show):
    """One line of the goals; a value that is not there was not measured."""
    return (goal, "not measured" if value is None else show(value), None if value is None else met(value))


def goals(results):
    """(goal, what was measured, whether it is met); what could not be measured is neither. Only the goals of the kinds of
    contenders that ran."""
    def ratio(one, other):
        return results[one].median / results[other].median if one in results and other in results else None

    kinds = {result.of_one_kind for result in results.values()}
    return [*(in_place(results, ratio) if False in kinds else []), *(of_containers(ratio) if True in kinds else [])]


TIMES = "{:.2f}×".format


def in_place(results, ratio):
    peaks = [results[name].peak for name in ("deaddrop", "deaddrop-64") if name in results]
    peak = max(peaks) if peaks else None
    return [
        judged("at most 2 times the floor", ratio("deaddrop", "floor"), lambda r: r <= 2.0, TIMES),
        judged("at most 1.0 times `debugfs -w` and one fsync", ratio("deaddrop", "debugfs"), lambda r: r <= 1.0, TIMES),
        judged("64 GiB: at most 1.2 times the time for 4 GiB", ratio("deaddrop-64", "deaddrop"), lambda r: r <= 1.2, TIMES),
        judged("resident memory at most 32 MiB", peak, lambda kib: kib <= 32 * 1024, memory),
        judged("at least 800 times as fast as Ansible", ratio("ansible", "deaddrop"), lambda r: r >= 800, "{:.0f}×".format),
    ]


def of_containers(ratio):
    at_most = [
        ("zst to zst: at most 1.1 times `zstd -dc | zstd -T0`", "deaddrop-zstd", "zstd", 1.1),
        ("gz to gz: at most 1.1 times `pigz -dc | pigz`", "deaddrop-gzip", "gzip", 1.1),
        ("xz to xz: at most 1.1 times `xz -dc -T0 | xz -T0`", "deaddrop-xz", "xz", 1.1),
        ("qcow2 to qcow2: at most 1.2 times `qemu-img convert`", "deaddrop-qcow2", "qcow2", 1.2),
        ("raw to qcow2: at most 1.2 times `qemu-img convert`", "deaddrop-raw-qcow2", "raw-qcow2", 1.2),
        ("three hosts from one zst, to raw: at most 0.6 times three runs", "several", "singles", 0.6),
        ("three hosts from one zst, to zst: at most 1.0 times three runs", "several-zstd", "singles-zstd", 1.0),
    ]
    return [judged(goal, ratio(one, other), lambda r, most=most: r <= most, TIMES) for goal, one, other, most in at_most]


def verdict(met):
    return {True: "met", False: "**missed**", None: "–"}[met]


def rows(results):
    base = results.get("deaddrop")
    for result in results.values():
        first, third = result.middle()
        against = "" if base is None or result.of_one_kind else f"{result.median / base.median:.2f}"
        yield (result.title, duration(result.median), f"{duration(first)} to {duration(third)}", against,
               memory(result.peak), str(len(result.seconds)))


HEAD = ("", "median", "middle half", "× deaddrop", "peak memory", "runs")


def text(results, skipped):
    return plain(HEAD, list(rows(results)), skipped, goals(results))


def plain(head, cells, skipped, judgements):
    """A table for people, with the goals below it."""
    bare = [head, *[tuple(cell.replace("**", "").replace("`", "") for cell in row) for row in cells]]
    widths = [max(len(row[column]) for row in bare) for column in range(len(head))]
    lines = ["  ".join([row[0].ljust(widths[0]), *[c.rjust(w) for c, w in zip(row[1:], widths[1:])]]) for row in bare]
    lines += [""] + [f"not measured: {name}: {why}" for name, why in skipped.items()] + [""] * bool(skipped)
    for goal, value, met in judgements:
        lines.append(f"  {verdict(met).replace('*', ''):7} {goal.replace('`', '')}: {value}")
    return "\n".join(lines)


def markdown(about, results, skipped):
    return page(about, HEAD, list(rows(results)), skipped, goals(results))


def page(about, head, cells, skipped, judgements):
    """The same as Markdown, with what it was measured on."""
    def line(cells):
        # A bar inside of a cell would end it, even between backticks.
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    lines = [f"Measured on {about['date']} by `{about['command']}`; load at the start {about['load']}.", ""]
    lines += [line(("machine", "")), "|---|---|"]
    lines += [line((name, about[name])) for name in ("processor", "memory", "kernel", "disk", "versions")]
    lines += ["", line(head), "|---|" + "--:|" * (len(head) - 1)]
    lines += [line(row) for row in cells]
    lines += [""] + [f"Not measured: {name}: {why}." for name, why in skipped.items()] + [""] * bool(skipped)
    lines += [line(("goal", "measured", "")), "|---|--:|---|"]
    lines += [line((goal, value, verdict(met))) for goal, value, met in judgements]
    return "\n".join(lines)


def put_between_marks(path, words, begin=BEGIN, end=END):
    """Replaces what is between two marks of a file, and draws its tables if there is a directory for that."""
    path = pathlib.Path(path)
    old = path.read_text()
    before, found, rest = old.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise SystemExit(f"bench: {path} has not the two marks `{begin}` and `{end}`")
    new = path.with_name(f".{path.name}.new")
    new.write_text(f"{before}{begin}\n\n{words}\n\n{end}{after}")
    os.replace(new, path)
    if (path.parent / "pictures").is_dir():
        bars.illustrate(path)
