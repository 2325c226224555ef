"""
Puts TLS below a client factory, and finds out why a certificate was refused.

The backend's certificate must lead to an authority in PEMFILE and be for the host
of FORWARD_DEST (RFC 6125).
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

from cryptography.x509.oid import NameOID
from OpenSSL import SSL
from OpenSSL.crypto import FILETYPE_PEM, X509
from service_identity import CertificateError, VerificationError
from service_identity.cryptography import (
    verify_certificate_hostname,
    verify_certificate_ip_address,
)
from twisted.internet import ssl
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import (
    IDelayedCall,
    IHalfCloseableProtocol,
    IOpenSSLClientConnectionCreator,
    IProtocolFactory,
    IReactorTime,
)
from twisted.internet.protocol import ClientFactory, connectionDone
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from logiss.variables import BackendPEM

#: How long the backend may take to end TCP behind the TLS session.
TCP_END_SECONDS = 1.0


class IConfirmable(Protocol):
    """A protocol that wants to know how far the session is."""

    def session_confirmed(self) -> None:
        """Something has come in the session, so the backend lives with it."""

    def stream_ended(self) -> None:
        """The backend has ended its side of TCP; the socket can still be asked."""


@implementer(IHalfCloseableProtocol)
class ClientTLS(TLSMemoryBIOProtocol):
    """
    TLS that writes at once, where Twisted's default keeps small writes for a turn,
    and that sees how TCP ends.

    @ivar refusal: why the backend's certificate was refused, when OpenSSL has
        refused it.
    @ivar certificate: the backend's, once it was shown.
    @ivar tcp_end: how TCP has ended, once it has.
    """

    refusal = ""
    certificate: X509 | None = None
    tcp_end: Failure | None = None
    _ending: IDelayedCall | None = None

    def readConnectionLost(self) -> None:
        cast(IConfirmable, self.wrappedProtocol).stream_ended()
        cast(Any, self.transport).connectionLost(Failure(ConnectionDone()))

    def writeConnectionLost(self) -> None:
        """Our side has ended, as we wanted it to."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.tcp_end = reason
        if self._ending is not None and self._ending.active():
            self._ending.cancel()
        super().connectionLost(reason)

    def _shutdownTLS(self) -> None:
        if not self._is_ended_by_backend():
            super()._shutdownTLS()
            return
        try:
            self._tlsConnection.shutdown()
        except SSL.Error:
            pass
        self._flushSendBIO()

    def _tlsShutdownFinished(self, reason: Failure | None) -> None:
        if reason is not None or not self._is_ended_by_backend():
            super()._tlsShutdownFinished(reason)
            return
        # To close TCP now, as Twisted would, is not to learn whether the backend has
        # read everything: then it ends TCP in order, else by a reset.
        self._lostTLSConnection = True
        self._flushSendBIO()
        tcp = cast(Any, self.transport)
        tcp.loseWriteConnection()
        clock = cast(Any, self.factory)._clock
        self._ending = clock.callLater(TCP_END_SECONDS, tcp.loseConnection)

    def _is_ended_by_backend(self) -> bool:
        """Whether the backend has ended the session in order, and before us."""
        connection = self._tlsConnection
        return not self.disconnecting and bool(
            connection.get_shutdown() & SSL.RECEIVED_SHUTDOWN
        )

    def dataReceived(self, data: bytes) -> None:
        was_shaken = self._handshakeDone
        super().dataReceived(data)
        if was_shaken and not self.is_over:
            cast(IConfirmable, self.wrappedProtocol).session_confirmed()

    @property
    def is_over(self) -> bool:
        """
        Whether the session has ended. From then on Twisted drops what is written,
        a turn before it says so by connectionLost.
        """
        return self._lostTLSConnection

    @property
    def is_confirmed_by_handshake(self) -> bool:
        """
        Whether the backend has accepted us when the handshake is done. In TLS 1.3
        it refuses a client certificate only after that.
        """
        return bool(self.getHandle().get_protocol_version() < SSL.TLS1_3_VERSION)

    def write_through(
        self, octets: bytes, send_now: Callable[[Sequence[bytes]], int]
    ) -> bool:
        """
        Encrypt `octets` and hand the ciphertext over, at once as far as that goes.

        Twisted's way is a write to the transport for each record of 16 KiB.

        @param send_now: gives the kernel what it takes and says how much that was.
        @return: whether the kernel has all of the ciphertext.
        """
        if self.disconnecting or self._lostTLSConnection or self._has_unsent():
            self.write(octets)
            return False
        encrypted, whole = 0, memoryview(octets)
        try:
            while encrypted < len(whole):
                end = encrypted + _RECORD_BYTES
                encrypted += self._tlsConnection.send(whole[encrypted:end])
        except SSL.Error:
            # The ordinary way knows what to do, and gets what is left.
            pass
        ciphertext = self._take_ciphertext(encrypted)
        taken = send_now([ciphertext]) if ciphertext else 0
        if taken < len(ciphertext):
            cast(Any, self.transport).write(ciphertext[taken:])
        if encrypted < len(whole):
            self.write(octets[encrypted:])
        return taken == len(ciphertext) and encrypted == len(whole)

    def _has_unsent(self) -> bool:
        """Whether something waits that what is written now has to follow."""
        tcp = cast(Any, self.transport)
        return bool(self._appSendBuffer or tcp.dataBuffer or tcp._tempDataLen)

    def _take_ciphertext(self, encrypted: int) -> bytes:
        records = encrypted // _RECORD_BYTES + 1
        most = encrypted + records * _RECORD_OVERHEAD_MAX
        pieces = []
        while True:
            try:
                pieces.append(self._tlsConnection.bio_read(most))
            except SSL.WantReadError:
                return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def holds_cleartext(self) -> bool:
        """Whether bytes wait to be encrypted until the backend has been read."""
        return bool(self._appSendBuffer)


_RECORD_BYTES = 2**14
# RFC 5246 section 6.2.3 and RFC 8446 section 5.2: header and expansion of a record.
_RECORD_OVERHEAD_MAX = 5 + 2048

# X509_V_ERR_* of OpenSSL's x509_vfy.h that an operator meets.
_VERIFY_ERRORS = {
    9: "is not valid yet",
    10: "has expired",
    18: "is self-signed and not in PEMFILE",
    19: "leads to a root that is not in PEMFILE",
    20: "was issued by an authority that is not in PEMFILE",
    21: "was issued by an authority that is not in PEMFILE",
    24: "was issued by a certificate that is no authority",
}


@implementer(IOpenSSLClientConnectionCreator)
class _ExplainingCreator:
    """Remembers why OpenSSL refuses a certificate; its own error does not say."""

    def __init__(self, creator: IOpenSSLClientConnectionCreator, host: str) -> None:
        self._creator = creator
        self._host = host

    def clientConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        assert isinstance(protocol, ClientTLS)
        connection = self._creator.clientConnectionForTLS(protocol)

        def verified(
            _: SSL.Connection, certificate: X509, error: int, depth: int, ok: int
        ) -> bool:
            why = ""
            if depth == 0:
                protocol.certificate = certificate
            if not ok:
                why = _VERIFY_ERRORS.get(error, f"was refused (X509_V_ERR {error})")
            elif depth == 0 and not _is_for(certificate, self._host):
                why = f"is for another name than {self._host!r}"
            if why:
                protocol.refusal = (
                    f"TLS: the backend's certificate{_name_of(certificate)} {why}"
                )
            return not protocol.refusal

        # This takes the place of Twisted's own callback, which may be where Twisted
        # checks the name: hence the check above.
        connection.set_verify(SSL.VERIFY_PEER, verified)
        return connection


def _is_for(certificate: X509, host: str) -> bool:
    checked = certificate.to_cryptography()
    try:
        if isIPAddress(host) or isIPv6Address(host):
            verify_certificate_ip_address(checked, host)
        else:
            verify_certificate_hostname(checked, host)
    except (VerificationError, CertificateError):
        return False
    return True


def _name_of(certificate: X509) -> str:
    """The common name of a certificate, to stand behind the word."""
    names = certificate.to_cryptography().subject.get_attributes_for_oid(
        NameOID.COMMON_NAME
    )
    return f" {str(names[0].value)!r}" if names else ""


def tls_wrapper(
    host: str, pem: BackendPEM, clock: IReactorTime
) -> Callable[[ClientFactory[Any]], IProtocolFactory]:
    """
    What puts TLS below a factory: `host` is the name that the backend's
    certificate must be for (RFC 6125), `pem` whom to trust and who we are.
    """
    authorities = ssl.trustRootFromCertificates(
        [ssl.Certificate.loadPEM(block) for block in pem.authorities]
    )
    ours, more = None, {}
    if pem.certificate is not None and pem.private_key is not None:
        ours = ssl.PrivateCertificate.fromCertificateAndKeyPair(
            ssl.Certificate.loadPEM(pem.certificate),
            ssl.KeyPair.load(pem.private_key, FILETYPE_PEM),
        )
        more["extraCertChain"] = [
            ssl.Certificate.loadPEM(block).original for block in pem.chain
        ]
    host = host.rstrip(".")
    creator = _ExplainingCreator(
        ssl.optionsForClientTLS(host, authorities, ours, extraCertificateOptions=more),
        host,
    )

    def wrap(factory: ClientFactory[Any]) -> IProtocolFactory:
        wrapped = TLSMemoryBIOFactory(creator, True, factory, clock)
        wrapped.protocol = ClientTLS
        return wrapped

    return wrap
