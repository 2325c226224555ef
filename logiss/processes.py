"""
Starts the processes of workers, tells of their end, and ends those that do not.

A worker is the command of this process once more, from what is installed then, with the
listening socket and one end of an intercom.
"""

import errno
import os
import signal
import socket
import stat
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from attrs import frozen

from logiss.intercom import Intercom, connect

#: Tells a process that it is a worker.
WORKER = "LOGISS_WORKER"
#: Starts a logiss that is none of twistd, of which there may be only one for a pidfile.
#: No module is taken from the folder that it happens to be started in.
LOGISS_RUN = (sys.executable, "-P", "-m", "logiss", "run")
#: In place of a place: the process is to say whether it could be the parent, and end.
TRIAL = "trial"
#: How it says so; code of which a part is missing ends with 0 as well.
TRIAL_PASSED = 97
#: Linux starts no process with one that is as long (MAX_ARG_STRLEN, execve(2)).
VARIABLE_BYTES_MAX = 128 * 1024
#: The exit code of a process that somebody else has waited for.
_UNKNOWN = 255


@frozen
class Place:
    """
    What a worker is given at its start.

    @ivar listener, intercom: descriptors, as is that of its table of @ivar shares.
    """

    number: int
    listener: int
    shares: int
    intercom: int

    @property
    def text(self) -> str:
        return f"{self.number}:{self.listener}:{self.shares}:{self.intercom}"


def place_of(text: str) -> Place | None:
    """What `text` of the variable WORKER says; None for what no parent of ours says."""
    numbers = text.split(":")
    if len(numbers) != 4 or not all(n.isascii() and n.isdigit() for n in numbers):
        return None
    place = Place(*map(int, numbers))
    are_there = _is_socket(place.listener) and _is_socket(place.intercom)
    return place if are_there else None


def _is_socket(descriptor: int) -> bool:
    try:
        return stat.S_ISSOCK(os.fstat(descriptor).st_mode)
    except (OSError, OverflowError):
        return False


class IProcess(Protocol):
    """A process of a worker, and what is said to it."""

    @property
    def pid(self) -> int: ...

    @property
    def intercom(self) -> Intercom: ...

    @property
    def descriptor(self) -> int: ...

    def exit_code(self) -> int | None: ...

    def kill(self) -> None: ...

    def let_go(self) -> None: ...


class IProcesses(Protocol):
    """Whoever starts processes."""

    def start(
        self,
        number: int,
        listener: int,
        shares: int,
        environ: Mapping[str, str],
        on_message: Callable[[tuple[Any, ...]], None],
        on_end: Callable[[], None],
    ) -> IProcess: ...


class Child:
    """A process that is a child of this one."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._code: int | None = None

    def exit_code(self) -> int | None:
        """How it has ended: minus the signal when that did it; None while it lives."""
        if self._code is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:
                self._code = _UNKNOWN
            else:
                if pid:
                    self._code = os.waitstatus_to_exitcode(status)
        return self._code

    def kill(self) -> None:
        if self.exit_code() is None:
            os.kill(self.pid, signal.SIGKILL)


class Process(Child):
    """
    That of a worker.

    @ivar descriptor: of our end of the intercom.
    """

    def __init__(self, pid: int, descriptor: int, intercom: Intercom) -> None:
        super().__init__(pid)
        self.descriptor = descriptor
        self.intercom = intercom

    def let_go(self) -> None:
        """It has ended."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def this_command() -> tuple[str, ...]:
    """What this process has been started with."""
    return (sys.executable, *sys.orig_argv[1:])


def start_trial(
    command: Sequence[str], environ: Mapping[str, str], takeover: int
) -> Child:
    """
    Have a process find out whether `command` could be executed to take over what
    stands in the file with the descriptor `takeover`. It ends with TRIAL_PASSED, or
    otherwise.

    @raise OSError: it cannot be started.
    """
    return Child(_spawn(command, {**environ, WORKER: TRIAL}, [takeover]))


class Processes:
    """
    Starts them, or takes over those of the process that this one was before.

    @param command: what a worker is started with, besides its variables.
    """

    def __init__(self, reactor: object, command: Sequence[str]) -> None:
        self._reactor = reactor
        self._command = command

    def start(
        self,
        number: int,
        listener: int,
        shares: int,
        environ: Mapping[str, str],
        on_message: Callable[[tuple[Any, ...]], None],
        on_end: Callable[[], None],
    ) -> Process:
        """
        @raise OSError: the system has no room for another.
        """
        ours, theirs = socket.socketpair()
        with ours, theirs:
            descriptors = listener, shares, theirs.fileno()
            place = Place(number, *descriptors)
            variables = {**environ, WORKER: place.text}
            pid = _spawn(self._command, variables, descriptors)
            return self.take_over(pid, ours.detach(), on_message, on_end)

    def take_over(
        self,
        pid: int,
        descriptor: int,
        on_message: Callable[[tuple[Any, ...]], None],
        on_end: Callable[[], None],
        octets: bytes = b"",
    ) -> Process:
        """One that is there already, with our end of its intercom."""
        os.set_blocking(descriptor, False)
        os.set_inheritable(descriptor, False)
        intercom = Intercom(on_message, on_end, octets)
        connect(self._reactor, descriptor, intercom)
        return Process(pid, descriptor, intercom)


def _spawn(
    command: Sequence[str], environ: Mapping[str, str], descriptors: Sequence[int]
) -> int:
    for descriptor in descriptors:
        os.set_inheritable(descriptor, True)
    try:
        return os.posix_spawn(
            command[0],
            list(command),
            environ,
            # Ctrl-C is for the parent alone, which tells its workers what to do.
            setpgroup=0,
            # It would end by SIGHUP as long as it does not know what to do then.
            setsigmask=(signal.SIGHUP,),
        )
    except OSError as e:
        if e.errno == errno.E2BIG:
            raise OSError(e.errno, _why_too_long(environ)) from None
        raise
    finally:
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)


def _why_too_long(environ: Mapping[str, str]) -> str:
    """Of which of them the system starts no process; says no value."""
    names = [
        name
        for name, text in environ.items()
        if len(os.fsencode(f"{name}={text}")) >= VARIABLE_BYTES_MAX
    ]
    which = ", ".join(names) or "all variables together"
    return (
        f"{which}: too long for a process to be started with; a variable may have"
        f" {VARIABLE_BYTES_MAX} bytes with its name: put less into it"
    )
