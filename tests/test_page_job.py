"""Options, the queue, progress, cancelling, failing, the result's files, another seed, the history: in a real browser."""

from __future__ import annotations

import io
import json
import zipfile
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("fastapi")

from .page_browser import Visit, chromium, server, visit
from .server_process import Served

pytestmark = pytest.mark.full
STUB = True  # the seed decides what goes wrong (tests/stub_worker.py)


def seeded(visit: Visit, seed: int, sample: str = "mushroom") -> None:
    visit.sample(sample)
    visit.wait_share(5, 95)
    visit.button("Options").click()
    visit.page.get_by_label("Seed", exact=True).fill(str(seed))
    visit.page.keyboard.press("Escape")
    visit.generate()


def test_options_reach_the_job_and_stay(visit: Visit, server: Served) -> None:
    visit.sample("mushroom")
    visit.wait_share(5, 95)
    opener = visit.button("Options")
    opener.click()
    page = visit.page
    page.get_by_role("radio", name="Fast").click()
    page.get_by_label("Seed", exact=True).fill("7")
    page.get_by_role("checkbox", name="obj .obj").check()
    page.get_by_role("checkbox", name="preview .png").uncheck()
    page.get_by_label("Splats: which way is up").select_option("y_up")
    page.get_by_text("All settings").click()
    page.get_by_label("size", exact=True).fill("2.5")
    visit.shot("options")
    page.keyboard.press("Escape")
    assert opener.evaluate("(one) => one === document.activeElement")
    visit.generate()
    visit.result()
    params = visit.job(server)["params"]
    assert params["quality"] == "fast" and params["seed"] == 7 and params["size"] == 2.5 and params["ply_frame"] == "y_up"
    assert set(params["outputs"]) == {"glb", "ply", "obj"}
    page.reload()
    visit.button("Options").click()
    assert page.get_by_label("Seed", exact=True).input_value() == "7"
    page.get_by_text("Back to the usual").click()
    assert page.get_by_label("Seed", exact=True).input_value() == "0"


def test_stages_and_cancel(visit: Visit, server: Served) -> None:
    seeded(visit, 1008)
    running = visit.page.locator('[data-testid=running][data-status="running"]')
    running.wait_for()
    running.get_by_text("sampling").wait_for()  # the stub's stage
    bar = running.get_by_role("progressbar")
    before = int(bar.get_attribute("aria-valuenow"))
    visit.page.wait_for_timeout(1500)
    assert int(bar.get_attribute("aria-valuenow")) > before
    picture = running.get_by_role("img", name="The shape so far")  # what the worker sent as its preview
    assert picture.evaluate("(one) => one.decode().then(() => [one.naturalWidth, one.naturalHeight])") == [512, 171]
    visit.shot("running")
    visit.page.reload()
    picture.wait_for()
    visit.button("Cancel").click()
    visit.page.locator('[data-testid=ended][data-status="canceled"]').wait_for()
    assert visit.job(server)["status"] == "canceled"


def test_the_queue_position_counts_down(visit: Visit, server: Served) -> None:
    seeded(visit, 1005)
    visit.page.locator('[data-testid=running][data-status="running"]').wait_for()
    first = visit.job(server)["id"]
    image, masks = visit.job(server)["image_id"], visit.job(server)["mask_ids"]
    for seed in (1004, 1001):
        status, _ = server.call("POST", "/jobs", {"image_id": image, "mask_ids": masks, "params": {"seed": seed}})
        assert status == 201
    visit.button("Options").click()
    visit.page.get_by_label("Seed", exact=True).fill("3")
    visit.page.keyboard.press("Escape")
    visit.generate()
    waiting = visit.page.locator('[data-testid=running][data-status="queued"]')
    waiting.get_by_text("2 before it").wait_for()
    visit.shot("queued")
    assert server.call("POST", f"/jobs/{first}/cancel")[0] == 202
    waiting.get_by_text("1 before it").wait_for()
    visit.result()


def test_a_failure_is_told_and_tried_again(visit: Visit, server: Served) -> None:
    seeded(visit, 667)
    ended = visit.page.locator('[data-testid=ended][data-status="failed"]')
    ended.get_by_text("The stub has no memory left.").wait_for()
    visit.shot("failed_job")
    before = visit.job(server)["id"]
    visit.button("Try again").click()
    visit.page.wait_for_function("(id) => !location.hash.endsWith(id)", arg=before)
    assert visit.job(server)["retry_of"] == before


def test_the_files_and_another_seed(visit: Visit, server: Served) -> None:
    seeded(visit, 4, "camper")
    visit.result()
    page = visit.page
    assert visit.download(page.get_by_label("Download GLB"))[:4] == b"glTF"
    assert visit.download(page.get_by_label("Download PLY"))[:3] == b"ply"
    assert Image.open(io.BytesIO(visit.download(page.get_by_label("Download PNG")))).format == "PNG"
    archive = zipfile.ZipFile(io.BytesIO(visit.download(page.get_by_text("All files"))))
    assert {name.split("/")[1] for name in archive.namelist()} >= {"model.glb", "splat.ply", "preview.png", "meta.json"}
    before = visit.job(server)
    visit.button("Another seed").click()
    page.wait_for_function("(id) => !location.hash.endsWith(id)", arg=before["id"])
    visit.result()
    after = visit.job(server)
    assert after["id"] != before["id"] and after["params"]["seed"] != 4 and after["mask_ids"] == before["mask_ids"]
    page.get_by_test_id("took").get_by_text(f"seed {after['params']['seed']}").wait_for()


def test_the_history_survives_a_reload(visit: Visit, server: Served) -> None:
    seeded(visit, 5, "steak")
    visit.result()
    first = visit.page.url
    visit.button("Another picture").click()
    seeded(visit, 5, "pixel fire")
    visit.result()
    visit.page.goto(visit.url + "/#/")
    visit.page.reload()
    history = visit.page.get_by_test_id("history")
    history.get_by_role("button", name="Open steak", exact=True).first.click()
    visit.result()
    assert visit.page.url == first
    visit.wait_share(20, 80)  # its picture and mask came along
    assert visit.page.get_by_label("Name of the object").input_value() == "steak"
    visit.shot("history")
    count = history.get_by_role("button", name="Open steak", exact=True).count()
    history.get_by_role("button", name="Remove steak from the history").first.click()
    visit.page.get_by_text("Your object turns here").wait_for()
    assert history.get_by_role("button", name="Open steak", exact=True).count() == count - 1
    jobs = server.call("GET", "/jobs")[1]["jobs"]
    assert sum(one["name"] == "steak" for one in jobs) == count - 1


def test_back_and_forth_between_results(visit: Visit) -> None:
    seeded(visit, 11, "steak")
    visit.result()
    visit.button("Another seed").click()
    visit.page.wait_for_timeout(500)
    visit.result()
    now = visit.page.url
    visit.page.go_back()
    visit.page.wait_for_function("(url) => location.href !== url", arg=now)
    visit.result()
    assert json.loads(visit.page.evaluate("() => localStorage.getItem('sam3d.params')"))["seed"] == 11


def test_a_line_that_breaks_loses_nothing(visit: Visit) -> None:
    """Neither the job that the address names, nor what was marked in the picture."""
    seeded(visit, 12, "steak")
    visit.result()
    page, left = visit.page, {"jobs/": 2, "images/": 3}

    def sometimes(route: Any) -> None:
        part = next((one for one in left if one in route.request.url), None)
        if part is not None and left[part] > 0:
            left[part] -= 1
            route.abort()
        else:
            route.continue_()

    page.route("**/api/v1/jobs/*", sometimes)
    page.route("**/api/v1/images/*", sometimes)
    page.reload()
    visit.result()
    assert left["jobs/"] == 0 and left["images/"] < 3
    visit.stage.wait_for()
    visit.problems[:] = [text for text in visit.problems if "ERR_FAILED" not in text]


def test_a_tab_that_nobody_sees_listens_to_nothing(visit: Visit) -> None:
    """A browser has six connections to a server for all tabs together."""
    page = visit.page
    page.add_init_script(
        "const Real = EventSource; window.open_ = 0; window.EventSource = class extends Real { constructor(url) { super(url); window.open_++; } close() { super.close(); window.open_--; } };"
    )
    page.reload()
    page.get_by_test_id("health").wait_for()
    streams = "() => window.open_"
    assert page.evaluate(streams) == 1
    hide = "(hidden) => { Object.defineProperty(document, 'hidden', { value: hidden, configurable: true }); document.dispatchEvent(new Event('visibilitychange')); }"
    page.evaluate(hide, True)
    assert page.evaluate(streams) == 0
    page.evaluate(hide, False)
    assert page.evaluate(streams) == 1
