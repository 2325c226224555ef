"""
Posts numbered messages over keep-alive connections, each once.

A client is a thread with one connection and one POST in flight. Nothing is posted
again, so that what arrives twice was sent twice by logiss.
"""

import base64
import itertools
import select
import socket
import struct
import threading
import time
from collections.abc import Callable

from attrs import frozen

from tests.faults import messages
from tests.faults.intake import TOKEN, USER
from tests.faults.ledger import Ledger, Post
from tests.faults.messages import Name

#: How long an answer may take until the POST counts as unanswered.
PATIENCE_SECONDS = 20.0
_AUTHORIZATION = base64.b64encode(f"{USER}:{TOKEN}".encode())
_RETRY_SECONDS = 0.05


class NoAnswer(Exception):
    """The connection ended, or the patience did, before there was an answer."""


@frozen
class Answer:
    code: int
    headers: dict[bytes, bytes]


class Client:
    """One keep-alive connection, made when it is needed."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket: socket.socket | None = None

    def connect(self) -> bool:
        """
        Be connected; a connection that the other end has closed is no connection.

        @return: whether it is one that was made now.
        @raise OSError: as `socket.create_connection`.
        """
        if self._socket is not None and self._is_over(self._socket):
            self.close()
        if self._socket is not None:
            return False
        address = ("127.0.0.1", self._port)
        self._socket = socket.create_connection(address, PATIENCE_SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return True

    @staticmethod
    def _is_over(connection: socket.socket) -> bool:
        # A socket with a timeout waits for it, whatever flags recv is given.
        readable, _, _ = select.select([connection], [], [], 0)
        return bool(readable)

    def send(self, octets: bytes) -> None:
        assert self._socket is not None
        self._socket.sendall(octets)

    def post(self, octets: bytes) -> Answer:
        """
        @raise NoAnswer: says why.
        """
        try:
            self.send(octets)
        except OSError as e:
            self.close()
            raise NoAnswer(repr(e)) from None
        return self.receive()

    def receive(self) -> Answer:
        """
        The answer to what was sent.

        @raise NoAnswer: says why.
        """
        assert self._socket is not None
        try:
            answer = self._answer(self._socket)
        except OSError as e:
            self.close()
            raise NoAnswer(repr(e)) from None
        if answer.headers.get(b"connection", b"").lower() == b"close":
            self.close()
        return answer

    def receive_many(self, count: int) -> list[Answer]:
        """The answers to `count` requests that were sent at once."""
        assert self._socket is not None
        octets, answers = b"", list[Answer]()
        while len(answers) < count:
            answer, octets = self._next_answer(self._socket, octets)
            answers.append(answer)
        return answers

    @classmethod
    def _answer(cls, connection: socket.socket) -> Answer:
        return cls._next_answer(connection, b"")[0]

    @staticmethod
    def _next_answer(connection: socket.socket, octets: bytes) -> tuple[Answer, bytes]:
        while True:
            head, end, body = octets.partition(b"\r\n\r\n")
            if end:
                status, *lines = head.split(b"\r\n")
                headers = {
                    name.lower(): value.strip()
                    for name, _, value in (line.partition(b":") for line in lines)
                }
                length = int(headers.get(b"content-length", b"0"))
                if len(body) >= length:
                    code = int(status.split(b" ")[1])
                    return Answer(code, headers), body[length:]
            more = connection.recv(1 << 16)
            if not more:
                raise ConnectionResetError(f"ended behind {octets!r}")
            octets += more

    def close(self) -> None:
        connection, self._socket = self._socket, None
        if connection is not None:
            connection.close()

    def reset(self) -> None:
        """Close without an end in order: the other end gets a reset."""
        if self._socket is not None:
            linger = struct.pack("ii", 1, 0)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.close()


def request(post: Post, body: bytes, **headers: str) -> bytes:
    """A whole request; ``Logplex_Frame_Id`` is the header of that name."""
    lines = [
        b"POST /logs HTTP/1.1",
        b"Host: faults",
        b"Content-Type: application/logplex-1",
        b"Authorization: Basic " + _AUTHORIZATION,
        b"X-Request-Id: " + post.request_id.encode(),
        b"Content-Length: %d" % len(body),
        *(f"{name.replace('_', '-')}: {v}".encode() for name, v in headers.items()),
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


class Poster:
    """
    Makes POSTs of messages that nobody else makes.

    @param drain: the number of the drain that the messages come from.
    """

    def __init__(self, run: str, drain: int, ledger: Ledger) -> None:
        self._run = run
        self._drain = drain
        self._ledger = ledger
        self._sequences = itertools.count()
        self._numbers = itertools.count()

    def new(self, count: int, padding_bytes: int | None = None) -> tuple[Post, bytes]:
        """A POST of `count` messages, and its body."""
        names = [Name(self._drain, next(self._sequences)) for _ in range(max(1, count))]
        body = b"".join(
            messages.frame(self._run, name, padding_bytes) for name in names
        )
        request_id = f"{self._run}-{self._drain}-{next(self._numbers)}"
        return Post(request_id, names, 0.0), body

    def enter(self, post: Post) -> Post:
        """Note that `post` is being sent."""
        post.sent_at = time.monotonic()
        self._ledger.posts.append(post)
        return post

    def post(self, client: Client, post: Post, octets: bytes) -> Answer | None:
        """Send it and note the answer, if there is one."""
        self.enter(post)
        try:
            answer = client.post(octets)
        except NoAnswer as e:
            post.answered_at = time.monotonic()
            post.why_unanswered = str(e)
            return None
        post.answered_at = time.monotonic()
        post.code = answer.code
        return answer


@frozen
class Shape:
    """
    What a load is made of.

    @ivar posts_per_second: of all clients together; 0 is as many as are answered.
    @ivar pause_seconds: what a client waits between POSTs instead, when it is set.
    """

    clients: int = 8
    messages: int = 25
    padding_bytes: int | None = None
    posts_per_second: float = 200.0
    pause_seconds: Callable[[], float] | None = None


class Load:
    """
    Clients that post until they are told to stop.

    @param ends_at: a status after which a client posts no more.
    """

    def __init__(
        self,
        port: int,
        posters: list[Poster],
        shape: Shape,
        ends_at: int | None = None,
    ) -> None:
        self._port = port
        self._shape = shape
        self._ends_at = ends_at
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(poster, number), daemon=True)
            for number, poster in enumerate(posters)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let each client have the answer that it waits for."""
        self._stopping.set()
        self.join()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(PATIENCE_SECONDS + 5)
            assert not thread.is_alive(), "a client of the load does not end"

    def _run(self, poster: Poster, number: int) -> None:
        client = Client(self._port)
        due = time.monotonic() + self._interval() * number / self._shape.clients
        try:
            while not self._stopping.wait(max(0.0, due - time.monotonic())):
                code = self._post_once(poster, client)
                if code is not None and code == self._ends_at:
                    return
                due = self._next_due(due, code)
        finally:
            client.close()

    def _post_once(self, poster: Poster, client: Client) -> int | None:
        try:
            client.connect()
        except OSError:
            return None
        post, body = poster.new(self._shape.messages, self._shape.padding_bytes)
        poster.post(client, post, request(post, body))
        return post.code

    def _interval(self) -> float:
        rate = self._shape.posts_per_second
        return self._shape.clients / rate if rate else 0.0

    def _next_due(self, due: float, code: int | None) -> float:
        now = time.monotonic()
        if code is None:
            return now + _RETRY_SECONDS
        if self._shape.pause_seconds is not None:
            return now + self._shape.pause_seconds()
        # What was missed while an answer was late is not made up for.
        return max(now, due + self._interval())
