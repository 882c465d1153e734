"""One browser for all tests of the page, and one server where none needs its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.prn_guard.serve.page.browser import Page, start
from tests.prn_guard.serve.page.shown import served, write_shown


@pytest.fixture(scope="package")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    driver = start(tmp_path_factory.mktemp("profile"))
    yield driver
    driver.quit()


@pytest.fixture(scope="package")
def address(driver: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a page whose alarm is hard to raise."""
    folder = write_shown(tmp_path_factory.mktemp("shown") / "tiny")
    with served(folder, alarm_pictures=1e15) as address:
        yield address


@pytest.fixture
def blank(driver: object) -> Iterator[Page]:
    """The browser before it opens anything; its log must stay clean."""
    page = Page(driver)
    page.driver.get("about:blank")
    page.sized(1280, 800)
    page.coloured("light")
    page.log("browser"), page.events()
    yield page
    page.driver.get("about:blank")


@pytest.fixture
def page(blank: Page, address: str) -> Page:
    blank.open(address)
    return blank


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_shown(tmp_path / "tiny")
