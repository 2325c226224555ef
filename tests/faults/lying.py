"""
A logiss that answers too early, which the scenarios have to catch.

A delivery counts as confirmed as soon as it was handed to the wire, while its bytes
still lie in the process's buffer or in the kernel's; nobody looks what the backend's
kernel has acknowledged, and nothing is replayed. Run as ``logiss``:
``python -m tests.faults.lying run``.
"""

import sys
from collections.abc import Sequence

from logiss.__main__ import main
from logiss.senders import Delivery, Loss
from logiss.syslog_sender import SyslogSender


class _Liar:
    """What takes the place of a sender's own methods."""

    def send(self: SyslogSender, deliveries: Sequence[Delivery]) -> bool:  # type: ignore[misc]
        if self.wire.why_ended():
            return False
        octets = b"".join(delivery.octets for delivery in deliveries)
        self.transport.write(octets)
        self.owner.delivered(self, deliveries)
        self.factory.call_later(0, _get_ready, self)
        return True

    def loss(self: SyslogSender, why: str, in_order: bool) -> Loss:  # type: ignore[misc]
        return Loss(why)


def _get_ready(sender: SyslogSender) -> None:
    if sender.usable:
        sender.owner.sender_ready(sender)


if __name__ == "__main__":
    SyslogSender.send = _Liar.send  # type: ignore[method-assign]
    SyslogSender.loss = _Liar.loss  # type: ignore[method-assign]
    sys.exit(main())
