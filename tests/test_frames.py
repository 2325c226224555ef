"""
Bodies in, corrected frames out: the vectors to the byte, and everything else
against a slow second reading of the specification.

Both twins of the codec pass all of it: each class has a subclass, at the end, that
runs it on the compiled one.
"""

import json
import os
import sys
import tracemalloc
from base64 import b64decode
from collections.abc import Callable
from inspect import signature
from itertools import product
from pathlib import Path
from typing import Any
from unittest import SkipTest
from urllib.parse import parse_qs

from attrs import astuple
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from logiss import frames as pure
from logiss import relp, stamp
from logiss.frames import (
    DEFAULT_LIMITS,
    Batch,
    BodyTooLarge,
    FrameLimits,
    MalformedFrame,
    RefusedBody,
)
from logiss.receiver import FrameDecoder
from tests import frames_oracle

compiled: Any = None
try:
    from logiss import _frames  # type: ignore[attr-defined]
except ImportError:
    pass
else:
    compiled = _frames

VECTORS: list[dict[str, Any]] = json.loads(
    Path(__file__).with_name("vectors.json").read_text()
)["vectors"]

ORIGIN = b'[origin ip="1.2.3.4"]'
HEAD = b"<13>1 2013-06-07T13:17:49.468822+00:00 host heroku web.7 -"

CUTS_OF = {
    "HOSTNAME": (1, 0, 0, 0),
    "APP-NAME": (0, 1, 0, 0),
    "PROCID": (0, 0, 1, 0),
    "MSGID": (0, 0, 0, 1),
    None: (0, 0, 0, 0),
}


def counted(*frames: bytes) -> bytes:
    """`frames`, octet-counted."""
    return b"".join(b"%d %b" % (len(frame), frame) for frame in frames)


def cuts_of(batch: Batch) -> tuple[int, ...]:
    return (
        batch.hostnames_cut,
        batch.app_names_cut,
        batch.procids_cut,
        batch.msgids_cut,
    )


def outcome(
    rewrite: Callable[..., Batch], *call: Any
) -> Batch | tuple[type[RefusedBody], str]:
    """What `rewrite` returns, or what it refuses with."""
    try:
        return rewrite(*call)
    except RefusedBody as refusal:
        return type(refusal), str(refusal)


def decoded(octets: bytes, sizes: list[int]) -> list[bytes]:
    """The frames of a stream that comes in pieces of `sizes`, in turn."""
    decoder = FrameDecoder()
    frames: list[bytes] = []
    at, turn = 0, 0
    while at < len(octets):
        size = sizes[turn % len(sizes)]
        frames += decoder.feed(octets[at : at + size])
        at, turn = at + size, turn + 1
    assert decoder.pending == 0, "the stream ends inside a frame"
    return frames


def vector_sd(vector: dict[str, Any]) -> bytes:
    """What the post of `vector` is stamped with."""
    sd = stamp.origin(vector.get("origin", "1.2.3.4").encode())
    if "metadata_id" in vector:
        deprecated = vector.get("deprecated_credential")
        sd += stamp.metadata(
            vector["metadata_id"].encode(),
            parse_qs(vector.get("query", "").encode()),
            [name.encode() for name in vector["query_params"]],
            [name.encode() for name in vector["field_params"]],
            None if deprecated is None else deprecated.encode(),
        )
    return sd


class TwinTestCase(SynchronousTestCase):
    """
    Runs on the pure twin.

    @ivar rewrite: the twin's, and so on.
    """

    rewrite: Callable[..., Batch] = staticmethod(pure.rewrite)
    split: Callable[[bytes], list[bytes]] = staticmethod(pure.split)
    tail: Callable[[bytes, int], bytes] = staticmethod(pure.tail)
    syslog_frames: relp.SyslogFrames = staticmethod(relp.syslog_frames)
    answers: Callable[[int, int], bytes] = staticmethod(relp.answers)


class OnCompiled(TwinTestCase):
    """
    Runs on the compiled twin. Without one the tests are skipped, and fail where it
    has to be there.
    """

    if compiled is not None:
        rewrite = staticmethod(compiled.rewrite)
        split = staticmethod(compiled.split)
        tail = staticmethod(compiled.tail)
        syslog_frames = staticmethod(compiled.syslog_frames)
        answers = staticmethod(compiled.answers)

    def setUp(self) -> None:
        super().setUp()
        if compiled is None:
            if os.environ.get("CI"):
                self.fail("logiss._frames was not built")
            raise SkipTest("logiss._frames was not built: is there a C compiler?")


# Hypothesis runs a test on both twins, and minds that they are two classes.
on_each_twin = settings(
    deadline=None, suppress_health_check=[HealthCheck.differing_executors]
)


class VectorsTests(TwinTestCase):
    """The vectors of the specification hold to the byte."""

    def test_vectors(self) -> None:
        """Each vector's body becomes its output, or is refused."""
        self.assertGreater(len(VECTORS), 60)
        for vector in VECTORS:
            with self.subTest(vector["name"]):
                self.check(vector)

    def check(self, vector: dict[str, Any]) -> None:
        call = (
            b64decode(vector["body"]),
            vector_sd(vector),
            b64decode(vector.get("drain_token", "")),
            vector.get("keep_structured_data", False),
        )
        if vector["output"] is None:
            with self.assertRaises(MalformedFrame):
                self.rewrite(*call)
            with self.assertRaises(frames_oracle.Refused):
                frames_oracle.rewrite(*call)
            return
        batch = self.rewrite(*call)
        self.assertEqual(batch.octets, b64decode(vector["output"]), vector["name"])
        self.assertEqual(batch.frames, vector["frames"])
        self.assertEqual(cuts_of(batch), CUTS_OF[vector.get("truncated")])
        self.assertEqual(frames_oracle.rewrite(*call).octets, batch.octets)


# What a header field may be made of: everything but the space that ends it.
_field_bytes = st.integers(0, 255).filter(lambda byte: byte != 0x20)


def _fields(most: int, *usual: bytes) -> st.SearchStrategy[bytes]:
    around_the_limit = st.builds(
        lambda byte, size: bytes([byte]) * size,
        _field_bytes,
        st.integers(most - 1, most + 2),
    )
    return st.one_of(
        st.sampled_from([b"-", b"", *usual]),
        st.lists(_field_bytes, max_size=8).map(bytes),
        around_the_limit,
    )


_sd_pieces = st.sampled_from(
    [
        b"[a b=",
        b'[a@1 b="c"]',
        b'[a b="c" d="e"]',
        b'[a b="\\"\\]\\\\"]',
        b'[a b="\\\n"]',
        b'[a b="]"]',
        b'[a b=""]',
        b"[a]",
        b"[a ]",
        b'[a  b="c"]',
        b'[a b="c" ]',
        b'[a="b"]',
        b"[",
        b"]",
        b'"',
        b"\\",
        b" ",
        b"- ",
        b"-",
        b"[" + b"n" * 32 + b' b="c"]',
        b"[" + b"n" * 33 + b' b="c"]',
        b"[a " + b"n" * 33 + b'="c"]',
        b'[\xc3\xa4 b="c"]',
        b'[a b="\xc3\xa4\x00\xff"]',
    ]
)
_rests = st.one_of(
    st.none(),
    st.binary(max_size=40).map(lambda msg: b" " + msg),
    st.binary(max_size=40).map(lambda msg: b" - " + msg),
    st.lists(st.one_of(_sd_pieces, st.binary(max_size=3)), max_size=6).map(
        lambda pieces: b" " + b"".join(pieces)
    ),
)
_frames = st.builds(
    lambda pri, time, host, app, procid, msgid, rest: (
        b" ".join([pri, time, host, app, procid, msgid]) + (rest or b"")
    ),
    _fields(6, b"<13>1"),
    _fields(30, b"2013-06-07T13:17:49Z"),
    _fields(255, b"host", b"hosts"),
    _fields(48, b"heroku"),
    _fields(128, b"web.7"),
    _fields(32),
    _rests,
)
_stamps = st.sampled_from([b"", ORIGIN, ORIGIN + b'[m@1 a="b"]'])
_tokens = st.one_of(
    st.sampled_from([b"", b"d.1234", b"a b", b"d\x7f", b"d\n", b"\xc3\xa4", b"~!"]),
    st.integers(254, 257).map(lambda size: b"t" * size),
    st.binary(max_size=6),
)
_sizes = st.lists(st.integers(1, 50), min_size=1, max_size=5)


class AgainstOracleTests(TwinTestCase):
    """`rewrite` does what the slow reading of the specification does."""

    def compare(self, body: bytes, sd: bytes, token: bytes, keep: bool) -> bool:
        """
        Both refuse, or both yield the same.

        @return: whether the body was accepted.
        """
        try:
            expected = frames_oracle.rewrite(body, sd, token, keep)
        except frames_oracle.Refused:
            with self.assertRaises(MalformedFrame):
                self.rewrite(body, sd, token, keep)
            return False
        batch = self.rewrite(body, sd, token, keep)
        self.assertEqual(batch.octets, expected.octets)
        self.assertEqual(batch.frames, len(expected.frames))
        self.assertEqual(cuts_of(batch), expected.cuts)
        self.assertEqual(decoded(batch.octets, [7]), expected.frames)
        return True

    @on_each_twin
    @given(st.lists(_frames, max_size=6), _stamps, _tokens, st.booleans(), _sizes)
    def test_any_frames_survive(
        self,
        frames: list[bytes],
        sd: bytes,
        token: bytes,
        keep: bool,
        sizes: list[int],
    ) -> None:
        """Well-formed frames come out, one for one, whatever they hold."""
        self.assertTrue(self.compare(counted(*frames), sd, token, keep))
        octets = self.rewrite(counted(*frames), sd, token, keep).octets
        self.assertEqual(len(decoded(octets, sizes)), len(frames))

    @on_each_twin
    @given(st.lists(st.binary(max_size=60), min_size=1, max_size=5), _sizes)
    def test_messages_are_never_changed(
        self, messages: list[bytes], sizes: list[int]
    ) -> None:
        """The bytes of a message are those that came, whatever they are."""
        octets = self.rewrite(
            counted(*(HEAD + b" - " + m for m in messages)), ORIGIN
        ).octets
        self.assertEqual(
            decoded(octets, sizes), [HEAD + b" " + ORIGIN + b" " + m for m in messages]
        )

    @settings(on_each_twin, max_examples=40)
    @given(st.lists(_frames, min_size=1, max_size=3), st.booleans())
    def test_any_truncation(self, frames: list[bytes], keep: bool) -> None:
        """A body cut off anywhere is refused whole, or ended between frames."""
        body = counted(*frames)
        for end in range(0, len(body), 1 + len(body) // 200):
            self.compare(body[:end], ORIGIN, b"d.1", keep)

    @settings(on_each_twin, max_examples=300)
    @given(
        st.lists(_frames, min_size=1, max_size=3),
        st.lists(
            st.tuples(
                st.sampled_from(["flip", "insert", "delete"]),
                st.integers(0, 10_000),
                st.one_of(
                    st.sampled_from(b"0123456789 -[]\n\t+_"), st.integers(0, 255)
                ),
            ),
            min_size=1,
            max_size=3,
        ),
        st.booleans(),
    )
    def test_any_mutation(
        self, frames: list[bytes], mutations: list[tuple[str, int, int]], keep: bool
    ) -> None:
        """A body changed anywhere is refused whole, or is what it now says."""
        body = bytearray(counted(*frames))
        for kind, where, byte in mutations:
            if not body:
                break
            at = where % len(body)
            if kind == "flip":
                body[at] = byte
            elif kind == "insert":
                body.insert(at, byte)
            else:
                del body[at]
        self.compare(bytes(body), ORIGIN, b"d.1", keep)

    @settings(on_each_twin, max_examples=300)
    @given(st.lists(_sd_pieces, max_size=8).map(b"".join))
    @example(b'[a b="c"]')
    @example(b'[a b="c"] ')
    @example(b'[a b="c"]x')
    @example(b'- [a b="c"] x')
    @example(b'[a b="c"] - x')
    @example(b'[a b="c"][')
    @example(b'[a b="c\\')
    def test_any_structured_data(self, rest: bytes) -> None:
        """Whatever looks a little like structured data is kept only if it is."""
        body = counted(HEAD + b" " + rest, HEAD + b" - x")
        self.assertTrue(self.compare(body, ORIGIN, b"", True))
        self.assertTrue(self.compare(body, b"", b"", True))


class RewriteTests(TwinTestCase):
    """`rewrite` corrects frames and stamps them."""

    def one(
        self, rest: bytes, token: bytes = b"", keep: bool = False, sd: bytes = ORIGIN
    ) -> bytes:
        """What becomes of a frame with `rest` after its header."""
        batch = self.rewrite(counted(HEAD + rest), sd, token, keep)
        (frame,) = decoded(batch.octets, [len(batch.octets)])
        return frame

    def test_kept_structured_data(self) -> None:
        """Complete elements join ours, and nothing else does."""
        for rest, tail in [
            (b' [a b="c"] hi', b'[a b="c"] hi'),
            (b' [a b="c"][d e="f" g="h"] hi', b'[a b="c"][d e="f" g="h"] hi'),
            (b' [a b="c"]', b'[a b="c"]'),
            (b' [a b="c"] ', b'[a b="c"] '),
            (b' [a b="c"]  hi', b'[a b="c"]  hi'),
            (b' [a b="\\"\\]\\\\"] hi', b'[a b="\\"\\]\\\\"] hi'),
            (b' [a b="\\c"] hi', b'[a b="\\c"] hi'),
            (b' [a b=""] hi', b'[a b=""] hi'),
            # nil comes before the elements: they are text
            (b' - [a b="c"] hi', b' [a b="c"] hi'),
            # the elements come to no end
            (b' [a b="c"]hi', b' [a b="c"]hi'),
            (b' [a b="c"][d] hi', b' [a b="c"][d] hi'),
            (b' [a b="c"][d e="f', b' [a b="c"][d e="f'),
            (b' [a b="c\\"] hi', b' [a b="c\\"] hi'),
            (b' [a b="c]"] hi', b' [a b="c]"] hi'),
            (b" [a] hi", b" [a] hi"),
            (b" [INFO] hi", b" [INFO] hi"),
            (b' [ b="c"] hi', b' [ b="c"] hi'),
            (b' [a =""] hi', b' [a =""] hi'),
            (b' [a  b="c"] hi', b' [a  b="c"] hi'),
            (b'  [a b="c"] hi', b'  [a b="c"] hi'),
        ]:
            with self.subTest(rest):
                self.assertEqual(self.one(rest, keep=True), HEAD + b" " + ORIGIN + tail)

    def test_not_kept_by_default(self) -> None:
        """Elements of a client are message text unless it is asked for."""
        self.assertEqual(
            self.one(b' [a b="c"] hi'), HEAD + b" " + ORIGIN + b' [a b="c"] hi'
        )

    def test_kept_without_stamp(self) -> None:
        """Kept elements do not join a nil."""
        self.assertEqual(
            self.one(b' [a b="c"] hi', keep=True, sd=b""), HEAD + b' [a b="c"] hi'
        )
        self.assertEqual(self.one(b" hi", keep=True, sd=b""), HEAD + b" - hi")

    def test_drain_token(self) -> None:
        """A fit token takes the place of ``host``, an unfit one is ignored."""
        for token, hostname in [
            (b"d.1", b"d.1"),
            (b"!~", b"!~"),
            (b"", b"host"),
            (b" ", b"host"),
            (b"a b", b"host"),
            (b"d.1\n", b"host"),
            (b"d\x00", b"host"),
            (b"d\x7f", b"host"),
            ("dräin".encode(), b"host"),
            (b"\xff", b"host"),
        ]:
            with self.subTest(token):
                expected = HEAD.replace(b"host", hostname)
                self.assertEqual(
                    self.one(b" - x", token), expected + b" " + ORIGIN + b" x"
                )

    def test_long_drain_token(self) -> None:
        """A token over 255 bytes is cut, and counted once for each frame."""
        for size, cut in ((255, 0), (256, 1), (5000, 1)):
            for procid in (b"web.7", b""):
                with self.subTest((size, procid)):
                    frame = HEAD.replace(b"web.7", procid)
                    batch = self.rewrite(counted(frame, frame), ORIGIN, b"t" * size)
                    self.assertEqual(cuts_of(batch), (2 * cut, 0, 0, 0))
                    self.assertIn(b" " + b"t" * 255 + b" heroku", batch.octets)
                    self.assertNotIn(b"t" * 256, batch.octets)

    def test_only_exactly_host(self) -> None:
        """A hostname that is not exactly ``host`` stays."""
        for hostname in (b"Host", b"hosts", b"hos", b"", b"h" * 300):
            with self.subTest(hostname):
                frame = HEAD.replace(b"host", hostname)
                octets = self.rewrite(counted(frame), ORIGIN, b"d.1").octets
                self.assertNotIn(b"d.1", octets)

    def test_all_cuts_counted(self) -> None:
        """Each field over its limit is cut and counted, in each frame."""
        frame = b" ".join(
            [b"<1>1 t", b"h" * 256, b"a" * 49, b"p" * 129, b"m" * 33, b"x"]
        )
        batch = self.rewrite(counted(frame, HEAD, frame), ORIGIN)
        self.assertEqual(cuts_of(batch), (2, 2, 2, 2))
        self.assertEqual(
            decoded(batch.octets, [1])[2],
            b" ".join(
                [
                    b"<1>1 t",
                    b"h" * 255,
                    b"a" * 48,
                    b"p" * 128,
                    b"m" * 32,
                    ORIGIN,
                    b"x",
                ]
            ),
        )

    def test_nothing_to_forward(self) -> None:
        """A body of white space is a batch of no frames."""
        for body in (b"", b" ", b"\n", b" \t\r\n\x0b\x0c" * 100):
            with self.subTest(body):
                self.assertEqual(
                    astuple(self.rewrite(body, ORIGIN)), (b"", 0, 0, 0, 0, 0, 0, 0)
                )

    def test_hostile_brackets(self) -> None:
        """A megabyte that is nearly structured data, all the way, is done with."""
        wide = FrameLimits(frame_bytes=4 * 1024 * 1024, batch_bytes=8 * 1024 * 1024)
        size = 1024 * 1024
        for piece in (
            b"[",
            b"[a",
            b"[a ",
            b'[a b="',
            b"\\",
            b'[a b="c"',
            b'[a b="c"]',
            b'[a b="\\"',
            b'" a="',
        ):
            with self.subTest(piece):
                start = b'[a b="' if piece in (b"\\", b'" a="') else b""
                rest = start + piece * (size // len(piece)) + b"x"
                octets = self.rewrite(
                    counted(HEAD + b" " + rest), ORIGIN, b"", True, wide
                ).octets
                # None of them is structured data in the end: all of it is text.
                self.assertEqual(octets, counted(HEAD + b" " + ORIGIN + b" " + rest))

    def test_many_hostile_frames(self) -> None:
        """Frames by the ten thousand, each nearly structured data, are done with."""
        rest = b'[a b="c"][' * 5
        count = 20_000
        batch = self.rewrite(counted(*[HEAD + b" " + rest] * count), ORIGIN, b"", True)
        self.assertEqual(
            batch.octets, counted(*[HEAD + b" " + ORIGIN + b" " + rest] * count)
        )

    def test_nothing_allocated_on_the_word_of_a_length(self) -> None:
        """A tiny body that announces a gigabyte costs next to nothing."""
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        for length in (b"999999999", b"131072", b"9" * 5000):
            with self.subTest(length[:10]), self.assertRaises(MalformedFrame):
                tracemalloc.reset_peak()
                before, _ = tracemalloc.get_traced_memory()
                try:
                    self.rewrite(length + b" " + HEAD + b" - x", ORIGIN)
                finally:
                    _, peak = tracemalloc.get_traced_memory()
                    self.assertLess(peak - before, 64 * 1024)

    def test_allocates_within_the_limit(self) -> None:
        """A tiny frame that grows manifold says nothing about those behind it."""
        large = HEAD + b" - " + b"x" * 100_000
        body = counted(b" " * 5, *[large] * 8)
        sd = b'[o p="' + b"x" * 500 + b'"]'
        limits = FrameLimits(batch_bytes=4 * len(body))
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        octets = self.rewrite(body, sd, limits=limits).octets
        _, peak = tracemalloc.get_traced_memory()
        self.assertLess(len(octets), 2 * len(body))
        self.assertLess(peak, 5 * len(body))

    def test_nothing_kept(self) -> None:
        """Whether a body is forwarded or refused, nothing of it stays behind."""
        good = counted(*[HEAD + b" - " + b"x" * 500] * 4)
        for tail in (b"", b"\n", b"9 what", counted(HEAD + b' [a b="c"] x')):
            with self.subTest(tail):
                outcome(self.rewrite, good + tail, ORIGIN, b"d.1", True)
                tracemalloc.start()
                self.addCleanup(tracemalloc.stop)
                before, _ = tracemalloc.get_traced_memory()
                for _ in range(100):
                    outcome(self.rewrite, good + tail, ORIGIN, b"d.1", True)
                after, _ = tracemalloc.get_traced_memory()
                tracemalloc.stop()
                self.assertLess(after - before, 50_000)


class ReportsTests(TwinTestCase):
    """Frames that report losses are counted, and forwarded as they are."""

    SINCE = b"since 2013-06-07T13:17:49.468822+00:00"
    LOGPLEX = b"<172>1 2013-06-07T13:17:49+00:00 host heroku logplex - "
    SHUTTLE = b"<172>1 2013-06-07T13:17:49+00:00 heroku app log-shuttle - "
    L10 = b"Error L10 (output buffer overflow): %b messages dropped "

    def losses(self, *frames: bytes) -> tuple[int, int]:
        """What is dropped and lost by `frames`, of which each is forwarded."""
        batch = self.rewrite(counted(*frames), ORIGIN)
        self.assertEqual(batch.frames, len(frames))
        for frame, made in zip(frames, self.split(batch.octets), strict=True):
            self.assertEqual(made.partition(ORIGIN)[0], frame[: made.index(ORIGIN)])
            self.assertTrue(frame.endswith(made.partition(ORIGIN + b" ")[2]))
        return batch.dropped, batch.lost

    def test_formats(self) -> None:
        """Those of logplex and of log-shuttle, with a nil or without."""
        dropped = b"Error L12: 2 messages dropped " + self.SINCE + b"\n"
        lost = b"Error L13: 3 messages lost " + self.SINCE + b".\n"
        for nil in (b"", b"- "):
            overflown = self.LOGPLEX + nil + self.L10 % b"7" + self.SINCE + b"."
            head = self.SHUTTLE + nil
            self.assertEqual(self.losses(overflown), (7, 0))
            self.assertEqual(self.losses(head + dropped), (2, 0))
            self.assertEqual(self.losses(head + lost), (0, 3))
            self.assertEqual(
                self.losses(overflown, head + dropped, head + lost, overflown), (16, 3)
            )

    def test_beside_others(self) -> None:
        """What was cut in other frames is counted as ever."""
        report = self.LOGPLEX + self.L10 % b"7" + self.SINCE
        long = HEAD.replace(b"host", b"h" * 256) + b" hi"
        batch = self.rewrite(counted(long, report), ORIGIN)
        self.assertEqual((batch.hostnames_cut, batch.dropped), (1, 7))

    def test_digits(self) -> None:
        """A number has one to nine digits."""
        for digits, expected in (
            (b"0", 0),
            (b"999999999", 999_999_999),
            (b"1000000000", 0),
            (b"9" * 5000, 0),
            (b"", 0),
            (b"-1", 0),
            (b"+1", 0),
            (b"1_0", 0),
        ):
            report = self.LOGPLEX + self.L10 % digits + self.SINCE
            self.assertEqual(self.losses(report), (expected, 0), digits[:12])

    def test_no_reports(self) -> None:
        """Another PROCID, another text or less of it is none."""
        whole = self.LOGPLEX + self.L10 % b"7" + b"since "
        self.assertEqual(self.losses(whole), (7, 0))
        for end in range(len(self.LOGPLEX), len(whole)):
            self.assertEqual(self.losses(whole[:end]), (0, 0), whole[:end])
        for frame in (
            whole.replace(b"logplex", b"logplez"),
            whole.replace(b"logplex", b"logplex2"),
            whole.replace(b"logplex -", b"app logplex"),
            whole.replace(b"Error", b" Error"),
            whole.replace(b"L10", b"L11"),
            whole.replace(b"dropped", b"lost"),
            whole.replace(b"heroku logplex", b"logplex web.1"),
        ):
            self.assertEqual(self.losses(frame), (0, 0), frame)

    def test_cut_short(self) -> None:
        """The next frame does not complete a report."""
        whole = self.LOGPLEX + self.L10 % b"7" + b"since "
        for end in range(len(self.LOGPLEX), len(whole)):
            following = whole[end:] + b" a b c d e f"
            body = b"%d %b" % (end, whole[:end]) + counted(following)
            self.assertEqual(self.rewrite(body, ORIGIN).dropped, 0)
        # Not even with its length for the number.
        begun = (self.LOGPLEX + self.L10).partition(b"%b")[0]
        body = counted(begun, b"messages dropped since a b c d")
        self.assertIn(b": 30 messages dropped since ", body)
        self.assertEqual(self.rewrite(body, ORIGIN).dropped, 0)

    def test_odd_header(self) -> None:
        """It is one as well where another field had to be mended."""
        report = self.LOGPLEX.replace(b"heroku", b"a" * 49) + self.L10 % b"7"
        batch = self.rewrite(counted(report + self.SINCE), ORIGIN)
        self.assertEqual((batch.app_names_cut, batch.dropped), (1, 7))


class LimitsTests(TwinTestCase):
    """What is over a limit is refused, what is at it is not."""

    frame = HEAD + b" - hi"

    def test_frame_in(self) -> None:
        """A frame that comes in too large is refused, though it would shrink."""
        # All the fat is in a field that is cut to 255 bytes.
        frame = HEAD.replace(b"host", b"h" * 1000)
        self.assertEqual(
            self.rewrite(counted(frame), b"", limits=FrameLimits(len(frame))).frames, 1
        )
        with self.assertRaises(BodyTooLarge):
            self.rewrite(counted(frame), b"", limits=FrameLimits(len(frame) - 1))

    def test_frame_out(self) -> None:
        """A frame that its stamp makes too large is refused."""
        size = len(HEAD + b" " + ORIGIN + b" hi")
        self.assertGreater(size, len(self.frame))
        body = counted(self.frame)
        self.assertEqual(self.rewrite(body, ORIGIN, limits=FrameLimits(size)).frames, 1)
        with self.assertRaises(BodyTooLarge):
            self.rewrite(body, ORIGIN, limits=FrameLimits(size - 1))

    def test_default_frame_bytes(self) -> None:
        """By default no frame over 131,072 bytes leaves."""
        room = 131_072 - len(HEAD + b" " + ORIGIN + b" ")
        octets = self.rewrite(counted(HEAD + b" " + b"x" * room), ORIGIN).octets
        self.assertTrue(octets.startswith(b"131072 "))
        with self.assertRaises(BodyTooLarge):
            self.rewrite(counted(HEAD + b" " + b"x" * (room + 1)), ORIGIN)

    def test_frames(self) -> None:
        """So many frames and no more."""
        body = counted(*[self.frame] * 3)
        self.assertEqual(
            self.rewrite(body, ORIGIN, limits=FrameLimits(frames=3)).frames, 3
        )
        with self.assertRaises(BodyTooLarge):
            self.rewrite(body, ORIGIN, limits=FrameLimits(frames=2))

    def test_default_frames(self) -> None:
        """By default a post has at most 100,000 frames."""
        frame = b"< t h a p m"
        self.assertEqual(self.rewrite(counted(frame) * 100_000, b"").frames, 100_000)
        with self.assertRaises(BodyTooLarge):
            self.rewrite(counted(frame) * 100_001, b"")

    def test_batch(self) -> None:
        """What comes out of a small body with a large stamp is bounded."""
        frames = 10
        size = frames * len(HEAD + b" " + ORIGIN + b" hi")
        body = counted(*[self.frame] * frames)
        self.assertEqual(
            self.rewrite(body, ORIGIN, limits=FrameLimits(batch_bytes=size)).frames,
            frames,
        )
        with self.assertRaises(BodyTooLarge):
            self.rewrite(body, ORIGIN, limits=FrameLimits(batch_bytes=size - 1))


class MessagesTests(TwinTestCase):
    """A refusal says on one line which frame it is about, and where."""

    def refusal(self, body: bytes, limits: FrameLimits | None = None) -> str:
        with self.assertRaises(RefusedBody) as caught:
            self.rewrite(body, ORIGIN, limits=limits or FrameLimits())
        message = str(caught.exception)
        self.assertTrue(message.isprintable(), message)
        return message

    def test_frame_and_byte(self) -> None:
        """Frames count from 1, bytes from 0."""
        good = counted(HEAD + b" - hi")
        at = len(good)
        for bad, why in [
            (b"what", "no length"),
            (b"\x1b[2J\r\n\x00\xff", "no length"),
            (b"064 " + HEAD, "no length"),
            (b"9999 " + HEAD, "9999 but only 58 bytes follow"),
            (b"7 <13>1 t", "end before MSGID"),
        ]:
            for before, where in [
                (b"", "frame 1 at byte 0"),
                (good, f"frame 2 at byte {at}"),
                (good * 2, f"frame 3 at byte {2 * at}"),
            ]:
                with self.subTest((bad, where)):
                    message = self.refusal(before + bad)
                    self.assertTrue(message.startswith(where), message)
                    self.assertIn(why, message)

    def test_frame_too_large(self) -> None:
        """The frame that is too large is named, with the limit."""
        good = counted(HEAD + b" - hi")
        message = self.refusal(good + counted(HEAD + b"x" * 200), FrameLimits(150))
        self.assertIn(f"frame 2 at byte {len(good)} ", message)
        self.assertIn("150 bytes", message)

    def test_other_limits(self) -> None:
        """Numbers of frames and bytes over their limits are named."""
        body = counted(*[HEAD] * 3)
        self.assertIn("2 frames", self.refusal(body, FrameLimits(frames=2)))
        self.assertIn("99 bytes", self.refusal(body, FrameLimits(batch_bytes=99)))


class TailTests(TwinTestCase):
    """`tail` begins where a frame does, and keeps no more frames than it has to."""

    def test_table(self) -> None:
        """To the octet, for frames of 5, 12 and 5 octets."""
        frames = [b"3 abc", b"9 defghijkl", b"3 mno"]
        octets = b"".join(frames)
        for size, kept in (
            (0, 0),
            (1, 1),
            (5, 1),
            (6, 2),
            (16, 2),
            (17, 3),
            (21, 3),
            (22, 3),
            (1000, 3),
        ):
            expected = b"".join(frames[len(frames) - kept :])
            self.assertEqual(self.tail(octets, size), expected, size)

    def test_no_batch(self) -> None:
        """What is none is kept whole."""
        for octets in (b"", b"x" * 50, b"5 hell", b"3 abc5 hell", b"3 abcx"):
            self.assertEqual(self.tail(octets, 1), octets)

    @on_each_twin
    @given(
        st.lists(st.binary(min_size=1, max_size=300), max_size=8),
        st.integers(0, 1 << 60),
    )
    def test_any(self, messages: list[bytes], size: int) -> None:
        """It is the shortest that will do."""
        octets = counted(*messages)
        tail = self.tail(octets, size)
        self.assertTrue(octets.endswith(tail))
        kept = self.split(tail)
        self.assertEqual(kept, messages[len(messages) - len(kept) :])
        self.assertTrue(len(tail) >= size or tail == octets)
        if kept:
            self.assertLess(len(counted(*kept[1:])), max(size, 1))


class SplitTests(TwinTestCase):
    """`split` takes apart what `rewrite` has put together, and nothing else."""

    @on_each_twin
    @given(st.lists(st.binary(min_size=1, max_size=1100), max_size=8))
    def test_any_messages(self, messages: list[bytes]) -> None:
        """Messages come out as they were counted, whatever they hold."""
        self.assertEqual(self.split(counted(*messages)), messages)

    @on_each_twin
    @given(st.lists(_frames, max_size=6), _tokens)
    def test_any_batch(self, frames: list[bytes], token: bytes) -> None:
        """The messages of a batch are those that a receiver finds."""
        octets = self.rewrite(counted(*frames), ORIGIN, token).octets
        messages = self.split(octets)
        self.assertEqual(messages, decoded(octets, [1 << 20]) if frames else [])
        self.assertEqual(len(messages), len(frames))

    def test_largest(self) -> None:
        """A frame of 131,072 bytes between others is one message."""
        messages = [b"a", b"x" * 131_072, b"b"]
        self.assertEqual(self.split(counted(*messages)), messages)

    def test_broken(self) -> None:
        """What is not octet-counted from end to end is refused, and said where."""
        for tail in (
            b"x",
            b" ",
            b"\n",
            b"0 ",
            b"01 a",
            b"-1 a",
            b"+1 a",
            b"1\ta",
            b"1",
            b"1 ",
            b"2 a",
            b"12",
            b"999999999 a",
            b"1000000000 a",
            b"9" * 30,
            b"9" * 30 + b" a",
        ):
            for before in ([], [b"ab"], [b"ab", b"c" * 20]):
                octets = counted(*before)
                where = f"no frame at byte {len(octets)} of a batch"
                with self.subTest((before, tail)):
                    with self.assertRaises(ValueError) as caught:
                        self.split(octets + tail)
                    self.assertEqual(str(caught.exception), where)

    @on_each_twin
    @given(st.lists(st.binary(min_size=1, max_size=20), min_size=1, max_size=4))
    def test_any_truncation(self, messages: list[bytes]) -> None:
        """Cut off inside a frame there is nothing to be had."""
        octets = counted(*messages)
        ends = {len(counted(*messages[:n])) for n in range(len(messages) + 1)}
        for end in set(range(len(octets))) - ends:
            with self.assertRaises(ValueError):
                self.split(octets[:end])

    @on_each_twin
    @given(st.binary(max_size=30))
    def test_any_octets(self, octets: bytes) -> None:
        """Of whatever octets: messages that make them up again, or a refusal."""
        try:
            messages = self.split(octets)
        except ValueError:
            return
        self.assertEqual(counted(*messages), octets)

    def test_nothing_but_bytes(self) -> None:
        """What is not bytes is a TypeError, not a crash."""
        for other in (None, "1 a", 7, [b"1 a"]):
            with self.subTest(other), self.assertRaises(TypeError):
                self.split(other)  # type: ignore[arg-type]


class SyslogFramesTests(TwinTestCase):
    """`syslog_frames` makes RELP frames of octet-counted ones."""

    def test_octets(self) -> None:
        """Numbered, counted, one behind the other."""
        octets = b"1 a6 \n\x00\xff 9 3 abc"
        both = b"9 syslog 1 a\n10 syslog 6 \n\x00\xff 9 \n"
        self.assertEqual(self.syslog_frames(octets, 0, 2, 9), (both, 2, 11))
        last = b"11 syslog 3 abc\n"
        self.assertEqual(self.syslog_frames(octets, 11, 9, 11), (last, 1, 16))

    def test_nothing(self) -> None:
        """At the end, and when none may be made."""
        for octets, at, count_max in ((b"", 0, 5), (b"1 a", 3, 5), (b"1 a", 0, 0)):
            with self.subTest((octets, at)):
                made = self.syslog_frames(octets, at, count_max, 2)
                self.assertEqual(made, (b"", 0, at))
        self.assertEqual(self.syslog_frames(b"1 a", 0, -1, 2), (b"", 0, 0))

    @on_each_twin
    @given(
        st.lists(st.binary(min_size=1, max_size=1100), max_size=8),
        st.integers(0, 9),
        st.integers(0, 9),
        st.one_of(
            st.integers(1, 999_999_999),
            st.integers(1, 9).map(lambda digits: 10**digits - 3),
        ),
    )
    def test_any_messages(
        self, messages: list[bytes], skipped: int, count_max: int, first: int
    ) -> None:
        """Whatever they hold, and with as many digits as their numbers have."""
        at = len(counted(*messages[:skipped]))
        chosen = messages[skipped:][:count_max]
        expected = b""
        for n, message in enumerate(chosen):
            size = str(len(message)).encode()
            head = str(first + n).encode() + b" syslog " + size + b" "
            expected += head + message + b"\n"
        made = self.syslog_frames(counted(*messages), at, count_max, first)
        end = at + len(counted(*chosen))
        self.assertEqual(made, (expected, len(chosen), end))

    def test_large(self) -> None:
        """Many, and of all lengths of datalen."""
        messages = [b"x" * (10**n) for n in range(6)] * 20
        octets, count, _ = self.syslog_frames(counted(*messages), 0, 1000, 95)
        self.assertEqual(count, len(messages))
        self.assertEqual(
            octets,
            b"".join(
                b"%d syslog %d %b\n" % (n, len(m), m)
                for n, m in enumerate(messages, 95)
            ),
        )

    def test_no_frame(self) -> None:
        """What is not whole, or has no message or too long a one, makes none."""
        most = b"x" * relp.MESSAGE_BYTES_MAX
        self.assertEqual(self.syslog_frames(counted(most), 0, 1, 2)[1], 1)
        for octets, at in (
            (b"x", 0),
            (b" 1 a", 0),
            (b"1", 0),
            (b"1a", 0),
            (b"1 ", 0),
            (b"2 a", 0),
            (b"0 ", 0),
            (b"-1 a", 0),
            (b"1\ta", 0),
            (b"1 a0 1 b", 0),
            (b"1 a2 b", 3),
            (b"0000001 a", 0),
            (b"99999999999999999999 a", 0),
            (counted(most + b"x"), 0),
            (b"1 a", -1),
            (b"1 a", 4),
        ):
            with (
                self.subTest((octets[:20], at)),
                self.assertRaisesRegex(
                    ValueError, f"begins at {3 if b'a0' in octets else at}$"
                ),
            ):
                self.syslog_frames(octets, at, 9, 2)

    def test_nothing_but_bytes(self) -> None:
        """What is neither bytes nor a number is a TypeError, not a crash."""
        for arguments in (
            (None, 0, 1, 2),
            ("1 a", 0, 1, 2),
            (b"1 a", None, 1, 2),
            (b"1 a", 0, None, 2),
            (b"1 a", 0, 1, None),
            (b"1 a", 0, 1, b"2"),
        ):
            with self.subTest(arguments), self.assertRaises(TypeError):
                self.syslog_frames(*arguments)


class TxnrTests(TwinTestCase):
    """Numbers that no session comes to are no reason to write elsewhere."""

    def test_far_out(self) -> None:
        """Below zero, and near the end of what C counts."""
        for first in (-15, -1, 0, 10**18 - 1, 10**18, 10**18 + 1, 2**63 - 3):
            end = first + 2
            self.assertEqual(
                self.answers(first, end),
                b"".join(b"%d rsp 6 200 OK\n" % n for n in range(first, end)),
            )
            made, count, _ = self.syslog_frames(b"1 a1 b", 0, 2, first)
            expected = b"%d syslog 1 a\n%d syslog 1 b\n" % (first, first + 1)
            self.assertEqual((made, count), (expected, 2))


class AnswersTests(TwinTestCase):
    """`answers` are what a RELP server says that takes all."""

    def test_octets(self) -> None:
        """One line for each frame."""
        self.assertEqual(self.answers(9, 11), b"9 rsp 6 200 OK\n10 rsp 6 200 OK\n")
        for first, end in ((2, 2), (3, 2)):
            self.assertEqual(self.answers(first, end), b"")

    @on_each_twin
    @given(
        st.one_of(
            st.integers(1, 999_999_999),
            st.integers(1, 9).map(lambda digits: 10**digits - 3),
        ),
        st.integers(0, 200),
    )
    def test_any_txnrs(self, first: int, count: int) -> None:
        """With as many digits as they have."""
        expected = b"".join(b"%d rsp 6 200 OK\n" % (first + n) for n in range(count))
        self.assertEqual(self.answers(first, first + count), expected)

    def test_nothing_but_numbers(self) -> None:
        """What is no number is a TypeError, not a crash."""
        for first, end in ((None, 2), (2, None), (b"2", 3), (2, "3")):
            with self.subTest((first, end)), self.assertRaises(TypeError):
                self.answers(first, end)  # type: ignore[arg-type]


# What may stand before a frame instead of its length, made from that.
_lengths = st.one_of(
    st.integers(-3, 3).map(lambda more: lambda size: b"%d " % max(0, size + more)),
    st.sampled_from([b"%d", b"0%d ", b"%d  ", b"+%d ", b"1_%d ", b" %d ", b"%d\t"]).map(
        lambda form: lambda size: form % size
    ),
    st.sampled_from([1, 2, 8, 9, 10, 11, 18, 19, 20, 21, 5000]).map(
        lambda digits: lambda _: b"9" * digits + b" "
    ),
)
_long_frames = st.builds(
    lambda frame, byte, size: frame + b" " + bytes([byte]) * size,
    _frames,
    st.integers(0, 255),
    st.integers(0, 3000),
)
_any_frames = st.one_of(_frames, _frames, _long_frames, st.binary(max_size=20))
_pieces = st.one_of(
    _frames.map(counted),
    _frames.map(counted),
    _long_frames.map(counted),
    st.builds(lambda frame, length: length(len(frame)) + frame, _any_frames, _lengths),
    st.binary(max_size=12),
)
_tails = st.one_of(
    st.just(b""),
    st.lists(st.sampled_from(b" \t\r\n\x0b\x0c"), max_size=6).map(bytes),
    st.sampled_from(
        [b"\x00", b"\x1c", b"\x85", b"\xa0", b"\n\x00", b" 1", b"1", b"1 "]
    ),
)
_bodies = st.one_of(
    st.binary(max_size=40),
    st.builds(
        lambda pieces, tail: b"".join(pieces) + tail,
        st.lists(_pieces, max_size=6),
        _tails,
    ),
)
_any_stamps = st.one_of(
    _stamps, st.binary(max_size=6), st.integers(0, 3000).map(lambda size: b"s" * size)
)
_any_limits = st.one_of(
    st.just(DEFAULT_LIMITS),
    st.builds(
        FrameLimits,
        st.integers(0, 500),
        st.integers(0, 6),
        st.integers(0, 3000),
    ),
    st.just(FrameLimits(sys.maxsize, sys.maxsize, sys.maxsize)),
)


class TwinsTests(OnCompiled):
    """The twins return equal batches, or refuse with the same words."""

    def compare(self, *call: Any) -> Batch | tuple[type[RefusedBody], str]:
        expected = outcome(pure.rewrite, *call)
        self.assertEqual(outcome(self.rewrite, *call), expected)
        return expected

    @settings(on_each_twin, max_examples=500)
    @given(_bodies, _any_stamps, _tokens, st.booleans(), _any_limits)
    def test_any_body(
        self, body: bytes, sd: bytes, token: bytes, keep: bool, limits: FrameLimits
    ) -> None:
        """Of whatever bytes, with whatever stamp, token and limits."""
        self.compare(body, sd, token, keep, limits)

    @settings(on_each_twin, max_examples=300)
    @given(
        st.lists(_any_frames, min_size=1, max_size=5),
        _any_stamps,
        st.booleans(),
        st.integers(0, 9),
        st.tuples(*[st.sampled_from([-1, 0, 0, 1, sys.maxsize // 2])] * 3),
    )
    def test_any_limits(
        self,
        frames: list[bytes],
        sd: bytes,
        keep: bool,
        chosen: int,
        more: tuple[int, int, int],
    ) -> None:
        """Of frames that are just below, at and just over each limit."""
        body = counted(*frames)
        wide = FrameLimits(sys.maxsize, sys.maxsize, sys.maxsize)
        batch = self.compare(body, sd, b"", keep, wide)
        sizes = [len(frame) for frame in frames]
        if isinstance(batch, Batch):
            sizes += [len(frame) for frame in decoded(batch.octets, [1 << 20])]
        limits = FrameLimits(
            sizes[chosen % len(sizes)] + more[0],
            len(frames) + more[1],
            sum(sizes[len(frames) :]) + more[2],
        )
        self.compare(body, sd, b"", keep, limits)

    def test_each_limit(self) -> None:
        """Of three frames, with each limit from nothing to more than enough."""
        body = counted(
            HEAD + b" - hi", HEAD.replace(b"host", b"h" * 300), HEAD + b' [a b="c"] x'
        )
        for most in range(len(body) + 3 * len(ORIGIN) + 2):
            for limits in (
                FrameLimits(frame_bytes=most),
                FrameLimits(batch_bytes=most),
                FrameLimits(frames=most % 5),
            ):
                for keep in (False, True):
                    self.compare(body, ORIGIN, b"d.1", keep, limits)

    def test_each_field_size(self) -> None:
        """Of fields that are empty, and just below, at and just over their cuts."""
        rests = (b"", b" ", b" -", b" - ", b"  ", b" - x", b" x", b" [", b' [a b="c"]')
        for h, a, p, m in product(
            (0, 1, 254, 255, 256), (0, 1, 48, 49), (0, 1, 128, 129), (0, 1, 32, 33)
        ):
            fields = [b"<1>1 t", b"h" * h, b"a" * a, b"p" * p, b"m" * m]
            frame = b" ".join(fields)
            body = counted(*[frame + rest for rest in rests])
            batch = self.compare(body, ORIGIN)
            self.assertIsInstance(batch, Batch)

    def test_each_byte(self) -> None:
        """Of two frames cut off at each byte, and with each byte changed."""
        body = counted(HEAD + b" - hi", b'<1>1 t host a p m [a b="c"] x') + b"\n"
        for at in range(len(body)):
            for keep in (False, True):
                self.compare(body[:at], ORIGIN, b"d.1", keep)
                for byte in b"09 -[h\n\x00\xff":
                    changed = body[:at] + bytes([byte]) + body[at + 1 :]
                    self.compare(changed, ORIGIN, b"d.1", keep)

    def test_each_token(self) -> None:
        """Of tokens with each byte, and of each length around the cut."""
        body = counted(HEAD + b" - hi", HEAD)
        for byte in range(256):
            for token in (bytes([byte]), b"d%cd" % byte):
                self.compare(body, ORIGIN, token)
        for size in range(250, 260):
            self.compare(body, ORIGIN, b"t" * size)

    def test_uneven_growth(self) -> None:
        """Of frames that grow manifold before and behind those that do not."""
        tiny = counted(b" " * 5)
        for sd in (b"", ORIGIN, b"s" * 4000):
            for size in (0, 1000, 60_000):
                large = counted(HEAD + b" - " + b"x" * size)
                for body in (
                    tiny + large * 4,
                    large * 4 + tiny * 500,
                    (tiny + large) * 4,
                    tiny * 500 + large,
                ):
                    batch = self.compare(body, sd)
                    self.assertIsInstance(batch, Batch)

    def test_called_alike(self) -> None:
        """By the same names, with the same defaults."""
        self.assertEqual(
            *(
                [(p.name, p.kind, p.default) for p in signature(f).parameters.values()]
                for f in (self.rewrite, pure.rewrite)
            )
        )

    def test_nothing_but_bytes(self) -> None:
        """What is not bytes is a TypeError, not a crash."""
        good = (counted(HEAD + b" - hi"), ORIGIN, b"d.1")
        for i, other in product(range(3), (None, "text", 7, bytearray(9), [b""])):
            with self.subTest((i, other)), self.assertRaises(TypeError):
                self.rewrite(*good[:i], other, *good[i + 1 :])

    def test_references(self) -> None:
        """The octets belong to the batch alone, and are bytes as any other."""
        body = counted(HEAD + b" - hi", HEAD)
        ours, theirs = self.rewrite(body, ORIGIN), pure.rewrite(body, ORIGIN)
        self.assertIs(type(ours.octets), bytes)
        self.assertEqual(sys.getrefcount(ours.octets), sys.getrefcount(theirs.octets))
        self.assertEqual(hash(ours.octets), hash(theirs.octets))


class CompiledVectorsTests(OnCompiled, VectorsTests):
    """`VectorsTests` on the compiled twin."""


class CompiledAgainstOracleTests(OnCompiled, AgainstOracleTests):
    """`AgainstOracleTests` on the compiled twin."""


class CompiledRewriteTests(OnCompiled, RewriteTests):
    """`RewriteTests` on the compiled twin."""


class CompiledReportsTests(OnCompiled, ReportsTests):
    """The same on the compiled twin."""


class CompiledLimitsTests(OnCompiled, LimitsTests):
    """`LimitsTests` on the compiled twin."""


class CompiledMessagesTests(OnCompiled, MessagesTests):
    """`MessagesTests` on the compiled twin."""


class CompiledSplitTests(OnCompiled, SplitTests):
    """`SplitTests` on the compiled twin."""


class CompiledTailTests(OnCompiled, TailTests):
    """`TailTests` on the compiled twin."""


class CompiledTxnrTests(OnCompiled, TxnrTests):
    """`TxnrTests` on the compiled twin."""


class CompiledAnswersTests(OnCompiled, AnswersTests):
    """`AnswersTests` on the compiled twin."""


class CompiledSyslogFramesTests(OnCompiled, SyslogFramesTests):
    """`SyslogFramesTests` on the compiled twin."""
