"""The web page in a real browser, in front of a real server: for tests/test_page*.py, which import the fixtures `chromium`, `server` and `visit`.

CHROMIUM     a browser (default: chromium, chromium-browser or google-chrome on PATH); the package `playwright` drives it
SAM3D_SHOTS  a folder that the screenshots are left in, to be looked at
"""

from __future__ import annotations

import copy
import io
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comfyui_sam3d.contract.errors import SetupError
from comfyui_sam3d.factory import page_build
from PIL import Image

from .server_process import Served

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
BROWSER = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]
SLOW = 60_000  # milliseconds: WebGL in software, on a machine that does other things too


def need_page() -> None:
    """Skips where the page can't be built or shown; builds it where it isn't."""
    pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
    if BROWSER is None:
        pytest.skip("there is no Chromium")
    if not page_build.is_current():
        try:
            page_build.build()
        except SetupError as problem:
            pytest.skip(f"the page can't be built: {problem.message} {problem.hint}")


@contextmanager
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    need_page()
    with sync_playwright() as playwright:
        sandbox = [] if os.name == "nt" or os.getuid() else ["--no-sandbox"]  # as root it can't have one
        found = playwright.chromium.launch(executable_path=BROWSER, args=[*FLAGS, *sandbox])
        try:
            yield found
        finally:
            found.close()


@contextmanager
def served(root: Path, *options: object, **more: Any) -> Iterator[Served]:
    """A server; of its worker's engines the draft alone can work here (stub=True: the stub's)."""
    root.mkdir(parents=True, exist_ok=True)
    more.setdefault("stub", False)
    variables = {"SAM3D_WEIGHTS": str(root / "none"), **more.pop("variables", {})}
    with Served(root, *options, variables=variables, **more) as server:
        end = time.monotonic() + 60
        while server.call("GET", "/readyz")[0] != 200:
            assert time.monotonic() < end, server.log
            time.sleep(0.1)
        yield server


class Visit:
    """A page in a context of its own, with what went wrong in it: errors, refusals by the content policy, requests to anybody but the server."""

    def __init__(self, browser: Any, url: str, start: str = "/", **context: Any) -> None:
        self.url = url
        self.context = browser.new_context(
            **{
                "viewport": {"width": 1360, "height": 900},
                "reduced_motion": "reduce",
                "locale": "en-GB",
                "accept_downloads": True,
                **context,
            }
        )
        self.context.set_default_timeout(SLOW)
        self.problems: list[str] = []
        self._open(start)

    def _open(self, start: str) -> None:
        self.page = self.context.new_page()
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", self._heard)
        self.page.on("request", self._asked)
        self.page.goto(self.url + start)

    def another_tab(self, start: str = "/") -> Visit:
        """Of the same browser: storage and cookies are shared. It ends with this one."""
        other = copy.copy(self)
        other._open(start)
        return other

    def _heard(self, message: Any) -> None:
        if message.type == "error":
            self.problems.append(message.text)

    def _asked(self, request: Any) -> None:
        if not request.url.startswith((self.url, "data:", "blob:")):
            self.problems.append(f"asked {request.url}")

    def __enter__(self) -> Visit:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            self.shot("failed")
        self.context.close()
        assert kind is not None or not self.problems, self.problems

    def shot(self, name: str) -> None:
        folder = os.environ.get("SAM3D_SHOTS")
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            self.page.screenshot(path=str(Path(folder) / f"page_{name}.png"))

    # -- what a person does

    def button(self, name: str) -> Any:
        return self.page.get_by_role("button", name=name, exact=True)

    def sample(self, name: str) -> None:
        self.button(f"Sample: {name}").click()
        self.stage.wait_for()

    @property
    def stage(self) -> Any:
        return self.page.get_by_test_id("stage")

    def click(self, x: float, y: float, **more: Any) -> None:
        """At a place in the picture, in shares of its sides."""
        box = self.stage.bounding_box()
        self.stage.click(position={"x": x * box["width"], "y": y * box["height"]}, **more)
        self.settle()

    def drag(self, *path: tuple[float, float]) -> None:
        box = self.stage.bounding_box()
        places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in path]
        self.page.mouse.move(*places[0])
        self.page.mouse.down()
        for place in places[1:]:
            self.page.mouse.move(*place, steps=4)
        self.page.mouse.up()
        self.settle()

    def settle(self) -> None:
        """Until the segmenter has answered and the mask is drawn."""
        self.page.wait_for_timeout(50)
        self.page.locator('[data-testid=stage][aria-busy="false"]').wait_for()
        self.page.wait_for_timeout(150)

    def share(self, number: int = 0) -> float:
        """How much of the picture an object takes, in percent, as its row says; 0 where nothing is marked."""
        text = self.page.get_by_label("Objects", exact=True).locator("li").nth(number).inner_text()
        return next((float(word.rstrip("%")) for word in text.split() if word.endswith("%")), 0.0)

    def wait_share(self, low: float, high: float, number: int = 0) -> float:
        end = time.monotonic() + SLOW / 1000
        while not low <= self.share(number) <= high:
            assert time.monotonic() < end, f"{self.share(number)} is not within {low} and {high}"
            self.page.wait_for_timeout(50)
        return self.share(number)

    def generate(self) -> None:
        self.page.get_by_role("button", name="Generate").click()

    def result(self, shown: str = "mesh") -> Any:
        """Wait for the result's canvas, with something of this kind drawn."""
        self.page.locator(f'[data-testid=viewer][data-state=ready][data-shown="{shown}"]').wait_for()
        return self.page.get_by_test_id("viewer").locator("canvas")

    def pixels(self) -> np.ndarray:
        """What the result's canvas shows, uint8 (H, W, 4), once two looks in a row are alike."""
        before: np.ndarray | None = None
        for _ in range(60):
            data = self.page.evaluate(
                """async () => {
                    const canvas = document.querySelector("[data-testid=viewer] canvas");
                    const blob = await new Promise((done) => canvas.toBlob(done, "image/png"));
                    return [...new Uint8Array(await blob.arrayBuffer())];
                }"""
            )
            now = np.asarray(Image.open(io.BytesIO(bytes(data))).convert("RGBA"))
            if before is not None and before.shape == now.shape and now[..., 3].any() and np.array_equal(before, now):
                return now
            before = now
            self.page.wait_for_timeout(400)
        raise AssertionError("the picture doesn't come to rest")

    def download(self, what: Any) -> bytes:
        with self.page.expect_download() as found:
            what.click()
        return Path(found.value.path()).read_bytes()

    def job(self, server: Served) -> dict[str, Any]:
        """The job that the address names."""
        status, found = server.call("GET", f"/jobs/{self.page.url.rsplit('/', 1)[1]}")
        assert status == 200
        return dict(found)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A browser for the tests of a file."""
    with browser() as found:
        yield found


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server for the tests of a file, with the draft engine; with the stub's (tests/stub_worker.py) where the file says `STUB = True`."""
    need_page()
    with served(tmp_path_factory.mktemp("page"), stub=getattr(request.module, "STUB", False)) as found:
        yield found


@pytest.fixture
def visit(chromium: Any, server: Served) -> Iterator[Visit]:
    """The page, just opened, by somebody who was never here."""
    with Visit(chromium, server.url) as found:
        yield found


def bounds(pixels: np.ndarray) -> np.ndarray:
    """x0, y0, x1, y1 of what is opaque."""
    rows, columns = np.flatnonzero((pixels[..., 3] > 60).any(axis=1)), np.flatnonzero((pixels[..., 3] > 60).any(axis=0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
