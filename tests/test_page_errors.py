"""What the page says when something goes wrong, in its own language: the server's errors by their codes, with the server's words as the detail."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("fastapi")

from .page_browser import Visit, chromium, server
from .server_process import Served

pytestmark = pytest.mark.full
STUB = True  # seed 667 raises an OutOfMemoryError
NO_PICTURE = {"name": "x.png", "mimeType": "image/png", "buffer": b"no picture at all"}


@pytest.fixture
def japanese(chromium: Any, server: Served) -> Iterator[Visit]:
    with Visit(chromium, server.url, locale="ja-JP") as found:
        yield found
        found.problems.clear()  # the browser notes each 4xx by itself


def test_a_refused_picture(japanese: Visit) -> None:
    japanese.page.get_by_test_id("file").set_input_files(NO_PICTURE)
    alert = japanese.page.get_by_role("alert")
    alert.get_by_text("この画像は使えません。").wait_for()
    alert.get_by_text("PNG、JPEG、WebP の画像を選んでください。").wait_for()
    detail = alert.locator("[lang=en]")
    assert "no PNG, JPEG or WebP" in detail.inner_text()
    japanese.shot("error_japanese")


def test_a_failed_job(japanese: Visit) -> None:
    page = japanese.page
    page.get_by_label("サンプル：").first.click()
    japanese.stage.wait_for()
    page.get_by_role("button", name="オプション").click()
    page.get_by_label("シード", exact=True).fill("667")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="生成").click()
    ended = page.locator('[data-testid=ended][data-status="failed"]')
    ended.get_by_text("メモリが足りません。").wait_for()
    assert "The stub has no memory left." in ended.locator("[lang=en]").inner_text()
    japanese.shot("failed_japanese")


def test_a_row_of_a_batch(japanese: Visit) -> None:
    japanese.page.goto(f"{japanese.url}/#/batch")
    japanese.page.get_by_test_id("files").set_input_files([NO_PICTURE])
    told = japanese.page.locator('tr[data-state="failed"]').get_by_text("この画像は使えません。")
    told.wait_for()
    assert "no PNG" in str(told.get_attribute("title"))


@pytest.mark.parametrize(
    ("code", "text"),
    [("E_STORAGE", "サーバーのディスクがいっぱいです。"), ("E_OF_TOMORROW", "サーバーで予期しないエラーが起きました。")],
)
def test_a_job_that_is_not_taken(japanese: Visit, code: str, text: str) -> None:
    """Also with a code that only a newer server knows."""
    page = japanese.page
    page.get_by_label("サンプル：").first.click()
    japanese.stage.wait_for()
    body = {"error": {"code": code, "message": "What happened.", "hint": "Do this."}}
    page.route("**/api/v1/jobs", lambda route: route.fulfill(status=507, json=body))
    page.get_by_role("button", name="生成").click()
    alert = page.get_by_role("alert")
    alert.get_by_text(text).wait_for()
    assert alert.locator("[lang=en]").inner_text() == "What happened. Do this."


def test_in_english_the_servers_own_words_are_enough(chromium: Any, server: Served) -> None:
    with Visit(chromium, server.url) as visit:
        visit.page.get_by_test_id("file").set_input_files(NO_PICTURE)
        alert = visit.page.get_by_role("alert")
        alert.get_by_text("no PNG, JPEG or WebP").wait_for()
        assert alert.locator("[lang=en]").count() == 0
        visit.problems.clear()


def test_a_refusal_is_no_state(chromium: Any, server: Served) -> None:
    """Where too many connections are open, `readyz` has the body of an error."""
    with Visit(chromium, server.url) as visit:
        body = {"error": {"code": "E_BUSY", "message": "800 connections are open.", "hint": "Try again in a moment."}}
        visit.page.route("**/api/v1/readyz", lambda route: route.fulfill(status=503, json=body))
        health = visit.page.locator('[data-testid=health][data-status="offline"]')
        health.wait_for()
        assert "health." not in health.inner_text()
        visit.page.unroute("**/api/v1/readyz")
        visit.page.locator('[data-testid=health][data-status="ready"]').wait_for()
        visit.problems.clear()
