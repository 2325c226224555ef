"""More clients than there may be, and no descriptors left: nobody is thrown away."""

import errno
import os
import re
import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted

from logiss.descriptors import reserved
from tests.front import framed, message, request, stamped
from tests.integration.backends import (
    PATIENCE_SECONDS,
    Backend,
    House,
    body,
    listening,
    messages,
    pause,
    posting,
    until,
    within,
)
from tests.integration.backends import running as housed
from tests.integration.beside import open_files
from tests.integration.daemons import (
    BlockingClient,
    Daemon,
    Receiver,
    receiving,
    running,
    wait_for,
)

CHANNELS = ["fast", "stock"]
PAUSED = "http.accept.pause"
RESUMED = "http.accept.resume"


def counted(daemon: Daemon, name: str) -> list[dict[str, str]]:
    return daemon.logged(**{f"count#log-iss.{name}": "1"})


def is_waiting(client: BlockingClient) -> bool:
    """Whether `client` has neither an answer nor been closed."""
    return not client.is_readable()


class Crowd:
    """
    Clients that post one message each, and a healthy one that posts on and on.

    @ivar clients: those that have posted, and have not gone.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._posted = 0
        self.clients: list[BlockingClient] = []
        self.healthy = BlockingClient(port)

    def come(self, count: int) -> None:
        for i in range(count):
            client = BlockingClient(self._port)
            client.send(request(framed(message(b"crowd %d" % i))))
            self.clients.append(client)

    def post(self, times: int = 1) -> None:
        """The healthy one notices nothing."""
        for _ in range(times):
            self._posted += 1
            self.healthy.send(request(framed(message(b"healthy %d" % self._posted))))
            answer = self.healthy.answer()
            assert answer is not None
            assert answer.code == 200

    def served(self) -> list[BlockingClient]:
        return [client for client in self.clients if not is_waiting(client)]

    def go(self, clients: list[BlockingClient]) -> None:
        """They have been answered, and go."""
        for client in clients:
            answer = client.answer()
            assert answer is not None
            assert answer.code == 200
            client.close()
            self.clients.remove(client)

    def close(self) -> None:
        for client in [*self.clients, self.healthy]:
            client.close()

    def check_arrived(self, frames: Callable[[], list[bytes]], crowd: int) -> None:
        """Everything that was answered 200 is there, once."""
        texts = [b"crowd %d" % i for i in range(crowd)]
        texts += [b"healthy %d" % (i + 1) for i in range(self._posted)]
        expected = sorted(stamped(text, address="127.0.0.1") for text in texts)
        wait_for(lambda: len(frames()) >= len(expected))
        assert sorted(frames()) == expected


@pytest.mark.parametrize("channel", CHANNELS)
def test_too_many_clients(channel: str, tmp_path: Path) -> None:
    """
    No more than MAX_CONNECTIONS are connected. The others are not refused: they are
    served when one has gone. A client beside them notices nothing, and the log has a
    line when accepting pauses and one when it goes on.
    """
    with (
        receiving() as receiver,
        running(
            "twist",
            tmp_path,
            FORWARD_DEST=f"127.0.0.1:{receiver.port}",
            MAX_CONNECTIONS="20",
            HTTP_CHANNEL=channel,
        ) as daemon,
    ):
        daemon.wait_until_usable()
        before = open_files(daemon)
        with closing(Crowd(daemon.port)) as crowd:
            crowd.post()
            crowd.come(50)
            wait_for(lambda: counted(daemon, PAUSED))
            wait_for(lambda: len(crowd.served()) == 19)
            crowd.post(100)
            assert len(crowd.served()) == 19
            assert open_files(daemon) == before + 20
            while crowd.clients:
                wait_for(lambda: len(crowd.served()) == min(19, len(crowd.clients)))
                assert open_files(daemon) <= before + 20
                crowd.go(crowd.served()[:5])
                crowd.post()
            wait_for(lambda: counted(daemon, RESUMED))
            crowd.post()
            crowd.check_arrived(lambda: receiver.frames, 50)
        (line,) = counted(daemon, PAUSED)
        assert line["connections"] == "20"
        assert line["message"] == "20 clients, as many as there may be"
        assert len(counted(daemon, RESUMED)) == 1


@contextmanager
def limited(descriptors: str, workdir: Path, **variables: str) -> Iterator[Daemon]:
    daemon = Daemon("twist", workdir, descriptors=descriptors, **variables)
    try:
        yield daemon
    finally:
        daemon.stop()


@pytest.mark.parametrize("channel", CHANNELS)
def test_few_descriptors(channel: str, tmp_path: Path) -> None:
    """
    Where the process may open few files, clients leave those that it needs itself: a
    client beside them notices nothing, a backend that is started anew is connected
    anew, and who waits meanwhile is served when others have gone.
    """
    most = 120 - reserved(4)
    with ExitStack() as stack:
        receiver = stack.enter_context(receiving())
        daemon = stack.enter_context(
            limited(
                "-n 120",
                tmp_path,
                FORWARD_DEST=f"127.0.0.1:{receiver.port}",
                HTTP_CHANNEL=channel,
            )
        )
        daemon.wait_until_usable()
        assert len(daemon.logged(ns="http", connections_max=str(most))) == 1
        crowd = stack.enter_context(closing(Crowd(daemon.port)))
        crowd.post()
        crowd.come(200)
        wait_for(lambda: len(crowd.served()) == most - 1)
        crowd.post(20)
        arrived = receiver.frames
        receiver.stop()
        receiver = Receiver(port=receiver.port)
        stack.callback(receiver.stop)
        crowd.post(20)
        wait_for(lambda: len(counted(daemon, "forwarder.connect.success")) == 8)
        assert len(crowd.served()) == most - 1
        while crowd.clients:
            wait_for(lambda: crowd.served())
            crowd.go(crowd.served())
            crowd.post()
        crowd.check_arrived(lambda: arrived + receiver.frames, 200)
        wait_for(lambda: counted(daemon, RESUMED))
        assert len(counted(daemon, PAUSED)) == 1
        assert daemon.logged(ns="twisted") == []


def test_no_descriptors(tmp_path: Path) -> None:
    """A limit that leaves nothing for clients ends the start with a line."""
    with limited("-n 70", tmp_path, FORWARD_DEST="127.0.0.1:601") as daemon:
        assert daemon.wait() == 1
        assert daemon.process.stderr is not None
        assert daemon.process.stderr.read().decode() == (
            "logiss: MAX_CONNECTIONS: the process may open 70 files and sockets, and"
            " keeps 72 for itself; raise its limit (ulimit -n) to 10072\n"
        )


@pytest.mark.parametrize("command", ["twist", "twistd", "python"])
def test_limit_raised(command: str, tmp_path: Path) -> None:
    """The soft limit is raised as far as is needed, and the log has no line then."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with receiving() as receiver:
        daemon = Daemon(
            command,
            tmp_path,
            descriptors="-S -n 100",
            FORWARD_DEST=f"127.0.0.1:{receiver.port}",
            MAX_CONNECTIONS="200",
        )
        try:
            daemon.wait_until_usable()
            limits = Path(f"/proc/{daemon.process.pid}/limits").read_text()
            (soft,) = re.findall(r"(?m)^Max open files +(\d+) ", limits)
            assert int(soft) == min(200 + reserved(4), hard)
            assert daemon.logged(connections_max="200") == []
        finally:
            daemon.stop()


def _opened() -> int | None:
    """A descriptor, if there is one left."""
    try:
        return os.open(os.devnull, os.O_RDONLY)
    except OSError as e:
        if e.errno == errno.EMFILE:
            return None
        raise


@contextmanager
def no_descriptors() -> Iterator[None]:
    """This process has none left, for a while."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    eaten: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 5, hard))
    try:
        while (fd := _opened()) is not None:
            eaten.append(fd)
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in eaten:
            os.close(fd)


class LateClient:
    """A client whose socket there is before it connects."""

    def __init__(self) -> None:
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.received = b""

    def connect(self, port: int) -> None:
        assert self.socket.connect_ex(("127.0.0.1", port)) in (0, 115)

    def send(self, octets: bytes) -> None:
        assert self.socket.send(octets) == len(octets)

    def read(self) -> bytes:
        """
        What has come.

        @raise ConnectionResetError: it was thrown away.
        """
        try:
            octets = self.socket.recv(1 << 16)
        except BlockingIOError:
            return self.received
        if not octets:
            raise ConnectionResetError("closed")
        self.received += octets
        return self.received

    def close(self) -> None:
        self.socket.close()


def _is_over(house: House) -> Callable[[], Any]:
    return lambda: house.counted(RESUMED)


@pytest.mark.parametrize("channel", CHANNELS)
@pytest_twisted.ensureDeferred
@within(60)
async def test_descriptors_eaten(channel: str) -> None:
    """
    When something else in the process has taken every descriptor, nobody is accepted
    and nobody thrown away. Who is connected is served, and the others are when there
    are descriptors again. All of that is one line, and one at its end.
    """
    octets = body(messages("late", 1))
    late = [LateClient() for _ in range(5)]
    try:
        async with (
            listening(Backend()) as backend,
            housed(backend.destination, http_channel=channel) as house,
            posting(house) as client,
        ):
            await house.connected(4)
            port = house.port
            assert await client.post(body(messages("first", 1))) == 200
            with no_descriptors():
                for one in late:
                    one.connect(port)
                await until(lambda: house.counted(PAUSED))
                for i in range(20):
                    # Over more than one attempt to accept.
                    assert await client.post(body(messages(f"{i}", 1))) == 200
                    await pause(0.15)
                assert [one.read() for one in late] == [b""] * 5
                (line,) = house.counted(PAUSED)
                assert line["message"] == "accept: Too many open files"
                assert house.counted(RESUMED) == []
            for one in late:
                one.send(
                    request(octets, headers={"Authorization": "Basic dGVzdDp0b2tlbg=="})
                )
            await until(lambda: all(b"\r\n\r\n" in one.read() for one in late))
            assert {one.received[:13] for one in late} == {b"HTTP/1.1 200 "}
            await until(_is_over(house), PATIENCE_SECONDS)
            assert len(house.counted(PAUSED)) == len(house.counted(RESUMED)) == 1
            assert backend.messages.count(messages("late", 1)[0]) == 5
            for one in late:
                one.close()
    finally:
        for one in late:
            one.close()
