"""The result in three dimensions, in a real browser with WebGL in software: mesh and splats of the draft engine."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi")

from .page_browser import EXAMPLES, Visit, bounds, browser, need_page, served
from .server_process import Served

pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as found:
        yield found


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    need_page()
    with served(tmp_path_factory.mktemp("view")) as found:
        yield found


@pytest.fixture(scope="module")
def jobs(chromium: Any, server: Served) -> dict[str, str]:
    """Results of one picture: its splats in each of the three frames, and one without splats. frame -> job."""
    with Visit(chromium, server.url) as visit:
        visit.page.get_by_test_id("file").set_input_files(EXAMPLES / "camper.png")  # not alike upside down
        visit.stage.wait_for()
        visit.wait_share(10, 90)
        visit.generate()
        visit.result()
        made = visit.job(server)
    found = {"y_down": made["id"]}
    for frame, outputs in (("y_up", ["glb", "ply"]), ("z_up", ["glb", "ply"]), ("mesh", ["glb"])):
        params = {"outputs": outputs, "quality": "fast", "ply_frame": "y_up" if frame == "mesh" else frame}
        body = {"image_id": made["image_id"], "mask_ids": made["mask_ids"], "params": params}
        status, job = server.call("POST", "/jobs", body)
        assert status in (200, 201), job
        found[frame] = job["id"]
    return found


@pytest.mark.parametrize("frame", ["y_down", "y_up", "z_up"])
def test_mesh_and_splats_coincide(chromium: Any, server: Served, jobs: dict[str, str], frame: str) -> None:
    with Visit(chromium, server.url, f"/#/jobs/{jobs[frame]}") as visit:
        visit.result("mesh")
        mesh = visit.pixels()
        visit.page.get_by_role("radio", name="Splats").click()
        visit.result("splat")
        visit.page.wait_for_timeout(1500)
        splat = visit.pixels()
        visit.shot(f"splat_{frame}")
        assert np.abs(bounds(mesh) - bounds(splat)).max() <= 0.03 * max(mesh.shape), (bounds(mesh), bounds(splat))
        both = (mesh[..., 3] > 128) & (splat[..., 3] > 128)
        either = (mesh[..., 3] > 128) | (splat[..., 3] > 128)
        assert both.sum() > 0.93 * either.sum()
        apart = np.abs(mesh[both][:, :3].astype(int) - splat[both][:, :3]).mean()
        assert apart < 30, f"their colours are {apart:.0f} apart"


def test_compare_shows_the_mesh_left_and_the_splats_right(chromium: Any, server: Served, jobs: dict[str, str]) -> None:
    with Visit(chromium, server.url, f"/#/jobs/{jobs['y_down']}") as visit:
        visit.result("mesh")
        mesh = visit.pixels()
        visit.page.get_by_role("radio", name="Splats").click()
        visit.result("splat")
        visit.page.wait_for_timeout(1500)
        splat = visit.pixels()
        visit.page.get_by_role("radio", name="Compare").click()
        visit.result("mesh splat")
        visit.page.wait_for_timeout(1500)
        both = visit.pixels()
        visit.shot("compare")
        half = mesh.shape[1] // 2
        for part, other, there in ((np.s_[:, : half - 2], splat, mesh), (np.s_[:, half + 2 :], mesh, splat)):
            near, far = (np.abs(both[part].astype(int) - one[part]).mean() for one in (there, other))
            assert near < 0.5 * far, (near, far)
        visit.page.get_by_label("Divider between mesh and splats").fill("100")
        visit.page.wait_for_timeout(1500)
        assert np.abs(visit.pixels().astype(int) - mesh).mean() < 0.5


def test_wireframe_turning_and_reset(chromium: Any, server: Served, jobs: dict[str, str]) -> None:
    with Visit(chromium, server.url, f"/#/jobs/{jobs['y_down']}") as visit:
        canvas = visit.result("mesh")
        plain = visit.pixels()
        visit.page.get_by_label("Wireframe (W)").click()
        visit.page.wait_for_timeout(500)
        wired = visit.pixels()
        visit.shot("wireframe")
        assert np.abs(plain.astype(int) - wired).mean() > 1
        canvas.focus()
        visit.page.keyboard.press("w")
        for _ in range(6):
            visit.page.keyboard.press("ArrowRight")
        visit.page.wait_for_timeout(500)
        turned = visit.pixels()
        assert np.abs(plain.astype(int) - turned).mean() > 1
        visit.page.keyboard.press("+")
        visit.page.wait_for_timeout(500)
        assert np.ptp(bounds(visit.pixels())[[1, 3]]) > np.ptp(bounds(turned)[[1, 3]])
        visit.page.keyboard.press("0")
        visit.page.wait_for_timeout(500)
        assert np.abs(plain.astype(int) - visit.pixels()).mean() < 0.1
        box = canvas.bounding_box()
        visit.page.mouse.move(box["x"] + 100, box["y"] + 100)
        visit.page.mouse.down()
        visit.page.mouse.move(box["x"] + 220, box["y"] + 110, steps=3)
        visit.page.mouse.up()
        visit.page.wait_for_timeout(500)
        assert np.abs(plain.astype(int) - visit.pixels()).mean() > 1


def test_it_turns_by_itself_unless_that_is_unwelcome(chromium: Any, server: Served, jobs: dict[str, str]) -> None:
    start = f"/#/jobs/{jobs['mesh']}"
    with Visit(chromium, server.url, start, reduced_motion="no-preference", viewport={"width": 700, "height": 500}) as visit:
        visit.result("mesh")
        toggle = visit.page.get_by_label("Turn by itself (R)")
        assert toggle.get_attribute("aria-pressed") == "true"
        toggle.click()
        visit.page.wait_for_timeout(700)
        first = visit.pixels()
        toggle.click()
        visit.page.wait_for_timeout(2500)
        toggle.click()
        visit.page.wait_for_timeout(700)
        assert np.abs(first.astype(int) - visit.pixels()).mean() > 0.5
    with Visit(chromium, server.url, start) as visit:
        visit.result("mesh")
        assert visit.page.get_by_label("Turn by itself (R)").get_attribute("aria-pressed") == "false"


def test_a_picture_of_the_view(chromium: Any, server: Served, jobs: dict[str, str]) -> None:
    with Visit(chromium, server.url, f"/#/jobs/{jobs['y_down']}") as visit:
        visit.result("mesh")
        shown = visit.pixels()
        saved = np.asarray(Image.open(io.BytesIO(visit.download(visit.page.get_by_label("Save this view as PNG")))).convert("RGBA"))
        assert saved.shape == shown.shape and np.abs(saved.astype(int) - shown).mean() < 0.5


def test_a_result_without_splats(chromium: Any, server: Served, jobs: dict[str, str]) -> None:
    with Visit(chromium, server.url, f"/#/jobs/{jobs['mesh']}") as visit:
        visit.result("mesh")
        assert (
            visit.page.get_by_role("radio", name="Splats").is_disabled() and visit.page.get_by_role("radio", name="Compare").is_disabled()
        )
        assert visit.page.get_by_label("Download PLY").count() == 0


def test_without_webgl_the_files_are_there_all_the_same(chromium: Any, server: Served, jobs: dict[str, str]) -> None:
    with Visit(chromium, server.url) as visit:
        visit.page.add_init_script("HTMLCanvasElement.prototype.getContext = () => null;")
        visit.page.goto(f"{server.url}/#/jobs/{jobs['y_down']}")
        visit.page.reload()
        visit.page.get_by_text("this browser has no WebGL 2").wait_for()
        assert visit.download(visit.page.get_by_label("Download GLB"))[:4] == b"glTF"
        visit.problems.clear()
