"""Records the commands of docs/pictures/first-minutes.sh on a terminal, as an SVG that moves.

    record.py DEADDROP [--check]     with this program; --check compares what it prints now with what was recorded

The commands run in a new directory, with a copy of a test image and an export of made-up values. How long the picture
stays at a command is a matter of its length, not of the time that the command took.
"""

import fcntl
import json
import os
import pathlib
import pty
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
from xml.sax.saxutils import escape

from svg import MONO, WIDTH

SCRIPT = pathlib.Path("docs/pictures/first-minutes.sh")
IMAGE = pathlib.Path("tests/images/raw-efi.img.zst")
COLUMNS, ROWS = 50, 25
# Pixels: of a letter, of a line, around the text.
SIZE, LINE, PAD = 12.6, 17, 10
# Seconds: after a command is typed, for each line that it prints, at the end.
TYPED, READ, END = 1.2, 0.45, 6
COLOURS = {"31": "#ff7b72", "32": "#7ee787", "33": "#e3b341", "36": "#79c0ff"}
GROUND, PLAIN, PROMPT = "#161b22", "#e6edf3", "#9da7b3"
SGR = re.compile(r"\x1b\[([0-9;]*)m")
# Those that move or erase: a progress bar, which only a slow machine shows, and which ends erased.
MOVES = re.compile(r"\x1b\[[?0-9;]*[A-Za-ln-z]")


def prepare(directory):
    """The image, and an export with the items that `init` asks for."""
    shutil.copyfile(IMAGE, directory / "base.img.zst")
    items = [{"id": str(number), "type": 1, "name": name, "login": {"username": None, "password": f"made-up-{number}"}}
             for number, name in enumerate(("admin login", "k3s token", "Wifi"), 1)]
    export = directory / "vault.json"
    export.write_text(json.dumps({"encrypted": False, "folders": [], "items": items}))
    export.chmod(0o600)


def run(command, directory, program):
    """What a command prints on a terminal. Ends this program if it cannot be run at all."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    environment = {"PATH": f"{program.parent}:/usr/bin:/bin", "HOME": str(directory), "TERM": "xterm-256color",
                   "LC_ALL": "C.UTF-8"}
    with subprocess.Popen(["sh", "-c", command], cwd=directory, env=environment, stdin=theirs, stdout=theirs,
                          stderr=theirs, start_new_session=True) as child:
        os.close(theirs)
        printed = b""
        # The kernel answers EIO once nobody holds the other side.
        while piece := read(ours):
            printed += piece
        if child.wait() in (126, 127):
            sys.exit(f"record: {command}: could not be run")
    os.close(ours)
    return printed.decode()


def read(terminal):
    try:
        return os.read(terminal, 65536)
    except OSError:
        return b""


def lines_of(printed):
    """The lines that a command leaves on the terminal, with their colours."""
    lines = [MOVES.sub("", line.rstrip("\r").rpartition("\r")[2]) for line in printed.split("\n")]
    while lines and not SGR.sub("", lines[-1]).strip():
        lines.pop()
    return lines


def play(program):
    """Each command, with the lines that it prints."""
    commands = [line for line in SCRIPT.read_text().splitlines() if line and not line.startswith("#")]
    with tempfile.TemporaryDirectory() as name:
        directory = pathlib.Path(name)
        prepare(directory)
        return [(command, lines_of(run(command, directory, program))) for command in commands]


def spans(line):
    """A line as text and tspans, each of one colour."""
    out, colour, bold = "", None, False
    for number, piece in enumerate(SGR.split(line)):
        if number % 2:
            for code in piece.split(";"):
                bold = code == "1" or bold and code not in ("", "0")
                colour = COLOURS.get(code, None if code in ("", "0") else colour)
        elif piece:
            style = f' fill="{colour}"' if colour else ""
            style += ' font-weight="700"' if bold else ""
            out += f"<tspan{style}>{escape(piece)}</tspan>" if style else escape(piece)
    return out


def coloured(lines):
    """Lines whose colour lasts over a line's end get it again at the start of the next."""
    lasting = ""
    for line in lines:
        yield lasting + line
        for found in SGR.finditer(line):
            lasting = "" if found[1] in ("", "0") else lasting + found[0]


def typed(command):
    """A command as a terminal breaks it: (its first line with the prompt, the others)."""
    letters = f"$ {command}"
    return [letters[at:at + COLUMNS] for at in range(0, len(letters), COLUMNS)]


def screen(played):
    """All lines as SVG, and the moments: (seconds to stay, number of lines that are there)."""
    shown, moments = [], []
    for command, lines in played:
        for number, line in enumerate(typed(command)):
            mark = f'<tspan fill="{PROMPT}">$</tspan>{escape(line[1:])}' if number == 0 else escape(line)
            shown.append(f'<tspan font-weight="700">{mark}</tspan>')
        moments.append((TYPED, len(shown)))
        shown += [spans(line) for line in coloured(lines)] + [""]
        moments.append((TYPED + READ * len(lines), len(shown)))
    return shown, moments[:-1] + [(END, len(shown))]


def keyframes(name, moments, offset):
    """Steps of a movement, as percentages of the whole."""
    whole, at, steps = sum(stay for stay, _ in moments), 0.0, []
    for stay, count in moments:
        steps.append(f"{at / whole * 100:.2f}% {{ transform: translateY({offset(count):g}px) }}")
        at += stay
    return f"@keyframes {name} {{ {' '.join(steps)} 100% {{ transform: translateY({offset(moments[-1][1]):g}px) }} }}"


def svg_of(played):
    shown, moments = screen(played)
    seconds = sum(stay for stay, _ in moments)
    height = ROWS * LINE + 2 * PAD

    def scrolled(count):
        return -max(0, count - ROWS) * LINE

    texts = [f'<text y="{(number + 1) * LINE - 4}">{line}</text>' for number, line in enumerate(shown) if line]
    # Without movement the picture is its own last moment.
    last = moments[-1][1]
    style = f"""
text {{ fill: {PLAIN}; white-space: pre }}
.all {{ animation: scroll {seconds:.1f}s step-end infinite; transform: translateY({scrolled(last)}px) }}
.rest {{ animation: appear {seconds:.1f}s step-end infinite; transform: translateY({last * LINE}px) }}
{keyframes("scroll", moments, scrolled)}
{keyframes("appear", moments, lambda count: count * LINE)}
@media (prefers-reduced-motion: reduce) {{ .all, .rest {{ animation: none }} }}
"""
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}"'
        f' role="img" font-family="{MONO}" font-size="{SIZE}" xml:space="preserve">',
        "<title>The first five minutes: init, check, plan, inject and verify on a terminal</title>",
        f"<style>{style}</style>",
        f'<rect width="{WIDTH}" height="{height}" rx="8" fill="{GROUND}" stroke="#484f58"/>',
        f'<svg x="{PAD}" y="{PAD}" width="{WIDTH - PAD}" height="{ROWS * LINE}"><g class="all">',
        *texts,
        f'<rect class="rest" width="{WIDTH}" height="{(len(shown) + ROWS) * LINE}" fill="{GROUND}"/>',
        "</g></svg>",
        "</svg>\n",
    ])


def main(program, only_check):
    if not os.access(program, os.X_OK):
        sys.exit(f"record: {program}: no program")
    recording = SCRIPT.with_suffix(".svg")
    svg = svg_of(play(pathlib.Path(program).resolve()))
    times = re.compile(r"\([0-9.]+ m?s\)")
    if only_check and times.sub("", recording.read_text()) != times.sub("", svg):
        sys.exit(f"{recording} is not what the commands print now; scripts/site --record PROGRAM records it again")
    if not only_check:
        recording.write_text(svg)


main(sys.argv[1], "--check" in sys.argv[2:])
