"""
What the answers of a RELP server say, worked out plainly.

A second reading that shares nothing with `logiss.relp`: no regular expression, nothing
foreseen, all octets at once.
"""

from attrs import define

_DIGITS = b"0123456789"
_LETTERS = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_ANSWER_BYTES_MAX = 8 * 1024


class _Ended(Exception):
    """The octets are at their end, or no RELP from here on."""


@define
class _Reader:
    octets: bytes

    def word(self, alphabet: bytes, most: int) -> bytes:
        """One to `most` octets of `alphabet`."""
        size = 0
        while size < most and self.octets[size : size + 1] in _each(alphabet):
            size += 1
        if not size:
            raise _Ended
        return self.take(size)

    def take(self, size: int) -> bytes:
        if len(self.octets) < size:
            raise _Ended
        taken, self.octets = self.octets[:size], self.octets[size:]
        return taken

    def expect(self, octets: bytes) -> None:
        if self.take(len(octets)) != octets:
            raise _Ended

    def answer(self) -> tuple[int, bytes]:
        """The next answer's txnr and data."""
        txnr = int(self.word(_DIGITS, 9))
        self.expect(b" ")
        if self.word(_LETTERS, 32) != b"rsp":
            raise _Ended
        self.expect(b" ")
        size = int(self.word(_DIGITS, 9))
        if size > _ANSWER_BYTES_MAX:
            raise _Ended
        if size:
            self.expect(b" ")
        # A datalen may be written with zeros in front, but nothing else.
        answer = self.take(size)
        self.expect(b"\n")
        return txnr, answer


def _each(alphabet: bytes) -> set[bytes]:
    return {alphabet[i : i + 1] for i in range(len(alphabet))}


def codes(octets: bytes, unanswered: set[int]) -> list[tuple[int, int]]:
    """
    The txnr and code of each answer in `octets` to one of `unanswered`, in order; until
    something else comes.
    """
    reader, waiting = _Reader(octets), set(unanswered)
    found = []
    try:
        while True:
            txnr, answer = reader.answer()
            code = answer[:3]
            if txnr not in waiting or not _is_code(code) or answer[3:4] != b" ":
                break
            waiting.remove(txnr)
            found.append((txnr, int(code)))
    except _Ended:
        pass
    return found


def _is_code(code: bytes) -> bool:
    return len(code) == 3 and all(digit in _DIGITS for digit in code)
