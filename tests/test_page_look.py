"""How the page looks and who can use it: a phone, the keyboard alone, two languages, light and dark, a token, no server, no scripts. In a real browser."""

from __future__ import annotations

import io
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("fastapi")

from .page_browser import EXAMPLES, Visit, chromium, served, server
from .server_process import Served

pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def job(chromium: Any, server: Served) -> str:
    with Visit(chromium, server.url) as visit:
        visit.sample("mushroom")
        visit.wait_share(10, 90)
        visit.generate()
        visit.result()
        return str(visit.job(server)["id"])


PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}
TOO_WIDE = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"


def test_a_phone(chromium: Any, server: Served, job: str) -> None:
    with Visit(chromium, server.url, **PHONE) as visit:
        page = visit.page
        visit.button("Take a photo").wait_for()
        page.get_by_text("Begin with a picture").wait_for()
        assert page.evaluate(TOO_WIDE) <= 0
        visit.shot("phone_empty")
        visit.button("Sample: campsite").tap()
        visit.stage.wait_for()
        box = visit.stage.bounding_box()
        page.touchscreen.tap(box["x"] + 0.86 * box["width"], box["y"] + 0.68 * box["height"])
        visit.settle()
        visit.wait_share(0.3, 12)
        assert page.evaluate(TOO_WIDE) <= 0
        visit.shot("phone_marked")
        visit.button("Generate").tap()
        there = visit.result().bounding_box()
        assert there["y"] >= 0 and there["y"] + there["height"] <= PHONE["viewport"]["height"], "what was asked for is in sight"
        page.goto(f"{server.url}/#/jobs/{job}")
        visit.result()
        page.get_by_role("region", name="Result").scroll_into_view_if_needed()
        assert page.evaluate(TOO_WIDE) <= 0
        ratio = page.evaluate("() => { const c = document.querySelector('[data-testid=viewer] canvas'); return c.width / c.clientWidth; }")
        assert ratio == pytest.approx(1.5, abs=0.02)  # not the phone's own 2: splats are dear
        visit.shot("phone_result")
        for target in page.locator("button:visible, a:visible:not([href='#main'])").all():
            size = target.bounding_box()
            assert size is None or size["height"] >= 24 or size["width"] >= 200, target.evaluate("(one) => one.outerHTML")
        page.goto(f"{server.url}/#/batch")
        page.get_by_text("Choose a folder").wait_for()
        assert page.evaluate(TOO_WIDE) <= 0
        visit.shot("phone_batch")


def test_the_picture_of_the_readme(chromium: Any, server: Served) -> None:
    """SAM3D_IMAGES, a folder: where the picture is left that docs/images/page.png is."""
    with Visit(chromium, server.url, viewport={"width": 1240, "height": 850}) as visit:
        for sample in ("camper", "mushroom", "steak", "camping dog"):
            visit.sample(sample)
            visit.wait_share(10, 90)
            visit.generate()
            visit.result()
            visit.button("Another picture").click()
        visit.page.get_by_test_id("history").get_by_role("button", name="Open camper").first.click()
        visit.result()
        visit.stage.wait_for()
        visit.wait_share(10, 90)
        visit.page.get_by_role("radio", name="Compare").click()
        visit.result("mesh splat")
        visit.page.mouse.move(5, 5)
        visit.page.wait_for_timeout(2500)
        visit.pixels()
        shot = Image.open(io.BytesIO(visit.page.screenshot()))
        assert shot.size == (1240, 850)
        folder = os.environ.get("SAM3D_IMAGES")
        if folder:
            shot.convert("RGB").quantize(200, dither=Image.Dither.NONE).save(Path(folder) / "page.png", optimize=True)


def test_nothing_jumps_while_it_works(chromium: Any, server: Served, job: str) -> None:
    with Visit(chromium, server.url) as visit:
        visit.page.evaluate(
            """() => { window.jumps = 0; new PerformanceObserver((list) => {
                for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.jumps += entry.value;
            }).observe({ type: "layout-shift", buffered: true }); }"""
        )
        visit.sample("mushroom")
        visit.wait_share(10, 90)
        visit.generate()
        visit.result()
        assert visit.page.evaluate("() => window.jumps") < 0.1  # what the web's own measure calls good


def test_with_the_keyboard_alone(chromium: Any, server: Served, job: str) -> None:
    with Visit(chromium, server.url) as visit:
        page = visit.page
        page.get_by_text("Drop a picture here").wait_for()

        def tab_to(name: str, most: int = 60) -> None:
            for _ in range(most):
                page.keyboard.press("Tab")
                if page.evaluate("() => document.activeElement.getAttribute('aria-label') || document.activeElement.innerText").startswith(
                    name
                ):
                    return
            raise AssertionError(f"{name} can't be reached")

        tab_to("Skip")
        tab_to("Sample: campsite")
        page.keyboard.press("Enter")
        visit.stage.wait_for()
        tab_to("The picture.")
        for key in ["ArrowRight"] * 30 + ["ArrowDown"] * 10:
            page.keyboard.press(key)
        visit.shot("keyboard")
        page.keyboard.press("Enter")
        visit.settle()
        visit.wait_share(0.2, 30)
        page.keyboard.press("Control+Enter")
        visit.result()
        tab_to("Wireframe")
        page.keyboard.press("Enter")
        assert page.get_by_label("Wireframe (W)").get_attribute("aria-pressed") == "true"
        outline = page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none"


def test_japanese(chromium: Any, server: Served, job: str) -> None:
    with Visit(chromium, server.url, f"/#/jobs/{job}", locale="ja-JP") as visit:
        page = visit.page
        page.get_by_role("button", name="別のシードで").wait_for()
        visit.result()
        assert page.evaluate("() => document.documentElement.lang") == "ja"
        visit.stage.wait_for()
        visit.shot("japanese")
        said = page.evaluate("() => document.body.innerText")
        for english in ("Generate", "Options", "History", "Download", "Another", "Mesh", "Ready", "object"):
            assert english not in said, english
        page.get_by_role("button", name="English").click()
        page.get_by_role("button", name="Another seed").wait_for()
        page.reload()
        page.get_by_role("button", name="Another seed").wait_for()  # the choice is kept
        assert page.evaluate("() => document.documentElement.lang") == "en"


def test_light_and_dark(chromium: Any, server: Served, job: str) -> None:
    with Visit(chromium, server.url, f"/#/jobs/{job}", color_scheme="dark") as visit:
        page = visit.page
        visit.result()
        ground = "() => getComputedStyle(document.documentElement).backgroundColor"
        assert page.evaluate(ground) == "rgb(19, 19, 18)"
        visit.stage.wait_for()
        visit.shot("dark")
        page.get_by_label("Colours: as the system").click()
        page.get_by_label("Colours: light").wait_for()
        assert page.evaluate(ground) == "rgb(246, 245, 242)"
        page.reload()
        page.get_by_label("Colours: light").wait_for()
        assert page.evaluate(ground) == "rgb(246, 245, 242)"
        page.get_by_label("Colours: light").click()
        page.get_by_label("Colours: dark").wait_for()
        assert page.evaluate(ground) == "rgb(19, 19, 18)"


CONTRAST = """() => {
    const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    const rgb = (colour, under) => {
        canvas.fillStyle = under; canvas.fillRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
    };
    const light = (c) => { const [r, g, b] = c.map((v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
    const found = [];
    for (const one of document.querySelectorAll("main *, header *")) {
        const text = [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
        if (!text || !one.checkVisibility() || one.closest(":disabled, [aria-disabled=true]") || one.closest(".sr-only, .stage, [class*=sr-only]")) continue;
        let under = one; while (under && /rgba\\(0, 0, 0, 0\\)|transparent/.test(getComputedStyle(under).backgroundColor)) under = under.parentElement;
        const ground = rgb(getComputedStyle(under ?? document.documentElement).backgroundColor, "white");
        const [a, b] = [light(rgb(getComputedStyle(one).color, `rgb(${ground})`)), light(ground)].sort((x, y) => y - x);
        const ratio = (a + 0.05) / (b + 0.05);
        if (ratio < 4.5) found.push(`${one.textContent.trim().slice(0, 30)}: ${ratio.toFixed(2)}`);
    }
    return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_can_be_read(chromium: Any, server: Served, job: str, scheme: str) -> None:
    """Contrast of 4.5 to 1 and more, as WCAG 2 AA asks."""
    with Visit(chromium, server.url, f"/#/jobs/{job}", color_scheme=scheme) as visit:
        visit.result()
        visit.stage.wait_for()
        visit.page.wait_for_timeout(300)
        assert visit.page.evaluate(CONTRAST) == []
        visit.page.goto(f"{server.url}/#/batch")
        visit.page.get_by_text("Choose a folder").wait_for()
        assert visit.page.evaluate(CONTRAST) == []


def test_every_control_has_a_name(chromium: Any, server: Served, job: str) -> None:
    with Visit(chromium, server.url, f"/#/jobs/{job}") as visit:
        visit.result()
        visit.stage.wait_for()
        visit.button("Options").click()
        nameless = visit.page.evaluate(
            """() => [...document.querySelectorAll("button, a, input:not([hidden]), select")].filter((one) =>
                !(one.getAttribute("aria-label") || one.innerText?.trim() || one.textContent.trim() || one.labels?.length)).map((one) => one.outerHTML)"""
        )
        assert nameless == []


def test_a_token_is_asked_for(chromium: Any, tmp_path: Path) -> None:
    variables = {"SAM3D_TOKEN": "a-token-for-tests"}
    with served(tmp_path, "--host", "127.0.0.1", stub=True, variables=variables) as server, Visit(chromium, server.url) as visit:
        page = visit.page
        field = page.get_by_label("Token", exact=True)
        field.wait_for()
        visit.shot("token")
        for _ in range(3):  # there is nothing behind it yet
            page.keyboard.press("Escape")
            page.wait_for_timeout(100)
            field.wait_for(timeout=5000)
        field.fill("a-wrong-token")
        page.keyboard.press("Enter")
        page.get_by_text("This is not the token.").wait_for()
        field.fill("a-token-for-tests")
        page.keyboard.press("Enter")
        visit.sample("mushroom")
        visit.wait_share(10, 90)
        visit.generate()
        visit.result()
        page.reload()
        visit.result()  # the cookie is kept
        assert "a-token-for-tests" not in page.evaluate("() => document.cookie + JSON.stringify(localStorage)")
        visit.problems[:] = [text for text in visit.problems if "401" not in text and "403" not in text]


def test_a_server_that_goes_and_comes_back(chromium: Any, tmp_path: Path) -> None:
    with served(tmp_path, "--port", "0", stub=True) as server, Visit(chromium, server.url) as visit:
        visit.sample("campsite")
        server.kill(signal.SIGKILL)
        visit.page.locator('[data-testid=health][data-status="offline"]').wait_for()
        visit.click(0.86, 0.68)
        visit.page.get_by_role("alert").get_by_text("The server doesn't answer.").wait_for()
        visit.shot("offline")
        visit.page.close()  # it asks again and again
        visit.problems.clear()


def test_the_plain_form_works_without_scripts(chromium: Any, server: Served) -> None:
    with Visit(chromium, server.url, "/plain", java_script_enabled=False) as visit:
        visit.page.locator("input[name=image]").set_input_files(EXAMPLES / "steak.png")
        assert visit.download(visit.page.get_by_text("Reconstruct", exact=True))[:4] == b"glTF"
        visit.shot("plain")
