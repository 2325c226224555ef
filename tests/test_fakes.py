"""The fakes provide what they stand for."""

from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from logiss.pool import IDeliverer
from logiss.redis import IHash
from logiss.senders import ISender, ISenderOwner
from tests.fakes import FakeDeliverer, FakeHash, FakeOwner, FakeSender


class FakesTests(SynchronousTestCase):
    """Each fake is checked against its interface."""

    def test_interfaces(self) -> None:
        """Fakes provide their interfaces."""
        verifyObject(ISender, FakeSender())
        verifyObject(ISenderOwner, FakeOwner())
        verifyObject(IDeliverer, FakeDeliverer())
        verifyObject(IHash, FakeHash())
