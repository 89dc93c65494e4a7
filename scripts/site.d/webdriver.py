"""A client of the WebDriver protocol, as far as scripts/site needs it: https://www.w3.org/TR/webdriver2/."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
# What root needs, and what keeps Chromium from the network.
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
         "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"]
# Seconds for a page or an element to appear.
PATIENCE = 30


class Failed(Exception):
    """The browser is not as it should be; the message says what was expected."""


def require_programs():
    """Ends this program with the name of the Debian package that is missing."""
    for program, package in (("chromium", "chromium"), ("chromedriver", "chromium-driver")):
        if not shutil.which(program):
            sys.exit(f"{program} is missing: Debian package {package}")


class Driver:
    """A ChromeDriver of our own on a free port, whose files are all below one directory."""

    def __init__(self, home):
        self.home = home
        self.log = open(home / "chromedriver.log", "w+")
        self.process = subprocess.Popen(["chromedriver", "--port=0"], stdout=self.log, stderr=self.log, cwd=home,
                                        env={"PATH": os.environ["PATH"], "HOME": str(home), "TMPDIR": str(home)},
                                        start_new_session=True)
        self.url, self.sessions = None, []

    def start(self):
        """Waits until the driver listens."""
        port = wait(self.port, "a port of chromedriver")
        self.url = f"http://127.0.0.1:{port}"

    def port(self):
        if self.process.poll() is not None:
            raise Failed(f"chromedriver ended: {self.said()}")
        found = re.search(r"started successfully on port (\d+)", self.said())
        return found and found[1]

    def said(self):
        self.log.seek(0)
        return self.log.read()

    def stop(self):
        """Ends the driver, and with it every browser that it started, also after a failure."""
        # A driver that does not answer or is gone by now is no reason to leave the rest.
        with contextlib.suppress(OSError, Failed):
            for session in self.sessions:
                self.call("DELETE", session)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.log.close()

    def call(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise Failed(json.load(error)["value"]["message"].splitlines()[0]) from None


class Browser:
    """A window of its own, as wide and as high as said, in pixels; with a touch screen if it is a phone's."""

    def __init__(self, driver, width, height, phone):
        self.driver = driver
        own = [f"--user-data-dir={driver.home}/profile-{width}", f"--window-size={width},{height}"]
        options = {"args": FLAGS + own}
        if phone:
            options["mobileEmulation"] = {"deviceMetrics": {"width": width, "height": height, "pixelRatio": 2}}
        wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        session = driver.call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self.path = f"/session/{session['sessionId']}"
        driver.sessions.append(self.path)

    def call(self, method, what, body=None):
        return self.driver.call(method, f"{self.path}/{what}", body)

    def open(self, url):
        self.call("POST", "url", {"url": url})

    def run(self, script, *arguments):
        """What a function body of JavaScript returns."""
        return self.call("POST", "execute/sync", {"script": script, "args": list(arguments)})

    def find(self, selector):
        """The first element that is there and can be seen."""
        script = "return [...document.querySelectorAll(arguments[0])].find(e => e.checkVisibility()) ?? null"
        return wait(lambda: self.run(script, selector), f"an element `{selector}`")[ELEMENT]

    def click(self, selector):
        self.call("POST", f"element/{self.find(selector)}/click", {})

    def type(self, selector, words):
        self.call("POST", f"element/{self.find(selector)}/value", {"text": words})

    def complaints(self):
        """Errors in the console since the last call."""
        log = self.call("POST", "se/log", {"type": "browser"})
        return [entry["message"] for entry in log if entry["level"] == "SEVERE"]

    def picture(self):
        """A PNG of what is seen, in base64."""
        return self.call("GET", "screenshot")

    def close(self):
        self.driver.sessions.remove(self.path)
        self.driver.call("DELETE", self.path)


def wait(look, what):
    """What `look` returns as soon as it is something."""
    end = time.monotonic() + PATIENCE
    while not (found := look()):
        if time.monotonic() > end:
            raise Failed(f"{what} did not appear")
        time.sleep(0.05)
    return found
