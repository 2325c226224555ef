r"""
Reads the chunked coding of a body piece by piece, and bounds what stands around it.

llhttp, which reads everything else, bounds neither the extensions of a chunk nor the
trailer section. The grammar (RFC 9112 section 7.1)::

    chunked-body    = *chunk last-chunk trailer-section CRLF
    chunk           = chunk-size [ chunk-ext ] CRLF chunk-data CRLF
    chunk-size      = 1*HEXDIG                     ; here at most 16
    last-chunk      = 1*("0") [ chunk-ext ] CRLF
    chunk-ext       = *( ";" chunk-ext-name [ "=" chunk-ext-val ] )
    trailer-section = *( field-line CRLF )

White space before an extension is not taken, nor a control byte within one. What an
extension says is not looked at; whether the trailers are fields is for who reads the
headers to say.
"""

import re

#: Octets of the extensions of one chunk.
EXTENSION_BYTES_MAX = 1024
#: Octets of the trailer section.
TRAILER_BYTES_MAX = 8 * 1024

_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})((?:;[\t\x20-\x7e\x80-\xff]*)?)")
# What ends no line; llhttp would say so, but sees the trailers at their end only.
_BARE = re.compile(rb"(?:\A|[^\r])\n|\r(?!\n|\Z)")
_LINE_BYTES_MAX = 16 + EXTENSION_BYTES_MAX + len(b"\r\n")

# What `find` says, and the length of what was looked for.
_NOT_FOUND = -1 + 4

# What comes next.
_SIZE_LINE, _DATA, _DATA_END, _TRAILERS, _NOTHING = range(5)


class BadChunk(Exception):
    """The body is not in the chunked coding, or is out of its bounds."""


class ChunkedBody:
    """
    One body in the chunked coding.

    @ivar is_over: whether its end has been read.
    @ivar trailers: the trailer section, with the empty line that ends it.
    """

    def __init__(self) -> None:
        self.is_over = False
        self.trailers = b""
        self._next = _SIZE_LINE
        # Of the chunk that is being read, what is still to come.
        self._left = 0
        # A line, or the trailers, of which the end has not come.
        self._begun = b""

    def feed(self, octets: bytes, at: int) -> tuple[bytes, int]:
        """
        Read `octets` from the index `at` on, until their end or that of the body.

        @return: what of the body they hold, and the index behind what was read.
        @raise BadChunk: says what is wrong.
        """
        pieces: list[bytes] = []
        end = len(octets)
        while at < end and not self.is_over:
            if self._next == _DATA:
                piece = octets[at : at + self._left]
                pieces.append(piece)
                at += len(piece)
                self._left -= len(piece)
                if not self._left:
                    self._next = _DATA_END
            elif self._next == _SIZE_LINE:
                at = self._read_size(octets, at)
            elif self._next == _DATA_END:
                at = self._read_data_end(octets, at)
            else:
                at = self._read_trailers(octets, at)
        return (pieces[0] if len(pieces) == 1 else b"".join(pieces)), at

    def _read_size(self, octets: bytes, at: int) -> int:
        begun = len(self._begun)
        line = self._begun + octets[at : at + _LINE_BYTES_MAX - begun]
        stop = line.find(b"\n")
        if stop < 0:
            if len(line) >= _LINE_BYTES_MAX:
                raise BadChunk("the line of a chunk's size is too long")
            self._begun = line
            return at + len(line) - begun
        found = _SIZE.fullmatch(line, 0, stop - 1)
        if found is None or line[stop - 1] != 0x0D:
            raise BadChunk("a chunk's size is not hexadecimal digits and CRLF")
        if len(found[2]) > EXTENSION_BYTES_MAX:
            raise BadChunk("a chunk's extensions are too long")
        self._begun = b""
        self._left = int(found[1], 16)
        self._next = _DATA if self._left else _TRAILERS
        return at + stop + 1 - begun

    def _read_data_end(self, octets: bytes, at: int) -> int:
        end = self._begun + octets[at : at + 2 - len(self._begun)]
        if not b"\r\n".startswith(end):
            raise BadChunk("a chunk is not followed by CRLF")
        at += len(end) - len(self._begun)
        self._begun = end
        if len(end) == 2:
            self._begun = b""
            self._next = _SIZE_LINE
        return at

    def _read_trailers(self, octets: bytes, at: int) -> int:
        begun = len(self._begun)
        most = TRAILER_BYTES_MAX + len(b"\r\n")
        section = self._begun + octets[at : at + most - begun]
        size = 2 if section.startswith(b"\r\n") else section.find(b"\r\n\r\n") + 4
        if size == _NOT_FOUND:
            if len(section) >= most:
                raise BadChunk("the trailers are too long")
            if _BARE.search(section):
                raise BadChunk("a trailer does not end with CRLF")
            self._begun = section
            return at + len(section) - begun
        self.trailers = section[:size]
        self._begun = b""
        self._next = _NOTHING
        self.is_over = True
        return at + size - begun
