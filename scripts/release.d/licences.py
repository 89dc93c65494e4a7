#!/usr/bin/env python3
"""Prints the licences of the crates that a program is made of, each text once.

    cargo tree --prefix none --format '{p}' | licences.py VENDOR

VENDOR is what `cargo vendor --versioned-dirs` wrote. A crate of the workspace is not in it, and has the program's own.
"""
import pathlib
import re
import sys

TEXT = re.compile(r"(licen[cs]e|copying|copyright|notice|unlicense)", re.IGNORECASE)


def crates(lines):
    """Names and versions, sorted: lines are `NAME vVERSION …`."""
    return sorted({tuple(line.split()[:2]) for line in lines if line.strip()})


def texts(directory):
    """The texts of the licences in the directory of a crate."""
    for path in sorted(directory.iterdir()):
        if path.is_file() and TEXT.match(path.name):
            yield path.read_text(encoding="utf-8", errors="replace").strip()


def main():
    vendor = pathlib.Path(sys.argv[1])
    holders = {}
    without = []
    for name, version in crates(sys.stdin):
        directory = vendor / f"{name}-{version.removeprefix('v')}"
        if not directory.is_dir():
            continue
        found = list(texts(directory))
        for text in found:
            holders.setdefault(text, []).append(f"{name} {version}")
        if not found:
            declared = re.search(r'(?m)^license = "(.*)"$', (directory / "Cargo.toml").read_text(encoding="utf-8"))
            without.append(f"{name} {version}: {declared[1] if declared else 'see its repository'}")
    print("deaddrop contains these crates, under these licences.")
    for text, names in holders.items():
        print(f"\n{'-' * 100}\n{', '.join(names)}\n\n{text}")
    print(f"\n{'-' * 100}\nWithout a text of their own:\n")
    print("\n".join(without))


main()
