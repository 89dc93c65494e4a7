"""What the pictures have in common: text that is measured without its font, and colours for light and dark themes."""

import sys
from xml.sax.saxutils import escape

# A picture is as wide as the text of a page on a phone, so that a phone shows it in nearly its own size.
WIDTH = 400
SANS = "system-ui, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
MONO = "ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace"

# The background is the picture's own: a page's theme is not known to an image, only that of the system is.
STYLE = """
.card { fill: #ffffff; stroke: #d0d7de }
.box { fill: #8c959f; fill-opacity: .08; stroke: #8c959f }
.mark { fill: #0969da; fill-opacity: .14; stroke: #0969da; stroke-width: 2 }
.line { stroke: #57606a; fill: none }
.flush { stroke: #9a6700; stroke-width: 3 }
.bar { fill: #8c959f }
.own { fill: #0969da }
.cut { stroke: #ffffff; stroke-width: 2 }
text { fill: #1f2328 }
.note { fill: #57606a }
.amber { fill: #7d4e00 }
@media (prefers-color-scheme: dark) {
  .card { fill: #161b22; stroke: #30363d }
  .mark { fill: #58a6ff; stroke: #58a6ff }
  .line { stroke: #9da7b3 }
  .flush { stroke: #d29922 }
  .own { fill: #58a6ff }
  .cut { stroke: #161b22 }
  text { fill: #e6edf3 }
  .note { fill: #9da7b3 }
  .amber { fill: #e3b341 }
}
"""


def width_of(words, size, bold=False):
    """The width of a text in pixels, in the widest of the usual fonts (DejaVu Sans)."""
    ems = 0.0
    for letter in words:
        if letter in " .,:;'|!()[]/ijlftI-":
            ems += 0.38
        elif letter in "mwMW@%":
            ems += 0.98
        else:
            ems += 0.72 if letter.isupper() else 0.62
    return ems * size * (1.1 if bold else 1)


def wrapped(words, room, size, bold=False):
    """The lines of a text in so many pixels. A word that is wider than that stands alone."""
    lines = [""]
    for word in words.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and width_of(longer, size, bold) > room:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines if words else []


def text(x, y, words, size=13, kind="", bold=False, anchor=""):
    attributes = f' class="{kind}"' if kind else ""
    attributes += ' font-weight="600"' if bold else ""
    attributes += f' text-anchor="{anchor}"' if anchor else ""
    return f'<text x="{x:g}" y="{y:g}" font-size="{size}"{attributes}>{escape(words)}</text>'


def picture(title, height, parts):
    """A whole SVG: a card with these parts on it."""
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height:g}" viewBox="0 0 {WIDTH} {height:g}"'
        f' role="img" font-family="{SANS}">',
        f"<title>{escape(title)}</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="card" x=".5" y=".5" width="{WIDTH - 1}" height="{height - 1:g}" rx="8"/>',
        *parts,
        "</svg>\n",
    ])


def put(path, svg, only_check):
    """Writes a picture if it is not that already; returns whether it was."""
    current = path.is_file() and path.read_text() == svg
    if not current and not only_check:
        path.write_text(svg)
    return current


def report(stale, only_check, remedy):
    """Ends the program: exit 1 if pictures are not what their texts make, and were only to be checked."""
    if stale and only_check:
        sys.exit(f"not what their texts make: {' '.join(map(str, stale))}; {remedy} writes them")
    for path in stale:
        print(f"{path}: written")
