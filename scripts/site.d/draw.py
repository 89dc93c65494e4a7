"""Pictures of boxes from an outline. A file is

    # TITLE
    HEADING: what it is          a box; what is indented below it, by two spaces a step, is inside of it
    * HEADING: what it is        a box that stands out
    A | B | C                    boxes side by side; `<` makes the box on its left as wide as both
    v | v label                  arrows down, in the same columns
    = LABEL                      a line from side to side: nothing below it happens before all above it is done

    draw.py [--check]            all of docs/pictures/*.txt, from the repository's top
"""

import dataclasses
import pathlib
import sys

from svg import WIDTH, picture, put, report, text, wrapped

PAD, GAP, STEP = 10, 8, 18


class Wrong(Exception):
    """An outline that cannot be drawn."""


@dataclasses.dataclass
class Row:
    cells: list
    inside: list


def parse(source):
    """The title of an outline, and its rows."""
    lines = [line for line in source.splitlines() if line.strip()]
    if not lines or not lines[0].startswith("# "):
        raise Wrong("the first line has to be `# TITLE`")
    rows = []
    # The lists that a row may be added to, one for each step of indentation.
    open_lists = [rows]
    for line in lines[1:]:
        words = line.strip()
        depth, odd = divmod(len(line) - len(line.lstrip(" ")), 2)
        if odd or depth >= len(open_lists):
            raise Wrong(f"`{words}` is not indented below a box")
        del open_lists[depth + 1:]
        row = Row([cell.strip() for cell in words.split(" | ")], [])
        open_lists[depth].append(row)
        open_lists.append(row.inside)
    return lines[0][2:].strip(), rows


def columns(cells, x, width):
    """Each cell that is not `<`, with its left side and its width."""
    one = (width - GAP * (len(cells) - 1)) / len(cells)
    found = []
    for number, cell in enumerate(cells):
        if cell == "<" and found:
            cell, left, wide = found[-1]
            found[-1] = (cell, left, wide + GAP + one)
        else:
            found.append((cell, x + number * (one + GAP), one))
    return found


def words_of(cell, width):
    """The lines of a box: (text, whether it is the heading)."""
    heading, _, note = cell.removeprefix("* ").partition(": ")
    room = width - 2 * PAD
    lines = [(line, True) for line in wrapped(heading, room, 14, True)]
    return lines + [(line, False) for line in wrapped(note, room, 13)]


def boxes(row, x, y, width):
    """Boxes side by side, of one height; (the y below them, what to draw)."""
    placed = [(cell, left, wide, words_of(cell, wide)) for cell, left, wide in columns(row.cells, x, width)]
    tall = max(len(lines) for *_, lines in placed) * STEP + 2 * PAD - 4
    within = []
    if row.inside:
        bottom, within = stack(row.inside, x + PAD, y + tall, width - 2 * PAD)
        tall = bottom - y + PAD
    drawn = []
    for cell, left, wide, lines in placed:
        kind = "mark" if cell.startswith("* ") else "box"
        drawn.append(f'<rect class="{kind}" x="{left:g}" y="{y:g}" width="{wide:g}" height="{tall:g}" rx="5"/>')
        for number, (line, bold) in enumerate(lines):
            size, note = (14, "") if bold else (13, "note")
            drawn.append(text(left + PAD, y + PAD + 11 + number * STEP, line, size, note, bold))
    return y + tall, drawn + within


def arrows(row, x, y, width):
    drawn = []
    for cell, left, wide in columns(row.cells, x, width):
        label, middle = cell.removeprefix("v").strip(), left + wide / 2
        if cell.startswith("v"):
            drawn.append(f'<path class="line" stroke-width="2" d="M{middle:g} {y - 5:g}v20m-5 -6l5 6l5 -6"/>')
        if label:
            drawn.append(text(middle + 9, y + 9, label, 13, "note"))
    return y + 11, drawn


def barrier(row, x, y, width):
    lines = wrapped(row.cells[0].removeprefix("= "), width - 26, 13)
    drawn = [f'<path class="flush" d="M{x:g} {y + 8:g}h18"/>']
    drawn += [text(x + 26, y + 12 + number * STEP, line, 13, "amber") for number, line in enumerate(lines)]
    return y + len(lines) * STEP, drawn


def stack(rows, x, y, width):
    """Rows below each other; (the y below the last, what to draw)."""
    parts = []
    for number, row in enumerate(rows):
        first = row.cells[0]
        draw = arrows if first == "v" or first.startswith("v ") else barrier if first.startswith("= ") else boxes
        if row.inside and (draw is not boxes or len(row.cells) > 1):
            raise Wrong(f"`{' | '.join(row.cells)}` is no single box, and has something inside")
        y, drawn = draw(row, x, y + (GAP if number else 0), width)
        parts += drawn
    return y, parts


def svg_of(source):
    """The SVG of an outline."""
    title, rows = parse(source)
    y, parts = stack(rows, PAD, PAD, WIDTH - 2 * PAD)
    return picture(title, y + PAD, parts)


def main(pictures, only_check):
    stale = []
    for outline in sorted(pathlib.Path(pictures).glob("*.txt")):
        try:
            svg = svg_of(outline.read_text())
        except Wrong as error:
            sys.exit(f"{outline}: {error}")
        if not put(outline.with_suffix(".svg"), svg, only_check):
            stale.append(outline.with_suffix(".svg"))
    report(stale, only_check, "scripts/site --pictures")


if __name__ == "__main__":
    main("docs/pictures", "--check" in sys.argv[1:])
