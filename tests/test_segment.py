"""From clicks to masks: the cascade on pictures of known outline, who is served, and the API's call."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import tracemalloc
from contextlib import nullcontext
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("cv2")
pytest.importorskip("fastapi")

from comfyui_sam3d.contract.errors import ConflictError, OptionError
from comfyui_sam3d.contract.images import decoding
from comfyui_sam3d.factory.segment import desk as desk_module
from comfyui_sam3d.factory.segment import grow
from comfyui_sam3d.factory.segment.cascade import Cascade
from comfyui_sam3d.factory.segment.desk import LARGE, Desk, Lane
from comfyui_sam3d.factory.segment.prompt import Found, Point, Prompt
from comfyui_sam3d.factory.server.room import Room

from .server_app import V1, encoded, error, send_image, server

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
H, W = 240, 320


def disc(row: float, column: float, radius: float, height: int = H, width: int = W) -> np.ndarray:
    rows, columns = np.ogrid[:height, :width]
    return (rows - row) ** 2 + (columns - column) ** 2 <= radius**2


ONE, OTHER = disc(120, 90, 50), disc(110, 240, 40)


def scene(*, noisy: bool) -> np.ndarray:
    """Two discs, red and blue, on white or on a lawn."""
    rng = np.random.default_rng(0)
    image = np.full((H, W, 3), 250, np.uint8)
    if noisy:
        image = (
            (np.array([70, 110, 60]) + rng.normal(0, 18, (H, W, 1)) + np.linspace(0, 50, W)[None, :, None]).clip(0, 255).astype(np.uint8)
        )
    shade = rng.normal(0, 12 if noisy else 0, (H, W, 1))
    for mask, colour in ((ONE, (200, 60, 50)), (OTHER, (50, 70, 200))):
        image[mask] = (np.array(colour) + shade).clip(0, 255).astype(np.uint8)[mask]
    return image


def iou(found: np.ndarray, truth: np.ndarray) -> float:
    mask = found >= 128
    return float((mask & truth).sum() / (mask | truth).sum())


def predict(image: np.ndarray, *points: Point, alpha: np.ndarray | None = None, **more: object) -> list[Found]:
    cascade = Cascade()
    return cascade.predict(cascade.set_image(image, alpha), Prompt(points, **more))  # type: ignore[arg-type]


def test_transparency_is_the_mask_and_its_edge_stays_soft() -> None:
    alpha = np.where(ONE | OTHER, 255, 0).astype(np.uint8)
    alpha[disc(120, 90, 50) & ~disc(120, 90, 48)] = 140
    (found,) = predict(scene(noisy=True), alpha=alpha)
    assert found.method == "alpha" and np.array_equal(found.mask, alpha)
    (found,) = predict(scene(noisy=True), Point(90, 120), alpha=alpha)
    assert found.method == "alpha" and np.array_equal(found.mask, np.where(ONE, alpha, 0))
    (found,) = predict(scene(noisy=True), Point(90, 120, inside=False), alpha=alpha)
    assert np.array_equal(found.mask, np.where(OTHER, alpha, 0))


def test_a_plain_background_is_flooded_from_the_border() -> None:
    (found,) = predict(scene(noisy=False))
    assert found.method == "border" and iou(found.mask, ONE | OTHER) > 0.99
    (found,) = predict(scene(noisy=False), Point(240, 110))
    assert found.method == "border" and iou(found.mask, OTHER) > 0.99
    (found,) = predict(scene(noisy=False), box=(20, 40, 160, 200))
    assert iou(found.mask, ONE) > 0.99


def test_a_photograph_says_nothing_by_itself() -> None:
    assert predict(scene(noisy=True)) == []
    assert predict(scene(noisy=True), Point(90, 120, inside=False)) == []


@pytest.mark.parametrize(("point", "truth"), [(Point(90, 120), ONE), (Point(70, 100), ONE), (Point(240, 110), OTHER)])
def test_a_click_in_a_photograph(point: Point, truth: np.ndarray) -> None:
    (found,) = predict(scene(noisy=True), point)
    assert found.method == "grabcut" and iou(found.mask, truth) > 0.9


@pytest.mark.parametrize(
    ("picture", "mask", "least"),
    [("campsite/image.png", f"campsite/{n}.png", 0.8) for n in range(3)] + [("carrot.png", "carrot_mask.png", 0.8)],
)
def test_a_click_finds_what_the_examples_hold(picture: str, mask: str, least: float) -> None:
    """In the middle of the thing, without a word about its size."""
    import cv2

    image = np.asarray(Image.open(EXAMPLES / picture).convert("RGB"))
    truth = np.asarray(Image.open(EXAMPLES / mask).convert("L")) >= 128
    depth = cv2.distanceTransform(truth.astype(np.uint8), cv2.DIST_L2, 5)
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    (found,) = predict(image, Point(int(x), int(y)))
    assert found.method == "grabcut" and iou(found.mask, truth) > least


def test_a_box_in_a_photograph() -> None:
    (found,) = predict(scene(noisy=True), box=(30, 60, 150, 180))
    assert iou(found.mask, ONE) > 0.95


def test_two_clicks_take_two_things() -> None:
    (found,) = predict(scene(noisy=True), Point(90, 120), Point(240, 110))
    assert iou(found.mask, ONE | OTHER) > 0.9


def test_a_piece_clicked_both_ways_is_parted() -> None:
    image = scene(noisy=False)
    image[ONE & disc(120, 125, 40)] = (40, 160, 60)  # the disc's right part is green
    (found,) = predict(image, Point(60, 120), Point(120, 120, inside=False))
    assert found.method == "grabcut" and iou(found.mask, ONE & ~disc(120, 125, 40)) > 0.85


def test_the_same_click_twice_is_the_same_mask() -> None:
    first, second = (predict(scene(noisy=True), Point(90, 120))[0].mask for _ in range(2))
    assert np.array_equal(first, second)


def test_a_large_picture_gets_a_mask_of_its_size() -> None:
    image = np.kron(scene(noisy=True), np.ones((6, 6, 1), np.uint8))
    (found,) = predict(image, Point(540, 720))
    assert found.mask.shape == image.shape[:2] and iou(found.mask, disc(723, 543, 300, H * 6, W * 6)) > 0.9


def test_a_large_picture_takes_little_memory() -> None:
    """The picture isn't kept, and no map of floats or of numbers of its size is made: 40 megapixels would take 160 MB each."""
    image = np.kron(scene(noisy=True), np.ones((10, 10, 1), np.uint8))
    alpha = np.kron(np.where(ONE | OTHER, 255, 0).astype(np.uint8), np.ones((10, 10), np.uint8))
    cascade, pixels = Cascade(), alpha.size
    for given, points, most in (
        (None, [Point(900, 1200)], 2.5),
        (alpha, [Point(900, 1200)], 5.0),
        (alpha, [Point(900, 1200), Point(700, 1000, inside=False)], 6.0),
    ):
        handle = cascade.set_image(image, given)
        kept = [value for value in vars(handle).values() if isinstance(value, np.ndarray)]
        assert sum(value.nbytes for value in kept) <= pixels and not any(np.shares_memory(image, value) for value in kept)
        cascade.predict(handle, Prompt(tuple(points)))  # what OpenCV sets up at first isn't counted
        tracemalloc.start()
        (found,) = cascade.predict(handle, Prompt(tuple(points)))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert found.mask.shape == alpha.shape and peak < most * pixels + (30 << 20), (points, peak / pixels)


def test_strips_are_what_the_whole_would_be(monkeypatch: pytest.MonkeyPatch) -> None:
    import cv2

    small = disc(20, 30, 12, 40, 60).astype(np.float32)
    whole = cv2.GaussianBlur(cv2.resize(small, (611, 407), interpolation=cv2.INTER_LINEAR), (0, 0), 6.0)
    monkeypatch.setattr(grow, "_STRIP", 611 * 30)
    found = grow.grown(small, (407, 611), lambda part: part * 255, 6.0)
    assert np.abs(found.astype(int) - (whole * 255).astype(int)).max() <= 1
    assert np.array_equal(grow.grown(small, (40, 60), lambda part: part * 255), small * 255)


def test_the_latest_click_wins() -> None:
    async def main() -> list[str]:
        desk, done = Desk(), list[str]()

        async def click(name: str, session: str) -> None:
            try:
                async with desk.turn(session, desk.lane(1), nullcontext()):
                    await asyncio.sleep(0.05)
                    done.append(name)
            except ConflictError:
                done.append(f"{name} overtaken")

        clicks = []
        for name, session in (("first", "a"), ("second", "a"), ("other", "b"), ("third", "a")):
            clicks.append(asyncio.ensure_future(click(name, session)))
            await asyncio.sleep(0.005)
        await asyncio.gather(*clicks)
        async with desk.turn("a", desk.lane(1), nullcontext()):  # nothing is held
            return done

    assert asyncio.run(main()) == ["second overtaken", "first", "other", "third"]


def test_a_later_click_overtakes_one_that_waits_for_room() -> None:
    """And a click that was overtaken leaves its turn, its room, and both to the next."""

    async def main() -> None:
        desk, room, done = Desk(), Room(1), list[str]()

        async def click(name: str) -> None:
            try:
                async with desk.turn("a", desk.lane(LARGE + 1), room.taking(1)):
                    done.append(name)
            except ConflictError:
                done.append(f"{name} overtaken")

        async with room.taking(1):  # an upload
            clicks = []
            for name in ("first", "second"):
                clicks.append(asyncio.ensure_future(click(name)))
                await asyncio.sleep(0.01)
            assert done == ["first overtaken"]
        await asyncio.wait_for(asyncio.gather(*clicks), 5)
        assert done == ["first overtaken", "second"]
        await asyncio.wait_for(click("third"), 5)

    asyncio.run(main())


def test_a_click_on_a_small_picture_waits_for_none_on_a_large_one(tmp_path: Path) -> None:
    """Not for its turn, not for the room that the large one waits for, not for a thread where many calls wait for that room, and not for a decoder."""
    large = np.zeros((1500, 3000, 3), np.uint8)
    large[400:900, 400:900] = 200
    with server(tmp_path) as client:
        one, other = send_image(client, encoded(large)), send_image(client, encoded(scene(noisy=True)))
        room, found = client.app.state.service._decoding, list[int]()  # type: ignore[attr-defined]

        def ask(path: str, **more: object) -> None:
            answer = client.post(f"{V1}{path}", **more) if more else client.get(f"{V1}{path}")  # type: ignore[arg-type]
            found.append(answer.status_code)

        with decoding(), room.take(1):  # an upload that is decoded in another thread
            waiting = [threading.Thread(target=ask, args=(f"/images/{one['id']}/segment",), kwargs={"json": {}})]
            waiting += [threading.Thread(target=ask, args=(f"/images/{one['id']}?w={w}",)) for w in (128, 256, 512, 1024) * 12]
            for thread in waiting:
                thread.start()
            time.sleep(0.3)
            click = threading.Thread(
                target=ask, args=(f"/images/{other['id']}/segment",), kwargs={"json": {"points": [{"x": 90, "y": 120}], "session": "s"}}
            )
            click.start()
            click.join(5)
            first = list(found)
        for thread in (*waiting, click):
            thread.join()
    assert first == [200] and found == [200] * 50


def test_a_segmenter_that_is_not_parallel_is_called_by_one_thread() -> None:
    class Single:
        name, under_way, most = "single", 0, 0

        def unavailable(self) -> str:
            return ""

        def set_image(self, image: np.ndarray, alpha: np.ndarray | None) -> int:
            Single.under_way += 1
            Single.most = max(Single.most, Single.under_way)
            time.sleep(0.05)
            Single.under_way -= 1
            return 0

        def predict(self, handle: int, prompt: Prompt) -> list[Found]:
            self.set_image(np.empty(0), None)
            return []

    desk = Desk()
    desk._makers["single"] = Single
    image = scene(noisy=False)
    for parallel, most in ((False, 1), (True, 2)):
        Single.most = 0
        desk._made.clear()
        Single.parallel = parallel  # type: ignore[attr-defined]
        lanes = (Lane(), Lane())
        threads = [threading.Thread(target=desk.predict, args=("single", "x", lambda: (image, None), Prompt(), lane)) for lane in lanes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert Single.most == most


def test_large_pictures_do_not_stay_prepared_together() -> None:
    """Four of 40 megapixels would be more than a gigabyte."""

    class Plain:
        name = "plain"

        def unavailable(self) -> str:
            return ""

        def set_image(self, image: np.ndarray, alpha: np.ndarray | None) -> int:
            return image.shape[1]

        def predict(self, handle: int, prompt: Prompt) -> list[int]:
            return [handle]

    desk = Desk()
    desk._makers["plain"] = Plain  # type: ignore[assignment]

    def ask(picture: str, width: int) -> None:
        image = np.broadcast_to(np.uint8(0), (1_000_000, width, 3))
        assert desk.predict("plain", picture, lambda: (image, None), Prompt(), desk.lane(5_000_000)) == [width]

    def kept() -> list[str]:
        return [picture for _, picture in desk.lane(5_000_000).handles]

    for picture, width in (("a", 15), ("b", 15), ("c", 15)):
        ask(picture, width)
    assert kept() == ["b", "c"]
    ask("large", 60)
    assert kept() == ["large"]
    for picture in "vwxyz":
        ask(picture, 1)
    assert kept() == list("wxyz")


def test_an_unknown_segmenter_is_named() -> None:
    with pytest.raises(OptionError, match="no segmenter foo"):
        Desk().predict("foo", "x", lambda: (scene(noisy=False), None), Prompt(), Lane())


class Square:
    """A package's segmenter."""

    name = "square"

    def unavailable(self) -> str:
        return ""

    def set_image(self, image: np.ndarray, alpha: np.ndarray | None) -> tuple[int, ...]:
        return image.shape

    def predict(self, handle: tuple[int, ...], prompt: Prompt) -> list[Found]:
        mask = np.zeros(handle[:2], np.uint8)
        mask[10:20, 10:20] = 255
        return [Found(mask, 0.5, self.name)]


def test_a_package_may_bring_a_segmenter(monkeypatch: pytest.MonkeyPatch) -> None:
    def entries(group: str) -> list[EntryPoint]:
        return [EntryPoint("square", f"{__name__}:Square", group), EntryPoint("torn", "no_such_package:Torn", group)]

    monkeypatch.setattr(desk_module, "entry_points", entries)
    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or SimpleNamespace(Square=Square))
    desk = Desk()
    assert desk.known()["square"] == "" and "can't be loaded" in desk.known()["torn"]
    (found,) = desk.predict("square", "x", lambda: (scene(noisy=False), None), Prompt(), Lane())
    assert found.method == "square" and found.mask.sum() == 100 * 255


def test_the_call(tmp_path: Path) -> None:
    with server(tmp_path) as client:
        assert client.get(f"{V1}/info").json()["segmenters"]["cascade"] == ""
        image = send_image(client, encoded(scene(noisy=False)))
        url = f"{V1}/images/{image['id']}/segment"
        (mask,) = client.post(url, json={"points": [{"x": 90, "y": 120}], "session": "s"}).json()["masks"]
        assert mask["method"] == "border" and mask["bounds"] == [40, 70, 141, 171]
        assert client.get(mask["url"]).headers["content-type"] == "image/png"
        job = client.post(f"{V1}/jobs", json={"image_id": image["id"], "mask_ids": [mask["id"]]})
        assert job.status_code == 201, job.text
        error(client.post(url, json={"points": [{"x": 400, "y": 0}]}), 422, "E_OPTION")
        assert client.post(url, json={"points": [{"x": 240, "y": 110, "label": 0}]}).json()["masks"][0]["bounds"] == [40, 70, 141, 171]
        error(client.post(url, json={"box": [9, 9, 9, 20]}), 422, "E_OPTION")
        error(client.post(url, json={"engine": "foo"}), 422, "E_OPTION")
        error(client.post(f"{V1}/images/{'0' * 64}/segment", json={}), 404, "E_NOT_FOUND")
