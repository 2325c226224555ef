"""
Draws the last ten minutes as small SVG plots, and says the same in words.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from math import floor, log
from typing import Any

import pygal
from attrs import frozen
from pygal.style import Style

from logiss.history import HISTORY_SECONDS, History, Sample, difference, quantile
from logiss.metrics import SECONDS_BOUNDS
from logiss.words import duration, size

#: A value of a plot stands for so much time.
STEP_SECONDS = 5.0
WIDTH, HEIGHT = 380, 130

#: How a line looks, by what it stands for.
GOOD, WARN, BAD = "good", "warn", "bad"

Value = float | None
Point = tuple[float, float]

#: What is left of pygal's own style, which has each class there may be. The colours
#: are those of the page, and the dashes too: who does not see colours tells the lines
#: apart by them. `prefers-color-scheme` is that of the page around the image.
_CSS = """
text{font:12px system-ui,sans-serif;fill:#4a5261}
.axis.y text{text-anchor:end}
.axis.x text{text-anchor:middle}
.axis.x .guides:first-child text{text-anchor:start}
.axis.x .guides:last-child text{text-anchor:end}
.background{fill:none}
.axis path{fill:none;stroke:#8a93a3;stroke-opacity:.35}
.axis.x path{stroke-opacity:0}
.plot>g>path{fill:none;stroke-width:2;stroke-linejoin:round}
.good path{stroke:#13795b}
.warn path{stroke:#9a5b00;stroke-dasharray:7 3}
.bad path{stroke:#c4262e;stroke-dasharray:2 2}
@media(prefers-color-scheme:dark){
text{fill:#aab4c3}
.good path{stroke:#4cc38a}
.warn path{stroke:#ffb224}
.bad path{stroke:#ff8b8b}
}
"""
# Of all that it could have, the size of the labels is what room is made for.
_STYLE = Style(label_font_size=12)
#: The axis is always so long, however young the process is.
_X_LABELS = (
    {"value": -HISTORY_SECONDS, "label": f"{duration(HISTORY_SECONDS)} ago"},
    {"value": -HISTORY_SECONDS / 2, "label": f"{duration(HISTORY_SECONDS / 2)} ago"},
    {"value": 0, "label": "now"},
)
#: Halves of these are round too.
_ROUND = (1, 2, 4, 10, 20, 40, 100, 200, 400)
#: Tenths of a pixel are enough.
_TOO_EXACT = re.compile(r"(\.\d)\d+")


@frozen
class Series:
    """
    @ivar look: `GOOD`, `WARN` or `BAD`: the colour and the dashes of its line.
    @ivar value: of what happened between two samples; None when nothing did.
    """

    name: str
    look: str
    value: Callable[[Sample, Sample], Value]


@frozen
class Step:
    """
    What happened in a short time.

    @ivar begin: in seconds from now, so never above 0, @ivar end: likewise.
    """

    begin: float
    end: float
    before: Sample
    after: Sample


@frozen
class Plot:
    """
    @ivar key: what it is called by programs.
    @ivar show: how a value is written.
    @ivar base: what the next larger unit is of the one before.
    """

    key: str
    title: str
    show: Callable[[float], str]
    series: tuple[Series, ...]
    base: int = 10

    def values(self, history: History) -> list[list[Value]]:
        """Of each series, a value for each step."""
        steps = _steps(history)
        return [
            [s.value(step.before, step.after) for step in steps] for s in self.series
        ]

    def said(self, history: History) -> list[str]:
        """What each series shows, for who does not see it."""
        return [self._said(values) for values in self.values(history)]

    def _said(self, values: Sequence[Value]) -> str:
        there = [v for v in values if v is not None]
        if not there:
            return "none"
        now = "none" if values[-1] is None else self.show(values[-1])
        return f"{now} now, at most {self.show(max(there))}"

    def words(self, history: History) -> str:
        """The same as a sentence about all of them."""
        names = [series.name for series in self.series]
        said = zip(names, self.said(history), strict=True)
        steps = _steps(history)
        long = duration(-steps[0].begin) if steps else "second"
        each = "; ".join(f"{name}: {words}" for name, words in said)
        return f"{self.title}, last {long}. {each}."

    def drawn(self, history: History) -> dict[str, Any]:
        """What a page shows of it; the words of each series make its legend."""
        return self._shown(self.words(history), self.said(history), self.svg(history))

    def outline(self) -> dict[str, Any]:
        """The same before it is drawn."""
        return self._shown("", [""] * len(self.series), "")

    def _shown(self, words: str, said: Sequence[str], svg: str) -> dict[str, Any]:
        return {
            "title": self.title,
            "words": words,
            "series": [
                {"name": series.name, "look": series.look, "words": each}
                for series, each in zip(self.series, said, strict=True)
            ],
            "svg": svg,
        }

    def svg(self, history: History) -> str:
        """The plot as an SVG document without any script."""
        steps, all_values = _steps(history), self.values(history)
        top = _top(_peak(all_values), self.base)
        chart = pygal.XY(
            width=WIDTH,
            height=HEIGHT,
            style=_STYLE,
            css=(),
            js=(),
            no_prefix=True,
            disable_xml_declaration=True,
            show_legend=False,
            show_dots=False,
            no_data_text="",
            allow_interruptions=True,
            margin=4,
            truncate_label=-1,
            range=(0, top or 1),
            x_labels=_X_LABELS,
            y_labels=self._y_labels(top),
        )
        for series, values in zip(self.series, all_values, strict=True):
            chart.add(series.name, list(_points(steps, values)))
        chart.add_xml_filter(self._trimmed)
        text: str = chart.render(is_unicode=True)
        return text

    def _y_labels(self, top: float) -> list[dict[str, object]]:
        """Nothing, all, and half of it where that is not written the same."""
        by_label = {"0": 0.0}
        for value in (top, top / 2) if top else ():
            by_label.setdefault(self.show(value), value)
        return [{"value": v, "label": label} for label, v in by_label.items()]

    def _trimmed(self, root: Any) -> Any:
        """Without scripts, comments, and what only scripts use."""
        looks = {f"serie-{i}": series.look for i, series in enumerate(self.series)}
        for parent in list(root.iter()):
            for child in list(parent):
                if _is_idle(child):
                    parent.remove(child)
                elif child.tag == "style":
                    child.text = _CSS
                elif "d" in child.attrib:
                    child.set("d", _TOO_EXACT.sub(r"\1", child.get("d")))
                elif (look := _look(child, looks)) is not None:
                    child.set("class", look)
        return root


def _is_idle(node: Any) -> bool:
    if not isinstance(node.tag, str) or node.tag in ("script", "title"):
        return True
    classes = node.get("class", "").split()
    return "overlay" in classes or "titles" in classes or "tooltip" in classes


def _look(node: Any, looks: dict[str, str]) -> str | None:
    """The class of a line."""
    classes = node.get("class", "").split()
    return next((looks[name] for name in classes if name in looks), None)


def _steps(history: History) -> list[Step]:
    """Those of the last ten minutes, oldest first."""
    last = history.last()
    if last is None:
        return []
    return [
        Step(
            max(before.at - last.at, -HISTORY_SECONDS),
            after.at - last.at,
            before,
            after,
        )
        for before, after in history.steps(STEP_SECONDS)
    ]


def _points(steps: Sequence[Step], values: Sequence[Value]) -> Iterator[Point | None]:
    """
    A line for each run of steps with values, from where its first begins: what
    happened once is seen. Where a line is level its ends are enough.
    """
    pairs = zip(steps, values, strict=True)
    for is_there, run in groupby(pairs, lambda pair: pair[1] is not None):
        if is_there:
            yield from _ends([(step, value or 0.0) for step, value in run])
        else:
            yield None


def _ends(run: Sequence[tuple[Step, float]]) -> Iterator[Point]:
    first, value = run[0]
    yield first.begin, value
    values = [value for _, value in run]
    for i, (step, value) in enumerate(run):
        if values[max(0, i - 1) : i + 2] != [value] * 3:
            yield step.end, value


def _peak(values: Sequence[Sequence[Value]]) -> float:
    return max((v for series in values for v in series if v is not None), default=0.0)


def _top(peak: float, base: int) -> float:
    """Where the axis ends: the next round number of its unit; 0 if all is 0."""
    if peak <= 0:
        return 0.0
    unit = float(base ** floor(log(peak, base)))
    fitting = (unit * n for n in _ROUND if peak <= unit * n)
    return next(fitting, unit * base)


#: Samples are a second apart, but a clock may stand still.
_LEAST_SECONDS = 1e-9


def _rate(count: Callable[[Sample], int]) -> Callable[[Sample, Sample], Value]:
    def rate(before: Sample, after: Sample) -> Value:
        return (count(after) - count(before)) / max(
            after.at - before.at, _LEAST_SECONDS
        )

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
        "Posts delivered a second",
        _per_second,
        (Series("delivered", GOOD, _rate(lambda s: s.posts_delivered)),),
    ),
    # Beside a thousand that were delivered the few that were not could not be seen.
    Plot(
        "failures",
        "Posts refused or failed a second",
        _per_second,
        (
            Series("refused", WARN, _rate(lambda s: s.posts_refused)),
            Series("failed", BAD, _rate(lambda s: s.posts_failed)),
        ),
    ),
    Plot(
        "frames",
        "Frames a second",
        _per_second,
        (
            Series("delivered", GOOD, _rate(lambda s: s.frames_delivered)),
            Series("not delivered", BAD, _rate(lambda s: s.frames_failed)),
        ),
    ),
    Plot(
        "delivery",
        "Time of a delivery",
        duration,
        (
            Series("half within", GOOD, _quantile(0.5)),
            Series("99 % within", WARN, _quantile(0.99)),
        ),
    ),
    Plot(
        "queue",
        "Waiting for the backend",
        size,
        (Series("queue", GOOD, lambda _, after: after.queue_bytes),),
        base=1024,
    ),
    Plot(
        "inflight",
        "Bodies in memory",
        size,
        (Series("in flight", GOOD, lambda _, after: after.inflight_bytes),),
        base=1024,
    ),
)


class Gallery:
    """
    Draws the plots one after the other: each is a few milliseconds during which no post
    is served.

    @ivar drawn: what a page shows of each, by its key.
    """

    def __init__(self, history: History) -> None:
        self._history = history
        self._next = 0
        self.drawn: dict[str, dict[str, Any]] = {}

    def shown(self) -> dict[str, dict[str, Any]]:
        """All of them in their order, outlines of those that are not drawn yet."""
        return {plot.key: self.drawn.get(plot.key, plot.outline()) for plot in PLOTS}

    def draw_next(self) -> dict[str, dict[str, Any]]:
        """Draw the one that was drawn longest ago, and return it."""
        plot = PLOTS[self._next % len(PLOTS)]
        self._next += 1
        self.drawn[plot.key] = plot.drawn(self._history)
        return {plot.key: self.drawn[plot.key]}

    def forget(self) -> None:
        """Nobody looks at them: they would be old when somebody does."""
        self.drawn.clear()

    def words(self) -> dict[str, str]:
        """What all plots show now."""
        return {plot.key: plot.words(self._history) for plot in PLOTS}
