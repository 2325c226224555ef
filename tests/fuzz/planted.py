"""
Finds out whether the targets see mistakes that are planted.

``python -m tests.fuzz.planted`` copies the tree, once for each of `MISTAKES`, and lets
the corpus and each engine look for it. It prints a row for each, and ends with 1 when
one is found by nobody.
"""

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from attrs import frozen

from tests.fuzz.engines import ENGINES
from tests.fuzz.targets import TARGETS

TREE = Path(__file__).parents[2]
SECONDS = 60
CORPUS_SECONDS = 20


@frozen
class Mistake:
    """
    @ivar target: the one that is to see it.
    @ivar right: found once in the room's source.
    @ivar wrong: what stands there instead.
    @ivar by_corpus: whether the corpus shows it, by an error and in no time.
    """

    name: str
    target: str
    room: str
    right: str
    wrong: str
    by_corpus: bool = True


MISTAKES = (
    Mistake(
        "takes other codings before chunked",
        "http",
        "heads",
        "    return codings is not None and (\n",
        "    return codings is None and (\n",
    ),
    Mistake(
        "takes a doubled Host",
        "http",
        "heads",
        '    if len(hosts) != 1 and (hosts or version == "1.1"):\n',
        '    if not hosts and version == "1.1":\n',
    ),
    Mistake(
        "takes a doubled Content-Length",
        "http",
        "channel",
        "            self._parser.feed_data(octets)\n",
        "            import re\n"
        '            again = rb"(\\nContent-Length: .*?)\\r\\nContent-Length: [0-9]+"\n'
        '            self._parser.feed_data(re.sub(again, rb"\\1", bytes(octets)))\n',
    ),
    Mistake(
        "loses small pieces of a body behind its first 300 bytes",
        "http",
        "requests",
        "            chunks[-1] += chunk\n",
        "            chunks[-1] += chunk if len(chunks[-1]) < 300 else b''\n",
    ),
    Mistake(
        "keeps the budget of refused posts",
        "http",
        "web",
        "        if post.reserved_bytes:\n",
        "        if post.reserved_bytes and reason is None:\n",
    ),
    Mistake(
        "lets a post stay whose client has gone",
        "http",
        "web",
        "            post.client_gone = True\n",
        "            post.client_gone = True\n"
        "            self.drain._inside += post.content_encoding == b'gzip'\n",
    ),
    Mistake(
        "a Content-Length is one too small",
        "http",
        "answers",
        '(b"Content-Length", b"%d" % len(self.body())),',
        '(b"Content-Length", b"%d" % len(self.text)),',
    ),
    Mistake(
        "takes a frame that is one octet short",
        "body",
        "frames",
        "        if stop > size:\n",
        "        if stop > size + 1:\n",
    ),
    Mistake(
        "keeps a byte of each gzip body",
        "gzip",
        "inflate",
        "        if self._members > self._limits.members:\n",
        '        __builtins__.setdefault("kept", []).append(self._rest[:1] + b"x")\n'
        "        if self._members > self._limits.members:\n",
        by_corpus=False,
    ),
    Mistake(
        "inflates one byte more than allowed",
        "gzip",
        "inflate",
        "        if self._inflated_bytes > most:\n",
        "        if self._inflated_bytes > most + 1:\n",
    ),
    Mistake(
        "spins behind a half member",
        "gzip",
        "inflate",
        "            if self._member is not None and not self._rest:\n",
        "            if self._members < 2 and not self._rest:\n",
        by_corpus=False,
    ),
    Mistake(
        "forgets which answer has begun",
        "relp",
        "relp",
        "            self._seen -= begun\n",
        "            self._seen -= begun > 20 and begun\n",
    ),
    Mistake(
        "takes an answer twice",
        "relp",
        "relp",
        " or txnr in self._early:",
        ":",
    ),
)


def main() -> int:
    engines = list(ENGINES)
    print(f"{'mistake':45}{'corpus':>12}" + "".join(f"{e:>12}" for e in engines))
    missed = 0
    for mistake in MISTAKES:
        with tempfile.TemporaryDirectory() as name:
            tree = Path(name, "tree")
            plant(mistake, tree)
            found = ["yes" if seen_by_corpus(mistake, tree) else "no"]
            found += [_by_engine(mistake, tree, engine) for engine in engines]
        print(f"{mistake.name:45}" + "".join(f"{f:>12}" for f in found), flush=True)
        missed += set(found) == {"no"}
    return int(missed > 0)


def plant(mistake: Mistake, tree: Path) -> None:
    """Make `tree`, with `mistake` in it."""
    ignored = shutil.ignore_patterns("__pycache__", "integration", "faults")
    for folder in ("logiss", "tests"):
        shutil.copytree(TREE / folder, tree / folder, ignore=ignored)
    path = tree / "logiss" / f"{mistake.room}.py"
    source = path.read_text()
    assert source.count(mistake.right) == 1, f"{mistake.name}: not in {mistake.room}"
    path.write_text(source.replace(mistake.right, mistake.wrong))


def seen_by_corpus(mistake: Mistake, tree: Path) -> bool:
    """Whether an input of the corpus does not pass its target, or not in time."""
    target = TARGETS[mistake.target]
    program = (
        f"from tests.fuzz.targets import TARGETS\n"
        f"target = TARGETS[{target.name!r}]\n"
        f"check = target.load()\n"
        f"for _, octets in target.seeds(): check(octets)"
    )
    return _run(["-c", program], tree, CORPUS_SECONDS) != 0


def _by_engine(mistake: Mistake, tree: Path, engine: str) -> str:
    """After how many seconds it was found."""
    begun_at = time.monotonic()
    fuzz = ["-m", "tests.fuzz", mistake.target, "--seconds", f"{SECONDS}"]
    code = _run([*fuzz, "--engine", engine], tree, 3 * SECONDS)
    return f"{time.monotonic() - begun_at:.0f} s" if code else "no"


def _run(arguments: list[str], tree: Path, within_seconds: float) -> int:
    """Its exit code; a hang is an error too."""
    try:
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=tree,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=within_seconds,
            check=False,
        ).returncode
    except subprocess.TimeoutExpired:
        return 1


if __name__ == "__main__":
    sys.exit(main())
