"""
Feeds new octets to the targets, one after the other, and says what was found.
"""

import argparse
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from tests.fuzz.engines import ENGINES, FOUND, Assignment
from tests.fuzz.targets import TARGETS, Target

TREE = Path(__file__).parents[2]
#: Beyond its time an engine reads its corpus, and may be at an input.
GRACE_SECONDS = 60


def main() -> int:
    options = _options()
    folder: Path = options.folder.resolve()
    findings, targets = folder / "findings", [TARGETS[n] for n in options.targets]
    findings.mkdir(parents=True, exist_ok=True)
    if options.inside:
        (target,) = targets
        ENGINES[options.engine](
            Assignment(target, options.seconds, folder / target.name, findings)
        )
        return 0
    shares = sum(target.share for target in targets)
    print(f"fuzz: {options.seconds:g} seconds, by {options.engine}", flush=True)
    return max(
        _run(target, options.seconds * target.share / shares, options.engine, folder)
        for target in targets
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description=(__doc__ or "").strip()
    )
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=" ".join(TARGETS))
    parser.add_argument("--seconds", type=float, default=60.0, help="for all of them")
    parser.add_argument("--engine", choices=list(ENGINES), default=_default_engine())
    parser.add_argument(
        "--folder",
        type=Path,
        default=TREE / ".fuzz",
        help="for inputs that are kept, logs and findings",
    )
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    for name in options.targets:
        if name not in TARGETS:
            parser.error(f"no target but {', '.join(TARGETS)}")
    options.targets = options.targets or list(TARGETS)
    return options


def _default_engine() -> str:
    return "hypothesis" if find_spec("atheris") is None else "atheris"


def _run(target: Target, seconds: float, engine: str, folder: Path) -> int:
    """
    Run an engine in a process of its own.

    @return: 1 when it has found something.
    """
    (folder / target.name).mkdir(exist_ok=True)
    before = set((folder / "findings").iterdir())
    log = folder / f"{target.name}.log"
    code = _engine(target, seconds, engine, folder, log)
    said = log.read_text(errors="replace")
    found = sorted(set((folder / "findings").iterdir()) - before)
    if code == 0 and not found:
        runs = re.findall(r"([0-9]+) runs", said)
        print(f"fuzz: {target.name}: {runs[-1]} runs, nothing found", flush=True)
        return 0
    print(f"fuzz: {target.name} has found something, all of it is in {log}:")
    print(_tail(said))
    for path in found:
        print(
            f"fuzz: {path}: {path.read_bytes()[:400]!r}\n"
            f"fuzz: once it is mended, keep it: cp {path}"
            f" {target.corpus.relative_to(TREE)}/NAME"
        )
    sys.stdout.flush()
    return 1


def _engine(
    target: Target, seconds: float, engine: str, folder: Path, log: Path
) -> int:
    command = [
        *(sys.executable, "-m", "tests.fuzz", "--inside", target.name),
        *("--seconds", f"{seconds:g}", "--engine", engine, "--folder", str(folder)),
    ]
    with log.open("wb") as output:
        try:
            return subprocess.run(
                command,
                cwd=TREE,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=seconds + GRACE_SECONDS,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            output.write(b"\nno end within its time\n")
            return FOUND


def _tail(said: str) -> str:
    """The error, without what the engine says of itself."""
    lines = [
        line
        for line in said.splitlines()
        if not line.startswith(("INFO: ", "#", "WARNING: ", "0x", "MS: "))
    ]
    return "\n".join(lines[-40:])


if __name__ == "__main__":
    sys.exit(main())
