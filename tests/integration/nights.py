"""
What may be wrong at night: logiss in a process of its own with real traffic, healthy
until it is told otherwise, and healthy again.

Each night is a `Night`: how its fault is provoked and ended, which alert tells of it,
and which words name whom it is about. `ALL` makes them.
"""

import os
import selectors
import socket
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from attrs import define, field, frozen

from tests.front import basic, framed, message, request
from tests.integration.daemons import (
    PATIENCE_SECONDS,
    BlockingClient,
    Daemon,
    Receiver,
    receiving,
    running,
    wait_for,
)
from tests.integration.redises import (
    HMAC_KEY,
    KEY,
    credential,
    redis_server,
    unused_port,
)

#: What each posts, and how often.
_BODY_BYTES = 2_000
_PAUSE_SECONDS = 0.2

_ROOT = Path(__file__).parents[2]


@define(eq=False)
class Night:
    """
    One logiss, and what will be wrong with it.

    @ivar name: of the fault, and of the instance.
    @ivar alert: what the finding and the alert are called.
    @ivar culprit: what both say of whom or what it is about.
    @ivar innocents: what neither of them says.
    @ivar beside: other findings and alerts that are true while this is wrong; they
        come behind it.
    @ivar counted: the metric that shows it, by name and labels, and what it is while
        this is wrong, from what it was before.
    """

    name: str
    alert: str
    daemon: Daemon
    culprit: str
    provoke: Callable[[], None]
    end: Callable[[], None]
    shown: "Shown"
    innocents: tuple[str, ...] = ()
    beside: frozenset[str] = frozenset()
    admin_port: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        (line,) = self.daemon.logged(ns="admin", at="listen")
        self.admin_port = int(line["port"])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.admin_port}/"


@frozen
class Shown:
    """
    How a metric shows it.

    @ivar expression: PromQL of it, about this instance alone.
    @ivar labels: of the one series that it has.
    @ivar is_wrong: from its value.
    """

    expression: str
    is_wrong: Callable[[float], bool]
    labels: dict[str, str] = field(factory=dict)


# traffic


class User:
    """
    Posts at ease on one connection.

    @ivar codes: how often each status came; None where the connection ended.
    @ivar more: headers that each post has, until they are taken away.
    """

    def __init__(
        self,
        port: int,
        name: str,
        password: str,
        body: Callable[[int], bytes],
        pause_seconds: float = _PAUSE_SECONDS,
    ) -> None:
        self.codes: Counter[int | None] = Counter()
        self.more: tuple[tuple[str, str], ...] = ()
        self.body = body
        self._port = port
        self._pause_seconds = pause_seconds
        self._authorization = basic(name, password)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        number = 0
        while not self._stopping.is_set():
            client = BlockingClient(self._port)
            try:
                while not self._stopping.wait(self._pause_seconds):
                    number += 1
                    if not self._post(client, number):
                        break
            except OSError:
                self.codes[None] += 1
            finally:
                client.close()

    def _post(self, client: BlockingClient, number: int) -> bool:
        client.send(
            request(
                self.body(number),
                headers={"Authorization": self._authorization},
                more=(("X-Request-Id", f"post-{number}"), *self.more),
            )
        )
        answer = client.answer()
        self.codes[answer.code if answer else None] += 1
        return answer is not None and answer.headers.get("connection") != "close"

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(PATIENCE_SECONDS)


def body(number: int, size: int = _BODY_BYTES, frames: int = 4) -> bytes:
    text = b"%d. " % number
    return framed(*[message(text.ljust(size // frames, b"."))] * frames)


def _posting(
    stack: ExitStack, port: int, *names: str, pause_seconds: float = _PAUSE_SECONDS
) -> dict[str, User]:
    """Users who post until the end; the password of each is its name."""
    users = {}
    for name in names:
        users[name] = user = User(port, name, name, body, pause_seconds)
        stack.callback(user.stop)
    return users


def _logiss(stack: ExitStack, folder: Path, *names: str, **variables: str) -> Daemon:
    daemon = stack.enter_context(
        running(
            "twist",
            folder,
            **{
                "ADMIN_PORT": "0",
                "TOKEN_MAP": ",".join(f"{name}:{name}" for name in names),
                **variables,
            },
        )
    )
    daemon.wait_until_usable()
    return daemon


# 1. the backend is down


class Collector:
    """A receiver in a process of its own, which can be killed."""

    def __init__(self) -> None:
        self.port = unused_port()
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.nights", str(self.port)],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
        )
        wait_for(self._is_listening)

    def _is_listening(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()


def _collect(port: int) -> None:
    """Until standard input ends, as it does when whoever started this has ended."""
    receiver = Receiver(port=port)
    sys.stdin.read()
    receiver.stop()


def backend_down(stack: ExitStack, folder: Path) -> Night:
    """The collector is killed, and started again."""
    collector = Collector()
    stack.callback(collector.kill)
    destination = f"127.0.0.1:{collector.port}"
    daemon = _logiss(stack, folder, "shop", "mail", FORWARD_DEST=destination)
    _posting(stack, daemon.port, "shop", "mail")
    return Night(
        "backend-down",
        "LogissBackendDown",
        daemon,
        destination,
        collector.kill,
        collector.start,
        Shown(
            "sum by (instance) (logiss_backend_connected) == bool 0",
            lambda now: now == 1,
        ),
        beside=frozenset(
            {"LogissPostsFailing", "LogissConnectionsMissing", "LogissReplaying"}
        ),
    )


# 2. one of two backends is slow


class SlowReceiver:
    """
    Receives whatever comes, as fast as it may.

    @ivar bytes_per_second: of each connection; None is as fast as it can.
    """

    _STEP_SECONDS = 0.05

    def __init__(self) -> None:
        self.bytes_per_second: int | None = None
        self._listener = socket.socket()
        # Connections inherit it; what a kernel acknowledges is little more.
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(64)
        self.port: int = self._listener.getsockname()[1]
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector, self._listener:
            selector.register(self._listener, selectors.EVENT_READ)
            while not self._stopping.is_set():
                for key, _ in selector.select(self._STEP_SECONDS):
                    if key.fileobj is self._listener:
                        connection, _ = self._listener.accept()
                        selector.register(connection, selectors.EVENT_READ)
                    elif not self._read(key.fileobj):
                        selector.unregister(key.fileobj)
                        key.fileobj.close()  # type: ignore[union-attr]
                if self.bytes_per_second is not None:
                    self._stopping.wait(self._STEP_SECONDS)
            for key in list(selector.get_map().values()):
                if key.fileobj is not self._listener:
                    key.fileobj.close()  # type: ignore[union-attr]

    def _read(self, connection: object) -> bytes:
        assert isinstance(connection, socket.socket)
        size = 1 << 16
        if self.bytes_per_second is not None:
            size = int(self.bytes_per_second * self._STEP_SECONDS)
        try:
            return connection.recv(size)
        except ConnectionResetError:
            return b""

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(PATIENCE_SECONDS)


def one_slow(stack: ExitStack, folder: Path) -> Night:
    """One of two collectors reads a few KB a second, and as fast as it can again."""
    slow = SlowReceiver()
    stack.callback(slow.stop)
    good = stack.enter_context(receiving())
    names = f"127.0.0.1:{slow.port}", f"127.0.0.1:{good.port}"
    users = "shop", "mail"
    busy = "web", "worker", "clock", "api"
    daemon = _logiss(stack, folder, *users, *busy, FORWARD_DEST=",".join(names))
    for user in _posting(stack, daemon.port, *users).values():
        user.body = lambda number: body(number, 16_000, 8)
    # Those of before, which were fast, must not hide that it is slow now.
    _posting(stack, daemon.port, *busy, pause_seconds=0.02)

    def provoke() -> None:
        slow.bytes_per_second = 6_000

    def end() -> None:
        slow.bytes_per_second = None

    return Night(
        "one-slow",
        "LogissBackendSlow",
        daemon,
        names[0],
        provoke,
        end,
        Shown(_P90, lambda now: now > 0.5, {"destination": names[0]}),
        innocents=names[1:],
        beside=frozenset({"LogissConnectionsMissing", "LogissReplaying"}),
    )


_P90 = (
    "histogram_quantile(0.9, sum by (instance, destination, le)"
    " (rate(logiss_backend_confirmation_seconds_bucket[15s])))"
)


class LateRELP:
    """
    A RELP server that takes each frame at once.

    @ivar late_seconds: how late it answers.
    """

    def __init__(self) -> None:
        self.late_seconds = 0.0
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._listener.settimeout(0.1)
        self.port: int = self._listener.getsockname()[1]
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        with self._listener:
            while not self._stopping.is_set():
                try:
                    connection, _ = self._listener.accept()
                except TimeoutError:
                    continue
                serving = threading.Thread(
                    target=self._serve, args=(connection,), daemon=True
                )
                self._threads.append(serving)
                serving.start()

    def _serve(self, connection: socket.socket) -> None:
        due: deque[tuple[float, bytes]] = deque()
        octets = b""
        connection.settimeout(0.02)
        with connection:
            while not self._stopping.is_set():
                now = time.monotonic()
                while due and due[0][0] <= now:
                    connection.sendall(due.popleft()[1])
                try:
                    more = connection.recv(1 << 16)
                except TimeoutError:
                    continue
                except ConnectionResetError:
                    return
                if not more:
                    return
                octets = self._take(octets + more, due)

    def _take(self, octets: bytes, due: deque[tuple[float, bytes]]) -> bytes:
        """Answer each whole frame when it is due; what is left."""
        while octets:
            # TXNR SP COMMAND SP DATALEN, then SP DATA unless that is 0, then LF.
            words = octets.split(b" ", 2)
            digits = words[-1][:9].replace(b"\n", b" ").split(b" ", 1)
            if len(words) < 3 or len(digits) < 2:
                break
            txnr, command, size = words[0], words[1], int(digits[0])
            start = len(txnr) + len(command) + len(digits[0]) + (3 if size else 2)
            if len(octets) <= start + size:
                break
            octets = octets[start + size + 1 :]
            due.append((time.monotonic() + self.late_seconds, _rsp(txnr, command)))
        return octets

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(PATIENCE_SECONDS)


def _rsp(txnr: bytes, command: bytes) -> bytes:
    said = b"200 OK"
    if command == b"open":
        said += b"\nrelp_version=0\nrelp_software=tests,1\ncommands=syslog"
    elif command == b"close":
        return b"%b rsp 0\n0 serverclose 0\n" % txnr
    return b"%b rsp %d %b\n" % (txnr, len(said), said)


def one_late(stack: ExitStack, folder: Path) -> Night:
    """One of two collectors answers each RELP frame late, and at once again."""
    late, good = LateRELP(), LateRELP()
    stack.callback(late.stop)
    stack.callback(good.stop)
    names = [f"relp://127.0.0.1:{server.port}" for server in (late, good)]
    daemon = _logiss(stack, folder, "shop", "mail", FORWARD_DEST=",".join(names))
    _posting(stack, daemon.port, "shop", "mail")

    def provoke() -> None:
        late.late_seconds = 1.5

    def end() -> None:
        late.late_seconds = 0.0

    return Night(
        "one-late",
        "LogissBackendSlow",
        daemon,
        names[0],
        provoke,
        end,
        Shown(_P90, lambda now: now > 0.5, {"destination": names[0]}),
        innocents=(names[1],),
    )


# 3. the credentials of one user have expired


def credentials_expired(stack: ExitStack, folder: Path) -> Night:
    """What one user has in Redis is revoked, and put there again."""
    redis = stack.enter_context(redis_server(folder))
    receiver = stack.enter_context(receiving())
    for name in ("shop", "mail"):
        redis.hold(name, credential(name))
    variables = {
        "REDIS_URL": f"redis://127.0.0.1:{redis.port}",
        "REDIS_KEY": KEY,
        "HMAC_KEY": HMAC_KEY,
    }
    daemon = _logiss(
        stack,
        folder,
        FORWARD_DEST=f"127.0.0.1:{receiver.port}",
        # The minute begins when they are in force no longer.
        CREDENTIAL_REFRESH_INTERVAL="2s",
        **variables,
    )
    wait_for(
        lambda: daemon.logged(**{"count#log-iss.credentials.refresh.success": "1"})
    )
    _posting(stack, daemon.port, "shop", "mail")

    def provoke() -> None:
        subprocess.run(
            [sys.executable, "-m", "logiss", "credentials", "revoke", "mail", "v1"],
            env={"PATH": os.environ["PATH"], **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            check=True,
            timeout=PATIENCE_SECONDS,
        )

    return Night(
        "credentials-expired",
        "LogissCredentialsRefused",
        daemon,
        "mail",
        provoke,
        lambda: redis.hold("mail", credential("mail")),
        Shown(
            "increase(logiss_credentials_refused_total[1m]) > 0",
            lambda now: now > 0,
            {"user": "mail"},
        ),
        innocents=("shop",),
    )


# 4. senders lose lines before they reach us


_L10 = (
    b"<172>1 2013-06-07T13:17:49+00:00 host heroku logplex - Error L10 (output buffer"
    b" overflow): 7 messages dropped since 2013-06-07T13:16:49+00:00.\n"
)


def senders_losing(stack: ExitStack, folder: Path) -> Night:
    """Two of three senders tell, each in its way, of what they have dropped."""
    receiver = stack.enter_context(receiving())
    names = "shop", "mail", "drain"
    destination = f"127.0.0.1:{receiver.port}"
    daemon = _logiss(stack, folder, *names, FORWARD_DEST=destination)
    users = _posting(stack, daemon.port, *names)

    def provoke() -> None:
        users["mail"].more = (("Logshuttle-Drops", "3"), ("Logplex-Lost-Count", "1"))
        users["drain"].body = lambda number: framed(_L10) + body(number)

    def end() -> None:
        users["mail"].more = ()
        users["drain"].body = body

    return Night(
        "senders-losing",
        "LogissSendersLosing",
        daemon,
        "mail",
        provoke,
        end,
        Shown(
            "sum by (instance) (increase(logiss_sender_losses_total[1m]))",
            lambda now: now > 0,
        ),
        innocents=("shop",),
    )


# 5. the memory for bodies is full


_BULK_FRAMES, _BULK_FRAME_BYTES, _BULK_CLIENTS = 30, 100_000, 12


def budget_full(stack: ExitStack, folder: Path) -> Night:
    """Many post large bodies while the collector reads nothing; then they stop."""
    receiver = stack.enter_context(receiving())
    daemon = _logiss(
        stack,
        folder,
        *("shop", "mail", "bulk"),
        FORWARD_DEST=f"127.0.0.1:{receiver.port}",
        MAX_INFLIGHT_BYTES=str(32 << 20),
        MAX_BODY_BYTES=str(16 << 20),
    )
    _posting(stack, daemon.port, "shop", "mail")
    large = body(0, _BULK_FRAMES * _BULK_FRAME_BYTES, _BULK_FRAMES)
    bulk: list[User] = []

    def stop() -> None:
        for user in bulk:
            user.stop()

    stack.callback(stop)

    def provoke() -> None:
        receiver.reading.clear()
        for _ in range(_BULK_CLIENTS):
            bulk.append(User(daemon.port, "bulk", "bulk", lambda number: large))

    def end() -> None:
        receiver.reading.set()
        stop()

    return Night(
        "budget-full",
        "LogissBudgetFull",
        daemon,
        "memory for bodies",
        provoke,
        end,
        Shown("increase(logiss_inflight_refusals_total[1m])", lambda now: now > 0),
        beside=frozenset(
            {
                "LogissPostsFailing",
                "LogissBackendSlow",
                "LogissConnectionsMissing",
                "LogissReplaying",
            }
        ),
    )


ALL: tuple[Callable[[ExitStack, Path], Night], ...] = (
    backend_down,
    one_slow,
    one_late,
    credentials_expired,
    senders_losing,
    budget_full,
)


if __name__ == "__main__":
    _collect(int(sys.argv[1]))
