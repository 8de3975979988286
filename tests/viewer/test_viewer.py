"""Previews decode, plots are drawn, and the pages show coloured points in a real browser."""

import base64
import io
import json
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from geo4d.errors import InputError
from geo4d.io.video import read_video
from geo4d.viewer.page import script_json, write_page
from geo4d.viewer.preview import INVALID_COLOUR, colour_depth, write_preview
from geo4d.viewer.server import serve

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Browser:
    """Headless Chromium, driven over DevTools."""

    def __init__(self, folder):
        websocket = pytest.importorskip("websocket")
        port = free_port()
        flags = "--headless --no-sandbox --no-first-run --disable-background-networking --disable-component-update"
        flags += " --disable-sync --disable-quic --hide-scrollbars --use-gl=angle --use-angle=swiftshader"
        flags += " --enable-unsafe-swiftshader --window-size=800,600"
        command = [
            CHROMIUM,
            *flags.split(),
            f"--user-data-dir={folder}",
            f"--remote-debugging-port={port}",
            "about:blank",
        ]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(300):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=1) as reply:
                    pages = json.load(reply)
                break
            except OSError:
                time.sleep(0.1)
        address = next(page for page in pages if page["type"] == "page")["webSocketDebuggerUrl"]
        self.socket = websocket.create_connection(address, timeout=60, suppress_origin=True)
        self.count = 0

    def call(self, method, **params):
        self.count += 1
        self.socket.send(json.dumps({"id": self.count, "method": method, "params": params}))
        while True:
            message = json.loads(self.socket.recv())
            if message.get("id") == self.count:
                return message.get("result", {})

    def evaluate(self, expression):
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True).get("result", {}).get("value")

    def wait(self, expression, seconds=60):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.evaluate(expression):
                return
            time.sleep(0.2)
        raise AssertionError(f"never true: {expression}")

    def screenshot(self):
        for _ in range(20):  # while a page is being exchanged there is nothing to take
            reply = self.call("Page.captureScreenshot", format="png")
            if "data" in reply:
                break
            time.sleep(0.5)
        data = reply["data"]
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")).astype(int)

    def close(self):
        self.socket.close()
        self.process.kill()
        self.process.wait()


@pytest.fixture
def browser(tmp_path):
    result = Browser(tmp_path / "profile")
    yield result
    result.close()


def coloured(picture):
    """Pixels that are neither grey nor background."""
    return int((np.ptp(picture, axis=-1) > 60).sum())


def test_preview(tmp_path, small_reconstruction):
    write_preview(small_reconstruction, tmp_path)
    video = read_video(tmp_path / "preview.mp4")
    assert video.frames.shape == (8, 320, 960, 3) and video.fps == pytest.approx(10, rel=0.01)
    plot = np.asarray(Image.open(tmp_path / "trajectory.png").convert("RGB"))
    assert plot.std() > 5


def test_colours_of_depth(small_reconstruction):
    colours = colour_depth(small_reconstruction, 0)
    assert (colours[:3] == INVALID_COLOUR).all()
    near, far = colours[-1, 0].astype(int), colours[4, 0].astype(int)
    assert near[0] > near[2] and far[2] > far[0]  # near is warm, far is cold


def test_the_page_is_self_contained(tmp_path, small_reconstruction):
    write_page(small_reconstruction, tmp_path / "a.html")
    text = (tmp_path / "a.html").read_text()
    assert "http" not in text and "src=" not in text and "const DATA = {" in text


def test_no_text_ends_the_script_of_the_page():
    value = {"</script><script>alert(1)</script>": ["<!--", "a & b", "\u2028\u2029", 1.5]}
    text = script_json(value)
    assert json.loads(text) == value and not set(text) & set("<>&\u2028\u2029")
    with pytest.raises(ValueError, match="JSON compliant"):
        script_json([float("nan")])


@pytest.mark.parametrize(
    "wrong",
    [
        {"timestamps": np.array(["</script><script>alert(1)</script>"] * 8)},
        {"timestamps": np.array([*range(7), np.nan])},
        {"cam_to_world": np.tile(np.diag([1.0, 1, 1, np.inf]), (8, 1, 1)) + np.inf},
    ],
    ids=["words", "nan", "infinite"],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_page_holds_finite_numbers_alone(tmp_path, small_reconstruction, wrong):
    with pytest.raises(InputError, match="finite"):
        write_page(replace(small_reconstruction, **wrong), tmp_path / "a.html")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@needs_browser
def test_the_page_in_a_browser(tmp_path, small_reconstruction, browser):
    write_page(small_reconstruction, tmp_path / "a.html")
    browser.call("Page.navigate", url=f"file://{tmp_path / 'a.html'}")
    browser.wait("document.body && document.body.dataset.drawn === '0'")
    first = browser.screenshot()
    assert coloured(first) > 2000
    browser.evaluate(
        "document.getElementById('time').value = 6; document.getElementById('time').dispatchEvent(new Event('input'))"
    )
    browser.wait("document.body.dataset.drawn === '6'")
    assert (np.abs(browser.screenshot() - first).sum(-1) > 60).sum() > 500
    browser.evaluate(
        "document.getElementById('confidence').value = 2; "
        "document.getElementById('confidence').dispatchEvent(new Event('input'))"
    )
    time.sleep(0.5)
    assert coloured(browser.screenshot()) < coloured(first) / 2


@pytest.mark.slow
@needs_browser
def test_the_server_in_a_browser(small_reconstruction, browser):
    port, stop = free_port(), threading.Event()
    thread = threading.Thread(
        target=serve, args=(small_reconstruction,), kwargs={"port": port, "stop": stop}, daemon=True
    )
    thread.start()
    try:
        time.sleep(2)
        browser.call("Page.navigate", url=f"http://127.0.0.1:{port}")
        end = time.monotonic() + 60
        while coloured(browser.screenshot()[:, :500]) < 1000:  # left of the controls
            assert time.monotonic() < end, "no coloured pixels appeared"
            time.sleep(1)
    finally:
        stop.set()
        thread.join(timeout=10)


@pytest.mark.parametrize("options", [{"port": 99999}, {"port": 0}, {"host": "no.such.host.invalid"}, {"max_points": 0}])
def test_an_address_that_cannot_be(small_reconstruction, options):
    with pytest.raises(InputError):
        serve(small_reconstruction, **({"port": free_port()} | options))


def test_a_page_needs_points(tmp_path, small_reconstruction):
    with pytest.raises(InputError, match="at least 1"):
        write_page(small_reconstruction, tmp_path / "a.html", max_points=0)


def test_a_port_in_use(small_reconstruction):
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        with pytest.raises(InputError, match="is in use"):
            serve(small_reconstruction, port=holder.getsockname()[1])
