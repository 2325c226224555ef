"""
Debian's chromium, without a screen and without any network but loopback, and a logiss
with a page for it.
"""

import base64
import os
import struct
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen
from selenium.common.exceptions import TimeoutException
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

from tests.front import HTTPAnswer
from tests.integration.daemons import BlockingClient, Daemon, Receiver, running

CHROMIUM, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
PATIENCE_SECONDS = 30
DESK, PHONE = (1280, 900), (360, 740)

FRAME = b"72 <190>1 2013-06-07T13:17:49.468822+00:00 host app web.1 - - hello, world\n"


@contextmanager
def served(folder: Path, receiver: Receiver, **variables: str) -> Iterator[Daemon]:
    """A logiss with a page, before `receiver`."""
    defaults = {"ADMIN_PORT": "0", "FORWARD_DEST": f"127.0.0.1:{receiver.port}"}
    with running("twist", folder, **{**defaults, **variables}) as daemon:
        daemon.wait_until_usable()
        yield daemon


def url(daemon: Daemon) -> str:
    """Where its page is."""
    (line,) = daemon.logged(ns="admin", at="listen")
    return f"http://127.0.0.1:{line['port']}/"


def post(
    daemon: Daemon,
    body: bytes = FRAME,
    credentials: str = "user:a:token",
    client: BlockingClient | None = None,
    **fields: bytes,
) -> HTTPAnswer:
    """
    Post `body`, on a connection of its own or that of `client`, with more `fields` of
    the head: X_Request_Id is X-Request-Id.
    """
    named = {
        "Host": b"logiss",
        "Authorization": b"Basic " + base64.b64encode(credentials.encode()),
        "Content-Type": b"application/logplex-1",
        "Content-Length": b"%d" % len(body),
        **{name.replace("_", "-"): value for name, value in fields.items()},
    }
    head = b"".join(b"%s: %s\r\n" % (k.encode(), v) for k, v in named.items())
    used = client or BlockingClient(daemon.port)
    try:
        used.send(b"POST /logs HTTP/1.1\r\n" + head + b"\r\n" + body)
        answer = used.answer()
    finally:
        if client is None:
            used.close()
    assert answer is not None
    return answer


def need_chromium() -> None:
    """Skip the test where there is no chromium; in CI that is a failure."""
    if not CHROMIUM.exists() or not DRIVER.exists():
        reason = (
            "chromium is not installed (Debian: apt-get install chromium"
            " chromium-driver)"
        )
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


def _options() -> ChromeOptions:
    options = ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for argument in (
        "--headless=new",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--no-first-run",
        # What is not loopback is not there.
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        "--force-device-scale-factor=1",
        "--lang=en",
    ):
        options.add_argument(argument)
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return options


_PIXELS = """
const [png, done] = arguments;
const image = new Image();
image.onload = () => {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [image.width, image.height];
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  const { data } = context.getImageData(0, 0, image.width, image.height);
  const reader = new FileReader();
  reader.onload = () => done(reader.result.split(",")[1]);
  reader.readAsDataURL(new Blob([data]));
};
image.src = `data:image/png;base64,${png}`;
"""


@frozen
class Picture:
    """
    What a page looks like.

    @ivar pixels: four octets for each: red, green, blue, and opacity.
    """

    width: int
    height: int
    pixels: bytes

    def colours(self) -> Counter[bytes]:
        """How many pixels have each."""
        pixels = self.pixels
        return Counter(pixels[i : i + 3] for i in range(0, len(pixels), 4))

    def png(self) -> bytes:
        """With 256 colours, which is a third of the size."""
        palette = _palette(colour for colour, _ in self.colours().most_common())
        number = {colour: i for i, colour in enumerate(palette)}
        pixels, stride = self.pixels, 4 * self.width
        rows = bytearray()
        for row in range(0, len(pixels), stride):
            rows.append(0)
            for i in range(row, row + stride, 4):
                colour = pixels[i : i + 3]
                if colour not in number:
                    number[colour] = number[_nearest(palette, colour)]
                rows.append(number[colour])
        head = struct.pack(">IIBBBBB", self.width, self.height, 8, 3, 0, 0, 0)
        return b"\x89PNG\r\n\x1a\n" + b"".join(
            _chunk(*chunk)
            for chunk in (
                (b"IHDR", head),
                (b"PLTE", b"".join(palette)),
                (b"IDAT", zlib.compress(bytes(rows), 9)),
                (b"IEND", b""),
            )
        )


def _palette(colours: Iterable[bytes]) -> list[bytes]:
    """The first 256 that are not like one before."""
    found: list[bytes] = []
    for colour in colours:
        if len(found) < 256 and all(_distance(colour, c) > 150 for c in found):
            found.append(colour)
    return found


def _distance(one: bytes, other: bytes) -> int:
    return sum((a - b) ** 2 for a, b in zip(one, other, strict=True))


def _nearest(palette: list[bytes], colour: bytes) -> bytes:
    return min(palette, key=lambda other: _distance(other, colour))


def _chunk(kind: bytes, octets: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(kind + octets))
    return struct.pack(">I", len(octets)) + kind + octets + check


class Browser:
    """A window of chromium."""

    def __init__(self, driver: Chrome) -> None:
        self.driver = driver

    def open(self, url: str) -> None:
        self.driver.get(url)

    def run(self, script: str, *arguments: object) -> Any:
        """What `script`, the body of a function, returns in the page."""
        return self.driver.execute_script(script, *arguments)

    def ask(self, command: str, **parameters: object) -> Any:
        """A command of the DevTools protocol."""
        return self.driver.execute_cdp_cmd(command, parameters)

    def text(self, selector: str) -> str:
        """What is to be read there; nothing when it is not shown."""
        text: str = self.run(
            "const element = document.querySelector(arguments[0]);"
            "return element?.checkVisibility() ? element.innerText : ''",
            selector,
        )
        return text

    def wait_for(self, condition: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (found := condition()):
            if time.monotonic() > deadline:
                raise TimeoutException(f"waited in vain; {self.text('body')}")
            time.sleep(0.02)
        return found

    def wait_for_text(self, selector: str, words: str) -> str:
        """Wait until `words` stand there, and return all that does."""
        self.wait_for(lambda: words in self.text(selector))
        return self.text(selector)

    def be(self, size: tuple[int, int], **features: str) -> None:
        """Have a screen of this size; ``prefers_color_scheme="dark"`` and such."""
        width, height = size
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        wanted = [
            {"name": name.replace("_", "-"), "value": value}
            for name, value in features.items()
        ]
        self.ask("Emulation.setEmulatedMedia", features=wanted)

    def picture(self, box: Sequence[float] | None = None) -> "Picture":
        """
        What the page looks like, all of it.

        @param box: only so much of it: left, top, width, height.
        """
        if box is None:
            script = "const e = document.documentElement; return [0, 0, innerWidth, "
            box = self.run(f"{script} e.scrollHeight]")
        x, y, width, height = (int(value) for value in box)
        clip = {"x": x, "y": y, "width": width, "height": height, "scale": 1}
        taken = self.ask(
            "Page.captureScreenshot",
            format="png",
            captureBeyondViewport=True,
            clip=clip,
        )
        octets = self.driver.execute_async_script(_PIXELS, taken["data"])
        return Picture(width, height, base64.b64decode(octets))

    def complaints(self) -> list[str]:
        """What the browser has logged since it was asked last."""
        return [str(entry["message"]) for entry in self.driver.get_log("browser")]


@contextmanager
def browsing(folder: Path) -> Iterator[Browser]:
    """A browser that keeps what it keeps in `folder`."""
    need_chromium()
    options = _options()
    options.add_argument(f"--user-data-dir={folder / 'chromium'}")
    # The path of the driver is given, so selenium never looks for one.
    os.environ["SE_OFFLINE"] = "true"
    with (folder / "chromedriver.log").open("wb") as said:
        driver = Chrome(options, Service(str(DRIVER), log_output=said))
        try:
            driver.set_page_load_timeout(PATIENCE_SECONDS)
            driver.set_script_timeout(PATIENCE_SECONDS)
            yield Browser(driver)
        finally:
            driver.quit()
