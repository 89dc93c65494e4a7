"""Looks at the built site in a headless Chromium, as wide as a desk's screen and as a phone's.

    browser.py SITE [--shots DIRECTORY]      also writes what it sees there, as PNG

The start page opens, a search for "wifi" finds something, a hit leads to a place that has the word; a code's anchor is
in sight; no page is wider than the window, and each picture is large enough to be read. Nothing is left behind.
"""

import base64
import functools
import http.server
import pathlib
import shutil
import signal
import sys
import tempfile
import threading

from webdriver import Browser, Driver, Failed, require_programs, wait

# Name, width, height, whether it is a phone.
SCREENS = [("desk", 1280, 900, False), ("phone", 375, 740, True)]
WORD = "wifi"
# A picture is drawn for a width of 400 pixels with letters of 13: below this they have less than 10.
READABLE = 310


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        """The requests are of no interest."""


def check(holds, what):
    if not holds:
        raise Failed(what)


def search(browser, url):
    """From the start page to a hit."""
    browser.open(url)
    check("deaddrop" in browser.run("return document.title"), "the title names deaddrop")
    check(browser.run("return document.querySelector('main h1').textContent").startswith("Walkthrough"),
          "the walkthrough is the start page")
    browser.click("#mdbook-search-toggle")
    browser.type("#mdbook-searchbar", WORD)
    hit = "#mdbook-searchresults li a"
    browser.find(hit)
    yield "search"
    leads_to = browser.run("return document.querySelector(arguments[0]).href", hit)
    browser.click(hit)
    at = wait(lambda: browser.run("return location.href !== arguments[0] && document.readyState === 'complete'"
                                  " && location.href", url), "another page")
    check(at.split("?")[0] == leads_to.split("?")[0], f"{at}, where the hit leads to {leads_to}")
    found = "return [...document.querySelectorAll('main mark')].map(e => e.textContent.toLowerCase())"
    check(WORD in wait(lambda: browser.run(found), "a marked word"), f"{at} marks {WORD}")
    yield "hit"


def code(browser, url):
    """A link to a code shows its row."""
    browser.open(f"{url}codes.html#NX101")
    place = "const e = document.getElementById('NX101').getBoundingClientRect();" \
            "const bar = document.getElementById('mdbook-menu-bar').getBoundingClientRect();" \
            "return e.top >= bar.bottom && e.bottom <= innerHeight && e.left >= 0 && e.right <= innerWidth"
    wait(lambda: browser.run(place), "the row of NX101")
    yield "code"


def look(browser, url, page):
    """What holds for each page."""
    browser.open(url + page)
    wider = browser.run("return document.documentElement.scrollWidth - innerWidth")
    check(wider <= 0, f"{page} is {wider} pixels wider than the window")
    for name, loaded, width in browser.run("return [...document.querySelectorAll('main img')].map(e =>"
                                           " [e.getAttribute('src'), e.complete && e.naturalWidth > 0, e.width])"):
        check(loaded, f"{page}: {name} is not shown")
        check(width >= READABLE, f"{page}: {name} has only {width} pixels")


def visit(browser, url, pages):
    """All of it; yields a name wherever there is something to see."""
    yield from search(browser, url)
    yield from code(browser, url)
    for page in pages:
        look(browser, url, page)
        yield page.removesuffix(".html")
    complaints = browser.complaints()
    check(not complaints, f"the console has {complaints}")


def serve(site):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def main(site, shots):
    require_programs()
    # By a signal, too, the browser ends with us.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    pages = sorted(page.name for page in site.glob("*.html") if page.name not in ("404.html", "print.html", "toc.html"))
    server = serve(site)
    home = pathlib.Path(tempfile.mkdtemp(prefix="deaddrop-site."))
    driver = Driver(home)
    try:
        driver.start()
        for name, width, height, phone in SCREENS:
            browser = Browser(driver, width, height, phone)
            for seen in visit(browser, f"http://127.0.0.1:{server.server_port}/", pages):
                if shots:
                    (shots / f"{name}-{seen}.png").write_bytes(base64.b64decode(browser.picture()))
            browser.close()
            print(f"{name}, {width} pixels: {len(pages)} pages, search, hit and anchor")
    except Failed as error:
        sys.exit(f"browser: {error}")
    finally:
        driver.stop()
        server.shutdown()
        # A browser that is about to end may still write there.
        wait(lambda: shutil.rmtree(home, ignore_errors=True) or not home.exists(), f"the end of {home}")


main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[3]) if sys.argv[2:3] == ["--shots"] else None)
