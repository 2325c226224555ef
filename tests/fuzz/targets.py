"""
The table of targets, and their corpora.

A target's module is loaded when it is asked for: an engine may have to see the import.
"""

from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import TypeAlias

from attrs import frozen

CORPUS = Path(__file__).parent / "corpus"
WORDS = Path(__file__).parent / "words"

#: Takes octets, raises when logiss does something wrong with them.
Check: TypeAlias = Callable[[bytes], None]


@frozen
class Target:
    """
    @ivar room: the module of this package that has it as `check`.
    @ivar share: of the time there is for all.
    """

    name: str
    room: str
    share: int = 1

    def load(self) -> Check:
        check: Check = import_module(f"{__package__}.{self.room}").check
        return check

    @property
    def corpus(self) -> Path:
        """A folder with a file for each input."""
        return CORPUS / self.name

    @property
    def words(self) -> Path:
        """What inputs are made of, in libFuzzer's syntax of dictionaries."""
        return WORDS / f"{self.name}.txt"

    def seeds(self) -> Iterator[tuple[str, bytes]]:
        for path in sorted(self.corpus.iterdir()):
            yield path.name, path.read_bytes()


TARGETS = {
    target.name: target
    for target in (
        # It has the most to read, and takes the longest for it.
        Target("http", "http", share=5),
        Target("body", "body", share=2),
        Target("gzip", "gzipped"),
        Target("relp", "relp", share=2),
        Target("proxy", "proxied"),
        Target("basic", "basic"),
        Target("stamp", "stamped"),
    )
}
