"""
A daemon that is restarted by SIGHUP, and clients that count whatever they notice of it.
"""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attrs import define, field

from logiss import workers
from tests.faults import messages
from tests.faults.intake import TOKEN, USER
from tests.faults.ledger import Arrivals, Counts, Ledger
from tests.faults.load import Client, NoAnswer, Poster, request
from tests.integration.daemons import Daemon, Receiver, wait_for

RUN = "restarts"
#: As `logiss.workers` says it.
PREPARE_SECONDS = f"{workers.PREPARE_SECONDS:g} s"
RELOADED = "count#log-iss.reload.success"
REFUSED = "count#log-iss.reload.error"
_PAUSE_SECONDS = 0.04


class Restarted:
    """
    A daemon with a file of variables.

    @ivar port: where it takes posts.
    """

    def __init__(
        self,
        folder: Path,
        receiver: Receiver,
        command: str = "python",
        env: dict[str, str] | None = None,
        **variables: str,
    ) -> None:
        self.file = folder / "logiss.env"
        self.receiver = receiver
        self.variables = {
            "FORWARD_DEST": f"127.0.0.1:{receiver.port}",
            "TOKEN_MAP": f"{USER}:{TOKEN}",
            "REQUEST_LOG": "errors",
            **variables,
        }
        self.write()
        self.daemon = Daemon(command, folder, ENV_FILE=str(self.file), **(env or {}))
        self.port = 0

    def write(self, **variables: str) -> None:
        """Change the file: those that are given, for good."""
        self.variables.update(variables)
        lines = [f"{name}={value}" for name, value in self.variables.items()]
        self.file.write_text("\n".join(lines) + "\n")

    def wait_until_listening(self) -> None:
        self.daemon.wait_until_listening()
        self.port = self.daemon.port

    def logged(self, **pairs: str) -> list[dict[str, str]]:
        return self.daemon.logged(**pairs)

    @property
    def reloads(self) -> int:
        return len(self.logged(**{RELOADED: "1"}))

    @property
    def refusals(self) -> list[str]:
        """The words of each."""
        return [line["message"] for line in self.logged(**{REFUSED: "1"})]

    @property
    def executions(self) -> int:
        return len(self.logged(ns="main", at="executed"))

    def hang_up(self) -> None:
        self.daemon.signal(signal.SIGHUP)

    def restart(self, *, executes: bool = True) -> None:
        """SIGHUP, until all is new but for clients that are still served."""
        reloads, executions = self.reloads, self.executions
        self.hang_up()
        wait_for(lambda: self.reloads > reloads)
        if executes:
            wait_for(lambda: self.executions > executions)

    def refuse(self) -> list[str]:
        """SIGHUP, and the words with which it is refused."""
        before = len(self.refusals)
        ends = len(self.logged(ns="main", at="reload"))
        self.hang_up()
        wait_for(lambda: len(self.logged(ns="main", at="reload")) > ends)
        wait_for(lambda: len(self.refusals) > before)
        # Those of one refusal are written at once.
        return self.refusals[before:]

    def workers(self) -> list[int]:
        """The processes that have this one as their parent."""
        pid = self.daemon.process.pid
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        return [int(each) for each in text.split()]

    def end(self) -> int:
        self.daemon.signal(signal.SIGTERM)
        return self.daemon.wait()


@contextmanager
def restarting(*arguments: Any, **variables: Any) -> Iterator[Restarted]:
    restarted = Restarted(*arguments, **variables)
    try:
        restarted.wait_until_listening()
        yield restarted
    finally:
        pids = []
        if restarted.daemon.process.poll() is None:
            pids = restarted.workers()
        restarted.daemon.stop()
        # Without their parent they end by themselves.
        wait_for(lambda: not any(map(is_alive, pids)))


@define(eq=False)
class Crowd:
    """
    Clients that post all the time: some keep their connection, others make one for
    each post.

    @ivar complaints: whatever a client has noticed.
    """

    port: int
    ledger: Ledger = field(factory=Ledger)
    complaints: list[str] = field(factory=list)
    connects: int = 0
    _stopping: threading.Event = field(factory=threading.Event)
    _threads: list[threading.Thread] = field(factory=list)

    def begin(self, keeping: int, connecting: int, head: bytes = b"") -> None:
        for drain in range(keeping + connecting):
            arguments = (Poster(RUN, drain, self.ledger), drain < keeping, head)
            thread = threading.Thread(target=self._run, args=arguments, daemon=True)
            thread.start()
            self._threads.append(thread)

    def _run(self, poster: Poster, keeps: bool, head: bytes) -> None:
        client = Client(self.port)
        while not self._stopping.wait(_PAUSE_SECONDS):
            try:
                if client.connect():
                    self.connects += 1
                    client.send(head)
            except OSError as e:
                self.complaints.append(f"connect: {e!r}")
                continue
            post, body = poster.new(3)
            poster.post(client, post, request(post, body))
            if post.code != 200:
                self.complaints.append(f"{post.code} {post.why_unanswered}")
            if not keeps:
                client.close()
        client.close()

    def end(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()

    def counts(self, receiver: Receiver) -> Counts:
        """What became of each message, when all that were answered 200 are there."""

        def arrived() -> Arrivals:
            arrivals = Arrivals(RUN)
            arrivals.take(receiver.frames)
            return arrivals

        deadline = time.monotonic() + 5
        while self.ledger.missing(arrived()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return self.ledger.counts(arrived(), ())


def one_post(port: int, number: int = 0, *, head: bytes = b"") -> Client:
    """A client that is connected, and has had a 200 that did not end that."""
    client = Client(port)
    client.connect()
    client.send(head)
    assert post_on(client, number) == (200, "")
    return client


def post_on(client: Client, number: int = 0) -> tuple[int, str]:
    """The status of one more post, and what its answer says of the connection."""
    ledger = Ledger()
    post, body = Poster(RUN, 1000 + number, ledger).new(1)
    try:
        answer = client.post(request(post, body))
    except NoAnswer as e:
        return 0, str(e)
    return answer.code, answer.headers.get(b"connection", b"").decode()


def arrived(receiver: Receiver) -> int:
    """How many messages of ours have arrived."""
    return sum(messages.read(frame)[0] == RUN for frame in receiver.frames)


def is_alive(pid: int) -> bool:
    """Whether there is such a process; one that nobody has asked for its end is not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"
