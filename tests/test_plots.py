"""
The plots are small, well-formed, legible, and say the same in words.
"""

import math
import re
from xml.etree import ElementTree

from twisted.trial.unittest import SynchronousTestCase

from logiss.history import History, Sample
from logiss.metrics import SECONDS_BOUNDS
from logiss.plots import HEIGHT, PLOTS, STEP_SECONDS, WIDTH, Gallery, Plot

SVG = "{http://www.w3.org/2000/svg}"
PLOT = {plot.key: plot for plot in PLOTS}
#: A plot is sent each second to each page that is open.
SVG_MAX = 6_000


def delivered(count: int, bucket: int = 6) -> tuple[int, ...]:
    """A histogram of `count` deliveries of up to `bucket`'s bound."""
    return tuple(count if i == bucket else 0 for i in range(len(SECONDS_BOUNDS) + 1))


def history(*samples: Sample) -> History:
    history = History()
    for sample in samples:
        history.add(sample)
    return history


def steady(seconds: int, per_second: int = 100) -> History:
    """The same, second after second."""
    return history(
        *(
            Sample(
                10_000.0 + i,
                posts_delivered=per_second * i,
                frames_delivered=10 * per_second * i,
                delivery=delivered(per_second * i),
                queue_bytes=2048,
            )
            for i in range(seconds + 1)
        )
    )


def noisy() -> History:
    """As much to draw as there can be in ten minutes."""
    samples = []
    for i in range(601):
        wave = 1000 + int(900 * math.sin(i * i))
        samples.append(
            Sample(
                10_000.0 + i,
                posts_delivered=2000 * i + wave,
                posts_refused=2000 * i - wave,
                posts_failed=3000 * i + wave,
                frames_delivered=2000 * i + wave,
                frames_failed=2000 * i - wave,
                delivery=delivered(2000 * i + wave, i % 16),
                queue_bytes=wave * 1000,
                inflight_bytes=wave * 3000,
            )
        )
    return history(*samples)


def drawn(plot: Plot, of: History) -> ElementTree.Element:
    return ElementTree.fromstring(plot.svg(of))  # noqa: S314  our own


def labels(svg: ElementTree.Element, axis: str) -> list[str]:
    """What is written along the ``x`` or the ``y`` axis."""
    (found,) = (
        g for g in svg.iter(f"{SVG}g") if f"axis {axis}" in (g.get("class") or "")
    )
    return [text.text or "" for text in found.iter(f"{SVG}text")]


def lines(svg: ElementTree.Element, look: str) -> list[list[tuple[float, float]]]:
    """The points of each line that looks so."""
    paths = [
        path.get("d") or ""
        for g in svg.iter(f"{SVG}g")
        if g.get("class") == look
        for path in g.iter(f"{SVG}path")
    ]
    return [
        [(float(x), float(y)) for x, y in re.findall(r"([\d.]+) ([\d.]+)", path)]
        for path in paths
    ]


def ticks(svg: ElementTree.Element) -> dict[str, float]:
    """Where on the x axis each label is."""
    return {
        text.text or "": float(text.get("x") or "nan")
        for g in svg.iter(f"{SVG}g")
        if "axis x" in (g.get("class") or "")
        for text in g.iter(f"{SVG}text")
    }


class WordsTests(SynchronousTestCase):
    """Who does not see the plot reads the same."""

    def test_steady(self) -> None:
        """The last value and the highest, of each series, with units."""
        self.assertEqual(
            PLOT["posts"].words(steady(600)),
            "Posts delivered a second, last 10 min."
            " delivered: 100/s now, at most 100/s.",
        )
        self.assertEqual(
            PLOT["queue"].words(steady(600)),
            "Waiting for the backend, last 10 min."
            " queue: 2.0 KiB now, at most 2.0 KiB.",
        )

    def test_young(self) -> None:
        """It is said of how long it is."""
        self.assertIn("last 30 s.", PLOT["posts"].words(steady(30)))

    def test_nothing(self) -> None:
        """Where nothing was delivered there is no time that it took."""
        idle = steady(600, per_second=0)
        self.assertEqual(
            PLOT["delivery"].said(idle),
            ["none", "none"],
        )
        self.assertEqual(PLOT["failures"].said(idle)[0], "0/s now, at most 0/s")

    def test_over(self) -> None:
        """What has ended is none now, and still the highest."""
        samples = [Sample(10_000.0 + i, delivery=delivered(50)) for i in range(60)]
        samples.insert(0, Sample(9_999.0, delivery=delivered(0)))
        _, p99 = PLOT["delivery"].said(history(*samples))
        self.assertRegex(p99, r"^none now, at most .+ ms$")

    def test_no_history(self) -> None:
        """Before the first two samples there is nothing, and no error."""
        for of in (history(), history(Sample(10_000.0))):
            for plot in PLOTS:
                self.assertIn("none", plot.words(of))
                self.assertNotIn("No data", plot.svg(of))


class ValuesTests(SynchronousTestCase):
    """A value stands for what happened in five seconds."""

    def test_rates(self) -> None:
        """Rates are a second, however long the step was."""
        (values,) = PLOT["posts"].values(steady(600))
        self.assertEqual(set(values), {100.0})
        self.assertEqual(len(values), 600 / STEP_SECONDS)

    def test_quantiles(self) -> None:
        """Half and nearly all of the deliveries, from the counts of the step."""
        half, most = PLOT["delivery"].values(steady(60))
        lower, upper = SECONDS_BOUNDS[5:7]
        for p50, p99 in zip(half, most, strict=True):
            assert p50 is not None
            assert p99 is not None
            self.assertTrue(lower < p50 < p99 <= upper, (p50, p99))


class SVGTests(SynchronousTestCase):
    """The image can be put on any page."""

    def test_small(self) -> None:
        """However much there is to draw."""
        for plot in PLOTS:
            size = len(plot.svg(noisy()).encode())
            self.assertLess(size, SVG_MAX, plot.key)

    def test_inert(self) -> None:
        """It is well-formed, and has no script, no link and no comment."""
        for plot in PLOTS:
            svg = drawn(plot, noisy())
            self.assertEqual(svg.tag, f"{SVG}svg")
            self.assertEqual(svg.get("viewBox"), f"0 0 {WIDTH} {HEIGHT}")
            tags = {element.tag.removeprefix(SVG) for element in svg.iter()}
            self.assertEqual(tags - {"svg", "defs", "style", "g", "rect"}, _DRAWN)
            names = {name for element in svg.iter() for name in element.keys()}  # noqa: SIM118
            self.assertFalse([n for n in names if "href" in n or n.startswith("on")])
            self.assertNotIn("<!--", plot.svg(noisy()))
            self.assertNotIn("url(", plot.svg(noisy()))

    def test_same_series(self) -> None:
        """Series are those of the plot, whatever clients have sent."""
        for plot in PLOTS:
            for shown, series in zip(
                plot.drawn(noisy())["series"], plot.series, strict=True
            ):
                self.assertEqual(shown["name"], series.name)
                self.assertEqual(shown["look"], series.look)

    def test_looks(self) -> None:
        """The lines of a plot differ in colour and in dashes, by day and by night."""
        for plot in PLOTS:
            looks = [series.look for series in plot.series]
            self.assertEqual(len(looks), len(set(looks)), plot.key)
            for look in looks:
                self.assertEqual(len(lines(drawn(plot, noisy()), look)), 1, plot.key)
        style = PLOTS[0].svg(noisy())
        day, night = style.split("@media(prefers-color-scheme:dark)")
        for part in (day, night):
            strokes = re.findall(r"\.(?:good|warn|bad) path\{stroke:(#\w+)", part)
            self.assertEqual(len(set(strokes)), 3)
        self.assertEqual(len(set(re.findall(r"dasharray:([\d ]+)", day))), 2)


_DRAWN = {"path", "text"}


class AxesTests(SynchronousTestCase):
    """What the lines are to be read against."""

    def test_ten_minutes(self) -> None:
        """The x axis is ten minutes long, and a young process is at its end."""
        svg = drawn(PLOT["posts"], steady(60))
        at = ticks(svg)
        self.assertEqual(list(at), ["10 min ago", "5 min ago", "now"])
        ((*_, end),) = lines(svg, "good")
        begin = lines(svg, "good")[0][0]
        wide = at["now"] - at["10 min ago"]
        self.assertAlmostEqual((end[0] - begin[0]) / wide, 0.1, places=2)
        self.assertAlmostEqual(end[0], at["now"], places=0)

    def test_at_most_three_labels(self) -> None:
        """The y axis has nothing, half and all, rounded and with units."""
        self.assertEqual(
            labels(drawn(PLOT["posts"], steady(600)), "y"), ["0", "100/s", "50/s"]
        )
        for peak, expected in [
            (1, ["0", "1 B"]),
            (300, ["0", "400 B", "200 B"]),
            (600, ["0", "1.0 KiB", "512 B"]),
            (1025, ["0", "2.0 KiB", "1.0 KiB"]),
            (3 << 20, ["0", "4.0 MiB", "2.0 MiB"]),
            (1 << 30, ["0", "1.0 GiB", "512.0 MiB"]),
        ]:
            two = history(Sample(10_000.0), Sample(10_005.0, queue_bytes=peak))
            found = labels(drawn(PLOT["queue"], two), "y")
            self.assertEqual(found[: len(expected)], expected, peak)
            self.assertLessEqual(len(found), 3)

    def test_one_label(self) -> None:
        """Where all is nothing there is only that."""
        self.assertEqual(labels(drawn(PLOT["failures"], steady(600)), "y"), ["0"])

    def test_inside(self) -> None:
        """The highest value is not above the highest label."""
        for plot in PLOTS:
            svg = drawn(plot, noisy())
            ys = [
                float(text.get("y") or "nan")
                for g in svg.iter(f"{SVG}g")
                if "axis y" in (g.get("class") or "")
                for text in g.iter(f"{SVG}text")
            ]
            # The baseline of a label is a little below its guide.
            for series in plot.series:
                for line in lines(svg, series.look):
                    self.assertGreater(min(y for _, y in line), min(ys) - 6, plot.key)


class GapsTests(SynchronousTestCase):
    """Where nothing happened no line is drawn."""

    def deliveries(self, *seconds: int) -> History:
        """Deliveries in these seconds only."""
        return history(
            *(
                Sample(
                    10_000.0 + i,
                    delivery=delivered(10 * sum(s <= i for s in seconds)),
                )
                for i in range(600)
            )
        )

    def test_gap(self) -> None:
        """Two times with deliveries are two lines."""
        busy = [*range(100, 150), *range(400, 450)]
        found = lines(drawn(PLOT["delivery"], self.deliveries(*busy)), "good")
        self.assertEqual(len(found), 2)

    def test_once(self) -> None:
        """What happened only once is seen too."""
        svg = drawn(PLOT["delivery"], self.deliveries(300))
        ((begin, end),) = lines(svg, "good")
        at = ticks(svg)
        step = (at["now"] - at["10 min ago"]) * STEP_SECONDS / 600
        self.assertAlmostEqual(end[0] - begin[0], step, places=0)

    def test_level(self) -> None:
        """A level line is drawn by its ends, and one that is not by all its points."""
        ((*level,),) = lines(drawn(PLOT["posts"], steady(600)), "good")
        self.assertLessEqual(len(level), 3)
        ((*all_points,),) = lines(drawn(PLOT["posts"], noisy()), "good")
        self.assertEqual(len(all_points), 600 / STEP_SECONDS + 1)


class GalleryTests(SynchronousTestCase):
    """The plots are drawn one after the other."""

    def test_in_turn(self) -> None:
        """Each is drawn before one is drawn again."""
        gallery = Gallery(steady(60))
        keys = [next(iter(gallery.draw_next())) for _ in range(2 * len(PLOTS))]
        self.assertEqual(keys, 2 * [plot.key for plot in PLOTS])

    def test_outlines(self) -> None:
        """Those that are not drawn yet have titles and series, in their places."""
        gallery = Gallery(steady(60))
        gallery.draw_next()
        shown = gallery.shown()
        self.assertEqual(list(shown), [plot.key for plot in PLOTS])
        first, second, *_ = shown.values()
        self.assertTrue(first["svg"].startswith("<svg"))
        self.assertEqual((second["svg"], second["words"]), ("", ""))
        self.assertEqual(second["title"], PLOTS[1].title)
        self.assertEqual(
            [series["name"] for series in second["series"]],
            [series.name for series in PLOTS[1].series],
        )

    def test_forgotten(self) -> None:
        """What was drawn long ago is not shown."""
        gallery = Gallery(steady(60))
        gallery.draw_next()
        gallery.forget()
        self.assertEqual({plot["svg"] for plot in gallery.shown().values()}, {""})

    def test_words(self) -> None:
        """All of them are said, drawn or not."""
        words = Gallery(steady(60)).words()
        self.assertEqual(list(words), [plot.key for plot in PLOTS])
