"""
A receiver process that receives straight into shared file mappings.

Each connection has a file of its own, and `recv_into` writes into its mapping: what
the process had read is there even when it has been killed in the next instant. No
octet of a frame is NUL, so the first NUL of a file is the end of what was read.

It runs without the site's packages and without the rest of this one, so that it is
up again soon after it was killed. A journal beside the files has a line for each
event: seconds of the monotonic clock, event, connection, and how it ended.
"""

import argparse
import mmap
import os
import random
import signal
import socket
import ssl
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import NoReturn

#: The size of a region; only what is written to of it takes room.
REGION_BYTES = 256 * 1024 * 1024
#: How long connections may take to be read to their end when the sink stops.
STOP_SECONDS = 1.0


class Stopped(BaseException):
    """SIGTERM has come."""


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    raise Stopped


class Sink:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self._folder = Path(options.folder)
        self._journal = os.open(
            self._folder / "journal", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600
        )
        self._count = 0
        self._threads: dict[threading.Thread, socket.socket] = {}
        self.context = _context(options)

    def note(self, event: str, name: str, how: str = "") -> None:
        line = f"{time.monotonic():.6f} {event} {name} {how}".rstrip()
        os.write(self._journal, line.encode() + b"\n")

    def listen(self) -> socket.socket:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self.options.receive_buffer:
            # Connections inherit it; set on each it would come too late.
            listener.setsockopt(
                socket.SOL_SOCKET, socket.SO_RCVBUF, self.options.receive_buffer
            )
        listener.bind((self.options.host, self.options.port))
        listener.listen(self.options.backlog)
        return listener

    def run(self) -> None:
        listener = self.listen()
        self.note("listening", str(self.options.generation))
        try:
            while True:
                if self.options.flap:
                    self._accept_until(listener, time.monotonic() + self.options.flap)
                    listener.close()
                    self._end_connections()
                    time.sleep(self.options.flap)
                    listener = self.listen()
                else:
                    self._accept(listener)
        except Stopped:
            listener.close()
            self._end_connections()

    def _accept_until(self, listener: socket.socket, moment: float) -> None:
        while (left := moment - time.monotonic()) > 0:
            listener.settimeout(left)
            try:
                self._accept(listener)
            except TimeoutError:
                return

    def _accept(self, listener: socket.socket) -> None:
        connection, _ = listener.accept()
        connection.settimeout(None)
        self._count += 1
        name = f"{self.options.generation}-{self._count}"
        self.note("accepted", name)
        thread = threading.Thread(
            target=self._receive, args=(connection, name), daemon=True
        )
        self._threads = {t: c for t, c in self._threads.items() if t.is_alive()}
        self._threads[thread] = connection
        thread.start()

    def _end_connections(self) -> None:
        """Read what is there, then close."""
        for connection in self._threads.values():
            try:
                connection.shutdown(socket.SHUT_RD)
            except OSError:
                pass  # it has ended by itself
        deadline = time.monotonic() + STOP_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _receive(self, connection: socket.socket, name: str) -> None:
        try:
            with connection:
                if self.context is not None or self.options.silent:
                    how = self._receive_tls(connection, name)
                else:
                    how = self._receive_plain(connection, name)
        except OSError as e:
            how = type(e).__name__
        self.note("ended", name, how)

    def _receive_plain(self, connection: socket.socket, name: str) -> str:
        options, at = self.options, 0
        with memoryview(self._region(name)) as region:
            while True:
                if options.idle_close:
                    connection.settimeout(random.uniform(*options.idle_close))
                try:
                    taken = connection.recv_into(
                        region[at : at + options.read_bytes], options.read_bytes
                    )
                except TimeoutError:
                    return "idle"
                if not taken:
                    return "fin"
                at = _advanced(at, taken)
                if options.pause:
                    time.sleep(options.pause)

    def _receive_tls(self, connection: socket.socket, name: str) -> str:
        """
        Also keeps what came over the wire, as it came.

        The kernel keeps what comes until it is decrypted in the region: what a death
        takes between the two has not been read.
        """
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = None
        if self.context is not None:
            tls = self.context.wrap_bio(incoming, outgoing, server_side=True)
        at, how = 0, ""
        with (
            (self._folder / f"{name}.wire").open("wb", 0) as wire,
            memoryview(self._region(name)) as region,
        ):
            while octets := connection.recv(self.options.read_bytes, socket.MSG_PEEK):
                if tls is not None:
                    incoming.write(octets)
                    at, how = _decrypted(tls, region, at)
                wire.write(octets)
                connection.recv(len(octets))
                connection.sendall(outgoing.read())
                if self.options.hang_up or how:
                    return how or "hung_up"
                if self.options.pause:
                    time.sleep(self.options.pause)
        return "fin"

    def _region(self, name: str) -> mmap.mmap:
        path = self._folder / f"{name}.region"
        with path.open("wb+") as file:
            file.truncate(REGION_BYTES)
            return mmap.mmap(file.fileno(), REGION_BYTES)


def _decrypted(tls: ssl.SSLObject, region: memoryview, at: int) -> tuple[int, str]:
    """
    Put what can be decrypted by now into `region`, from `at` on.

    @return: where it ends, and how the session has ended, if it has.
    """
    try:
        while taken := tls.read(1 << 16, region[at : at + (1 << 16)]):
            at = _advanced(at, int(taken))
    except ssl.SSLWantReadError:
        return at, ""
    except ssl.SSLError as e:
        return at, "refused " + str(e).replace(" ", "_")
    return at, "close_notify"


def _advanced(at: int, taken: int) -> int:
    if at + taken > REGION_BYTES - (1 << 20):
        sys.stderr.write("sink: a region is full\n")
        os._exit(3)
    return at + taken


def _context(options: argparse.Namespace) -> ssl.SSLContext | None:
    if not options.certificate:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(options.certificate)
    if options.client_authority:
        context.load_verify_locations(options.client_authority)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def main() -> None:
    parser = argparse.ArgumentParser(prog="sink")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--folder", required=True)
    parser.add_argument("--generation", type=int, default=0)
    parser.add_argument("--backlog", type=int, default=64)
    parser.add_argument("--read-bytes", type=int, default=1 << 18)
    parser.add_argument("--pause", type=float, help="seconds behind each read")
    parser.add_argument("--receive-buffer", type=int)
    parser.add_argument("--idle-close", type=float, nargs=2, help="seconds from, to")
    parser.add_argument("--flap", type=float, help="seconds up, then down")
    parser.add_argument("--certificate", help="PEM file; speak TLS")
    parser.add_argument("--client-authority", help="PEM file; ask for certificates")
    parser.add_argument("--silent", action="store_true", help="never say anything")
    parser.add_argument("--hang-up", action="store_true", help="at the first octets")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, _stop)
    Sink(options).run()


if __name__ == "__main__":
    main()
