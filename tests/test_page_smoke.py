"""The web page, once through: a picture, its mask, a job, the result in three dimensions. The rest is in test_page*.py, with --full."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("fastapi")

from .page_browser import Visit, browser, need_page, served


def test_from_a_picture_to_a_mesh(tmp_path: Path) -> None:
    need_page()
    with served(tmp_path, stub=True) as server, browser() as chromium, Visit(chromium, server.url) as visit:
        page = visit.page
        assert visit.page.title() == "SAM 3D"
        visit.sample("mushroom")
        visit.wait_share(20, 80)
        visit.generate()
        visit.result("mesh")
        pixels = visit.pixels()
        assert pixels[..., 3].max() == 255 and len(pixels[pixels[..., 3] > 200].reshape(-1, 4).tolist()) > 500
        assert visit.download(page.get_by_label("Download GLB"))[:4] == b"glTF"
        assert visit.job(server)["status"] == "succeeded"
        page.reload()
        visit.result("mesh")
        assert page.get_by_test_id("history").locator("li").count() == 1
