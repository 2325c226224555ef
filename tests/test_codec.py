"""Which of the twins is used, and who is told."""

import os
import subprocess
import sys
from typing import Any
from unittest import SkipTest

from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from logiss import codec
from logiss.service import LogissService
from logiss.settings import Settings
from logiss.variables import Destination
from tests.fakes import Lines

RUN_SECONDS = 60

#: What a process of its own prints: the choice, and where it has it from.
CHOICE = (
    "print(codec.NAME, *(f.__module__"
    " for f in (codec.rewrite, codec.split, codec.syslog_frames, codec.answers)))"
)
PURE = "pure logiss.frames logiss.frames logiss.relp logiss.relp\n"
COMPILED = "compiled" + " logiss._frames" * 4 + "\n"


def printed(program: str, **environ: str) -> str:
    """What `program` prints in a process with just this environment."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": os.pathsep.join(sys.path), **environ},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", done.stderr
    return done.stdout


class ChoiceTests(SynchronousTestCase):
    """The compiled twin is used where it was built, unless it is switched off."""

    def need_compiled(self) -> None:
        try:
            from logiss import _frames  # type: ignore[attr-defined]  # noqa: F401
        except ImportError:
            if os.environ.get("CI"):
                self.fail("logiss._frames was not built")
            raise SkipTest(
                "logiss._frames was not built: is there a C compiler?"
            ) from None

    def test_compiled(self) -> None:
        """It is used when it is there."""
        self.need_compiled()
        self.assertEqual(printed(f"from logiss import codec; {CHOICE}"), COMPILED)

    def test_switched_off(self) -> None:
        """``LOGISS_PURE=1`` takes the pure one."""
        program = f"from logiss import codec; {CHOICE}"
        self.assertEqual(printed(program, LOGISS_PURE="1"), PURE)

    def test_not_switched_off(self) -> None:
        """Another value of ``LOGISS_PURE`` does not."""
        self.need_compiled()
        program = f"from logiss import codec; {CHOICE}"
        for value in ("", "0"):
            with self.subTest(value):
                self.assertEqual(printed(program, LOGISS_PURE=value), COMPILED)

    def test_not_built(self) -> None:
        """The pure one serves where there is no other, without a word."""
        program = (
            "import sys; sys.modules['logiss._frames'] = None;"
            f" from logiss import codec; {CHOICE}"
        )
        self.assertEqual(printed(program), PURE)

    def test_works(self) -> None:
        """What was chosen corrects frames."""
        batch = codec.rewrite(b"11 < t h a p m", b"")
        self.assertEqual(batch.octets, b"13 < t h a p m -")
        self.assertEqual(codec.split(batch.octets), [b"< t h a p m -"])
        made = codec.syslog_frames(b"1 m", 0, 1, 2)
        self.assertEqual(made, (b"2 syslog 1 m\n", 1, 3))


class FirstLineTests(SynchronousTestCase):
    """The first line of the log says which twin is at work."""

    def first_line(self) -> dict[str, str]:
        reactor: Any = MemoryReactorClock()
        settings = Settings(
            deploy="test",
            port=5000,
            forward_dest=Destination("192.0.2.1", 601),
            tokens=(("user", "token"),),
        )
        lines = Lines()
        LogissService(reactor, settings, lines.write).startService()
        return lines.pairs[0]

    def test_chosen(self) -> None:
        """The one that was chosen."""
        line = self.first_line()
        self.assertEqual((line["ns"], line["at"]), ("main", "start"))
        self.assertEqual(line["codec"], codec.NAME)

    def test_each(self) -> None:
        """Either of them."""
        for name in ("compiled", "pure"):
            self.patch(codec, "NAME", name)
            self.assertEqual(self.first_line()["codec"], name)
