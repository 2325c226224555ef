"""
Scenarios: TLS that breaks, and TLS that must not come about, whatever is posted.

In the cases of the latter the receiver, or the way in which it speaks TLS, is not to
be trusted. Then it comes back as it should be, and a fresh POST passes.
"""

import re
import signal
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import trustme
from attrs import frozen

from tests.faults.breaks import SLOW, broken_again_and_again
from tests.faults.intake import Intake
from tests.faults.load import Shape
from tests.faults.receivers import Sink
from tests.faults.stage import Stage, wait_until

_HOST = "127.0.0.1"
_PAST = datetime(2020, 1, 1, tzinfo=UTC)
_CONNECT_SECONDS = 0.5
#: For a machine that is busy with other things.
_SLACK_SECONDS = 1.0
_REFUSED = Shape(clients=10, messages=500, posts_per_second=0)
#: TLS records (RFC 8446 section 5.1) begin with one of these types and a version.
_RECORD_TYPES = (20, 21, 22, 23)


@frozen
class _House:
    """Who trusts whom: an authority, its server and its client."""

    folder: Path
    authority: trustme.CA

    @classmethod
    def built(cls, stage: Stage) -> "_House":
        return cls(stage.subfolder("tls"), trustme.CA())

    def file(self, name: str, *blocks: trustme.Blob) -> Path:
        path = self.folder / name
        path.write_bytes(b"".join(block.bytes() for block in blocks))
        return path

    def certificate(
        self,
        name: str,
        host: str = _HOST,
        authority: trustme.CA | None = None,
        not_after: datetime | None = None,
    ) -> Path:
        """A private key and a certificate for it."""
        issuer = authority or self.authority
        issued = issuer.issue_cert(host, not_after=not_after)
        return self.file(name, issued.private_key_and_cert_chain_pem)

    def pemfile(self, client_of: trustme.CA) -> Path:
        """What logiss trusts, and who it says it is."""
        client = client_of.issue_cert("client@example.com")
        return self.file(
            "pemfile", self.authority.cert_pem, client.private_key_and_cert_chain_pem
        )


def _proper(house: _House) -> Sequence[str]:
    return "--certificate", str(house.certificate("proper"))


def _expired(house: _House) -> Sequence[str]:
    return "--certificate", str(house.certificate("expired", not_after=_PAST))


def _self_signed(house: _House) -> Sequence[str]:
    # An authority is what signs itself, and its certificate names no host; that it
    # is refused for who has signed it comes first.
    alone = trustme.CA()
    return "--certificate", str(
        house.file("self-signed", alone.private_key_pem, alone.cert_pem)
    )


def _wrong_name(house: _House) -> Sequence[str]:
    return "--certificate", str(house.certificate("wrong-name", "127.0.0.2"))


def _wrong_authority(house: _House) -> Sequence[str]:
    return "--certificate", str(house.certificate("wrong", authority=trustme.CA()))


def _silent(house: _House) -> Sequence[str]:
    return ("--silent",)


def _abrupt(house: _House) -> Sequence[str]:
    return "--silent", "--hang-up"


def _refusing(house: _House) -> Sequence[str]:
    trusted = house.file("clients", trustme.CA().cert_pem)
    return *_proper(house), "--client-authority", str(trusted)


def restarted(stage: Stage) -> None:
    """A receiver over TLS is restarted every 1-3 s under load."""
    _broken(stage, signal.SIGTERM)


def killed(stage: Stage) -> None:
    """A receiver over TLS, a slow one, is killed every 1-3 s under load."""
    _broken(stage, signal.SIGKILL, *SLOW)


def _broken(stage: Stage, number: signal.Signals, *options: str) -> None:
    house = _House.built(stage)
    sink = stage.sink(*_proper(house), *options)
    pemfile = house.pemfile(client_of=house.authority)
    broken_again_and_again(stage, sink, number, PEMFILE=str(pemfile))
    run = stage.run.encode()
    plain = any(run in octets for octets in sink.wire())
    stage.demand(not plain, "a message has left in plaintext")


def _refused(
    stage: Stage, options: Callable[[_House], Sequence[str]], cause: str
) -> None:
    house = _House.built(stage)
    sink = stage.sink(*options(house))
    intake = stage.starting(
        sink.destination,
        DELIVERY_TIMEOUT="1",
        FORWARD_DEST_CONNECT_TIMEOUT=f"{_CONNECT_SECONDS:g}",
        PEMFILE=str(house.pemfile(client_of=house.authority)),
    )
    intake.wait_until_listening()
    load = stage.load(intake, _REFUSED)
    stage.until_sent(stage.size.messages)
    load.stop()
    wait_until(lambda: bool(intake.messages_of("forwarder.connect.error")), 10)
    _judge(stage, sink, intake, cause)
    sink.end()
    sink.options = _proper(house)
    sink.start()
    stage.fresh(intake, time.monotonic())
    # That is how long logiss backs off, not how long anything is gone.
    stage.row.recover_seconds = None
    stage.finish()


def _judge(stage: Stage, sink: Sink, intake: Intake, cause: str) -> None:
    stage.demand(not any(stage.ledger.answered(200)), "a POST was answered 200")
    wire = sink.wire()
    stage.demand(any(wire), "nobody has tried to connect")
    run = stage.run.encode()
    for octets in wire:
        stage.demand(run not in octets, "a message has left in plaintext")
        stage.demand(_is_tls(octets), f"this is no TLS: {octets[:40]!r}")
    stage.demand(not intake.counted("forwarder.connect.success"), "it was trusted")
    causes = intake.messages_of("forwarder.connect.error")
    stage.demand(
        bool(causes) and all(re.search(cause, one) for one in causes),
        f"the log does not name the cause, {cause!r}, but {sorted(causes)}",
    )
    longest = sink.longest_connection_seconds()
    stage.demand(
        longest <= _CONNECT_SECONDS + _SLACK_SECONDS,
        f"a connection was held for {longest:.1f} s",
    )
    stage.row.facts.append("; ".join(sorted(causes)))


def _is_tls(octets: bytes) -> bool:
    """Whether `octets` are records."""
    while octets:
        if octets[0] not in _RECORD_TYPES or octets[1:2] not in (b"\x03", b""):
            return False
        octets = octets[5 + int.from_bytes(octets[3:5], "big") :]
    return True


def _scenario(
    sentence: str, options: Callable[[_House], Sequence[str]], cause: str
) -> Callable[[Stage], None]:
    play = partial(_refused, options=options, cause=cause)
    play.__doc__ = sentence
    return play


#: By name: what plays it.
CASES = {
    "tls-expired": _scenario(
        "The receiver's certificate has expired.", _expired, "has expired"
    ),
    "tls-self-signed": _scenario(
        "The receiver's certificate is signed by itself.",
        _self_signed,
        "is self-signed",
    ),
    "tls-wrong-name": _scenario(
        "The receiver's certificate is for another name.",
        _wrong_name,
        "is for another name",
    ),
    "tls-wrong-ca": _scenario(
        "The receiver's certificate is of an authority that is not trusted.",
        _wrong_authority,
        "authority that is not in PEMFILE",
    ),
    "tls-silent": _scenario(
        "The receiver never shakes hands.", _silent, r"no usable connection within"
    ),
    "tls-abrupt": _scenario(
        "The receiver ends the connection in the handshake.",
        _abrupt,
        r"closed the connection|broke the handshake off|[Cc]onnection .*lost",
    ),
    "tls-client-refused": _scenario(
        "The receiver does not trust the certificate of logiss.",
        _refusing,
        r"TLS: .*(unknown ca|decrypt error|certificate)",
    ),
}
