"""Whether each link of a built site leads to what is there.

    check_links.py SITE

In the site: the file, and the element that the part after `#` names. To the repository: the file in this checkout.
Others are not followed.
"""

import html.parser
import pathlib
import sys
import urllib.parse

REPOSITORY = "https://github.com/deaddrop/deaddrop/"


class Page(html.parser.HTMLParser):
    """The ids of a page, and what it links to."""

    def __init__(self, path):
        super().__init__()
        self.ids, self.links = set(), []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name in ("id", "name") and value:
                self.ids.add(value)
            if name in ("href", "src") and value and tag != "base":
                self.links.append(value)


def in_repository(link):
    """Whether a link to the repository leads to a file of this checkout; other pages there are not ours to judge."""
    parts = urllib.parse.unquote(urllib.parse.urlsplit(link).path).split("/", 5)
    return len(parts) < 6 or parts[3] not in ("blob", "tree", "edit") or pathlib.Path(parts[5]).exists()


def is_there(pages, page, link):
    url = urllib.parse.urlsplit(link)
    if link.startswith(REPOSITORY):
        return in_repository(link)
    if url.scheme or url.netloc:
        return True
    target = (page.parent / urllib.parse.unquote(url.path)).resolve() if url.path else page
    if target.is_dir():
        target /= "index.html"
    if not target.is_file():
        return False
    return not url.fragment or target not in pages or urllib.parse.unquote(url.fragment) in pages[target].ids


def main(site):
    pages = {path.resolve(): Page(path) for path in pathlib.Path(site).rglob("*.html")}
    dead = [
        f"{path.name}: {link}" for path, page in sorted(pages.items()) for link in page.links
        # The page of a missing page is served at any depth; its links start at the site's top.
        if path.name != "404.html" and not is_there(pages, path, link)
    ]
    if dead or not pages:
        sys.exit("links that lead nowhere:\n" + "\n".join(dead) if dead else f"{site}: no pages")
    print(f"{len(pages)} pages, {sum(len(page.links) for page in pages.values())} links, none dead")


main(sys.argv[1])
