"""
A thousand clients that nobody wants, in one process.

    python -m tests.integration.hostile_clients KIND PORT COUNT

Each client follows a script: a generator of what it does next. It sends bytes, sleeps,
or waits for something to come; behind the end of its script it hangs up. Whoever is cut
off, or has hung up, connects again. The process says ``ready`` when each has connected
once, goes on until its standard input ends, and then says in JSON what has happened.
"""

import argparse
import errno
import gzip
import heapq
import json
import os
import random
import re
import select
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from attrs import define, field, frozen

from logiss.descriptors import raise_descriptors_max
from tests.front import framed, message, request

ROOT = Path(__file__).parent.parent.parent
MIB = 1024 * 1024
BODY_BYTES = 16 * MIB
PATIENCE_SECONDS = 60


@frozen
class Sleep:
    seconds: float


@frozen
class Wait:
    """For something to come."""


#: What a client does: these, or bytes that it sends.
Script = Iterator["bytes | memoryview | Sleep | Wait"]

WAIT = Wait()


@frozen
class Kind:
    """
    @ivar script: of the client with this number.
    @ivar again_seconds: until it connects again.
    @ivar is_deaf: whether it reads nothing, with little room for it in the kernels.
    """

    script: Callable[[int], Script]
    again_seconds: float = 0.5
    is_deaf: bool = False


# what they send


def head(*more: tuple[str, str], **headers: str | None) -> bytes:
    """The head of a post whose body is still to come."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    names.setdefault("Content-Length", None)
    return request(headers=names, more=more)


POST = request(framed(message(b"hostile " * 10)))
CHUNKED = head(Transfer_Encoding="chunked")
LONG = head(Content_Length=str(BODY_BYTES))


def frames(size: int, seed: int | None = None) -> bytes:
    """
    Frames of `size` bytes in all; with a seed of noise that gzip makes no smaller.
    """
    noise = random.Random(seed)
    text = b"x" * 1000
    pieces, left = [], size
    while left:
        if seed is not None:
            text = noise.randbytes(500).hex().encode()
        frame = framed(message(text[: left - 100]))
        if left - len(frame) < 200:
            # The last one, to the byte.
            frame = framed(message(b"y" * (left - len(framed(message(b""))) - 2)))
            frame += b" " * (left - len(frame))
        pieces.append(frame)
        left -= len(frame)
    return b"".join(pieces)


def dribbled_headers(number: int) -> Script:
    """A byte of the headers a second."""
    yield b"POST /logs HTTP/1.1\r\nHost: h\r\nX-Slow: "
    while True:
        yield Sleep(1.0)
        yield b"z"


def dribbled_body(number: int) -> Script:
    """By number: with a length or chunked, below the slowest rate or just above it."""
    rate = 100 if number & 1 else 1100
    chunked = bool(number & 2)
    yield CHUNKED if chunked else LONG
    piece = framed(message(b"s" * (rate - 100))).ljust(rate)[:rate]
    while True:
        yield b"%x\r\n%b\r\n" % (rate, piece) if chunked else piece
        yield Sleep(1.0)


def deaf(number: int) -> Script:
    """Posts on and on, and reads no answer."""
    while True:
        yield POST


def deaf_and_slow(number: int) -> Script:
    """Reads no answer, and asks again from time to time when there are many."""
    octets = b"GET /nothing HTTP/1.1\r\nHost: h\r\n\r\n"
    yield octets * 400
    while True:
        yield Sleep(2.0)
        yield octets


def gzip_bomb(number: int) -> Script:
    """By number: as large as a body may become, or larger, or of too many members."""
    bombs = _bombs()
    while True:
        yield bombs[number % len(bombs)]
        yield WAIT


_made: list[bytes] = []


def _bombs() -> list[bytes]:
    if not _made:
        # 16 MiB at a ratio of less than 200 to 1, and of far more; 64 MiB; 17 members.
        noise = frames(200 * 1024, 1)
        limit = gzip.compress(noise + frames(BODY_BYTES - len(noise)), 6)
        over = gzip.compress(frames(BODY_BYTES), 6)
        large = gzip.compress(bytes(4 * BODY_BYTES), 6)
        members = gzip.compress(frames(1000)) * 17
        for body in (limit, limit, over, large, members):
            _made.append(request(body, headers={"Content-Encoding": "gzip"}))
    return _made


def large_bodies(number: int) -> Script:
    """A body of 16 MiB, as fast as it goes."""
    body = _large_body()
    while True:
        yield LONG
        yield body
        yield WAIT


_large: list[bytes] = []


def _large_body() -> bytes:
    if not _large:
        _large.append(frames(BODY_BYTES))
    return _large[0]


def held_bodies(number: int) -> Script:
    """All of a body of 16 MiB but its last byte; that never comes."""
    yield LONG
    yield memoryview(_large_body())[:-1]
    while True:
        yield Sleep(60.0)


def silent(number: int) -> Script:
    """Sends nothing."""
    while True:
        yield Sleep(60.0)


def storm(number: int) -> Script:
    """Connects, and is gone; every other one in the middle of its headers."""
    if number & 1:
        yield POST[:30]
    yield Sleep(0.2)


def pipelined(number: int) -> Script:
    """Requests without end, not waiting for answers, which it reads."""
    while True:
        yield POST * 50


def tiny_chunks(number: int) -> Script:
    """A body of 16 MiB in chunks of one byte."""
    piece = framed(message(b"c" * 900))
    octets = b"".join(b"1\r\n%c\r\n" % octet for octet in piece)
    while True:
        yield CHUNKED
        for _ in range(BODY_BYTES // len(piece)):
            yield octets
        yield b"0\r\n\r\n"
        yield WAIT


def many_fields(number: int) -> Script:
    """As many headers as there may be, as long as they may be; every fifth beyond."""
    fields = 110 if number % 5 == 0 else 100 - 4
    more = [(f"X-{i:03}", "f" * 150) for i in range(fields)]
    body = framed(message())
    octets = head(*more, Content_Length=str(len(body))) + body
    while True:
        yield octets
        yield WAIT


#: Several under one name are taken in turn.
KINDS: dict[str, list[Kind]] = {
    "slow": [
        Kind(dribbled_headers),
        Kind(dribbled_body),
        Kind(deaf_and_slow, is_deaf=True),
    ],
    "dribbled-headers": [Kind(dribbled_headers)],
    "dribbled-bodies": [Kind(dribbled_body)],
    "deaf": [Kind(deaf, is_deaf=True)],
    "gzip-bombs": [Kind(gzip_bomb)],
    "large-bodies": [Kind(large_bodies)],
    "held-bodies": [Kind(held_bodies)],
    "silent": [Kind(silent)],
    "storm": [Kind(storm, again_seconds=0.0)],
    "pipelined": [Kind(pipelined)],
    "tiny-chunks": [Kind(tiny_chunks)],
    "many-fields": [Kind(many_fields)],
}


# who sends it


@define
class Happened:
    """
    @ivar connects: how often a client has connected.
    @ivar cuts: how often one was cut off.
    @ivar bytes_sent: by all of them.
    @ivar answers: by status.
    """

    connects: int = 0
    cuts: int = 0
    bytes_sent: int = 0
    answers: Counter[str] = field(factory=Counter)


_STATUS = re.compile(rb"HTTP/1\.1 ([0-9]{3}) ")
#: What one client sends before it is another's turn.
_TURN_BYTES = 128 * 1024


class Hostile:
    """One client, which has one connection after the other."""

    def __init__(self, crowd: "Crowd", number: int) -> None:
        self._crowd = crowd
        self._number = number
        self._kind = crowd.kinds[number % len(crowd.kinds)]
        self._number_of_kind = number // len(crowd.kinds)
        self._connected = False
        self._waits = False
        self._tail = b""

    def connect(self) -> None:
        self._socket = skt = socket.socket()
        skt.setblocking(False)
        if self._kind.is_deaf:
            skt.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            # The other end's send buffer is a multiple of it.
            skt.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
        # Gone without a trace: thousands in TIME_WAIT would leave no port.
        skt.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        error = skt.connect_ex(("127.0.0.1", self._crowd.port))
        if error not in (0, errno.EINPROGRESS):
            skt.close()
            self._crowd.later(self._kind.again_seconds, self.connect)
            return
        self._script = self._kind.script(self._number_of_kind)
        self._left = memoryview(b"")
        self._waits = False
        self._crowd.watch(self, skt.fileno(), select.EPOLLOUT)

    def happen(self, events: int) -> None:
        """What epoll has found."""
        try:
            if not self._connected:
                self._begin()
            if events & select.EPOLLIN and not self._kind.is_deaf:
                self._read()
            elif events & (select.EPOLLHUP | select.EPOLLERR):
                raise ConnectionResetError
            if events & select.EPOLLOUT:
                self._act()
        except BlockingIOError:
            return
        except OSError:
            self._lost(cut=self._connected)

    def _begin(self) -> None:
        error = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, os.strerror(error))
        self._connected = True
        self._crowd.connected(self._number)

    def _read(self) -> None:
        octets = self._socket.recv(1 << 16)
        if not octets:
            raise ConnectionResetError
        answers = _STATUS.findall(self._tail + octets)
        self._crowd.happened.answers.update(code.decode() for code in answers)
        self._tail = (self._tail + octets)[-12:] if not answers else octets[-12:]
        if answers and self._waits:
            self._waits = False
            self._act()

    def _act(self) -> None:
        """Go on with the script until it has to wait for something."""
        self._watch(select.EPOLLOUT)
        in_turn = 0
        # Others want to send, too.
        while in_turn < _TURN_BYTES:
            if self._left:
                sent = self._socket.send(self._left[: _TURN_BYTES - in_turn])
                self._crowd.happened.bytes_sent += sent
                self._left = self._left[sent:]
                in_turn += sent
                continue
            step = next(self._script, None)
            if isinstance(step, Sleep | Wait):
                self._watch(0)
                self._rest(step)
                return
            if step is None:
                self._lost(cut=False)
                return
            self._left = memoryview(step)

    def _rest(self, step: Sleep | Wait) -> None:
        if isinstance(step, Sleep):
            self._crowd.later(step.seconds, self._awake, self._socket)
        else:
            self._waits = True

    def _awake(self, skt: socket.socket) -> None:
        if skt is self._socket and self._connected:
            self.happen(select.EPOLLOUT)

    def _watch(self, events: int) -> None:
        reading = 0 if self._kind.is_deaf else select.EPOLLIN
        self._crowd.watch(self, self._socket.fileno(), events | reading)

    def _lost(self, cut: bool) -> None:
        self._connected = False
        self._tail = b""
        self._crowd.unwatch(self._socket.fileno())
        self._socket.close()
        self._crowd.happened.cuts += cut
        self._crowd.later(self._kind.again_seconds, self.connect)


class Crowd:
    """All of them, and the loop that they live in."""

    def __init__(self, kinds: list[Kind], port: int, size: int) -> None:
        self.kinds = kinds
        self.port = port
        self.happened = Happened()
        self._size = size
        self._missing = set(range(size))
        self._epoll = select.epoll()
        self._watched: dict[int, tuple[Hostile, int]] = {}
        self._timers: list[Any] = []
        self._serial = count()
        self._is_ready = False

    def later(self, seconds: float, act: Callable[..., None], *arguments: Any) -> None:
        due = time.monotonic() + seconds
        heapq.heappush(self._timers, (due, next(self._serial), act, arguments))

    def watch(self, client: Hostile, fd: int, events: int) -> None:
        before = self._watched.get(fd)
        if before is None:
            self._epoll.register(fd, events)
        elif before[1] != events:
            self._epoll.modify(fd, events)
        self._watched[fd] = (client, events)

    def unwatch(self, fd: int) -> None:
        del self._watched[fd]
        self._epoll.unregister(fd)

    def connected(self, number: int) -> None:
        self.happened.connects += 1
        self._missing.discard(number)
        if not self._missing and not self._is_ready:
            self._is_ready = True
            print("ready", flush=True)

    def run(self, until_readable: int) -> None:
        # Not all in the same moment: what they do each second is spread over it.
        for number in range(self._size):
            client = Hostile(self, number)
            self.later(number / self._size, client.connect)
        self._epoll.register(until_readable, select.EPOLLIN)
        while True:
            now = time.monotonic()
            while self._timers and self._timers[0][0] <= now:
                _, _, act, arguments = heapq.heappop(self._timers)
                act(*arguments)
            due = self._timers[0][0] if self._timers else now + 1
            # Never less than a few milliseconds: the machine has other things to do.
            for fd, events in self._epoll.poll(max(0.002, due - time.monotonic())):
                if fd == until_readable:
                    return
                if fd in self._watched:
                    self._watched[fd][0].happen(events)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("port", type=int)
    parser.add_argument("count", type=int)
    options = parser.parse_args()
    raise_descriptors_max(options.count + 100)
    crowd = Crowd(KINDS[options.kind], options.port, options.count)
    crowd.run(sys.stdin.fileno())
    happened = crowd.happened
    print(
        json.dumps(
            {
                "connects": happened.connects,
                "cuts": happened.cuts,
                "bytes_sent": happened.bytes_sent,
                "answers": happened.answers,
            }
        )
    )


# for whoever wants them


class Running:
    """A crowd in a process of its own."""

    def __init__(self, kind: str, port: int, size: int) -> None:
        module = "tests.integration.hostile_clients"
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, kind, str(port), str(size)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.happened: Happened | None = None

    def wait_until_connected(self, seconds: float = PATIENCE_SECONDS) -> None:
        """Wait until each client has connected."""
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        assert ready, "they did not connect in time"
        assert self.process.stdout.readline() == b"ready\n"

    def stop(self) -> Happened:
        """End it; what has happened."""
        octets, _ = self.process.communicate(timeout=PATIENCE_SECONDS)
        assert self.process.returncode == 0
        said = json.loads(octets.splitlines()[-1])
        self.happened = Happened(**{**said, "answers": Counter(said["answers"])})
        return self.happened


@contextmanager
def hostile(
    kind: str, port: int, size: int = 1000, connected: bool = True
) -> Iterator[Running]:
    """A crowd, all of it connected if that is to be waited for, during the block."""
    running = Running(kind, port, size)
    try:
        if connected:
            running.wait_until_connected()
        yield running
    finally:
        if running.process.poll() is None:
            running.process.kill()
        running.process.wait()
        for pipe in (running.process.stdin, running.process.stdout):
            assert pipe is not None
            pipe.close()


if __name__ == "__main__":
    main()
