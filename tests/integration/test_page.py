"""
The status page in chromium, of a logiss in a process of its own.
"""

import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import ActionChains, Keys

from tests.integration.browsers import (
    DESK,
    PHONE,
    Browser,
    browsing,
    post,
    served,
    url,
)
from tests.integration.daemons import Daemon, Receiver, receiving, running

BACKEND = "#answers section:nth-child(2)"
#: What the page promises to show what is the case within.
PROMPT_SECONDS = 2.0
#: Without an event for so long, and looked at so often.
SILENCE_SECONDS, LOOK_SECONDS = 3.0, 0.25

# Notes when the page changes, by the clock on the wall, and how long the machine let
# the browser wait for its turn: nobody can be on time then.
_RECORDER = """
window.record = { changes: [], late: 0 };
const note = () => record.changes.push({
  at: Date.now() / 1000,
  broken: !document.getElementById("broken").hidden,
  states: [...document.querySelectorAll("#answers section")].map((e) => e.className),
});
new MutationObserver(note).observe(document.querySelector("main"), {
  subtree: true, attributes: true, attributeFilter: ["class", "hidden"],
});
note();
let before = performance.now();
setInterval(() => {
  const now = performance.now();
  record.late = Math.max(record.late, (now - before - 100) / 1000);
  before = now;
}, 100);
"""


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browsing(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture
def browser(chromium: Browser) -> Iterator[Browser]:
    """An empty window; it is one browser for all tests."""
    chromium.open("about:blank")
    chromium.be(DESK, prefers_color_scheme="light")
    chromium.complaints()
    try:
        yield chromium
    finally:
        chromium.open("about:blank")


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def daemon(tmp_path: Path, receiver: Receiver) -> Iterator[Daemon]:
    with served(tmp_path, receiver) as daemon:
        yield daemon


def show(browser: Browser, daemon: Daemon) -> None:
    """Open the page and wait until it is live."""
    browser.open(url(daemon))
    browser.wait_for(lambda: browser.text("#answers"))


def cells(browser: Browser, table: str, row: int = 0) -> list[str]:
    """What stands in a row."""
    found: list[str] = browser.run(
        "const row = document.querySelectorAll(arguments[0])[arguments[1]];"
        "return row ? [...row.children].map((cell) => cell.innerText) : []",
        f"#{table} tbody tr",
        row,
    )
    return found


def number(browser: Browser, name: str) -> str:
    """The number with this name since the start."""
    said: str = browser.run(
        "return [...document.querySelectorAll('#totals div')]"
        ".find((e) => e.firstChild.textContent === arguments[0])"
        "?.lastChild.textContent ?? ''",
        name,
    )
    return said


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def when(browser: Browser, condition: str, after: float) -> float:
    """
    When the page came to be so, by the clock on the wall, at the first change after
    `after`.

    @param condition: of a ``change`` that the recorder has noted.
    """
    script = (
        "return record.changes.find("
        f"(change) => change.at >= arguments[0] && {condition})?.at ?? 0"
    )
    return float(browser.wait_for(lambda: browser.run(script, after)))


class Machine:
    """
    Knows how busy the machine is.

    @ivar late: how long it has let a thread wait that wanted to go on, at most.
    """

    def __init__(self) -> None:
        self.late = 0.0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        before = time.monotonic()
        while not self._stopping.wait(0.05):
            now = time.monotonic()
            self.late = max(self.late, now - before - 0.05)
            before = now


@pytest.fixture
def machine() -> Iterator[Machine]:
    machine = Machine()
    try:
        yield machine
    finally:
        machine.stop()


def allowed(browser: Browser, machine: Machine, seconds: float) -> float:
    """So long, and as long as the machine has let us and the browser wait."""
    late: float = browser.run("return record.late")
    return seconds + late + machine.late


# what it shows


def test_loads(browser: Browser, daemon: Daemon) -> None:
    """The page opens, says that all is well, and the browser has no complaint."""
    show(browser, daemon)
    assert browser.text("#answers section:nth-child(1) .verdict").split() == [
        "Yes",
        "✓",
        "OK",
    ]
    assert browser.text("#answers section:nth-child(3) .verdict").split() == [
        "No",
        "✓",
        "OK",
    ]
    assert browser.driver.title == "OK logiss test"
    assert browser.text("h1") == "logiss test"
    assert browser.text("#facts").startswith("version ")
    assert "delivery acked" in browser.text("#facts")
    assert browser.text("#findings-none") == "Nothing."
    assert not browser.run(_IS_SHOWN)
    assert cells(browser, "connections")[0] == "0"
    assert len(browser.run("return [...document.images]")) == 6
    browser.wait_for(
        lambda: browser.run(
            "return [...document.images].every((it) => it.src && it.naturalWidth)"
        )
    )
    assert browser.complaints() == []


_IS_SHOWN = "return document.getElementById('workers').checkVisibility()"


def test_workers(browser: Browser, tmp_path: Path, receiver: Receiver) -> None:
    """Workers have a table, where there are some, and connections their numbers."""
    variables = {
        "ADMIN_PORT": "0",
        "FORWARD_DEST": f"127.0.0.1:{receiver.port}",
        "WEB_CONCURRENCY": "2",
    }
    with running("python", tmp_path, **variables) as daemon:
        browser.wait_for(lambda: daemon.logged(ns="admin", at="listen"))
        show(browser, daemon)
        browser.wait_for(lambda: cells(browser, "workers", 0)[:2] == ["1", "serving"])
        browser.wait_for(lambda: cells(browser, "workers", 1)[:2] == ["2", "serving"])
        browser.wait_for(lambda: cells(browser, "connections", 7)[:1] == ["2/3"])
        assert browser.run(_IS_SHOWN)
        assert browser.complaints() == []


def test_nothing_from_elsewhere(browser: Browser, daemon: Daemon) -> None:
    """All that the page loads is logiss's own."""
    show(browser, daemon)
    loaded = browser.run("return performance.getEntriesByType('resource')")
    own = {f"{url(daemon)}{name}" for name in ("style.css", "status.js")}
    assert {entry["name"] for entry in loaded} - own <= {f"{url(daemon)}events"}
    assert browser.run("return document.querySelectorAll('style, [style]').length") == 0
    scripts = browser.run("return [...document.scripts].map((script) => script.src)")
    assert scripts == [f"{url(daemon)}status.js"]


def test_live(browser: Browser, daemon: Daemon) -> None:
    """A post that is delivered appears in the numbers, and its user was let in."""
    show(browser, daemon)
    assert number(browser, "Posts answered 200") == "0"
    assert post(daemon).code == 200
    browser.wait_for(lambda: number(browser, "Posts answered 200") == "1")
    assert number(browser, "Frames delivered") == "1"
    browser.wait_for(lambda: cells(browser, "credentials")[2] == "1")
    user, stage, _, used, refused, last_refused = cells(browser, "credentials")
    assert (user, stage, refused, last_refused.strip()) == ("user", "env", "", "")
    assert re.fullmatch(r"\d\d:\d\d:\d\d \d+ s ago", used)
    links = [cells(browser, "connections", row) for row in range(4)]
    assert [link[0] for link in links] == ["0", "1", "2", "3"]
    assert {link[2] for link in links} == {"up"}
    assert sorted(link[4] for link in links)[-1] != "0 B"


def test_failure(browser: Browser, daemon: Daemon) -> None:
    """A post that is refused is there with its time, request id and cause."""
    show(browser, daemon)
    assert "No post was refused" in browser.text("main")
    post(
        daemon,
        b"99 cut short",
        X_Request_Id=b"first-of-two",
        Logplex_Drain_Token=b"d.12345",
    )
    browser.wait_for(lambda: cells(browser, "failures"))
    at, code, cause, request_id, user, token, address = cells(browser, "failures")
    assert re.fullmatch(r"\d\d:\d\d:\d\d \d+ s ago", at)
    assert (code, request_id, user) == ("400", "first-of-two", "user")
    assert (token, address) == ("d.12345", "127.0.0.1")
    assert "frame" in cause
    stamp = browser.run("return document.querySelector('#failures time').dateTime")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", stamp)
    post(daemon, credentials="user:wrong", X_Request_Id=b"second-of-two")
    browser.wait_for(lambda: cells(browser, "failures", 1))
    assert [cells(browser, "failures", row)[3] for row in (0, 1)] == [
        "second-of-two",
        "first-of-two",
    ]
    browser.wait_for_text("#findings", "LogissCredentialsRefused")
    assert 'user "user"' in browser.text("#findings")
    assert "WARNING" in browser.text("#findings")
    assert "What to do:" in browser.text("#findings")
    assert browser.driver.title == "WARN logiss test"
    assert browser.complaints() == []


def test_outage(
    browser: Browser, daemon: Daemon, receiver: Receiver, machine: Machine
) -> None:
    """That the backend is gone is shown within 2 s, and so is its return."""
    show(browser, daemon)
    browser.run(_RECORDER)
    assert browser.text(f"{BACKEND} .verdict").split() == ["Yes", "✓", "OK"]
    stopped_at = time.time()
    receiver.stop()
    shown_at = when(browser, "change.states[1] === 'card bad'", stopped_at)
    assert shown_at - stopped_at <= allowed(browser, machine, PROMPT_SECONDS)
    assert browser.text(f"{BACKEND} .verdict").split() == ["No", "✕", "BAD"]
    assert browser.driver.title == "BAD logiss test"
    assert "LogissBackendDown" in browser.text("#findings")
    assert "CRITICAL" in browser.text("#findings")
    assert cells(browser, "connections")[2] == "down"
    browser.wait_for(lambda: "refused" in cells(browser, "connections")[6])

    again = Receiver(port=receiver.port)
    try:
        connected = {"count#log-iss.forwarder.connect.success": "1"}
        before = len(daemon.logged(**connected))
        browser.wait_for(lambda: len(daemon.logged(**connected)) > before)
        connected_at = time.time()
        browser.wait_for(lambda: "Yes" in browser.text(f"{BACKEND} .verdict"))
        shown_at = when(browser, "change.states[1] === 'card good'", stopped_at)
        assert shown_at - connected_at <= allowed(browser, machine, PROMPT_SECONDS)
        browser.wait_for(lambda: "BAD" not in browser.driver.title)
    finally:
        again.stop()


# what it says when there is nothing to show


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_gone(
    browser: Browser,
    tmp_path: Path,
    receiver: Receiver,
    machine: Machine,
    number: signal.Signals,
) -> None:
    """
    That logiss is gone, killed or drained, is said large within 2 s; when it is back on
    its port the page goes on by itself.
    """
    admin_port = str(free_port())
    with served(tmp_path, receiver, ADMIN_PORT=admin_port) as daemon:
        show(browser, daemon)
        browser.run(_RECORDER)
        ended_at = time.time()
        daemon.signal(number)
        shown_at = when(browser, "change.broken", ended_at)
        assert shown_at - ended_at <= allowed(browser, machine, PROMPT_SECONDS)
        said = browser.text("#broken")
        assert re.fullmatch(
            r"No answer from logiss since \d\d:\d\d:\d\d\. What is below is old\.", said
        )
        assert browser.driver.title == "NO ANSWER logiss test"
        big, normal = (
            browser.run(
                "return parseFloat(getComputedStyle("
                "document.querySelector(arguments[0])).fontSize)",
                selector,
            )
            for selector in ("#broken", "body")
        )
        assert big >= 2 * normal
        # What was well is not shown as if it were.
        colours = browser.run(
            "return [...document.querySelectorAll('.badge')]"
            ".map((e) => getComputedStyle(e).backgroundColor)"
        )
        assert len(colours) == 3 + 4
        assert set(colours) == {"rgb(74, 82, 97)"}
        daemon.wait()
    with served(tmp_path, receiver, ADMIN_PORT=admin_port, DEPLOY="anew"):
        served_at = time.time()
        back_at = when(browser, "!change.broken", shown_at)
        assert back_at - served_at <= allowed(browser, machine, PROMPT_SECONDS)
        assert browser.text("h1") == "logiss anew"
        browser.wait_for(lambda: browser.driver.title == "OK logiss anew")
        assert browser.text("#broken") == ""
        assert browser.run("return record.changes.length") > 1, "it was loaded anew"


def test_silence(browser: Browser, daemon: Daemon, machine: Machine) -> None:
    """A logiss that says nothing for 3 s, though connected, has not answered."""
    show(browser, daemon)
    browser.run(_RECORDER)
    stopped_at = time.time()
    daemon.signal(signal.SIGSTOP)
    try:
        shown_at = when(browser, "change.broken", stopped_at)
    finally:
        daemon.signal(signal.SIGCONT)
    most = allowed(browser, machine, SILENCE_SECONDS + LOOK_SECONDS)
    # The last event was up to a second before.
    assert SILENCE_SECONDS - 1.5 <= shown_at - stopped_at <= most
    when(browser, "!change.broken", shown_at)
    assert browser.driver.title == "OK logiss test"


class Relay:
    """
    Stands between the page and logiss, like a network.

    @ivar port: where it is reached.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = [self._listener]
        self._lost: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def lose(self) -> None:
        """What goes over the connections that there are is lost, and nobody is told."""
        self._lost.update(self._sockets)

    def stop(self) -> None:
        for each in self._sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                logiss = socket.create_connection(("127.0.0.1", self._target))
                self._sockets += [client, logiss]
                for pair in ((client, logiss), (logiss, client)):
                    threading.Thread(target=self._pass, args=pair, daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while octets := source.recv(1 << 16):
                if source not in self._lost:
                    sink.sendall(octets)
            sink.shutdown(socket.SHUT_WR)


def test_network_lost(browser: Browser, daemon: Daemon) -> None:
    """A stream that a network has lost without a word is given up for a new one."""
    relay = Relay(int(url(daemon).rsplit(":")[-1].strip("/")))
    try:
        browser.open(f"http://127.0.0.1:{relay.port}/")
        browser.wait_for_text("#answers", "Yes")
        browser.run(_RECORDER)
        relay.lose()
        shown_at = when(browser, "change.broken", 0)
        when(browser, "!change.broken", shown_at)
    finally:
        browser.open("about:blank")
        relay.stop()


def test_no_false_alarm(browser: Browser, daemon: Daemon, machine: Machine) -> None:
    """As long as logiss speaks it is not said that it does not."""
    show(browser, daemon)
    browser.run(_RECORDER)
    time.sleep(SILENCE_SECONDS + 2)
    if allowed(browser, machine, 0) < 1.5:
        assert not browser.run("return record.changes.some((change) => change.broken)")


def test_too_many_pages(browser: Browser, daemon: Daemon) -> None:
    """A page that finds no room says so, and asks again until there is."""
    port = int(url(daemon).rsplit(":")[-1].strip("/"))
    request = b"GET /events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    with ExitStack() as others:
        for _ in range(128):
            other = others.enter_context(socket.create_connection(("127.0.0.1", port)))
            other.sendall(request)
            assert other.recv(12) == b"HTTP/1.1 200"
        browser.open(url(daemon))
        browser.wait_for_text("#broken", "Nothing is known yet.")
        assert browser.driver.title == "NO ANSWER logiss"
    browser.wait_for_text("#answers", "Yes")
    assert browser.text("#broken") == ""


def test_without_script(browser: Browser, daemon: Daemon) -> None:
    """Who runs no scripts is told where the facts are."""
    browser.ask("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(url(daemon))
        link = browser.driver.find_element("css selector", "noscript a")
        assert link.text == "status.json"
        assert link.get_attribute("href") == f"{url(daemon)}status.json"
    finally:
        browser.ask("Emulation.setScriptExecutionDisabled", value=False)


def test_two_pages(browser: Browser, daemon: Daemon) -> None:
    """Two windows show the same."""
    show(browser, daemon)
    first = browser.driver.current_window_handle
    browser.driver.switch_to.new_window("window")
    second = browser.driver.current_window_handle
    try:
        show(browser, daemon)
        post(daemon)
        for window in (first, second):
            browser.driver.switch_to.window(window)
            browser.wait_for(lambda: number(browser, "Posts answered 200") == "1")
    finally:
        browser.driver.switch_to.window(second)
        browser.driver.close()
        browser.driver.switch_to.window(first)


# hostile names

TRAP = "<script>window.pwned=1</script><img src=x onerror=window.pwned=1>"
_SPITE = [
    TRAP.encode(),
    b'"><img src=x onerror=window.pwned=1>',
    b"'><svg onload=window.pwned=1>",
    b"javascript:window.pwned=1",
    b"</td></table><script>window.pwned=1</script>",
    "\u202eevil\u2066 \u05d0\u05d1\u05d2".encode(),
    b"{{pwned}}${window.pwned=1}",
    b"\xff\xfe\x80\xc3",
    b"caf\xc3\xa9 \x01\x02\x7f\x1b[31m",
    b"<b>" + b"A" * 10_000,
]


def test_hostile(browser: Browser, tmp_path: Path, receiver: Receiver) -> None:
    """Whatever clients and configuration have put into names is text."""
    tokens = f"user:a:token|{TRAP}:t"
    with served(tmp_path, receiver, TOKEN_MAP=tokens, DEPLOY=TRAP) as daemon:
        show(browser, daemon)
        assert TRAP in browser.text("h1")
        assert TRAP in browser.driver.title
        for spite in _SPITE:
            post(
                daemon,
                spite,
                X_Request_Id=spite,
                Logplex_Drain_Token=spite,
                X_Forwarded_For=spite,
            )
            post(daemon, credentials=f"{TRAP}:wrong", X_Request_Id=spite)
            post(daemon, Content_Type=spite, X_Request_Id=spite)
        browser.wait_for_text("#findings", "LogissCredentialsRefused")
        browser.wait_for(lambda: TRAP in browser.text("#failures"))
        assert TRAP in browser.text("#credentials")
        inside = browser.run(
            "return [...document.querySelectorAll('table *, #findings *')]"
            ".map((element) => element.localName)"
        )
        known = "caption thead tbody tr th td bdi span time li p strong code"
        assert set(inside) <= set(known.split())
        assert browser.run("return typeof window.pwned") == "undefined"
        shown = browser.run(
            "return document.querySelector('#failures tbody').textContent"
        )
        assert not re.search(
            "[\x00-\x1f\x7f\u200e\u200f\u202a-\u202e\u2066-\u2069]", shown
        )
        assert "A" * 200 in shown
        assert "A" * 300 not in shown
        assert browser.complaints() == []
        browser.be(PHONE)
        _assert_fits(browser)


# by keyboard, on a phone, at night, read aloud


def _worst_of_times(browser: Browser, daemon: Daemon, receiver: Receiver) -> None:
    """Have something in each part of the page: refusals, failures, an outage."""
    show(browser, daemon)
    post(daemon)
    post(daemon, b"99 cut short", X_Request_Id=b"0123456789abcdef" * 2)
    post(daemon, credentials="user:wrong")
    receiver.stop()
    browser.wait_for_text(f"{BACKEND} .verdict", "No")
    browser.wait_for(lambda: len(browser.text("#failures").split("401")) > 1)
    browser.wait_for(
        lambda: browser.run("return [...document.images].every(i => i.src)")
    )


def _assert_fits(browser: Browser) -> None:
    wide = browser.run("return [document.documentElement.scrollWidth, innerWidth]")
    assert wide[0] <= wide[1]


def test_phone(browser: Browser, daemon: Daemon, receiver: Receiver) -> None:
    """On a phone nothing has to be moved sideways, and the tables are cards."""
    browser.be(PHONE)
    _worst_of_times(browser, daemon, receiver)
    _assert_fits(browser)
    for region in browser.run(
        "return [...document.querySelectorAll('.scrolls')]"
        ".map((e) => [e.scrollWidth, e.clientWidth])"
    ):
        assert region[0] <= region[1]
    # What is not there has no line in its card.
    empty = "return [...document.querySelectorAll('td')].filter("
    empty += "(cell) => !cell.textContent.trim())"
    assert browser.run(f"{empty}.length") > 0
    assert not browser.run(f"{empty}.some((cell) => cell.checkVisibility())")
    small = browser.run(
        "return Math.min(...[...document.querySelectorAll('body *')]"
        ".map((e) => parseFloat(getComputedStyle(e).fontSize)))"
    )
    assert small >= 12
    browser.be(DESK)
    _assert_fits(browser)


def _focused(browser: Browser) -> dict[str, Any]:
    found: dict[str, Any] = browser.run(
        "const element = document.activeElement, box = element.getBoundingClientRect();"
        "const style = getComputedStyle(element);"
        "return {"
        " name: element.getAttribute('aria-labelledby')"
        "  ?? element.getAttribute('href'),"
        " id: element.id,"
        " outline: style.outlineStyle === 'none' ? 0 : parseFloat(style.outlineWidth),"
        " inside: box.left >= 0 && box.top >= 0 && box.left < innerWidth"
        "  && box.top < innerHeight }"
    )
    return found


def test_keyboard(browser: Browser, daemon: Daemon) -> None:
    """Tab comes by the skip link, each region that scrolls, and the links; visibly."""
    show(browser, daemon)
    reached = []
    for _ in range(6):
        ActionChains(browser.driver).send_keys(Keys.TAB).perform()
        focused = _focused(browser)
        assert focused["outline"] >= 2, focused
        assert focused["inside"], focused
        reached.append(focused["name"])
    assert reached == [
        "#main",
        "connections-title",
        "credentials-title",
        "failures-title",
        "status.json",
        "metrics",
    ]
    browser.open(url(daemon))
    ActionChains(browser.driver).send_keys(Keys.TAB, Keys.ENTER).perform()
    assert _focused(browser)["id"] == "main"
    ActionChains(browser.driver).send_keys(Keys.TAB).perform()
    assert _focused(browser)["name"] == "connections-title"


def test_left_alone(browser: Browser, daemon: Daemon) -> None:
    """
    Rows, focus and selection stay when others come, and answers that are the same are
    not said again.
    """
    show(browser, daemon)
    post(daemon, b"99 cut short", X_Request_Id=b"the-first")
    browser.wait_for(lambda: cells(browser, "failures"))
    browser.wait_for(lambda: "WARN" in browser.driver.title)
    browser.run(
        """
        const row = document.querySelector("#failures tbody tr");
        row.mark = "the same";
        getSelection().selectAllChildren(row.children[3]);
        document.querySelector("[aria-labelledby=failures-title]").focus();
        window.said = 0;
        for (const live of document.querySelectorAll("[aria-live]")) {
          new MutationObserver((all) => { said += all.length; }).observe(
            live, { subtree: true, childList: true, characterData: true });
        }
        """
    )
    for _ in range(3):
        post(daemon)
        post(daemon, b"99 cut short")
        time.sleep(1)
    browser.wait_for(lambda: cells(browser, "failures", 3))
    assert browser.run(
        "return document.querySelectorAll('#failures tbody tr')[3].mark"
    ) == ("the same")
    assert browser.run("return String(getSelection())").strip() == "the-first"
    region = "return document.activeElement.getAttribute('aria-labelledby')"
    assert browser.run(region) == "failures-title"
    assert browser.run("return said") == 0


def _tree(browser: Browser) -> list[dict[str, Any]]:
    """Role, name and level of all that a screen reader knows of."""
    browser.ask("Accessibility.enable")
    nodes = browser.ask("Accessibility.getFullAXTree")["nodes"]
    by_id = {node["nodeId"]: node for node in nodes}

    def below(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
        yield node
        for child in node.get("childIds", []):
            if child in by_id:
                yield from below(by_id[child])

    return [
        {
            "role": node["role"]["value"],
            "name": node.get("name", {}).get("value", ""),
            **{
                each["name"]: each["value"].get("value")
                for each in node.get("properties", [])
            },
        }
        for node in below(nodes[0])
        if not node.get("ignored")
    ]


@pytest.mark.parametrize("size", [DESK, PHONE])
def test_read_aloud(
    browser: Browser, daemon: Daemon, receiver: Receiver, size: tuple[int, int]
) -> None:
    """Landmarks, headings, tables and plots are what they are, on a phone too."""
    browser.be(size)
    _worst_of_times(browser, daemon, receiver)
    tree = _tree(browser)
    roles = [node["role"] for node in tree]
    for landmark in ("banner", "main", "contentinfo"):
        assert roles.count(landmark) == 1, landmark
    headings = [(n["level"], n["name"]) for n in tree if n["role"] == "heading"]
    assert [level for level, _ in headings].count(1) == 1
    assert headings[:5] == [
        (1, "logiss test"),
        (2, "Is it taking logs?"),
        (2, "Is the backend there?"),
        (2, "Is anything being lost?"),
        (2, "What is wrong"),
    ]
    for (before, _), (after, name) in pairwise(headings):
        assert after <= before + 1, name
    live = [
        node for node in tree if node.get("live") == "polite" and node.get("atomic")
    ]
    assert len([n for n in live if n["role"] == "generic"]) == 3
    regions = [n["name"] for n in tree if n["role"] == "region"]
    assert {"What is wrong", "Credentials", "Refused and failed posts"} <= set(regions)
    assert all(regions)
    assert len(regions) == len(set(regions))
    tables = [n["name"] for n in tree if n["role"] == "table"]
    assert len(tables) == 3
    assert all(tables)
    # Other browsers forget what a table is when its rows are cards, unless told.
    script = "return document.querySelectorAll(arguments[0]).length"
    for untold in ("table:not([role])", "tr:not([role])", "th:not([role])"):
        assert browser.run(script, untold) == 0
    assert browser.run(script, "td:not([role=cell])") == 0
    heads = [n["name"] for n in tree if n["role"] == "columnheader"]
    assert heads[:3] == ["Id", "Destination", "State"]
    assert len(heads) == 8 + 6 + 7
    assert roles.count("rowheader") == 4 + 1 + 2
    assert roles.count("row") == 3 + 4 + 1 + 2
    assert {"cell", "gridcell"} & set(roles)
    images = [n["name"] for n in tree if n["role"] == "image"]
    assert len(images) == 6
    assert images[0].startswith("Posts delivered a second, last ")


# WCAG 2.2, relative luminance and contrast ratio.
_CONTRASTS = """
const luminance = (rgb) => {
  const [r, g, b] = rgb.map((value) => {
    const part = value / 255;
    return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
const ground = (element) => {
  for (let at = element; at; at = at.parentElement) {
    const [r, g, b, alpha = 1] = parts(getComputedStyle(at).backgroundColor);
    if (alpha === 1) return [r, g, b];
    if (alpha !== 0) throw new Error("half a colour");
  }
  return [255, 255, 255];
};
const found = [];
const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (texts.nextNode()) {
  const element = texts.currentNode.parentElement;
  if (!texts.currentNode.data.trim() || !element.checkVisibility()) continue;
  const [r, g, b, alpha = 1] = parts(getComputedStyle(element).color);
  const both = [luminance([r, g, b]), luminance(ground(element))];
  const contrast = (Math.max(...both) + 0.05) / (Math.min(...both) + 0.05);
  found.push([alpha === 1 ? contrast : 0, texts.currentNode.data]);
}
return found;
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(
    browser: Browser, daemon: Daemon, receiver: Receiver, scheme: str
) -> None:
    """By day and at night all text has a contrast of 4.5 and more, the plots' too."""
    browser.be(DESK, prefers_color_scheme=scheme)
    _worst_of_times(browser, daemon, receiver)
    _assert_contrasts(browser)
    (lightness,) = {
        sum(colour) / 3
        for colour in [
            browser.run(
                "return getComputedStyle(document.body)"
                ".backgroundColor.match(/\\d+/g).map(Number)"
            )
        ]
    }
    assert (lightness < 40) == (scheme == "dark")
    # The image knows whether it is night on the page around it.
    text = {"light": (0x4A, 0x52, 0x61), "dark": (0xAA, 0xB4, 0xC3)}[scheme]
    assert _has_colour(browser, "#plots img", text)
    daemon.signal(signal.SIGKILL)
    browser.wait_for_text("#broken", "No answer")
    _assert_contrasts(browser)


def _assert_contrasts(browser: Browser) -> None:
    found = browser.run(_CONTRASTS)
    assert len(found) > 100
    assert min(found)[0] >= 4.5, min(found)


def _has_colour(browser: Browser, selector: str, wanted: tuple[int, ...]) -> bool:
    """Whether there is a pixel of about this colour."""
    browser.run("document.querySelector(arguments[0]).scrollIntoView()", selector)
    box = browser.run(
        "const it = document.querySelector(arguments[0]).getBoundingClientRect();"
        "return [it.x + scrollX, it.y + scrollY, it.width, it.height]",
        selector,
    )
    return any(
        max(abs(a - b) for a, b in zip(colour, wanted, strict=True)) < 16
        for colour in browser.picture(box).colours()
    )


@pytest.mark.parametrize("wish", ["reduce", "no-preference"])
def test_still(browser: Browser, daemon: Daemon, wish: str) -> None:
    """Nothing moves, whether that was asked for or not."""
    browser.be(DESK, prefers_reduced_motion=wish)
    show(browser, daemon)
    post(daemon, b"99 cut short")
    browser.wait_for(lambda: cells(browser, "failures"))
    assert browser.run("return document.getAnimations().length") == 0
    moving = browser.run(
        "return [...document.querySelectorAll('*')].map((e) => getComputedStyle(e))"
        ".filter((style) => style.animationName !== 'none'"
        " || style.transitionDuration !== '0s' || style.scrollBehavior !== 'auto')"
        ".length"
    )
    assert moving == 0
