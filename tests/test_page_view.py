"""The result in three dimensions, in a real browser with WebGL in software: mesh and splats of the draft engine."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from plyfile import PlyData

pytest.importorskip("fastapi")

from .page_browser import EXAMPLES, Visit, bounds, chromium, server
from .page_modules import in_node
from .server_process import Served

pytestmark = pytest.mark.full


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


NAMES = (
    "x",
    "y",
    "z",
    "nx",
    "ny",
    "nz",
    "f_dc_0",
    "f_dc_1",
    "f_dc_2",
    "opacity",
    "scale_0",
    "scale_1",
    "scale_2",
    *(f"rot_{i}" for i in range(4)),
)


def ball(count: int) -> bytes:
    """Gaussians on a ball of radius 0.4 as a PLY of the same layout as ours, in file order along a spiral."""
    turn = np.arange(count) * 2.399963
    height = np.linspace(-1, 1, count)
    width = np.sqrt(1 - height**2)
    values = np.zeros((count, len(NAMES)), "<f4")
    values[:, :3] = 0.4 * np.stack([width * np.cos(turn), height, width * np.sin(turn)], axis=1)
    values[:, 6] = 1.0
    values[:, 9] = 4.0
    values[:, 10:13] = np.log(1.2 / np.sqrt(count))
    values[:, 13] = 1.0
    head = ["ply", "format binary_little_endian 1.0", "comment frame y_up", f"element vertex {count}"]
    return "\n".join([*head, *(f"property float {name}" for name in NAMES), "end_header\n"]).encode() + values.tobytes()


def test_small_devices_draw_fewer_splats_and_say_so(chromium: Any, server: Served, jobs: dict[str, str]) -> None:
    data = ball(240_000)
    for width, thinned in ((390, True), (1000, False)):
        with Visit(chromium, server.url, viewport={"width": width, "height": 800}) as visit:
            visit.page.route("**/files/splat.ply", lambda route: route.fulfill(body=data))
            visit.page.goto(f"{server.url}/#/jobs/{jobs['y_up']}")
            visit.result()
            visit.page.get_by_role("radio", name="Splats").click()
            visit.result("splat")
            note = visit.page.get_by_test_id("viewer").get_by_role("note")
            assert note.count() == (1 if thinned else 0)
            if thinned:
                assert note.inner_text() == "200,000 of 240,000 splats are shown on this device. The file has all."
                visit.shot("phone_thinned")


def test_thinned_splats_keep_the_shape(tmp_path: Path) -> None:
    """The page's own module, in Node: every part loses the same share, and what stays covers the same area."""
    count, most = 3000, 1000
    (tmp_path / "all.ply").write_bytes(ball(count))
    told = in_node(
        tmp_path,
        "viewer/thin.ts",
        """given[1].map((most) => {
            const bytes = readFileSync(given[0]);
            const found = module.thinned(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length), most);
            writeFileSync(`${given[0]}.${most}`, new Uint8Array(found.bytes));
            return [found.shown, found.all];
        })""",
        str(tmp_path / "all.ply"),
        [most, count],
    )
    assert told == [[most, count], [count, count]]
    assert (tmp_path / f"all.ply.{count}").read_bytes() == ball(count)
    every, kept = (PlyData.read(tmp_path / name)["vertex"] for name in ("all.ply", f"all.ply.{most}"))
    assert kept.count == most and [one.name for one in kept.properties] == list(NAMES)
    rows = np.searchsorted(every["y"], kept["y"])  # they stand in the order of their height
    assert np.array_equal(every["x"][rows], kept["x"]) and set(np.diff(rows)) == {3}
    assert np.allclose(count * np.exp(2 * every["scale_0"][0]), most * np.exp(2 * kept["scale_0"]), rtol=1e-5)


@pytest.mark.parametrize("damage", ["ascii", "cut", "faces", "nothing"])
def test_what_cannot_be_thinned_stays_as_it_is(tmp_path: Path, damage: str) -> None:
    data = ball(50)
    data = {
        "ascii": data.replace(b"binary_little_endian", b"ascii"),
        "cut": data[:-1],
        "faces": data.replace(b"end_header", b"element face 0\nend_header"),
        "nothing": b"",
    }[damage]
    (tmp_path / "x.ply").write_bytes(data)
    same = "(() => { const one = new Uint8Array(readFileSync(given[0])); return module.thinned(one.buffer, 10).bytes === one.buffer; })()"
    assert in_node(tmp_path, "viewer/thin.ts", same, str(tmp_path / "x.ply")) is True


def test_touch(chromium: Any, server: Served, jobs: dict[str, str]) -> None:
    """One finger or two turn the object; beside the canvas one finger scrolls the page."""
    phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}
    with Visit(chromium, server.url, f"/#/jobs/{jobs['mesh']}", **phone) as visit:
        canvas = visit.result("mesh")
        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()
        middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        where = "() => window.scrollY"
        hands = visit.context.new_cdp_session(visit.page)

        def swipe(*fingers: tuple[float, float], by: tuple[float, float]) -> None:
            for step in range(6):
                points = [{"x": x + by[0] * step / 5, "y": y + by[1] * step / 5, "id": n} for n, (x, y) in enumerate(fingers)]
                hands.send("Input.dispatchTouchEvent", {"type": "touchMove" if step else "touchStart", "touchPoints": points})
                visit.page.wait_for_timeout(60)
            hands.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
            visit.page.wait_for_timeout(400)

        before, scrolled = visit.pixels(), visit.page.evaluate(where)
        for fingers in ([middle], [(middle[0] - 40, middle[1]), (middle[0] + 40, middle[1])]):
            swipe(*fingers, by=(70, -40))
            after = visit.pixels()
            assert np.abs(before.astype(int) - after).mean() > 1, len(fingers)
            assert abs(visit.page.evaluate(where) - scrolled) < 1
            before = after
        swipe((box["x"] + 60, box["y"] - 20), by=(0, -200 if scrolled < 100 else 200))  # the row of buttons above it
        assert abs(visit.page.evaluate(where) - scrolled) > 50
        assert np.abs(before.astype(int) - visit.pixels()).mean() < 0.5
