"""The batch page in a real browser: pairing by names, masks mended, a run watched, everything as a ZIP."""

from __future__ import annotations

import io
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi")

from .page_browser import EXAMPLES, Visit, chromium, server
from .page_modules import in_node
from .server_process import Served

pytestmark = pytest.mark.full
STUB = True


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A picture with alpha, one with a mask beside it, one on white, a photograph without a mask, several masks, two that could be meant, no picture."""
    root = tmp_path / "my sprites"
    root.mkdir()
    shutil.copy(EXAMPLES / "steak.png", root / "steak.png")
    for name in ("carrot.png", "carrot_mask.png"):
        shutil.copy(EXAMPLES / name, root / name)
    shutil.copy(EXAMPLES / "egg.png", root / "卵.png")
    shutil.copy(EXAMPLES / "campsite" / "image.png", root / "photo.png")
    shutil.copytree(EXAMPLES / "campsite", root / "camp")
    for name in ("two.png", "two_mask.png", "two-mask.png"):
        Image.fromarray(np.full((20, 20), 200, np.uint8)).save(root / name)
    (root / "broken.png").write_bytes(b"no picture")
    (root / "notes.txt").write_text("not a picture")
    return root


def rows(visit: Visit) -> dict[str, tuple[str, str]]:
    return {
        row.get_attribute("data-name"): (row.get_attribute("data-state"), row.get_attribute("data-how"))
        for row in visit.page.get_by_test_id("pairs").locator("tbody tr").all()
    }


def read(visit: Visit, folder: Path) -> None:
    visit.page.get_by_test_id("folder").set_input_files(folder)
    visit.page.get_by_test_id("pairs").wait_for()
    visit.page.wait_for_function("() => !document.querySelector('[data-state=reading]')")


def test_a_folder_becomes_a_batch(chromium: Any, server: Served, folder: Path) -> None:
    with Visit(chromium, server.url, "/#/batch") as visit:
        page = visit.page
        page.get_by_text("Drop a folder of pictures.").wait_for()
        visit.shot("batch_empty")
        read(visit, folder)
        assert rows(visit) == {
            "steak": ("ready", "alpha"),
            "carrot": ("ready", "file"),
            "卵": ("ready", "border"),
            "photo": ("ready", "none"),
            "camp": ("ready", "file"),
            "two": ("ready", "none"),
            "broken": ("failed", "none"),
        }
        page.get_by_text("several masks could be meant: two_mask.png, two-mask.png").wait_for()
        page.get_by_text("3 without a mask are left out").wait_for()
        visit.shot("batch_pairs")
        assert page.get_by_role("button", name="Run 4").is_enabled()

        page.locator('tr[data-name="photo"]').get_by_role("button", name="Fix the mask").click()
        visit.click(0.86, 0.68)
        visit.wait_share(0.3, 12)
        visit.shot("batch_fix")
        page.keyboard.press("Control+z")  # the dialog has the keys of the picture's tools
        page.get_by_text("nothing marked yet").wait_for()
        page.keyboard.press("Control+y")
        visit.wait_share(0.3, 12)
        visit.button("Use this mask").click()
        assert rows(visit)["photo"] == ("ready", "hand")
        page.get_by_label("Leave broken out").click()
        page.get_by_label("Leave two out").click()
        page.get_by_role("button", name="Run 5").click()

        page.get_by_test_id("count").get_by_text("5 of 5 done").wait_for()
        visit.shot("batch_done")
        assert page.get_by_test_id("jobs").locator('[data-status="succeeded"]').count() == 5
        archive = zipfile.ZipFile(io.BytesIO(visit.download(page.get_by_text("Download all (ZIP)"))))
        found = set(archive.namelist())
        assert {name.split("/")[0] for name in found} == {"steak", "carrot", "卵", "photo", "camp"}
        assert {"steak/model.glb", "steak/splat.ply", "卵/model.glb", "camp/objects/camp_2.glb"} <= found, sorted(found)
        page.reload()
        page.get_by_test_id("count").get_by_text("5 of 5 done").wait_for()
        page.get_by_label("Open photo").click()
        visit.result()
        visit.stage.wait_for()
        visit.wait_share(0.3, 12)  # the mask that was drawn in the batch
        page.goto(f"{server.url}/#/batch")
        page.get_by_text("Earlier batches").wait_for()
        visit.problems[:] = [text for text in visit.problems if "422" not in text]  # the broken one


def test_more_than_a_batch_holds_becomes_several(chromium: Any, server: Served, tmp_path: Path) -> None:
    for name in ("steak", "log", "corn"):
        shutil.copy(EXAMPLES / f"{name}.png", tmp_path / f"{name}.png")

    def smaller(route: Any) -> None:
        answer = route.fetch()
        info = answer.json()
        route.fulfill(response=answer, json={**info, "limits": {**info["limits"], "max_batch": 2}})

    with Visit(chromium, server.url, "/#/batch") as visit:
        page = visit.page
        page.route("**/api/v1/info", smaller)
        page.reload()
        page.get_by_test_id("files").set_input_files(sorted(tmp_path.glob("*.png")))
        page.get_by_text("A batch holds 2: 2 are made").wait_for()
        page.get_by_role("button", name="Run 3").click()
        page.get_by_test_id("count").get_by_text("2 of 2 done").wait_for()
        page.goto(f"{server.url}/#/batch")
        page.get_by_text("Earlier batches").wait_for()
        status, answer = server.call("GET", "/batches?limit=2")
        assert status == 200 and [batch["counts"]["succeeded"] for batch in answer["batches"]] == [1, 2]


def test_a_batch_is_watched_and_cancelled(chromium: Any, server: Served, tmp_path: Path) -> None:
    for name in ("steak", "log", "corn"):
        shutil.copy(EXAMPLES / f"{name}.png", tmp_path / f"{name}.png")
    with Visit(chromium, server.url, "/#/batch") as visit:
        page = visit.page
        page.get_by_test_id("files").set_input_files(sorted(tmp_path.glob("*.png")))
        page.get_by_role("button", name="Run 3").wait_for()
        visit.button("Options").click()
        page.get_by_label("Seed", exact=True).fill("1006")
        page.keyboard.press("Escape")
        page.get_by_role("button", name="Run 3").click()
        page.get_by_test_id("jobs").locator('[data-status="running"]').wait_for()
        visit.shot("batch_running")
        page.get_by_role("button", name="Cancel the rest").click()
        page.get_by_test_id("count").get_by_text("3 of 3 done").wait_for()
        assert page.get_by_test_id("jobs").locator('[data-status="canceled"]').count() >= 2


DROP = """async (names) => {
    const folder = (name, children) => ({ isFile: false, isDirectory: true, name, createReader: () => {
        let batches = [children.slice(0, 1), children.slice(1), []];
        return { readEntries: (done) => done(batches.shift()) };
    } });
    const file = (name, data) => ({ isFile: true, isDirectory: false, name, file: (done) => done(new File([data], name, { type: "image/png" })) });
    const data = await (await fetch(document.querySelector("link[rel=icon]").href)).blob();
    const root = folder("art", [folder("props", names.map((name) => file(name, data))), file("readme.txt", data)]);
    const event = new Event("drop", { bubbles: true, cancelable: true });
    Object.defineProperty(event, "dataTransfer", { value: { items: [{ webkitGetAsEntry: () => root }] } });
    document.querySelector("main h1").parentElement.nextElementSibling.dispatchEvent(event);
}"""


def test_a_dropped_folder_is_read_to_its_depth(chromium: Any, server: Served) -> None:
    with Visit(chromium, server.url, "/#/batch") as visit:
        visit.page.get_by_text("Choose a folder").wait_for()
        visit.page.evaluate(DROP, ["a.png", "a_mask.png", "b10.png", "b2.png"])
        visit.page.get_by_test_id("pairs").wait_for()
        visit.page.wait_for_function("() => !document.querySelector('[data-state=reading]')")
        assert list(rows(visit)) == ["a", "b2", "b10"]
        visit.page.get_by_text("props/a.png").wait_for()
        visit.problems.clear()  # they are no pictures


CASES = [
    (["x.png", "masks/x.png"], {"x": ["masks/x.png"]}),
    (["images/x.jpg", "masks/x.png"], {"x": ["masks/x.png"]}),
    (["images/a/x.jpg", "masks/a/x.png"], {"x": ["masks/a/x.png"]}),
    (["x.PNG", "x-MASK.png"], {"x": ["x-MASK.png"]}),
    (["x.png", "x.mask.webp"], {"x": ["x.mask.webp"]}),
    (["ski_mask.png"], {"ski_mask": []}),
    (["s/image.png", "s/1.png", "s/0.png", "s/10.png"], {"s": ["s/0.png", "s/1.png", "s/10.png"]}),
    (["1.png", "2.png"], {"1": [], "2": []}),
    (["か\u3099.png", "masks/が.png"], {"が": ["masks/が.png"]}),
    ([".hidden/x.png", "x.txt"], {}),
    (["x.png", "masks/x.png", "x_mask.png"], {"x": ["masks/x.png"]}),
    (["x.png", "masks/x.png", "masks/x.jpg"], {"x": []}),
]


def test_names_are_paired_as_the_command_line_does(tmp_path: Path) -> None:
    """The page's own module in Node; the same folders through factory/batch/plan are in test_batch_pairing.py."""
    found = in_node(
        tmp_path,
        "batch/pairing.ts",
        "given[0].map((paths) => module.pair(paths.map((path) => ({ path }))).map((row) => [row.name, row.masks.map((mask) => mask.path)]))",
        [paths for paths, _ in CASES],
    )
    for (paths, expected), rows_found in zip(CASES, found):
        assert dict(rows_found) == expected, paths
