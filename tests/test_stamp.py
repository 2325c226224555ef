"""Structured data that nobody can break out of."""

from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from logiss import stamp

Element = tuple[bytes, list[tuple[bytes, bytes]]]


def parse(sd: bytes) -> list[Element]:
    """
    SD-ELEMENTs as RFC 5424 section 6.3 reads them: each an SD-ID and its params,
    unescaped. Anything else fails an assertion.
    """
    elements: list[Element] = []
    rest = list(sd)

    def take(expected: bytes) -> None:
        for byte in expected:
            assert rest, f"{sd!r} ends early"
            found = rest.pop(0)
            assert found == byte, f"{bytes([found])!r}, not {bytes([byte])!r}: {sd!r}"

    def name() -> bytes:
        found = b""
        while rest and 33 <= rest[0] <= 126 and rest[0] not in b'="]':
            found += bytes([rest.pop(0)])
        assert 1 <= len(found) <= 32, f"no SD-NAME in {sd!r}"
        return found

    def value() -> bytes:
        found = b""
        while rest and rest[0] not in b'"]':
            byte = rest.pop(0)
            if byte == ord("\\"):
                assert rest, f"{sd!r} ends early"
                assert rest[0] in b'\\"]', f"needless escape in {sd!r}"
                byte = rest.pop(0)
            found += bytes([byte])
        return found

    while rest:
        take(b"[")
        sd_id, params = name(), []
        while rest and rest[0] == ord(" "):
            take(b" ")
            param = name()
            take(b'="')
            params.append((param, value()))
            take(b'"')
        take(b"]")
        elements.append((sd_id, params))
    return elements


def without_control(value: bytes) -> bytes:
    return bytes(byte for byte in value if 32 <= byte != 127)


def is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


_hostile = st.one_of(
    st.binary(max_size=40),
    st.lists(
        st.sampled_from(
            [b'"', b"]", b"\\", b'"]', b'" x="', b"[", b"\n", b"\x00", b"\x7f", b"a "]
        ),
        max_size=12,
    ).map(b"".join),
    st.text(min_size=80, max_size=200).map(lambda text: text.encode("utf-8", "ignore")),
    st.binary(min_size=250, max_size=300),
    st.builds(
        lambda before, c, n: b"x" * before + c.encode("utf-8", "ignore") * n,
        st.integers(0, 5),
        st.sampled_from(["é", "€", "😀", '"', "\\"]),
        st.integers(60, 300),
    ),
)


class OriginTests(SynchronousTestCase):
    """The origin element says where a post came from."""

    def test_address(self) -> None:
        """An address is the ip param of the element origin."""
        self.assertEqual(stamp.origin(b"1.2.3.4"), b'[origin ip="1.2.3.4"]')
        self.assertEqual(stamp.origin(b"::1"), b'[origin ip="::1"]')

    def test_as_it_came(self) -> None:
        """Several addresses stay as they came."""
        self.assertEqual(
            stamp.origin(b"1.1.1.1, 2.2.2.2"), b'[origin ip="1.1.1.1, 2.2.2.2"]'
        )

    def test_escapes(self) -> None:
        """Quotation mark, backslash and bracket are escaped, and nothing else."""
        self.assertEqual(stamp.origin(b'a"b\\c]d['), b'[origin ip="a\\"b\\\\c\\]d["]')

    def test_control_bytes(self) -> None:
        """Control bytes are dropped."""
        for byte in [*range(32), 127]:
            self.assertEqual(
                stamp.origin(b"a" + bytes([byte]) + b"b"), b'[origin ip="ab"]'
            )

    def test_nothing(self) -> None:
        """Without an address there is no element."""
        for address in (b"", b"\r\n", b"\x00" * 300):
            self.assertEqual(stamp.origin(address), b"")

    def test_255_bytes(self) -> None:
        """A value is cut at 255 bytes, not counting control bytes and escapes."""
        self.assertEqual(
            stamp.origin(b"\n" + b"x" * 255), b'[origin ip="' + b"x" * 255 + b'"]'
        )
        self.assertEqual(stamp.origin(b"x" * 256), b'[origin ip="' + b"x" * 255 + b'"]')
        self.assertEqual(
            stamp.origin(b"]" * 256), b'[origin ip="' + b"\\]" * 255 + b'"]'
        )

    def test_utf8_is_not_split(self) -> None:
        """A character that does not fit whole goes whole."""
        for character in ("é", "€", "😀"):
            encoded = character.encode()
            for before in range(len(encoded)):
                with self.subTest((character, before)):
                    whole = (255 - before) // len(encoded)
                    self.assertEqual(
                        stamp.escaped(b"x" * before + encoded * 300),
                        b"x" * before + encoded * whole,
                    )

    @settings(deadline=None, max_examples=300)
    @given(_hostile)
    @example("€".encode() * 85 + b"x")
    @example(b"\x80" * 300)
    @example(b"x" * 254 + b"\xf0\x9f\x98\x80")
    def test_any_bytes(self, address: bytes) -> None:
        """Whatever comes in, one element with one value comes out."""
        clean = without_control(address)
        sd = stamp.origin(address)
        if not clean:
            self.assertEqual(sd, b"")
            return
        ((sd_id, ((param, value),)),) = parse(sd)
        self.assertEqual((sd_id, param), (b"origin", b"ip"))
        if len(clean) <= 255:
            self.assertEqual(value, clean)
            return
        self.assertTrue(clean.startswith(value))
        self.assertTrue(252 <= len(value) <= 255, len(value))
        if is_utf8(clean):
            character = clean[len(value) :].decode()[0].encode()
            self.assertGreater(len(value) + len(character), 255)


class MetadataTests(SynchronousTestCase):
    """The metadata element says what the query of a post said."""

    def made(
        self,
        query: dict[bytes, list[bytes]],
        params: str = "index source",
        fields: str = "custom1 custom2",
        deprecated: bytes | None = None,
    ) -> bytes:
        return stamp.metadata(
            b"meta@1",
            query,
            params.encode().split(),
            fields.encode().split(),
            deprecated,
        )

    def test_order(self) -> None:
        """Params stand in the order configured, whatever the query's is."""
        query = {b"source": [b"s"], b"index": [b"i"]}
        self.assertEqual(self.made(query), b'[meta@1 index="i" source="s"]')
        self.assertEqual(
            self.made(query, "source index"), b'[meta@1 source="s" index="i"]'
        )

    def test_fields(self) -> None:
        """Fields follow the params, in the order configured, in one param."""
        query = {b"custom2": [b"2"], b"index": [b"i"], b"custom1": [b"1"]}
        self.assertEqual(
            self.made(query), b'[meta@1 index="i" fields="custom1=1,custom2=2"]'
        )

    def test_deprecated_credential(self) -> None:
        """The note on a deprecated credential ends the fields."""
        note = b"credential_deprecated=true,credential_name=old"
        self.assertEqual(
            self.made({b"custom1": [b"1"], b"index": [b"i"]}, deprecated=b"old"),
            b'[meta@1 index="i" fields="custom1=1,' + note + b'"]',
        )
        self.assertEqual(
            self.made({}, deprecated=b"old"), b'[meta@1 fields="' + note + b'"]'
        )

    def test_first_value(self) -> None:
        """The first of several values counts."""
        self.assertEqual(
            self.made({b"index": [b"a", b"b"], b"custom1": [b"c", b"d"]}),
            b'[meta@1 index="a" fields="custom1=c"]',
        )

    def test_nothing(self) -> None:
        """Without a value there is no element."""
        queries: tuple[dict[bytes, list[bytes]], ...] = (
            {},
            {b"other": [b"x"]},
            {b"index": [b""]},
            {b"index": []},
            {b"custom1": [b"\n\x00"]},
        )
        for query in queries:
            with self.subTest(query):
                self.assertEqual(self.made(query), b"")

    def test_only_what_is_configured(self) -> None:
        """What is not configured does not get in."""
        self.assertEqual(
            self.made({b"index": [b"i"], b"evil": [b"x"]}, fields=""),
            b'[meta@1 index="i"]',
        )

    @settings(deadline=None, max_examples=300)
    @given(_hostile, _hostile, st.one_of(st.none(), _hostile))
    def test_any_bytes(
        self, index: bytes, custom: bytes, deprecated: bytes | None
    ) -> None:
        """Whatever comes in, one element with the params configured comes out."""
        sd = self.made({b"index": [index], b"custom1": [custom]}, deprecated=deprecated)

        def clean(value: bytes) -> bytes:
            # How a value is bounded is shown for the origin.
            ((_, ((_, cleaned),)),) = parse(stamp.origin(value)) or [
                (b"", [(b"", b"")])
            ]
            return cleaned

        params = [(b"index", clean(index))] if clean(index) else []
        fields = [b"custom1=" + clean(custom)] if clean(custom) else []
        if deprecated is not None:
            fields += [
                b"credential_deprecated=true",
                b"credential_name=" + clean(deprecated),
            ]
        if fields:
            params.append((b"fields", b",".join(fields)))
        self.assertEqual(parse(sd), [(b"meta@1", params)] if params else [])


class ParserTests(SynchronousTestCase):
    """The parser above refuses what is not structured data."""

    def test_refuses(self) -> None:
        """Elements that are broken out of do not pass."""
        for sd in (
            b'[a b="c"',
            b'[a b="c]"]',
            b'[a b="c" ]',
            b'[a b="c"x]',
            b"[a b=c]",
            b'[ b="c"]',
            b'[a b="c\\d"]',
            b'[a b="c"] ',
            b'[a b="c\\',
            b"[" + b"a" * 33 + b"]",
        ):
            with self.subTest(sd), self.assertRaises(AssertionError):
                parse(sd)

    def test_reads(self) -> None:
        """Elements come out unescaped."""
        self.assertEqual(
            parse(b'[a b="\\"\\]\\\\" c=""][d]'),
            [(b"a", [(b"b", b'"]\\'), (b"c", b"")]), (b"d", [])],
        )
