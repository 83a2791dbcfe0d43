"""Chromium without a head, driven over a pipe: the standard library is enough."""

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import sys
import time

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
    *("--no-first-run", "--remote-debugging-pipe", "--hide-scrollbars"),
)
# The browser reads commands from its descriptor 3 and answers on 4.
CONNECT = """
import fcntl, os, sys
spare = [fcntl.fcntl(int(one), fcntl.F_DUPFD, 10) for one in sys.argv[1:3]]
for one, place in zip(spare, (3, 4)):
    os.dup2(one, place)
os.execv(sys.argv[3], sys.argv[3:])
"""


def find():
    """Return the path of a browser, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Page:
    """One page of a browser of its own.

    Attributes:
        errors: What the console was told of errors, uncaught exceptions, requests that
            failed, and requests for anything that is not the file itself, inside it, or
            on the ``site`` that the page is of.
    """

    def __init__(self, program, profile, width=1200, height=900, site=None):
        self.known = ("file:", "data:", *((site,) if site else ()))
        commands, self.write = os.pipe()
        self.read, answers = os.pipe()
        browser = [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        self.process = subprocess.Popen(
            [sys.executable, "-c", CONNECT, str(commands), str(answers), *browser],
            pass_fds=(commands, answers),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(commands)
        os.close(answers)
        self.numbers, self.rest, self.session = itertools.count(1), b"", None
        self.events, self.errors = [], []
        self.attach()
        self.resize(width, height)

    def attach(self):
        """Talk to the page rather than to the browser."""
        targets = self.send("Target.getTargets")["targetInfos"]
        page = next(one["targetId"] for one in targets if one["type"] == "page")
        attached = self.send("Target.attachToTarget", targetId=page, flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def message(self, seconds=60):
        """Return the next message."""
        end = time.monotonic() + seconds
        while b"\0" not in self.rest:
            ready, _, _ = select.select([self.read], [], [], end - time.monotonic())
            data = os.read(self.read, 1 << 20) if ready else b""
            if not data:
                raise ConnectionError("the browser says nothing")
            self.rest += data
        first, self.rest = self.rest.split(b"\0", 1)
        return json.loads(first)

    def send(self, method, **params):
        """Send a command and return its result."""
        number = next(self.numbers)
        command = {"id": number, "method": method, "params": params}
        if self.session:
            command["sessionId"] = self.session
        os.write(self.write, json.dumps(command).encode() + b"\0")
        while True:
            message = self.message()
            if message.get("id") == number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return message["result"]
            self.note(message)

    def note(self, message):
        """Keep an event, and what is wrong."""
        method, params = message["method"], message["params"]
        self.events.append(method)
        if method == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(params["exceptionDetails"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(params["entry"]["text"])
        elif method == "Runtime.consoleAPICalled" and params["type"] == "error":
            self.errors.append(json.dumps(params["args"]))
        elif method == "Network.requestWillBeSent":
            url = params["request"]["url"]
            if not url.startswith(self.known):
                self.errors.append(f"requested {url}")
        elif method == "Network.loadingFailed" and not params.get("canceled"):
            self.errors.append(f"a request failed: {params['errorText']}")
        elif method == "Network.responseReceived":
            response = params["response"]
            if response["status"] >= 400:
                self.errors.append(f"{response['status']} of {response['url']}")

    def open(self, page):
        """Go to a file or an address and wait until it is loaded."""
        self.events.clear()
        url = page if isinstance(page, str) else page.absolute().as_uri()
        self.send("Page.navigate", url=url)
        while "Page.loadEventFired" not in self.events:
            self.note(self.message())

    def run(self, script):
        """Evaluate JavaScript, or what a promise of it becomes."""
        answer = self.send(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(json.dumps(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def drawn(self):
        """Wait until what was asked for is on the screen."""
        self.run(
            "new Promise(done => requestAnimationFrame(() => "
            "requestAnimationFrame(() => done(0))))"
        )

    def click(self, x, y):
        """Press and release the mouse, at places of the window."""
        for kind in ("mousePressed", "mouseReleased"):
            at = {"x": x, "y": y, "button": "left", "buttons": 1, "clickCount": 1}
            self.send("Input.dispatchMouseEvent", type=kind, **at)
        self.drawn()

    def press(self, key, shift=False):
        """Press and release a key."""
        for kind in ("keyDown", "keyUp"):
            modifiers = 8 if shift else 0
            self.send("Input.dispatchKeyEvent", type=kind, key=key, modifiers=modifiers)
        self.drawn()

    def resize(self, width, height, mobile=False):
        """Set the window's size."""
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=mobile,
        )

    def scheme(self, name):
        """Prefer "light" or "dark"."""
        feature = {"name": "prefers-color-scheme", "value": name}
        self.send("Emulation.setEmulatedMedia", features=[feature])

    def screenshot(self, path):
        """Write the whole page as a PNG."""
        answer = self.send("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(answer["data"]))

    def close(self):
        """End the browser."""
        os.close(self.write)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self.read)
