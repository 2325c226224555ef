"""
Runs what somebody waits for at a terminal: one piece of work in a reactor, and what
Ctrl-C and SIGTERM mean to it.
"""

import os
import signal
import sys
from collections.abc import Callable, Coroutine
from functools import partial
from io import TextIOWrapper
from threading import Thread
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def hold_descriptors() -> None:
    """
    See to it that 0, 1 and 2 are open, so that no connection becomes one of them and
    gets what is printed.
    """
    for _ in range(3):
        fd = os.open(os.devnull, os.O_RDWR)
        if fd > 2:
            os.close(fd)
            return


def say(line: str) -> None:
    """Print it to standard error; whether anybody reads it does not matter."""
    if sys.stderr is None:
        return
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:
        let_go(sys.stderr)


def print_any() -> None:
    """
    Escape what is printed to standard output and its encoding does not have, whatever
    the locale.
    """
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def let_go(stream: Any) -> None:
    """What else is printed there goes nowhere, at the end of the process too."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    except (OSError, ValueError):
        pass  # It has no descriptor, or is closed.


def give_up(reactor: Any) -> None:
    """Do not wait for the work any longer."""
    if reactor.running:
        reactor.crash()


def run(
    reactor: Any,
    work: Callable[[], Coroutine[Any, Any, None]],
    on_signal: Callable[[signal.Signals], None],
) -> None:
    """
    Do `work` in `reactor`, which stops at its end and waits for nothing else: a thread
    may ask a name service for long, and neither the reactor nor the process joins it.

    @param on_signal: called in the reactor at each SIGINT and SIGTERM.
    @raise Exception: what `work` raises.
    """
    failures: list[Failure] = []

    def begin() -> None:
        done = Deferred.fromCoroutine(work())
        done.addErrback(failures.append)
        # A turn later, so that what is being closed has gone. Not stop(), which joins
        # the threads, deaf to signals.
        done.addCallback(lambda _: reactor.callLater(0, reactor.crash))

    def signalled(number: int, _: object) -> None:
        reactor.callFromThread(on_signal, signal.Signals(number))

    reactor.getThreadPool().threadFactory = partial(Thread, daemon=True)
    before = {number: signal.signal(number, signalled) for number in _SIGNALS}
    try:
        reactor.callWhenRunning(begin)
        reactor.run(installSignalHandlers=False)
    finally:
        for number, was in before.items():
            signal.signal(number, was)
    for failure in failures:
        failure.raiseException()
