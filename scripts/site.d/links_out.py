"""A preprocessor of mdBook: a link that leads out of docs/ (`../README.md`) becomes one to the repository.

mdBook gives the context and the book as JSON on standard input, and takes the book on standard output:
https://rust-lang.github.io/mdBook/for_developers/preprocessors.html
"""

import json
import pathlib
import re
import sys

OUT = re.compile(r"\]\(\.\./([^)\s]+)\)")


def changed(content, repository):
    def link(found):
        path = found[1]
        kind = "tree" if pathlib.Path(path.split("#")[0]).is_dir() else "blob"
        return f"]({repository}/{kind}/main/{path})"

    return OUT.sub(link, content)


def each(items, repository):
    for item in items:
        if chapter := item.get("Chapter") if isinstance(item, dict) else None:
            chapter["content"] = changed(chapter["content"], repository)
            each(chapter["sub_items"], repository)


def main():
    if sys.argv[1:2] == ["supports"]:
        return
    context, book = json.load(sys.stdin)
    each(book["items"], context["config"]["output"]["html"]["git-repository-url"])
    json.dump(book, sys.stdout)


main()
