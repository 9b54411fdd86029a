"""Two tabs of one browser: the work at hand is each one's own, language and colours are both's. In a real browser."""

from __future__ import annotations

import pytest

pytest.importorskip("fastapi")

from .page_browser import Visit, chromium, server, visit
from .server_process import Served

pytestmark = pytest.mark.full
STUB = True


def seed(tab: Visit, value: int | None = None) -> int:
    """Of the options; set first where one is given."""
    tab.button("Options").click()
    field = tab.page.get_by_label("Seed", exact=True)
    if value is not None:
        field.fill(str(value))
    found = int(field.input_value())
    tab.page.keyboard.press("Escape")
    return found


def name(tab: Visit) -> str:
    return str(tab.page.get_by_label("Name of the object").input_value())


def test_each_tab_keeps_its_own_work(visit: Visit, server: Served) -> None:
    visit.sample("mushroom")
    visit.wait_share(20, 80)
    seed(visit, 21)
    other = visit.another_tab()
    other.stage.wait_for()
    assert (name(other), seed(other)) == ("mushroom", 21)  # a new tab goes on where the last one was
    other.button("Another picture").click()
    other.sample("steak")
    other.wait_share(20, 80)
    seed(other, 22)

    visit.page.reload()
    visit.stage.wait_for()
    visit.wait_share(20, 80)
    assert (name(visit), seed(visit)) == ("mushroom", 21)
    visit.button("Another picture").click()
    visit.page.reload()
    visit.page.get_by_text("Drop a picture here").wait_for()  # it doesn't take up the other one's
    other.page.reload()
    other.stage.wait_for()
    assert (name(other), seed(other)) == ("steak", 22)

    visit.sample("camper")
    visit.wait_share(5, 95)
    for tab in (visit, other):
        tab.generate()
    for tab, expected in ((visit, ("camper", 21)), (other, ("steak", 22))):
        tab.result()
        job = tab.job(server)
        assert (job["name"], job["params"]["seed"]) == expected
        history = tab.page.get_by_test_id("history")
        history.get_by_label("Open camper").wait_for()  # both have both, without a reload
        history.get_by_label("Open steak").wait_for()

    visit.page.close()
    third = other.another_tab()  # what was kept last, in any tab
    third.stage.wait_for()
    assert name(third) in ("camper", "steak")


def test_language_and_colours_are_one_choice(visit: Visit) -> None:
    other = visit.another_tab()
    visit.button("日本語").click()
    other.page.get_by_role("button", name="English").wait_for()
    assert other.page.evaluate("() => document.documentElement.lang") == "ja"
    other.page.get_by_role("button", name="English").click()
    visit.page.get_by_label("Colours: as the system").click()
    other.page.get_by_label("Colours: light").wait_for()
    assert other.page.evaluate("() => document.documentElement.dataset.theme") == "light"


def test_a_browser_that_keeps_nothing_is_fine(visit: Visit) -> None:
    visit.page.add_init_script(
        "for (const name of ['localStorage', 'sessionStorage']) Object.defineProperty(window, name, { get() { throw new DOMException('no'); } });"
    )
    visit.page.reload()
    visit.sample("mushroom")
    visit.wait_share(20, 80)
    visit.generate()
    visit.result()
