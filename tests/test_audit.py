"""What is known to be vulnerable is told from a database that cannot be reached."""

import json

from twisted.trial.unittest import SynchronousTestCase

from tests.audit import Verdict, verdict

SOUND = {"name": "attrs", "version": "26.1.0", "vulns": []}
UNSOUND = {
    "name": "twisted",
    "version": "22.2.0",
    "vulns": [
        {"id": "PYSEC-2024-75", "fix_versions": ["24.7.0rc1"]},
        {"id": "GHSA-vg46-2rrj-3647", "fix_versions": []},
    ],
}
UNKNOWN = {"name": "ours", "skip_reason": "Dependency not found on PyPI"}


def of(*dependencies: object, errors: str = "") -> Verdict:
    return verdict(json.dumps({"dependencies": dependencies, "fixes": []}), errors)


class VerdictTests(SynchronousTestCase):
    """pip-audit's words are read, not its exit code."""

    def test_sound(self) -> None:
        """Nothing found is no failure."""
        self.assertEqual(of(SOUND), Verdict(0, ["1 packages, 0 known vulnerabilities"]))

    def test_unsound(self) -> None:
        """A finding is one, and is named with what mends it."""
        found = of(SOUND, UNSOUND, UNKNOWN)
        self.assertEqual(found.code, 1)
        self.assertEqual(
            found.said,
            [
                "twisted 22.2.0: PYSEC-2024-75, mended in 24.7.0rc1",
                "twisted 22.2.0: GHSA-vg46-2rrj-3647, mended in no version yet",
                "2 packages, 2 known vulnerabilities",
                "not in the database: ours",
            ],
        )

    def test_knows_nothing(self) -> None:
        """An index that knows no package at all is not the database."""
        found = of(UNKNOWN, UNKNOWN)
        self.assertEqual(found.code, 0)
        self.assertIn("cannot be reached: it knows none of 2", found.said[0])

    def test_not_reached(self) -> None:
        """No connection is no finding, and said in one line."""
        for why in (
            "requests.exceptions.ConnectionError: HTTPSConnectionPool(...)",
            "requests.exceptions.ConnectTimeout: ...",
            "requests.exceptions.ProxyError: ...",
            "pip_audit._service.interface.ServiceError: ...",
            "json.decoder.JSONDecodeError: Expecting value",
        ):
            with self.subTest(why):
                found = verdict("", f"Traceback (most recent call last):\n{why}\n")
                self.assertEqual(found.code, 0)
                (line,) = found.said
                self.assertIn(f"cannot be reached: {why}", line)

    def test_failed(self) -> None:
        """What is neither is a failure of the audit, never passed over."""
        for output, errors in [
            ("", "ModuleNotFoundError: No module named 'pip_audit'"),
            ("", ""),
            ("[]", "TypeError: x"),
            ("{}", "usage: pip-audit"),
        ]:
            with self.subTest((output, errors)):
                self.assertEqual(verdict(output, errors).code, 1)
