"""A headless Chromium, driven through the DevTools protocol over a pair of pipes."""

import json
import os
import select
import shutil
import subprocess
import time
from contextlib import contextmanager

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-component-update",
         "--disable-background-networking", "--disable-sync", "--remote-debugging-pipe")
KEYS = {"ArrowLeft": 37, "ArrowRight": 39, "ArrowDown": 40}


class Page:
    """One tab. problems: errors on its console and requests that left the page's own origin."""

    def __init__(self, read, write):
        self.read, self.write, self.count, self.session, self.held = read, write, 0, {}, b""
        self.problems, self.own, self.loaded = [], ("data:", "about:"), False
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = {"sessionId": self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method, **params):
        self.count += 1
        message = {"id": self.count, "method": method, "params": params, **self.session}
        os.write(self.write, json.dumps(message).encode() + b"\0")
        while (answer := self._message()).get("id") != self.count:
            self._event(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def open(self, url):
        self.own, self.loaded = (*self.own, url), False
        self.call("Page.navigate", url=url)
        while not self.loaded:
            self._event(self._message())

    def width(self, pixels, height=800):
        self.call("Emulation.setDeviceMetricsOverride", width=pixels, height=height, deviceScaleFactor=1,
                  mobile=pixels < 600)

    def run(self, script):
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def until(self, script, seconds=30):
        """Wait until an expression is true."""
        end = time.monotonic() + seconds
        while not self.run(script):
            assert time.monotonic() < end, f"never true: {script}"
            time.sleep(0.05)

    def press(self, key):
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=KEYS[key])

    def _message(self):
        while b"\0" not in self.held:
            assert select.select([self.read], [], [], 60)[0], "the browser says nothing"
            data = os.read(self.read, 1 << 16)
            assert data, "the browser ended"
            self.held += data
        message, _, self.held = self.held.partition(b"\0")
        return json.loads(message)

    def _event(self, event):
        method, params = event.get("method"), event.get("params", {})
        self.loaded |= method == "Page.loadEventFired"
        if method == "Runtime.exceptionThrown" or (method == "Runtime.consoleAPICalled" and params["type"] == "error"):
            self.problems.append(params)
        if method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.problems.append(params["entry"])
        if method == "Network.requestWillBeSent" and not params["request"]["url"].startswith(self.own):
            self.problems.append(params["request"]["url"])


@contextmanager
def page(folder):
    """A page of a browser whose profile lies in `folder`."""
    (in_read, in_write), (out_read, out_write) = os.pipe(), os.pipe()
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={folder}"]
    process = subprocess.Popen(["bash", "-c", f'exec "$@" 3<&{in_read} 4>&{out_write}', "bash", *command],
                               pass_fds=(in_read, out_write), stderr=subprocess.DEVNULL)
    os.close(in_read), os.close(out_write)
    try:
        yield Page(out_read, in_write)
    finally:
        process.terminate()
        process.wait()
        os.close(in_write), os.close(out_read)
