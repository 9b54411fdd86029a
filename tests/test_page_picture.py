"""Bringing a picture and marking objects in it, in a real browser."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi")

from .page_browser import EXAMPLES, Visit, chromium, server, visit
from .server_app import encoded
from .server_process import Served

pytestmark = pytest.mark.full
STUB = True


GIVE = """([base64, name, how]) => {
    const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
    const data = new DataTransfer();
    data.items.add(new File([bytes], name, { type: "image/png" }));
    const target = document.querySelector("main");
    if (how === "paste") document.dispatchEvent(new ClipboardEvent("paste", { clipboardData: data, bubbles: true }));
    else for (const kind of ["dragover", how]) target.dispatchEvent(new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true }));
}"""


def names(visit: Visit) -> list[str]:
    return [one.input_value() for one in visit.page.get_by_label("Name of the object").all()]


@pytest.mark.parametrize("how", ["drop", "paste"])
def test_a_picture_is_dropped_or_pasted(visit: Visit, how: str) -> None:
    data = base64.b64encode((EXAMPLES / "egg.png").read_bytes()).decode()
    visit.page.get_by_text("Drop a picture here").wait_for()
    visit.page.evaluate(GIVE, [data, "my egg.png", how])
    visit.stage.wait_for()
    visit.wait_share(10, 90)
    assert names(visit) == ["my egg"]
    visit.page.get_by_text("Found by the picture's transparency").wait_for()


def test_a_photo_is_turned_as_its_camera_says(visit: Visit) -> None:
    image = Image.new("RGB", (60, 30), (90, 140, 200))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter
    out = io.BytesIO()
    image.save(out, "JPEG", exif=exif)
    visit.page.get_by_test_id("file").set_input_files({"name": "photo.jpg", "mimeType": "image/jpeg", "buffer": out.getvalue()})
    visit.stage.wait_for()
    box = visit.stage.bounding_box()
    assert box["height"] == pytest.approx(2 * box["width"], rel=0.05)


def test_what_is_no_picture_is_refused_in_words(visit: Visit) -> None:
    visit.page.get_by_test_id("file").set_input_files({"name": "x.png", "mimeType": "image/png", "buffer": b"no picture at all"})
    visit.page.get_by_role("alert").get_by_text("no PNG, JPEG or WebP").wait_for()
    assert visit.page.get_by_text("Drop a picture here").is_visible()
    visit.problems.clear()  # the browser notes the 422 by itself


def test_a_photograph_waits_for_a_click(visit: Visit) -> None:
    visit.sample("campsite")
    visit.page.get_by_text("Click the object").wait_for()
    assert visit.button("Generate").is_disabled()
    visit.click(0.86, 0.68)  # the tomato
    first = visit.wait_share(0.3, 12)
    assert visit.button("Generate").is_enabled()
    visit.shot("photo")
    visit.click(0.19, 0.62)  # the cup too
    assert visit.wait_share(first + 0.5, 40) > first
    visit.page.keyboard.press("Control+z")
    assert visit.wait_share(first, first) == first
    visit.page.keyboard.press("Control+z")
    visit.page.get_by_text("nothing marked yet").wait_for()
    visit.page.keyboard.press("Control+y")
    assert visit.wait_share(first, first) == first


def test_a_box_and_another_size(visit: Visit) -> None:
    visit.sample("campsite")
    visit.page.keyboard.press("b")
    visit.drag((0.08, 0.35), (0.32, 0.85))
    assert 3 < visit.wait_share(1, 30) < 15
    visit.button("Another picture").click()
    visit.sample("campsite")
    visit.click(0.56, 0.6)
    middle = visit.wait_share(0.1, 60)
    visit.page.get_by_role("radio", name="S", exact=True).click()
    visit.settle()
    small = visit.share()
    visit.page.get_by_role("radio", name="L", exact=True).click()
    visit.settle()
    large = visit.share()
    assert small < large and small <= middle


def test_what_does_not_belong_is_taken_away(visit: Visit) -> None:
    pixels = np.full((200, 300, 3), 255, np.uint8)
    pixels[50:150, 30:130] = (200, 60, 50)
    pixels[50:150, 170:270] = (50, 60, 200)
    visit.page.get_by_test_id("file").set_input_files({"name": "two.png", "mimeType": "image/png", "buffer": encoded(pixels)})
    visit.stage.wait_for()
    visit.wait_share(33, 34)
    visit.click(0.7, 0.5, modifiers=["Shift"])
    visit.wait_share(16, 17)
    visit.page.keyboard.press("Control+z")
    visit.wait_share(33, 34)
    visit.page.keyboard.press("n")  # the tool that takes away
    visit.click(0.25, 0.5)
    visit.wait_share(16, 17)


def test_brush_and_eraser(visit: Visit, server: Served) -> None:
    visit.sample("campsite")
    visit.page.keyboard.press("d")
    visit.drag((0.3, 0.5), (0.7, 0.5))
    painted = visit.wait_share(1, 10)
    visit.page.keyboard.press("]")
    visit.page.keyboard.press("]")
    visit.page.keyboard.press("e")
    visit.drag((0.5, 0.4), (0.5, 0.6))
    erased = visit.wait_share(0.3, painted - 0.2)
    visit.shot("brush")
    visit.generate()
    visit.result()
    (mask,) = visit.job(server)["mask_ids"]
    with visit.page.expect_response(lambda answer: mask in answer.url) as found:
        visit.page.evaluate("(url) => void fetch(url)", f"/api/v1/masks/{mask}")
    values = np.asarray(Image.open(io.BytesIO(found.value.body())))
    height, width = values.shape
    assert 100 * (values >= 128).mean() == pytest.approx(erased, abs=0.15)
    assert values[height // 2, int(width * 0.35)] > 200 and values[height // 2, width // 2] == 0


OVERLAY = """() => { const canvas = document.querySelector("[data-testid=stage] canvas");
    return [...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data].reduce((sum, value, at) => (sum * 31 + value * (at + 1)) % 1e9, 7); }"""


@pytest.mark.parametrize("motion", ["no-preference", "reduce"])
def test_the_edge_of_the_mask_marches_unless_that_is_unwelcome(chromium: Any, server: Served, motion: str) -> None:
    with Visit(chromium, server.url, reduced_motion=motion) as visit:
        visit.sample("mushroom")
        visit.wait_share(20, 80)
        seen = []
        for _ in range(12):
            seen.append(visit.page.evaluate(OVERLAY))
            visit.page.wait_for_timeout(300)
        assert (len(set(seen[-4:])) > 1) == (motion == "no-preference"), seen


def test_escape_leaves_what_was_begun(visit: Visit) -> None:
    visit.sample("campsite")
    visit.page.keyboard.press("b")
    assert visit.page.get_by_label("Draw a box around it (B)").get_attribute("aria-pressed") == "true"
    box = visit.stage.bounding_box()
    visit.stage.focus()
    visit.page.mouse.move(box["x"] + 40, box["y"] + 60)
    visit.page.mouse.down()
    visit.page.mouse.move(box["x"] + 200, box["y"] + 200, steps=4)
    visit.page.keyboard.press("Escape")
    visit.page.mouse.up()
    visit.settle()
    assert visit.share() == 0
    assert visit.page.get_by_label("Mark the object (P)").get_attribute("aria-pressed") == "true"
    visit.page.route("**/segment", lambda route: None)  # an answer that never comes
    visit.stage.click()
    visit.page.locator('[data-testid=stage][aria-busy="true"]').wait_for()
    visit.page.keyboard.press("Escape")
    visit.page.locator('[data-testid=stage][aria-busy="false"]').wait_for()
    assert visit.stage.locator("span", has_text="+").count() == 0


def test_generate_waits_for_more_than_a_slip(visit: Visit) -> None:
    visit.sample("campsite")
    visit.page.keyboard.press("d")
    for _ in range(5):
        visit.page.keyboard.press("[")
    visit.stage.focus()
    visit.page.keyboard.press("Enter")  # a dot
    visit.page.wait_for_timeout(500)
    assert 0 < visit.share() < 0.1 and visit.button("Generate").is_disabled()


def test_the_latest_of_quick_clicks_wins(visit: Visit) -> None:
    visit.sample("campsite")
    box = visit.stage.bounding_box()
    for x, y in ((0.86, 0.68), (0.19, 0.62), (0.2, 0.7)):
        visit.page.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"])
    visit.settle()
    visit.wait_share(3, 40)
    assert visit.stage.locator("span", has_text="+").count() == 3  # all three count, in one mask
    visit.page.keyboard.press("Control+z")
    visit.page.get_by_text("nothing marked yet").wait_for()
    visit.problems[:] = [text for text in visit.problems if "409" not in text]


def test_several_objects(visit: Visit, server: Served) -> None:
    visit.sample("campsite")
    visit.click(0.86, 0.68)
    visit.wait_share(0.3, 12)
    visit.button("Add an object").click()
    visit.click(0.19, 0.62)
    visit.wait_share(1, 20, number=1)
    visit.page.get_by_label("Name of the object").nth(1).fill("cup")
    visit.page.get_by_role("button", name="Generate 2 objects").wait_for()
    visit.shot("objects")
    visit.generate()
    visit.result()
    found = visit.job(server)
    assert len(found["mask_ids"]) == 2 and found["names"] == ["campsite", "cup"] and found["name"] == "campsite"
    visit.page.get_by_label("Reconstruct campsite").uncheck()
    with visit.page.expect_navigation():
        visit.generate()
    visit.page.wait_for_timeout(300)
    assert visit.job(server)["names"] == ["cup"]
    visit.button("Remove cup").click()
    assert names(visit) == ["campsite"]
    visit.page.keyboard.press("Control+z")
    assert names(visit) == ["campsite", "cup"]


def test_what_was_marked_survives_a_reload(visit: Visit) -> None:
    visit.sample("campsite")
    visit.click(0.86, 0.68)
    before = visit.wait_share(0.3, 12)
    visit.page.reload()
    visit.stage.wait_for()
    assert visit.wait_share(before, before) == before


def test_the_sample_pictures_are_all_there(visit: Visit) -> None:
    visit.page.get_by_text("Or start with one of these").wait_for()
    pictures = "[...document.querySelectorAll('main [aria-label^=Sample] img')]"
    visit.page.wait_for_function(f"() => {pictures}.every((one) => one.complete)")
    assert visit.page.evaluate(f"() => {pictures}.map((one) => one.naturalWidth > 0)") == [True] * 6
