"""
An operator who has never read the code finds what is wrong, within a minute, on the
status page and from the alert alone.

All nights of `tests.integration.nights` are side by side: healthy for a while, then
something is wrong with each, then healthy again. A real Prometheus with the rules as
they are delivered scrapes them each second, and a browser has all their pages open.
What both say is written down several times a second; the tests read that.
"""

import re
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
from attrs import define, field, frozen

from tests.integration import nights
from tests.integration.browsers import Browser, browsing
from tests.integration.nights import Night
from tests.integration.prometheuses import (
    PrometheusServer,
    program_or_skip,
    prometheus,
)

#: What an operator has.
MINUTE_SECONDS = 60.0
#: How long nothing is wrong at first, and something is at least: long enough to see
#: what else is said.
_HEALTHY_SECONDS, _FAULT_SECONDS = 20.0, 40.0
#: What is told of the last minute, and by alerts of the last two, is over then.
_OVER_SECONDS = 140.0
_PAUSE_SECONDS = 0.25
#: What is worth knowing, and no reason to do anything.
_NOTES = {"LogissConnectionsMissing", "LogissReplaying"}


@frozen
class Glimpse:
    """
    What was to be seen at one moment.

    @ivar at: seconds since something is wrong, or before it.
    @ivar answers: the three, and @ivar words: what is wrong, as they are read.
    @ivar alerts: those of this instance that fire.
    """

    at: float
    answers: str
    words: str
    alerts: list[dict[str, Any]]

    @property
    def findings(self) -> list[str]:
        """By name, in the order of the page."""
        return re.findall(r"\bLogiss[A-Z]\w+", self.words)

    @property
    def alert_names(self) -> list[str]:
        return [alert["labels"]["alertname"] for alert in self.alerts]


@define(eq=False)
class Record:
    """What was seen of one night."""

    night: Night
    healthy: list[Glimpse] = field(factory=list)
    wrong: list[Glimpse] = field(factory=list)
    over: list[Glimpse] = field(factory=list)
    numbers: dict[str, float] = field(factory=dict)
    wrong_for_seconds: float = 0.0

    @property
    def on_page_at(self) -> float | None:
        """When the finding stood first on the page, and named whom it is about."""
        for seen in self.wrong:
            is_first = seen.findings[:1] == [self.night.alert]
            if is_first and self.night.culprit in seen.words:
                return seen.at
        return None

    @property
    def alerted_at(self) -> float | None:
        for seen in self.wrong:
            if self.night.alert in seen.alert_names:
                return seen.at
        return None

    @property
    def is_found(self) -> bool:
        return self.on_page_at is not None and self.alerted_at is not None

    @property
    def is_over(self) -> bool:
        last = self.over[-1] if self.over else None
        return last is not None and not last.findings and not last.alerts


class Pages:
    """A browser with a page in each of its tabs, and what a person reads there."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._tabs: dict[str, str] = {}

    def open(self, name: str, url: str) -> None:
        driver = self._browser.driver
        driver.switch_to.new_window("tab")
        self._browser.open(url)
        self._tabs[name] = driver.current_window_handle

    def read(self, name: str) -> tuple[str, str]:
        """The three answers, and what is wrong: all that stands above the plots."""
        self._browser.driver.switch_to.window(self._tabs[name])
        answers, _, rest = self._browser.text("body").partition("What is wrong")
        words, _, _ = rest.partition("The last ten minutes")
        return answers, words


class Watchman:
    """Looks at all pages and at the alerts, and writes down what is there."""

    def __init__(
        self, records: list[Record], server: PrometheusServer, pages: "Pages"
    ) -> None:
        self._records = records
        self._server = server
        self._pages = pages
        self._provoked_at = 0.0

    def watch(self, phase: str, least: float, most: float, enough: str = "") -> None:
        """Until all records are `enough`, but `least` seconds, and not `most`."""
        begin = time.monotonic()
        while (passed := time.monotonic() - begin) < most:
            alerts = self._server.alerts()
            for record in self._records:
                getattr(record, phase).append(self._glimpse(record.night, alerts))
            seen = bool(enough) and all(getattr(r, enough) for r in self._records)
            if seen and passed >= least:
                return
            time.sleep(_PAUSE_SECONDS)

    def _glimpse(self, night: Night, alerts: list[dict[str, Any]]) -> Glimpse:
        answers, words = self._pages.read(night.name)
        mine = [a for a in alerts if a["labels"]["instance"] == night.name]
        firing = [a for a in mine if a["state"] == "firing"]
        return Glimpse(time.monotonic() - self._provoked_at, answers, words, firing)

    def provoke_all(self) -> None:
        self._provoked_at = time.monotonic()
        for record in self._records:
            record.night.provoke()

    def end_all(self) -> None:
        for record in self._records:
            record.wrong_for_seconds = time.monotonic() - self._provoked_at
            record.night.end()

    def take_numbers(self, phase: str) -> None:
        for record in self._records:
            record.numbers[phase] = self._number(record.night)

    def _number(self, night: Night) -> float:
        """What the metric says; nothing is 0."""
        wanted = {"instance": night.name, **night.shown.labels}
        values = [
            value
            for labels, value in self._server.query(night.shown.expression)
            if wanted.items() <= labels.items()
        ]
        return max(values, default=0.0)


# one night


@pytest.fixture(scope="module")
def records(
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Record]:
    """All nights, from the first minute to the last."""
    program_or_skip("redis-server", "redis-server")
    program_or_skip("prometheus", "prometheus")
    with ExitStack() as stack:
        folder = tmp_path_factory.mktemp("browser")
        pages = Pages(stack.enter_context(browsing(folder)))
        found = {}
        for make in nights.ALL:
            night = make(stack, tmp_path_factory.mktemp("logiss"))
            found[night.name] = Record(night)
            pages.open(night.name, night.url)
        ports = {
            record.night.name: record.night.admin_port for record in found.values()
        }
        server = stack.enter_context(
            prometheus(tmp_path_factory.mktemp("prometheus"), ports)
        )
        watchman = Watchman(list(found.values()), server, pages)
        watchman.watch("healthy", _HEALTHY_SECONDS, _HEALTHY_SECONDS)
        watchman.take_numbers("healthy")
        watchman.provoke_all()
        watchman.watch("wrong", _FAULT_SECONDS, MINUTE_SECONDS, "is_found")
        watchman.take_numbers("wrong")
        watchman.end_all()
        watchman.watch("over", 0, _OVER_SECONDS, "is_over")
    print_times(list(found.values()))
    return found


def print_times(records: list[Record]) -> None:
    print(
        f"\n{'':20} {'on the page':>12} {'alert':>8}   over: {'page':>8} {'alerts':>8}"
    )
    for record in records:
        found = record.on_page_at, record.alerted_at
        gone = [
            _last(record.over, lambda seen: bool(seen.findings)),
            _last(record.over, lambda seen: bool(seen.alerts)),
        ]
        ended = [None if at is None else at - record.wrong_for_seconds for at in gone]
        page, alert, *over = (
            "never" if at is None else f"{at:.1f} s" for at in (*found, *ended)
        )
        print(
            f"{record.night.name:20} {page:>12} {alert:>8}         {over[0]:>8}"
            f" {over[1]:>8}"
        )


def _last(glimpses: list[Glimpse], of: Callable[[Glimpse], bool]) -> float | None:
    return next((seen.at for seen in reversed(glimpses) if of(seen)), None)


NAMES = [make.__name__.replace("_", "-") for make in nights.ALL]


@pytest.fixture(params=NAMES)
def record(request: pytest.FixtureRequest, records: dict[str, Record]) -> Record:
    return records[request.param]


def test_healthy(record: Record) -> None:
    """Before anything is wrong, nothing is found and nobody is woken."""
    assert len(record.healthy) > _HEALTHY_SECONDS / 2
    assert [seen for seen in record.healthy if seen.findings or seen.alerts] == []
    # The page was live, and had the three answers.
    assert "Is anything being lost?" in record.healthy[-1].answers
    assert not re.search("WARN|BAD", record.healthy[-1].answers)


def test_on_page(record: Record) -> None:
    """Within a minute the page says first what is wrong, and with whom or where."""
    assert record.on_page_at is not None, record.wrong[-1]
    assert record.on_page_at < MINUTE_SECONDS


def test_page_misleads_nobody(record: Record) -> None:
    """As long as it is wrong nothing stands above it, and nothing that is not true."""
    night = record.night
    for seen in record.wrong:
        # In the first moment there may be a note, that connections are being made anew.
        if not set(seen.findings) <= _NOTES:
            assert seen.findings[0] == night.alert, seen
        assert set(seen.findings) <= {night.alert} | night.beside, seen
        for innocent in night.innocents:
            assert innocent not in seen.words, seen
            assert innocent not in seen.answers, seen


def test_answers(record: Record) -> None:
    """One of the three answers at the top is what is wrong, in words."""
    answers = [seen.answers for seen in record.wrong if seen.findings]
    assert record.night.culprit in answers[-1]


def test_alert(record: Record) -> None:
    """Within a minute the alert fires, and says with whom or where."""
    night = record.night
    assert record.alerted_at is not None, record.wrong[-1]
    assert record.alerted_at < MINUTE_SECONDS
    alerts = [
        alert
        for seen in record.wrong
        for alert in seen.alerts
        if alert["labels"]["alertname"] == night.alert
    ]
    told = [" ".join(alert["annotations"].values()) for alert in alerts]
    assert any(night.culprit in words for words in told), told[-1]
    for words in told:
        assert night.name in words, words
        assert "{{" not in words, words
        assert "<no value>" not in words, words


def test_alerts_mislead_nobody(record: Record) -> None:
    """Nobody is woken for anything that is not so, nor for its effect before it."""
    night = record.night
    for seen in record.wrong:
        assert set(seen.alert_names) <= {night.alert} | night.beside, seen
        if "LogissPostsFailing" in seen.alert_names:
            assert night.alert in seen.alert_names, seen
        for alert in seen.alerts:
            words = " ".join(alert["annotations"].values())
            for innocent in night.innocents:
                assert innocent not in words, words


def test_metric(record: Record) -> None:
    """The metric that shows it does so, and did not before."""
    shown = record.night.shown
    assert not shown.is_wrong(record.numbers["healthy"]), record.numbers
    assert shown.is_wrong(record.numbers["wrong"]), record.numbers


def test_over(record: Record) -> None:
    """When it is over, page and alerts go back to good by themselves."""
    assert record.is_over, record.over[-1]
    assert not re.search("WARN|BAD", record.over[-1].answers)
