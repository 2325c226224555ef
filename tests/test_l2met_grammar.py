"""What reads log lines in other tests refuses what l2met would not read."""

from twisted.trial.unittest import SynchronousTestCase

from tests.l2met_grammar import NotL2met, parse

START = "app=log-iss source=local"


class ParseTests(SynchronousTestCase):
    """`parse` reads lines of l2met, and nothing else."""

    def test_reads(self) -> None:
        """Pairs come out in order, unquoted."""
        pairs = parse(
            START + ' count#a.b-c=1 measure#d=0.5s sample#e=7kb f="g h" i="" j= k=l'
        )
        self.assertEqual(
            list(pairs.items()),
            [
                ("app", "log-iss"),
                ("source", "local"),
                ("count#a.b-c", "1"),
                ("measure#d", "0.5s"),
                ("sample#e", "7kb"),
                ("f", "g h"),
                ("i", ""),
                ("j", ""),
                ("k", "l"),
            ],
        )

    def test_unescapes(self) -> None:
        """Each escape that JSON has is read."""
        self.assertEqual(
            parse(START + r' a="\" \\ \/ \b \f \n \r \t \u00e9 \uD83D\uDE00"')["a"],
            '" \\ / \b \f \n \r \t é 😀',
        )

    def test_quoted_pairs_are_text(self) -> None:
        """What looks like a pair between quotation marks is none."""
        self.assertEqual(
            parse(START + r' a="count#x=1 \" b=2"'),
            {"app": "log-iss", "source": "local", "a": 'count#x=1 " b=2'},
        )

    def test_bad_lines(self) -> None:
        """Lines that are not of the grammar are refused."""
        for rest in (
            " ",
            "  a=1",
            " a",
            " a =1",
            " =1",
            ' a"b=1',
            ' a="b',
            ' a="b"c',
            ' a="b"c=d',
            ' a=b"c"',
            " a=b=c",
            " a=b\n",
            " a=b\tc=d",
            ' a="b\nc"',
            ' a="b\x7fc"',
            ' a="é"',
            " a\x7f=b",
            r' a="\x41"',
            r' a="\u12"',
            r' a="\a"',
            r' a="\'"',
            ' a="\\"',
            " a=1 a=2",
            " app=other",
        ):
            with self.subTest(rest), self.assertRaises(NotL2met):
                parse(START + rest)

    def test_bad_metrics(self) -> None:
        """A metric has a name and a number with its unit right behind, bare."""
        for metric in (
            "count#=1",
            "count#A=1",
            "count#a=",
            "count#a=one",
            'count#a="1"',
            "count#a=-1",
            "count#a=.5",
            "count#a=1e-05s",
            "count#a=1.s",
            "measure#a=0.1S",
            "gauge#a=1",
            "#a=1",
            "count#a#b=1",
        ):
            with self.subTest(metric), self.assertRaises(NotL2met):
                parse(f"{START} {metric}")

    def test_bad_starts(self) -> None:
        """A line starts with app and source."""
        for line in (
            "",
            "a=1",
            "app=log-iss",
            "source=local app=log-iss",
            "app=log-iss a=1 source=local",
            "app=other source=local",
            " " + START,
        ):
            with self.subTest(line), self.assertRaises(NotL2met):
                parse(line)
