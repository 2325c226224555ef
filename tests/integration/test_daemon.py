"""The daemon's life: start, drain by signal, exit code, and the log of it."""

import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from logiss.life import SAME_SIGNAL_SECONDS
from tests.front import framed, message, request, stamped
from tests.integration.daemons import (
    BlockingClient,
    Daemon,
    receiving,
    running,
    wait_for,
)

COMMANDS = ["twist", "twistd", "python --http stock"]
SIGNALS = [signal.SIGTERM, signal.SIGINT]
LIFE = ["start", "listen", "shutdown-signal", "shutdown", "drain", "exit"]


def life(daemon: Daemon) -> list[str]:
    return [line["at"] for line in daemon.lines if "at" in line]


def unused_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


def is_listening(port: int) -> bool:
    """Whether somebody listens there, seen without connecting."""
    wanted = f"0100007F:{port:04X} 00000000:0000 0A "
    return wanted in Path("/proc/net/tcp").read_text()


class Load:
    """
    Clients that post numbered messages, one at a time each, until their
    connection ends or a post is refused for the drain.

    @ivar codes: the status of each message's post; None for an unanswered one.
    """

    def __init__(self, port: int, clients: int) -> None:
        self.codes: dict[bytes, int | None] = {}
        self._threads = [
            threading.Thread(target=self._post, args=(port, i), daemon=True)
            for i in range(clients)
        ]
        for thread in self._threads:
            thread.start()

    def _post(self, port: int, client_number: int) -> None:
        client = BlockingClient(port)
        for i in range(1_000_000):
            text = b"%d-%d." % (client_number, i)
            self.codes[text] = None
            try:
                client.send(request(framed(message(text))))
                answer = client.answer()
            except OSError:
                break
            if answer is None:
                break
            self.codes[text] = answer.code
            if answer.code == 503:
                break
        client.close()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()


@pytest.mark.parametrize("number", SIGNALS, ids=lambda n: n.name)
@pytest.mark.parametrize("command", COMMANDS)
def test_drain_under_load(command: str, number: signal.Signals, tmp_path: Path) -> None:
    """
    Under load a signal drains: each post answered 200 has arrived, each refused
    one has not, and the process exits with 0.
    """
    with (
        receiving() as receiver,
        running(command, tmp_path, FORWARD_DEST=f"127.0.0.1:{receiver.port}") as daemon,
    ):
        daemon.wait_until_usable()
        load = Load(daemon.port, 8)
        wait_for(lambda: len(load.codes) > 400)
        daemon.signal(number)
        assert daemon.wait() == 0
        load.join()
        arrived = receiver.frames
        assert life(daemon) == LIFE
        assert daemon.logged(at="shutdown-signal") == [
            {
                "app": "log-iss",
                "source": "test",
                "ns": "main",
                "at": "shutdown-signal",
                "signal": number.name,
            }
        ]
    delivered = [t for t, code in load.codes.items() if code == 200]
    refused = [t for t, code in load.codes.items() if code == 503]
    assert len(delivered) > 300
    assert set(load.codes.values()) <= {200, 503, None}
    for text in delivered:
        assert arrived.count(stamped(text, address="127.0.0.1")) == 1, text
    for text in refused:
        assert stamped(text, address="127.0.0.1") not in arrived, text


@pytest.mark.parametrize("command", COMMANDS)
def test_pending_delivery_succeeds(command: str, tmp_path: Path) -> None:
    """
    A post whose delivery is under way when the signal comes is answered 200 once
    the backend has taken it; meanwhile nothing new gets in.
    """
    # More than the kernels of both ends take while the receiver does not read.
    frames = [message(b"%d " % i + b"x" * 100_000) for i in range(120)]
    with (
        receiving(receive_buffer_bytes=4096) as receiver,
        running(
            command,
            tmp_path,
            FORWARD_DEST=f"127.0.0.1:{receiver.port}",
            DELIVERY_TIMEOUT="20",
        ) as daemon,
    ):
        daemon.wait_until_usable()
        idle, other, pending = (BlockingClient(daemon.port) for _ in range(3))
        idle.send(request(framed(message(b"first"))))
        answer = idle.answer()
        assert answer is not None
        assert answer.code == 200
        receiver.reading.clear()
        pending.send(request(framed(*frames)))
        time.sleep(0.5)
        daemon.signal(signal.SIGTERM)
        wait_for(lambda: daemon.logged(at="drain"))

        # A kept-alive connection and a new one are both refused, and closed.
        new = BlockingClient(daemon.port)
        for client in (other, new):
            client.send(request(framed(message(b"late"))))
            answer = client.answer()
            assert answer is not None
            assert (answer.code, answer.body) == (503, b"Shutting down\n")
            assert answer.headers["connection"] == "close"
            assert client.is_closed()
        health = BlockingClient(daemon.port)
        health.send(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = health.answer()
        assert answer is not None
        assert answer.code == 503

        receiver.reading.set()
        answer = pending.answer()
        assert answer is not None
        assert answer.code == 200
        assert idle.is_closed()
        assert daemon.wait() == 0
        for client in (idle, other, pending, new, health):
            client.close()
        texts = [frame.partition(b'"] ')[2] for frame in receiver.frames]
        assert b"first" in texts
        assert b"late" not in texts
        for frame in frames:
            assert texts.count(frame.partition(b" - - ")[2]) == 1


def test_backend_reads_late(tmp_path: Path) -> None:
    """
    What was answered 200 arrives, though the backend reads it only after the process
    has gone: the connections are closed, not reset.
    """
    with (
        receiving() as receiver,
        running(
            "twist",
            tmp_path,
            FORWARD_DEST=f"127.0.0.1:{receiver.port}",
            DELIVERY="sent",
        ) as daemon,
    ):
        daemon.wait_until_usable()
        receiver.reading.clear()
        # Let the receiver come to its stop.
        time.sleep(0.2)
        client = BlockingClient(daemon.port)
        texts = [b"%d " % i + b"x" * 50_000 for i in range(40)]
        for text in texts:
            client.send(request(framed(message(text))))
            answer = client.answer()
            assert answer is not None
            assert answer.code == 200
        client.close()
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
        assert len(receiver.frames) < len(texts)
        receiver.reading.set()
        wait_for(lambda: len(receiver.frames) == len(texts))
        arrived = {frame.partition(b'"] ')[2] for frame in receiver.frames}
        assert arrived == set(texts)


@pytest.mark.parametrize("command", COMMANDS)
def test_pending_delivery_times_out(command: str, tmp_path: Path) -> None:
    """A post that cannot be delivered is answered 504, then the process exits."""
    with running(
        command,
        tmp_path,
        FORWARD_DEST=f"127.0.0.1:{unused_port()}",
        DELIVERY_TIMEOUT="1",
    ) as daemon:
        daemon.wait_until_usable(connections=0)
        client = BlockingClient(daemon.port)
        client.send(request(framed(message(b"nowhere"))))
        time.sleep(0.2)
        daemon.signal(signal.SIGTERM)
        answer = client.answer()
        assert answer is not None
        assert answer.code == 504
        assert client.is_closed()
        assert daemon.wait() == 0
        client.close()
        assert life(daemon) == LIFE


def test_second_signal(tmp_path: Path) -> None:
    """A second signal ends the process at once, and not as if all were well."""
    with running(
        "twist",
        tmp_path,
        FORWARD_DEST=f"127.0.0.1:{unused_port()}",
        DELIVERY_TIMEOUT="60",
    ) as daemon:
        daemon.wait_until_usable(connections=0)
        client = BlockingClient(daemon.port)
        client.send(request(framed(message(b"nowhere"))))
        time.sleep(0.2)
        daemon.signal(signal.SIGTERM)
        wait_for(lambda: daemon.logged(at="drain"))
        # At once it would be the same signal, sent to process and group.
        daemon.signal(signal.SIGTERM)
        time.sleep(2 * SAME_SIGNAL_SECONDS)
        assert daemon.process.poll() is None
        daemon.signal(signal.SIGTERM)
        assert daemon.wait(10) == 128 + signal.SIGTERM
        client.close()
        assert "exit" not in life(daemon)


def test_client_that_does_not_read(tmp_path: Path) -> None:
    """A client that neither reads nor closes does not keep the process."""
    with (
        receiving() as receiver,
        running(
            "python", tmp_path, FORWARD_DEST=f"127.0.0.1:{receiver.port}"
        ) as daemon,
    ):
        daemon.wait_until_usable()
        deaf = BlockingClient(daemon.port)
        deaf.send(b"GET /nope HTTP/1.1\r\nHost: x\r\n\r\n" * 200)
        unfinished = BlockingClient(daemon.port)
        unfinished.send(request(framed(message(b"half")))[:-2])
        time.sleep(0.2)
        daemon.signal(signal.SIGTERM)
        assert daemon.wait(10) == 0
        deaf.close()
        unfinished.close()
        assert receiver.frames == []


def test_clients_that_take_too_long(tmp_path: Path) -> None:
    """
    They are cut off without an answer and leave one line; a client beside them
    notices nothing.
    """
    with (
        receiving() as receiver,
        running(
            "twist",
            tmp_path,
            FORWARD_DEST=f"127.0.0.1:{receiver.port}",
            HEADER_TIMEOUT="1",
            BODY_TIMEOUT="2",
            BODY_RATE="0",
        ) as daemon,
    ):
        daemon.wait_until_usable()
        healthy = BlockingClient(daemon.port)
        octets = request(framed(message(b"half")))
        slow = [BlockingClient(daemon.port) for _ in range(20)]
        for i, client in enumerate(slow):
            client.send(octets[:-1] if i % 2 else octets[:30])
        codes = []
        while not all(client.is_cut_off() for client in slow):
            healthy.send(request(framed(message(b"beside"))))
            answer = healthy.answer()
            assert answer is not None
            codes.append(answer.code)
            time.sleep(0.05)
        assert set(codes) == {200}

        def cuts() -> list[dict[str, str]]:
            return [
                *daemon.logged(message="headers took more than 1 s"),
                *daemon.logged(message="the body took more than 2 s"),
            ]

        counted = "count#log-iss.http.clients.cut"
        wait_for(lambda: sum(int(line[counted]) for line in cuts()) == 20)
        assert all(line["remote_addr"] == "127.0.0.1" for line in cuts())
        healthy.close()
        wait_for(lambda: len(receiver.frames) == len(codes))


def test_slow_reader_of_the_log(tmp_path: Path) -> None:
    """Who does not read the log does not stop the daemon from serving."""
    with (
        receiving() as receiver,
        running("twist", tmp_path, FORWARD_DEST=f"127.0.0.1:{receiver.port}") as daemon,
    ):
        daemon.wait_until_usable()
        daemon.read_stdout.clear()
        client = BlockingClient(daemon.port)
        # A pipe holds 64 KiB: 1,000 lines of 300 bytes fill it several times.
        for i in range(1_000):
            client.send(
                request(framed(message(b"%d" % i)), headers={"X-Request-ID": "y" * 200})
            )
            answer = client.answer()
            assert answer is not None
            assert answer.code == 200
        client.close()
        assert (
            len(daemon.logged(**{"count#log-iss.http.logs.post.success": "1"})) < 1000
        )
        daemon.read_stdout.set()
        success = {"count#log-iss.http.logs.post.success": "1"}
        wait_for(lambda: len(daemon.logged(**success)) == 1_000)
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0


@pytest.mark.parametrize(
    ("command", "variables", "channel"),
    [
        ("twist", {}, "fast"),
        ("twist", {"HTTP_CHANNEL": "stock"}, "stock"),
        ("twist --http stock", {}, "stock"),
        ("python --http fast", {"HTTP_CHANNEL": "stock"}, "fast"),
    ],
)
def test_http_channel(
    command: str, variables: dict[str, str], channel: str, tmp_path: Path
) -> None:
    """The option goes before the variable, and the first line says which it is."""
    with (
        receiving() as receiver,
        running(
            command, tmp_path, FORWARD_DEST=f"127.0.0.1:{receiver.port}", **variables
        ) as daemon,
    ):
        daemon.wait_until_usable()
        assert daemon.lines[0]["http"] == channel
        assert daemon.lines[0]["codec"] in ("compiled", "pure")
        client = BlockingClient(daemon.port)
        client.send(request(framed(message())))
        answer = client.answer()
        assert answer is not None
        assert answer.code == 200
        # twisted.web puts its headers in an order of its own.
        assert (next(iter(answer.headers)) == "date") == (channel == "fast")
        client.close()
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0


def test_errors_only(tmp_path: Path) -> None:
    """REQUEST_LOG=errors sums the successes up; the last sum comes at the exit."""
    with (
        receiving() as receiver,
        running(
            "twist",
            tmp_path,
            FORWARD_DEST=f"127.0.0.1:{receiver.port}",
            REQUEST_LOG="errors",
        ) as daemon,
    ):
        daemon.wait_until_usable()
        client = BlockingClient(daemon.port)
        for body in (framed(message(), message()), framed(message()), b"x"):
            client.send(request(body))
            client.answer()
        client.close()
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
        (line,) = [
            line
            for line in daemon.lines
            if "count#log-iss.http.logs.post.success" in line
        ]
        assert line["count#log-iss.http.logs.post.success"] == "2"
        assert line["count#log-iss.http.logs.frames.delivered"] == "3"
        assert len(daemon.logged(**{"post.code": "400"})) == 1
