"""
Looks for known vulnerabilities of what is installed.

``python -m tests.audit`` asks pip-audit, which asks PyPI. It ends with 1 when something
is found; and with 0 when the database cannot be reached, and says so. pip-audit's own
exit code does not tell these apart: it is 1 for both, and 0 when an index that knows
nothing of vulnerabilities has answered in PyPI's place.
"""

import json
import re
import subprocess
import sys
from typing import Any

from attrs import frozen

_RUN_SECONDS = 300
_ASK = "-m pip_audit --skip-editable --progress-spinner off --timeout 15 --format json"
# How the errors of requests and of pip-audit are called where a service does not
# answer, or not as one.
_UNREACHABLE = re.compile(
    r"\b(?:\w*Connect\w*Error|\w*Timeout|ProxyError|SSLError|HTTPError|ServiceError"
    r"|NameResolutionError|JSONDecodeError)\b"
)


@frozen
class Verdict:
    """
    @ivar said: on a line each.
    """

    code: int
    said: list[str]


def verdict(output: str, errors: str) -> Verdict:
    """What it means that pip-audit has written `output` and `errors`."""
    try:
        dependencies = json.loads(output)["dependencies"]
    except (ValueError, KeyError, TypeError):
        if _UNREACHABLE.search(errors):
            return _not_reached(_last_line(errors))
        return Verdict(1, [f"pip-audit has failed: {_last_line(errors)}"])
    audited = [d for d in dependencies if "vulns" in d]
    unknown = [d["name"] for d in dependencies if "vulns" not in d]
    if not audited:
        return _not_reached(f"it knows none of {len(unknown)} packages")
    found = [_finding(d, v) for d in audited for v in d["vulns"]]
    said = [*found, f"{len(audited)} packages, {len(found)} known vulnerabilities"]
    if unknown:
        said.append(f"not in the database: {', '.join(unknown)}")
    return Verdict(int(bool(found)), said)


def _not_reached(why: str) -> Verdict:
    return Verdict(0, [f"the database of vulnerabilities cannot be reached: {why}"])


def _last_line(errors: str) -> str:
    lines = errors.strip().splitlines()
    return lines[-1].strip() if lines else "it has said nothing"


def _finding(dependency: dict[str, Any], vulnerability: dict[str, Any]) -> str:
    versions = ", ".join(vulnerability.get("fix_versions", ())) or "no version yet"
    return (
        f"{dependency['name']} {dependency['version']}: {vulnerability['id']},"
        f" mended in {versions}"
    )


def main() -> int:
    try:
        done = subprocess.run(
            [sys.executable, *_ASK.split()],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_RUN_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        reached = _not_reached(f"no answer within {_RUN_SECONDS} s")
    else:
        reached = verdict(done.stdout, done.stderr)
    for line in reached.said:
        print(f"audit: {line}")
    return reached.code


if __name__ == "__main__":
    sys.exit(main())
