"""
The status page in chromium, of a logiss in a process of its own.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.browsers import DESK, Browser, browsing, served, url
from tests.integration.daemons import Daemon, Receiver, receiving


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browsing(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def daemon(tmp_path: Path, receiver: Receiver) -> Iterator[Daemon]:
    with served(tmp_path, receiver) as daemon:
        yield daemon


def test_loads(browser: Browser, daemon: Daemon) -> None:
    """The page opens, says that all is well, and the browser has no complaint."""
    browser.be(DESK)
    browser.complaints()
    browser.open(url(daemon))
    browser.wait_for_text("#answers section:first-child .verdict", "Yes")
    assert browser.driver.title == "OK logiss test"
    browser.wait_for(lambda: browser.run("return document.images.length >= 6"))
    browser.wait_for(
        lambda: browser.run("return [...document.images].every((i) => i.src)")
    )
    assert browser.complaints() == []
