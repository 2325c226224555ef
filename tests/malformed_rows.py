"""
Requests that are no HTTP: where two readers could disagree on where a request ends,
or on what it says. Each is to be refused with 400.

The rows are run in memory, on the daemon's channel and on twisted.web's own, and some
of them over loopback.
"""

from collections.abc import Iterable

from attrs import frozen

from tests.front import basic, framed, message, stamped

BODY = framed(message(b"one"), message(b"two"))
FORWARDED = framed(stamped(b"one"), stamped(b"two"))

#: Another's request in the place where a body should be.
SMUGGLED_BODY = framed(message(b"smuggled"))


#: It is answered 400 and the connection closed.
REFUSED = "refused"
#: It is read in some way, and answered.
SERVED = "served"
#: More is waited for.
AWAITED = "awaited"


@frozen
class Row:
    """
    @ivar name: what is wrong with it.
    @ivar octets: the request.
    @ivar at: the first byte in which it is not as a good request of its kind.
    @ivar stock: what twisted.web's own channel makes of it, one of `REFUSED`,
        `SERVED` and `AWAITED`.
    """

    name: str
    octets: bytes
    at: int
    stock: str


def _joined(*lines: bytes) -> bytes:
    return b"\r\n".join(lines) + b"\r\n"


LINE = b"POST /logs HTTP/1.1"
HOST = b"Host: logs.example.com"
TYPE = b"Content-Type: application/logplex-1"
AUTHORIZATION = b"Authorization: " + basic().encode()
LENGTH = b"Content-Length: %d" % len(BODY)
CHUNKED = b"Transfer-Encoding: chunked"
IN_CHUNKS = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)


def post(
    *fields: bytes,
    body: bytes = BODY,
    line: bytes = LINE,
    host: Iterable[bytes] = (HOST,),
) -> bytes:
    """A post of `body` with `fields` besides the mandatory ones."""
    return _joined(line, *host, TYPE, AUTHORIZATION, *fields) + b"\r\n" + body


GOOD = post(LENGTH)
GOOD_CHUNKED = post(CHUNKED, body=IN_CHUNKS)
#: A whole request behind a malformed one: nobody may see what it does.
SMUGGLED = post(b"Content-Length: %d" % len(SMUGGLED_BODY), body=SMUGGLED_BODY)


def _row(name: str, octets: bytes, stock: str = REFUSED) -> Row:
    at = max(_first_difference(octets, good) for good in (GOOD, GOOD_CHUNKED))
    return Row(name, octets, at, stock)


def _first_difference(octets: bytes, good: bytes) -> int:
    pairs = enumerate(zip(octets, good, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(octets), len(good)))


def _length(value: bytes, stock: str = REFUSED) -> Row:
    return _row(f"Content-Length {value!r}", post(b"Content-Length: " + value), stock)


def _coding(value: bytes, stock: str = REFUSED) -> Row:
    field = b"Transfer-Encoding: " + value
    return _row(f"Transfer-Encoding {value!r}", post(field, body=IN_CHUNKS), stock)


def _field(name: str, *fields: bytes, stock: str = REFUSED) -> Row:
    return _row(name, post(LENGTH, *fields), stock)


def _chunks(octets: bytes, stock: str = REFUSED) -> Row:
    return _row(f"chunks {octets!r}", post(CHUNKED, body=octets), stock)


def _old(*fields: bytes, body: bytes = BODY) -> bytes:
    return post(*fields, body=body, line=b"POST /logs HTTP/1.0")


SIZE = b"%d" % len(BODY)

LENGTHS_AND_CODINGS = [
    _row("length and coding", post(LENGTH, CHUNKED, body=IN_CHUNKS)),
    _row("coding and length", post(CHUNKED, LENGTH, body=IN_CHUNKS)),
    _row(
        "length of the chunks",
        post(b"Content-Length: %d" % len(IN_CHUNKS), CHUNKED, body=IN_CHUNKS),
    ),
    _row("no length and coding", post(b"Content-Length: 0", CHUNKED, body=IN_CHUNKS)),
    _row(
        "length and a coding of capitals",
        post(LENGTH, b"TRANSFER-ENCODING: CHUNKED", body=IN_CHUNKS),
    ),
    _row("length and unknown coding", post(LENGTH, b"Transfer-Encoding: x")),
    _row("length and identity", post(LENGTH, b"Transfer-Encoding: identity"), SERVED),
    _row("length and nothing as coding", post(LENGTH, b"Transfer-Encoding:")),
]

TWO_LENGTHS = [
    _row("two lengths, equal", post(LENGTH, LENGTH)),
    _row("two lengths, equal, of other case", post(LENGTH, LENGTH.upper())),
    _row(
        "two lengths, the second longer",
        post(LENGTH, b"Content-Length: %d" % (len(BODY) + 10)),
    ),
    _row("two lengths, the second shorter", post(LENGTH, b"Content-Length: 5")),
    _row("two lengths, the first 0", post(b"Content-Length: 0", LENGTH)),
    _row("two lengths, the second 0", post(LENGTH, b"Content-Length: 0")),
    _row("two lengths with others between", post(LENGTH, b"X: y", b"Z: z", LENGTH)),
    _row("three lengths", post(LENGTH, LENGTH, LENGTH)),
    _row(
        "two lengths, one with a leading 0", post(LENGTH, b"Content-Length: 0" + SIZE)
    ),
    _length(SIZE + b", " + SIZE),
    _length(SIZE + b"," + SIZE),
    _length(SIZE + b", 5"),
    _length(SIZE + b","),
    _length(b"," + SIZE),
]

LENGTHS = [
    _length(value)
    for value in (
        b"+5",
        b"-5",
        b"0x5",
        b"5_0",
        b"+" + SIZE,
        b"-0",
        b"0b1",
        b"5.0",
        b"5e0",
        b"5a",
        b"5;",
        b"5 5",
        b"5\t5",
        b"1 000",
        b'"5"',
        b"'5'",
        b"(5)",
        b"#5",
        b"five",
        b"",
        b" ",
        b"\t",
        b"\x0b5",
        b"5\x0c",
        b"\xa05",
        b"5\x00",
        b"5\xff",
        b"\xb2",
        b"\xd9\xa3",
        b"\xef\xbc\x95",
    )
] + [
    _length(b"0" * 16 + SIZE, SERVED),
    _length(b"1" + b"0" * 18, AWAITED),
    _length(b"9" * 19, AWAITED),
    _length(b"18446744073709551616", AWAITED),
    _length(b"18446744073709551621", AWAITED),
    _length(b"9" * 200, AWAITED),
    _length(b"0" * 200, SERVED),
]

CODINGS = [
    _coding(value)
    for value in (
        b"gzip",
        b"xchunked",
        b"chunkedx",
        b"x-chunked",
        b"chunked, chunked",
        b"chunked,chunked",
        b"gzip, chunked",
        b"chunked, gzip",
        b"chunked, identity",
        b"identity, chunked",
        b"chunked;q=1",
        b"chunked ;q=1",
        b"chunked,",
        b",chunked",
        b", chunked",
        b"chunked chunked",
        b'"chunked"',
        b"'chunked'",
        b"chunk ed",
        b"chunke",
        b"\x0bchunked",
        b"chunked\x0b",
        b"\x0cchunked",
        b"chunked\x00",
        b"\x00chunked",
        b"\xa0chunked",
        b"\xffchunked",
        b"",
        b" ",
        b"cow",
        b"deflate, gzip",
    )
] + [
    _coding(b"identity", SERVED),
    _row("coding twice", post(CHUNKED, CHUNKED, body=IN_CHUNKS)),
    _row("coding twice, of other case", post(CHUNKED, CHUNKED.upper(), body=IN_CHUNKS)),
    _row(
        "coding taken back",
        post(CHUNKED, b"Transfer-Encoding: identity", body=IN_CHUNKS),
        SERVED,
    ),
    _row(
        "coding behind another",
        post(b"Transfer-Encoding: identity", CHUNKED, body=IN_CHUNKS),
        SERVED,
    ),
    _row(
        "coding behind an empty one",
        post(b"Transfer-Encoding:", CHUNKED, body=IN_CHUNKS),
    ),
    _row(
        "coding folded", post(b"Transfer-Encoding:\r\n chunked", body=IN_CHUNKS), SERVED
    ),
    _row("coding on 1.0", _old(CHUNKED, body=IN_CHUNKS), SERVED),
    _row("coding and length on 1.0", _old(CHUNKED, LENGTH, body=IN_CHUNKS)),
    _row("unknown coding on 1.0", _old(b"Transfer-Encoding: x", LENGTH)),
]

SYNTAX = [
    # space before the colon
    _field("space before the colon", b"X : y"),
    _field("spaces before the colon", b"X   : y"),
    _field("tab before the colon", b"X\t: y"),
    _row("space before the length's colon", post(LENGTH.replace(b":", b" :"))),
    _row(
        "space before the coding's colon",
        post(CHUNKED.replace(b":", b" :"), body=IN_CHUNKS),
    ),
    _row(
        "space before the coding's colon, and a length",
        post(LENGTH, CHUNKED.replace(b":", b" :"), body=IN_CHUNKS),
    ),
    _row("space before Host's colon", post(LENGTH, host=[b"Host : h"])),
    _field("space in a name", b"X Y: z"),
    _field("no name", b": y"),
    _field("no colon", b"garbage"),
    _field("delimiter in a name", b"X(Y): z"),
    _field("quotation mark in a name", b'X": z'),
    _field("byte beyond ASCII in a name", b"X\xe9: z"),
    # folded headers
    _field("folded", b"X: y\r\n z", stock=SERVED),
    _field("folded with a tab", b"X: y\r\n\tz", stock=SERVED),
    _field(
        "folded into a header's look",
        b"X: y\r\n Transfer-Encoding: chunked",
        stock=SERVED,
    ),
    _field("folded from nothing", b"X:\r\n y", stock=SERVED),
    _field("folded into nothing", b"X: y\r\n ", stock=SERVED),
    _row("folded length", post(b"Content-Length:\r\n " + SIZE), SERVED),
    _row("folded behind the length", post(LENGTH + b"\r\n 0")),
    _row("folded at once", post(LENGTH, line=LINE + b"\r\n X: y")),
    _row("space before the first header", post(LENGTH, host=[b" " + HOST])),
    # bare CR
    _field("CR in a value", b"X: y\rz"),
    _field("CR in front of a value", b"X:\ry"),
    _field("CR that looks like an end", b"X: y\rZ: z"),
    _field("CR twice", b"X: y\r"),
    _field("CR in a name", b"X\rY: z"),
    _field("CR in front of a name", b"\rX: z"),
    _field("CR behind a name", b"X\r: z"),
    _row("CR in the length", post(b"Content-Length: \r" + SIZE)),
    _row("CR in Host", post(LENGTH, host=[b"Host: a\rb"])),
    _row("CR behind the request line", GOOD.replace(b"\r\n", b"\r", 1)),
    _row("CR behind the headers", GOOD.replace(b"\r\n\r\n", b"\r\n\r", 1), AWAITED),
    _row("CR at the end of all lines", GOOD.replace(b"\r\n", b"\r"), AWAITED),
    # bare LF
    _field("LF in a value", b"X: y\nz"),
    _field("LF that looks like an end", b"X: y\nZ: z"),
    _field("LF in front of a length", b"X: y\nContent-Length: 0"),
    _field("LF in a name", b"X\nY: z"),
    _field("LF in front of a name", b"\nX: z"),
    _field("LF and CR", b"X: y\n\rZ: z"),
    _row("LF behind the length", post(LENGTH + b"\nX: y")),
    _row("LF in Host", post(LENGTH, host=[b"Host: a\nb"])),
    _row("LF behind the request line", GOOD.replace(b"\r\n", b"\n", 1)),
    _row("LF behind the headers", GOOD.replace(b"\r\n\r\n", b"\r\n\n", 1), AWAITED),
    _row("LFs behind the headers", GOOD.replace(b"\r\n\r\n", b"\n\n", 1), AWAITED),
    _row("LF at the end of all lines", GOOD.replace(b"\r\n", b"\n"), AWAITED),
    # NUL
    _field("NUL in a value", b"X: a\0b"),
    _field("NUL for a value", b"X: \0"),
    _field("NUL in a name", b"X\0Y: b"),
    _field("NUL for a name", b"\0: b"),
    _row("NUL in Host", post(LENGTH, host=[b"Host: a\0b"])),
    _row("NUL in the length's name", post(LENGTH.replace(b"-", b"\0"))),
    _row("NUL in the type", post(LENGTH, b"Content-Encoding: identity\0")),
    _field("other control bytes in a value", b"X: a\x01b", stock=SERVED),
    _field("DEL in a value", b"X: a\x7fb", stock=SERVED),
]

HOSTS = [
    _row("no Host", post(LENGTH, host=[]), SERVED),
    _row("no Host, chunked", post(CHUNKED, body=IN_CHUNKS, host=[]), SERVED),
    _row("Host by another name", post(LENGTH, host=[b"X-Host: h"]), SERVED),
    _row("two Hosts", post(LENGTH, HOST), SERVED),
    _row("two Hosts of other case", post(LENGTH, b"hOST: logs.example.com"), SERVED),
    _row("two Hosts that differ", post(LENGTH, b"Host: other.example.com"), SERVED),
    _row("two Hosts, one empty", post(LENGTH, b"Host:"), SERVED),
]

HOSTS += [
    _row("two Hosts on 1.0", _old(LENGTH, HOST), SERVED),
] + [
    _row(f"Host of {value!r}", post(LENGTH, host=[b"Host: " + value]), SERVED)
    for value in (b"a b", b"a/b", b"u@h", b"a?b", b"a#b", b"a\\b", b'"a"', b"a\xe9b")
]

LINES = [
    _row(f"line {line!r}", post(LENGTH, line=line), stock)
    for line, stock in (
        (b"POST /logs RTSP/1.0", REFUSED),
        (b"POST /logs RTSP/1.1", REFUSED),
        (b"POST /logs ICE/1.0", REFUSED),
        (b"POST  /logs HTTP/1.1", REFUSED),
        (b"POST /logs  HTTP/1.1", REFUSED),
        (b"\nPOST /logs HTTP/1.1", REFUSED),
        (b"\rPOST /logs HTTP/1.1", REFUSED),
        (b"\r\n\nPOST /logs HTTP/1.1", REFUSED),
    )
]

_HELLO = b"hello\r\n0\r\n\r\n"
_ALL = b"%x\r\n%b\r\n" % (len(BODY), BODY)

CHUNK_SIZES = [
    _chunks(size + b"\r\n" + _HELLO)
    for size in (
        b"0x5",
        b"0X5",
        b"+5",
        b"-5",
        b"",
        b"5 ",
        b"5\t",
        b" 5",
        b"\t5",
        b"5_0",
        b"0_5",
        b"5h",
        b"g",
        b"5.",
        b"5,",
        b"5 5",
        b"'5'",
        b"five",
        b";a=b",
        b"\x005",
        b"5\x00",
        b"\xb2",
        b"\xd9\xa5",
        b"\xa05",
    )
] + [
    _chunks(b"1" * 17 + b"\r\n" + _HELLO, AWAITED),
    _chunks(b"f" * 17 + b"\r\n" + _HELLO, AWAITED),
    _chunks(b"0" * 16 + b"5\r\n" + _HELLO, SERVED),
    _chunks(b"1" + b"0" * 15 + b"5\r\n" + _HELLO, AWAITED),
    # The first chunk has the whole of a good body.
    _chunks(_ALL + b"0x0\r\n\r\n"),
    _chunks(_ALL + b"-0\r\n\r\n"),
    _chunks(_ALL + b"+0\r\n\r\n"),
    _chunks(_ALL + b"\r\n\r\n"),
    _chunks(_ALL + b"0 \r\n\r\n"),
]

CHUNK_ENDS = [
    # no CRLF behind the bytes
    _chunks(b"5\r\nhello0\r\n\r\n"),
    _chunks(b"5\r\nhelloXX0\r\n\r\n"),
    _chunks(b"5\r\nhello!\r\n0\r\n\r\n"),
    _chunks(b"4\r\nhello\r\n0\r\n\r\n"),
    _chunks(b"5\r\nhello\n0\r\n\r\n"),
    _chunks(b"5\r\nhello\r0\r\n\r\n"),
    _chunks(b"5\r\nhello\n\r0\r\n\r\n"),
    _chunks(b"5\r\nhello\r\r\n0\r\n\r\n"),
    _chunks(b"5\r\nhello\0\n0\r\n\r\n"),
    _chunks(b"5\r\nhello \r\n0\r\n\r\n"),
    # no CRLF behind the size
    _chunks(b"5\nhello\r\n0\r\n\r\n"),
    _chunks(b"5\rhello\r\n0\r\n\r\n"),
    _chunks(b"5\r\rhello\r\n0\r\n\r\n"),
    _chunks(_ALL + b"0\n\r\n"),
    _chunks(_ALL + b"0\r\r\n"),
    _chunks(_ALL + b"0\n\n", AWAITED),
    # in an extension
    _chunks(b"5;\nhello\r\n0\r\n\r\n"),
    _chunks(b"5;a\nhello\r\n0\r\n\r\n"),
    _chunks(b"5;a=b\nhello\r\n0\r\n\r\n"),
    _chunks(b'5;a="b\n"\r\nhello\r\n0\r\n\r\n'),
    _chunks(b"5;\nx\r\nhello\r\n0\r\n\r\n"),
    _chunks(b"5;a\rb\r\nhello\r\n0\r\n\r\n"),
    _chunks(b"5;a=\0b\r\nhello\r\n0\r\n\r\n"),
    # out of bounds
    _chunks(b"5;" + b"a" * 1024 + b"\r\n" + _HELLO),
    _chunks(_ALL + b"0\r\nX: " + b"y" * 8192 + b"\r\n\r\n", SERVED),
    _chunks(_ALL + b"0\r\n" + b"X: y\r\n" * 1400 + b"\r\n", SERVED),
    # behind the last one
    _chunks(_ALL + b"0\r\n\n", AWAITED),
    _chunks(_ALL + b"0\r\n\rX", AWAITED),
    _chunks(_ALL + b"0\r\nX : y\r\n\r\n", SERVED),
    _chunks(_ALL + b"0\r\n x\r\n\r\n", SERVED),
    _chunks(_ALL + b"0\r\nX: y\r\n z\r\n\r\n", SERVED),
    _chunks(_ALL + b"0\r\nX: y\n\r\n", AWAITED),
    _chunks(_ALL + b"0\r\nX: y\rz\r\n\r\n", SERVED),
    _chunks(_ALL + b"0\r\nX: \0\r\n\r\n", SERVED),
    _chunks(_ALL + b"0\r\nX\0: y\r\n\r\n", SERVED),
    _chunks(_ALL + b"0\r\nno colon\r\n\r\n", SERVED),
]

ROWS = [
    *LENGTHS_AND_CODINGS,
    *TWO_LENGTHS,
    *LENGTHS,
    *CODINGS,
    *SYNTAX,
    *HOSTS,
    *LINES,
    *CHUNK_SIZES,
    *CHUNK_ENDS,
]
