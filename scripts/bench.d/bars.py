"""The medians of docs/performance.md as bars: docs/pictures/bench-NAME.svg for each table between two of its marks.

    bars.py [--check]            from the repository's top, out of what the page says
"""

import math
import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "site.d"))
from svg import WIDTH, picture, put, report, text, wrapped  # noqa: E402

MARKED = re.compile(r"<!-- scripts/bench ?(?P<name>[-a-z]*) writes from here -->(?P<words>.*?)<!-- to here", re.DOTALL)
SECONDS = {"ms": 0.001, "s": 1.0}
# From here on the longest bar would leave nothing of the shortest: each tenfold gets the same width instead.
LINEAR_TO = 100
PAD, ROOM, STEP, THICK = 14, 290, 17, 14
ALT = "![The medians of the table below, as bars](pictures/bench-{}.svg)"


def medians(words):
    """(label, whether it is deaddrop's, the median in seconds, as it is written) of each row of the table of medians."""
    _, _, rest = words.partition("|  | median |")
    found = []
    for line in rest.splitlines()[2:]:
        if not line.startswith("|"):
            break
        label, median = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:3]]
        number, unit = median.split()
        plain = re.sub(r"[*`\\]", "", label)
        # "the same" is what the row above is.
        own = found[-1][1] if found and plain.startswith("the ") else plain.startswith("deaddrop")
        found.append((plain, own, float(number) * SECONDS[unit], median))
    return found


def scale(seconds):
    """A function from seconds to pixels, and the pixels where each ten times as much begins, if it is logarithmic."""
    most, least = max(seconds), min(seconds)
    if most / least <= LINEAR_TO:
        return lambda value: value / most * ROOM, []
    first = math.floor(math.log10(least))
    decades = math.log10(most) - first
    decade = ROOM / decades
    return lambda value: (math.log10(value) - first) * decade, [decade * n for n in range(1, int(decades) + 1)]


def svg_of(name, rows):
    length, tens = scale([seconds for _, _, seconds, _ in rows])
    y, parts = PAD, []
    for label, own, seconds, shown in rows:
        for line in wrapped(label, WIDTH - 2 * PAD, 13, own):
            y += STEP
            parts.append(text(PAD, y - 4, line, 13, "", own))
        wide = max(length(seconds), 2)
        kind = "own" if own else "bar"
        parts.append(f'<rect class="{kind}" x="{PAD}" y="{y:g}" width="{wide:.1f}" height="{THICK}" rx="2"/>')
        parts += [f'<path class="cut" d="M{PAD + x:.1f} {y:g}v{THICK}"/>' for x in tens if x < wide]
        parts.append(text(PAD + wide + 6, y + 12, shown, 13, "note"))
        y += THICK + 8
    if tens:
        y += STEP
        parts.append(text(PAD, y, "Logarithmic: ten times as much at each tick.", 13, "note"))
    return picture(f"Medians of scripts/bench, {name}", y + 12, parts)


def illustrate(page, only_check=False):
    """Draws the tables of a page into `pictures` beside it, and has the page show them; the pictures that were not
    current."""
    page = pathlib.Path(page)
    words, stale = page.read_text(), []
    for found in MARKED.finditer(words):
        name, rows = found["name"].lstrip("-") or "images", medians(found["words"])
        if not rows:
            continue
        path = page.parent / "pictures" / f"bench-{name}.svg"
        if not put(path, svg_of(name, rows), only_check):
            stale.append(path)
        if ALT.format(name) not in words:
            table = found["words"]
            words = words.replace(table, table.replace("|  | median |", f"{ALT.format(name)}\n\n|  | median |", 1))
    if words != page.read_text():
        stale.append(page)
        if not only_check:
            page.write_text(words)
    return stale


if __name__ == "__main__":
    CHECK = "--check" in sys.argv[1:]
    report(illustrate("docs/performance.md", CHECK), CHECK, "scripts/bench --bars")
