"""
The compiled codec under AddressSanitizer and UndefinedBehaviorSanitizer.

``python -m tests.sanitized`` builds ``_frames.pyx`` once more, instrumented and in a
folder of its own, and runs with it what `tests.test_frames` has for the compiled
twin. Every bytes object is then a heap block of its own (``PYTHONMALLOC=malloc``),
and the NUL that CPython puts behind its octets is poisoned: one octet too far is
seen, read or written.

A check that has never failed proves nothing, so the same is done with codecs that
have a mistake each (`MISTAKES`), and each must be reported as what it is.

It ends with 1 when something is found, or a mistake is not; and with 0 when it
cannot run here, unless ``CI`` is set.
"""

import ctypes
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
import unittest
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

from attrs import frozen

TREE = Path(__file__).parents[1]
SOURCE = Path("logiss", "_frames.pyx")
RUN_SECONDS = 120
#: Fewer would mean that the tests were not found.
TESTS_MIN = 30

CFLAGS = (
    "-O1 -g -fno-omit-frame-pointer -fno-wrapv"
    " -fsanitize=address,undefined,float-cast-overflow -fno-sanitize-recover=all"
)

#: Included before anything else: poisons the NUL behind what the codec writes.
CHECKED = r"""
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <sanitizer/asan_interface.h>

static inline void *behind(PyObject *made)
{
    return PyBytes_AS_STRING(made) + PyBytes_GET_SIZE(made);
}

static inline PyObject *checked_new(const char *octets, Py_ssize_t size)
{
    PyObject *made = PyBytes_FromStringAndSize(octets, size);
    if (made != NULL && octets == NULL)
        ASAN_POISON_MEMORY_REGION(behind(made), 1);
    return made;
}

static inline int checked_resize(PyObject **made, Py_ssize_t size)
{
    ASAN_UNPOISON_MEMORY_REGION(behind(*made), 1);
    if (_PyBytes_Resize(made, size) < 0)
        return -1;
    ASAN_POISON_MEMORY_REGION(behind(*made), 1);
    return 0;
}

#define PyBytes_FromStringAndSize checked_new
#define _PyBytes_Resize checked_resize
"""


@frozen
class Mistake:
    """
    @ivar right: found once in the codec's source.
    @ivar wrong: what stands there instead.
    @ivar report: what a sanitizer says to that.
    """

    name: str
    right: str
    wrong: str
    report: str


MISTAKES = (
    Mistake(
        "reads-behind-body",
        "while start < end and is_space(start[0]):",
        "while start <= end and is_space(start[0]):",
        "\nREAD of size 1 ",
    ),
    Mistake(
        "writes-behind-output",
        "out = PyBytes_FromStringAndSize(NULL, room)",
        "out = PyBytes_FromStringAndSize(NULL, room - LENGTH_DIGITS_MAX)",
        "\nWRITE of size ",
    ),
    Mistake(
        "releases-twice",
        "        Py_XDECREF(out)\n",
        "        Py_XDECREF(out)\n        Py_XDECREF(out)\n",
        "ERROR: AddressSanitizer: ",
    ),
    Mistake(
        "overflows",
        "start - at <= LENGTH_DIGITS_MAX:",
        "start - at <= 5000:",
        "runtime error: signed integer overflow",
    ),
    Mistake(
        "splits-behind-octets",
        "        if start == NULL or length > end - start:\n",
        "        if start == NULL or length > end - start + 1:\n",
        "\nREAD of size ",
    ),
    Mistake(
        "writes-behind-frames",
        "made = new_bytes(NULL, size)",
        "made = new_bytes(NULL, size - 1)",
        "\nWRITE of size 1 ",
    ),
    Mistake(
        "writes-behind-answers",
        "lines = new_bytes(NULL, size)",
        "lines = new_bytes(NULL, size - 1)",
        "\nWRITE of size 14 ",
    ),
)


class NotHereError(Exception):
    """What this machine lacks."""


class FoundError(Exception):
    """What is wrong with the codec, or with the check."""


def main() -> int:
    try:
        runtime = _runtime()
        with tempfile.TemporaryDirectory() as name:
            _check(Path(name), runtime)
    except NotHereError as lack:
        print(f"sanitize: cannot run here: {lack}")
        return 1 if os.environ.get("CI") else 0
    except FoundError as found:
        print(f"sanitize: {found}")
        return 1
    return 0


def _runtime() -> str:
    """The library of AddressSanitizer, which has to be loaded before Python."""
    if not sys.platform.startswith("linux"):
        raise NotHereError("it is made for Linux")
    if shutil.which("gcc") is None:
        raise NotHereError("there is no gcc")
    found = _output(["gcc", "-print-file-name=libasan.so"]).strip()
    if not os.path.isabs(found):
        raise NotHereError("gcc has no libasan")
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        raise NotHereError("there is no Python.h")
    return found


def _output(command: list[str], **more: Any) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, **more)
    if done.returncode != 0:
        raise FoundError(f"{' '.join(command)}:\n{done.stdout}{done.stderr}")
    said: str = done.stdout
    return said


def _check(folder: Path, runtime: str) -> None:
    tools = folder / "tools"
    _install_tools(tools)
    (folder / "checked.h").write_text(CHECKED)
    source = (TREE / SOURCE).read_text()
    sources = {"as-it-is": source}
    for mistake in MISTAKES:
        if source.count(mistake.right) != 1:
            raise FoundError(f"{mistake.name}: {mistake.right!r} is not in {SOURCE}")
        sources[mistake.name] = source.replace(mistake.right, mistake.wrong)

    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        builds = {
            name: pool.submit(_build, folder / name, pyx, tools)
            for name, pyx in sources.items()
        }
        runs = {
            name: pool.submit(_run, build.result(), runtime)
            for name, build in builds.items()
        }
    code, said = runs.pop("as-it-is").result()
    if code != 0:
        raise FoundError(f"the codec fails:\n{said}")
    print(f"sanitize: the codec passes: {said.splitlines()[-1]}")
    for mistake in MISTAKES:
        code, said = runs[mistake.name].result()
        if code == 0 or mistake.report not in said:
            raise FoundError(f"{mistake.name} is not seen:\n{said}")
        print(f"sanitize: {mistake.name} is seen")


def _install_tools(folder: Path) -> None:
    """What builds the codec, apart from the environment that runs it."""
    project = tomllib.loads((TREE / "pyproject.toml").read_text())
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder)]
    try:
        _output([*pip, *project["build-system"]["requires"]])
    except FoundError as failure:
        raise NotHereError(str(failure)) from None


def _build(folder: Path, pyx: str, tools: Path) -> Path:
    """An instrumented codec of the source `pyx`."""
    for name in ("setup.py", "pyproject.toml", "README.rst"):
        folder.mkdir(exist_ok=True)
        shutil.copy(TREE / name, folder)
    shutil.copytree(
        TREE / "logiss", folder / "logiss", ignore=shutil.ignore_patterns("*.so", "*.c")
    )
    (folder / SOURCE).write_text(pyx)
    environ = {
        **os.environ,
        "CC": "gcc",
        "CFLAGS": f"{CFLAGS} -include {folder.parent / 'checked.h'}",
        "LDFLAGS": "-fsanitize=address,undefined",
        "PYTHONPATH": str(tools),
    }
    build = ["setup.py", "--quiet", "build_ext", "--build-lib", "built"]
    said = _output([sys.executable, *build], cwd=folder, env=environ)
    for path in (folder / "built" / "logiss").glob("_frames.*.so"):
        return path
    raise FoundError(f"the instrumented codec was not built:\n{said}")


@cache
def _not_randomized() -> tuple[str, ...]:
    """
    What to put before a command, where that works: libasan of gcc 13 and older dies
    under some of the layouts that kernels with much randomness come to.
    """
    command = ("setarch", "--addr-no-randomize")
    try:
        done = subprocess.run([*command, "true"], capture_output=True, check=False)
    except OSError:
        return ()
    return command if done.returncode == 0 else ()


def _run(library: Path, runtime: str) -> tuple[int, str]:
    """
    Run the tests in a process of their own.

    @return: its exit code and what it has said.
    """
    environ = {
        **os.environ,
        "LD_PRELOAD": runtime,
        # Python keeps much until its end, and that is no leak.
        "ASAN_OPTIONS": "detect_leaks=0:quarantine_size_mb=64",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONMALLOC": "malloc",
        # Not those of the other tests: what fails here may be a mistake on purpose.
        "HYPOTHESIS_STORAGE_DIRECTORY": str(library.parent / "hypothesis"),
    }
    try:
        done = subprocess.run(
            [
                *_not_randomized(),
                *(sys.executable, "-m", "tests.sanitized", str(library)),
            ],
            cwd=TREE,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="backslashreplace",
            timeout=RUN_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as expired:
        return 1, f"no end after {RUN_SECONDS} seconds: {expired.output!r}"
    return done.returncode, done.stdout.strip()


def run_inside(library: str) -> int:
    """Run the tests of the compiled twin, as `library` has it, in this process."""
    module = _loaded(library)
    module.rewrite = _poisoning(module.rewrite)
    module.split = _split_poisoning(module.split)
    module.syslog_frames = _frames_poisoning(module.syslog_frames)
    module.answers = _answers_poisoning(module.answers)
    os.environ["CI"] = "true"  # A codec that is not there is a failure.

    from tests import test_frames

    suite = unittest.TestSuite()
    for case in list(vars(test_frames).values()):
        if isinstance(case, type) and issubclass(case, test_frames.OnCompiled):
            suite.addTest(unittest.defaultTestLoader.loadTestsFromTestCase(case))
    result = unittest.TextTestRunner(verbosity=0).run(suite)
    if result.skipped or result.testsRun < TESTS_MIN:
        print(f"only {result.testsRun} tests, {len(result.skipped)} of them skipped")
        return 1
    print(f"{result.testsRun} tests")
    return 0 if result.wasSuccessful() else 1


def _loaded(library: str) -> Any:
    """`library` as ``logiss._frames``, whatever else is installed."""
    import logiss

    name = "logiss._frames"
    spec = spec_from_loader(name, ExtensionFileLoader(name, library))
    assert spec is not None
    assert spec.loader is not None
    module: Any = module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules[name] = module
    logiss._frames = module  # type: ignore[attr-defined]
    return module


def _poisoning(rewrite: Callable[..., Any]) -> Callable[..., Any]:
    """`rewrite`, which must not touch what is behind the octets that it is given."""
    from logiss.frames import DEFAULT_LIMITS

    def poisoned(
        body: Any,
        structured_data: Any,
        drain_token: Any = b"",
        keep_structured_data: bool = False,
        limits: Any = DEFAULT_LIMITS,
    ) -> Any:
        with (
            _nul_poisoned(body),
            _nul_poisoned(structured_data),
            _nul_poisoned(drain_token),
        ):
            batch = rewrite(
                body, structured_data, drain_token, keep_structured_data, limits
            )
        _asan("unpoison", batch.octets)
        return batch

    return poisoned


def _split_poisoning(split: Callable[..., Any]) -> Callable[..., Any]:
    """`split`, as `rewrite` above."""

    def poisoned(octets: Any) -> Any:
        with _nul_poisoned(octets):
            return split(octets)

    return poisoned


def _frames_poisoning(syslog_frames: Callable[..., Any]) -> Callable[..., Any]:
    """`syslog_frames`, as `rewrite` above."""

    def poisoned(octets: Any, *others: Any) -> Any:
        with _nul_poisoned(octets):
            made, count, end = syslog_frames(octets, *others)
        if made:
            _asan("unpoison", made)
        return made, count, end

    return poisoned


def _answers_poisoning(answers: Callable[..., Any]) -> Callable[..., Any]:
    """`answers`, of which only what it makes can be out of bounds."""

    def poisoned(first_txnr: Any, end_txnr: Any) -> Any:
        octets = answers(first_txnr, end_txnr)
        if octets:
            _asan("unpoison", octets)
        return octets

    return poisoned


@contextmanager
def _nul_poisoned(octets: Any) -> Iterator[None]:
    """The NUL behind `octets` is out of bounds, for code that is instrumented."""
    if not isinstance(octets, bytes):
        yield
        return
    _asan("poison", octets)
    try:
        yield
    finally:
        _asan("unpoison", octets)


def _asan(what: str, octets: bytes) -> None:
    nul = id(octets) + bytes.__basicsize__ - 1 + len(octets)
    _function(f"__asan_{what}_memory_region")(nul, 1)


@cache
def _function(name: str) -> Callable[[int, int], None]:
    """What the runtime of AddressSanitizer has by that name."""
    function = ctypes.CDLL(None)[name]
    function.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    function.restype = None
    return function


if __name__ == "__main__":
    sys.exit(run_inside(sys.argv[1]) if len(sys.argv) > 1 else main())
