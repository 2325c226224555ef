"""
Puts TLS below a client factory, and finds out why a certificate was refused.

The backend's certificate must lead to an authority in PEMFILE and be for the host
of FORWARD_DEST (RFC 6125).
"""

from collections.abc import Callable
from typing import Any

from OpenSSL import SSL
from OpenSSL.crypto import FILETYPE_PEM, X509
from twisted.internet import ssl
from twisted.internet.interfaces import (
    IOpenSSLClientConnectionCreator,
    IProtocolFactory,
    IReactorTime,
)
from twisted.internet.protocol import ClientFactory
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from zope.interface import implementer

from logiss.settings import BackendPEM


class ClientTLS(TLSMemoryBIOProtocol):
    """TLS that writes at once; Twisted's default keeps small writes for a turn."""

    #: Why the backend's certificate was refused, when OpenSSL has refused it.
    refusal = ""

    def holds_cleartext(self) -> bool:
        """Whether bytes wait to be encrypted until the backend has been read."""
        return bool(self._appSendBuffer)


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

    def __init__(self, creator: IOpenSSLClientConnectionCreator) -> None:
        self._creator = creator

    def clientConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        assert isinstance(protocol, ClientTLS)
        connection = self._creator.clientConnectionForTLS(protocol)

        def verified(
            _: SSL.Connection, certificate: X509, error: int, depth: int, ok: int
        ) -> bool:
            if not ok:
                name = certificate.get_subject().CN or "without a common name"
                why = _VERIFY_ERRORS.get(error, f"was refused (X509_V_ERR {error})")
                protocol.refusal = f"TLS: the backend's certificate {name!r} {why}"
            return bool(ok)

        connection.set_verify(SSL.VERIFY_PEER, verified)
        return connection


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
    creator = _ExplainingCreator(
        ssl.optionsForClientTLS(
            host.rstrip("."), authorities, ours, extraCertificateOptions=more
        )
    )

    def wrap(factory: ClientFactory[Any]) -> IProtocolFactory:
        wrapped = TLSMemoryBIOFactory(creator, True, factory, clock)
        wrapped.protocol = ClientTLS
        return wrapped

    return wrap
