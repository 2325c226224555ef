"""
Draws the last ten minutes as small SVG plots, and says the same in words.
"""

from collections.abc import Callable, Sequence

import pygal
from attrs import frozen
from pygal.style import Style

from logiss.history import HISTORY_SECONDS, History, Sample, difference, quantile
from logiss.metrics import SECONDS_BOUNDS
from logiss.words import duration, size

#: A point of a plot stands for so much time.
STEP_SECONDS = 5.0
WIDTH, HEIGHT = 480, 160

_POINTS = int(HISTORY_SECONDS / STEP_SECONDS)
_CLASSES = ("good", "warn", "bad")
# To be told apart at night, by day, and by those who do not see colours.
_STYLE = Style(
    background="transparent",
    plot_background="transparent",
    foreground="#8a8f98",
    foreground_strong="#8a8f98",
    foreground_subtle="#8a8f9855",
    colors=("#2f9e6e", "#d08700", "#e5484d"),
    font_family="system-ui, sans-serif",
    label_font_size=11,
    major_label_font_size=11,
    transition="0s",
)
_DASHES: tuple[dict[str, object], ...] = (
    {"width": 2},
    {"width": 2, "dasharray": "6, 3"},
    {"width": 2, "dasharray": "2, 2"},
)

Value = float | None


@frozen
class Series:
    """
    @ivar value: of what happened between two samples; None when nothing did.
    """

    name: str
    value: Callable[[Sample, Sample], Value]


@frozen
class Plot:
    """
    @ivar key: what it is called by programs.
    @ivar show: how a value is written.
    """

    key: str
    title: str
    show: Callable[[float], str]
    series: tuple[Series, ...]

    def values(self, history: History) -> list[list[Value]]:
        """Of each series, a value for each step."""
        steps = list(history.steps(STEP_SECONDS))[-_POINTS:]
        return [[s.value(*step) for step in steps] for s in self.series]

    def words(self, history: History) -> str:
        """What the plot shows, for who does not see it."""
        all_values = self.values(history)
        said = []
        for series, values in zip(self.series, all_values, strict=True):
            there = [v for v in values if v is not None]
            if not there:
                said.append(f"{series.name}: none")
                continue
            now = values[-1]
            shown = "none" if now is None else self.show(now)
            said.append(f"{series.name}: {shown} now, at most {self.show(max(there))}")
        minutes = len(all_values[0]) * STEP_SECONDS / 60
        return f"{self.title}, last {minutes:.0f} minutes. " + "; ".join(said) + "."

    def svg(self, history: History) -> str:
        """The plot as an SVG document without any script."""
        values = self.values(history)
        chart = pygal.Line(
            width=WIDTH,
            height=HEIGHT,
            style=_STYLE,
            js=[],
            no_prefix=True,
            show_legend=False,
            show_dots=False,
            show_minor_x_labels=False,
            show_x_guides=False,
            allow_interruptions=True,
            margin=6,
            range=(0, max(_peak(values), _TOP)),
            y_labels=_labels(_peak(values)),
            value_formatter=self.show,
        )
        count = len(values[0])
        ago = [(count - i) * STEP_SECONDS for i in range(count)]
        chart.x_labels = [duration(seconds) for seconds in ago]
        chart.x_labels_major_every = 24
        for series, points, dash in zip(self.series, values, _DASHES, strict=False):
            chart.add(series.name, points, stroke_style=dash)
        return _without_scripts(chart)


_TOP = 1e-9


def _peak(values: Sequence[Sequence[Value]]) -> float:
    return max((v for series in values for v in series if v is not None), default=0.0)


def _labels(peak: float) -> list[float]:
    return [0, peak / 2, peak] if peak > 0 else [0]


def _without_scripts(chart: pygal.Line) -> str:
    root = chart.render_tree()
    for parent in list(root.iter()):
        for child in list(parent):
            if isinstance(child.tag, str) and child.tag.endswith("script"):
                parent.remove(child)
    text: str = pygal.etree.etree.tostring(root, encoding="unicode")
    return text


def _rate(count: Callable[[Sample], int]) -> Callable[[Sample, Sample], Value]:
    def rate(before: Sample, after: Sample) -> Value:
        return (count(after) - count(before)) / max(after.at - before.at, _TOP)

    return rate


def _quantile(fraction: float) -> Callable[[Sample, Sample], Value]:
    def value(before: Sample, after: Sample) -> Value:
        counts = difference(before.delivery, after.delivery)
        return quantile(fraction, counts, SECONDS_BOUNDS)

    return value


def _per_second(value: float) -> str:
    return f"{value:,.0f}/s" if value >= 10 or not value else f"{value:.1f}/s"


PLOTS = (
    Plot(
        "posts",
        "Posts a second",
        _per_second,
        (
            Series("delivered", _rate(lambda s: s.posts_delivered)),
            Series("refused", _rate(lambda s: s.posts_refused)),
            Series("failed", _rate(lambda s: s.posts_failed)),
        ),
    ),
    Plot(
        "frames",
        "Frames a second",
        _per_second,
        (
            Series("delivered", _rate(lambda s: s.frames_delivered)),
            Series("not delivered", _rate(lambda s: s.frames_failed)),
        ),
    ),
    Plot(
        "delivery",
        "Time of a delivery",
        duration,
        (Series("half within", _quantile(0.5)), Series("99 % within", _quantile(0.99))),
    ),
    Plot(
        "queue",
        "Waiting for the backend",
        size,
        (Series("queue", lambda _, after: after.queue_bytes),),
    ),
    Plot(
        "inflight",
        "Bodies in memory",
        size,
        (Series("in flight", lambda _, after: after.inflight_bytes),),
    ),
)


class Gallery:
    """
    Draws the plots one after the other: each is a few milliseconds during which no post
    is served.
    """

    def __init__(self, history: History) -> None:
        self._history = history
        self._next = 0
        self.drawn: dict[str, dict[str, str]] = {}

    def draw_next(self) -> dict[str, dict[str, str]]:
        """Draw the one that was drawn longest ago, and return it."""
        plot = PLOTS[self._next % len(PLOTS)]
        self._next += 1
        self.drawn[plot.key] = {
            "title": plot.title,
            "words": plot.words(self._history),
            "svg": plot.svg(self._history),
        }
        return {plot.key: self.drawn[plot.key]}

    def forget(self) -> None:
        """Nobody looks at them: they would be old when somebody does."""
        self.drawn.clear()

    def words(self) -> dict[str, str]:
        """What all plots show now."""
        return {plot.key: plot.words(self._history) for plot in PLOTS}
