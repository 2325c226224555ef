"""
A logiss that answers too early, which the scenarios have to catch.

A write counts as delivered as soon as it was handed to the transport, while it still
lies in the process's buffer or in the kernel's. Run as ``logiss``:
``python -m tests.faults.lying run``.
"""

import sys
from collections.abc import Sequence

from twisted.internet.defer import Deferred, succeed

from logiss.__main__ import main
from logiss.senders import SyslogSender


def _send(self: SyslogSender, chunks: Sequence[bytes]) -> Deferred[None]:
    self.transport.write(b"".join(chunks))
    return succeed(None)


if __name__ == "__main__":
    SyslogSender.send = _send  # type: ignore[method-assign]
    sys.exit(main())
