"""The nodes executed for real, around a real worker process with a stub engine (tests/stub_worker.py)."""

from __future__ import annotations

import inspect
import io
import json
import os
import struct
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comfyui_sam3d.client import LocalBackend
from comfyui_sam3d.contract.errors import (
    FullMaskError,
    JobCancelled,
    MaskError,
    OptionError,
    OutOfMemoryError,
    OutputError,
    PairingError,
    SetupError,
    WorkerCrashed,
)
from comfyui_sam3d.contract.request import ReconstructRequest
from comfyui_sam3d.contract.scene import Scene
from comfyui_sam3d.nodes import NODE_CLASS_MAPPINGS, _backend, _host, export, preview, reconstruct
from comfyui_sam3d.nodes._backend import SharedBackend
from comfyui_sam3d.nodes._pictures import BLACK, WHITE
from PIL import Image

STUB = [sys.executable, str(Path(__file__).with_name("stub_worker.py"))]


class Interrupted(BaseException):
    """Stands for the host's exception, which on current hosts is no Exception either."""


@pytest.fixture(scope="module")
def one_worker() -> Iterator[SharedBackend]:
    made = SharedBackend(lambda: LocalBackend(STUB, grace=2.0))
    yield made
    made.close()


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_worker: SharedBackend) -> Path:
    """Input, output and temp folder of their own with a non-ASCII name, and the stub worker behind the nodes."""
    base = tmp_path / "フォルダ é"
    for kind in ("input", "output", "temp"):
        (base / kind).mkdir(parents=True)
    monkeypatch.setenv("SAM3D_NODES_DIR", str(base))
    for module in (reconstruct, export, preview):
        monkeypatch.setattr(module, "shared", one_worker)
    return base


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the node tells the host: texts, and the fractions and pictures of its progress."""
    out: list[Any] = []

    class Progress:
        def update(self, fraction: float, picture: np.ndarray | None = None) -> None:
            assert threading.current_thread() is threading.main_thread(), "hosts want to be told in the node's own thread"
            out.append(fraction if picture is None else picture)

    monkeypatch.setattr(_host, "Progress", Progress)
    monkeypatch.setattr(_host, "say", out.append)
    return out


def draw(path: Path, *boxes: tuple[int, int, int, int], alpha: bool = True) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((40, 60, 4), np.uint8)
    for i, (top, left, bottom, right) in enumerate(boxes):
        pixels[top:bottom, left:right] = [200, 60 + 40 * i, 30, 255]
    Image.fromarray(pixels if alpha else pixels[..., :3]).save(path)


def draw_mask(path: Path, top: int, left: int, bottom: int, right: int) -> None:
    pixels = np.zeros((40, 60), np.uint8)
    pixels[top:bottom, left:right] = 255
    Image.fromarray(pixels).save(path)


def run(node: str, **inputs: Any) -> Any:
    kind = NODE_CLASS_MAPPINGS[node]
    return getattr(kind(), kind.FUNCTION)(**inputs)


def load(image: str, masks: str = "", polarity: str = WHITE) -> Any:
    return run("SAM3DLoadImageMasks", image=image, masks=masks, polarity=polarity)


def make(image: Any, masks: Any, seed: int = 0, engine: str = "auto", **more: Any) -> Any:
    return run(
        "SAM3DReconstruct",
        **{"image": image, "masks": masks, "polarity": WHITE, "engine": engine, "preset": "auto", "quality": "fast", "seed": seed, **more},
    )


SQUARE = (np.full((1, 40, 60, 3), 0.5, np.float32), np.pad(np.ones((1, 20, 20), np.float32), ((0, 0), (10, 10), (20, 20))))


def glb_json(data: bytes) -> dict[str, Any]:
    (length,) = struct.unpack_from("<I", data, 12)
    return dict(json.loads(data[20 : 20 + length]))


# -- loading


def test_load_a_cut_out(folders: Path) -> None:
    draw(folders / "input" / "肉,50%.png", (10, 20, 30, 40))
    image, masks, name, prefix = load("肉,50%.png")
    assert _host.array(image).shape == (1, 40, 60, 3) and _host.array(masks).sum() == 400
    assert (name, prefix) == ("肉_50%", "3d/肉,50_")


def test_load_mask_files(folders: Path) -> None:
    draw(folders / "input" / "camp/image.png", (0, 0, 40, 60), alpha=False)
    draw_mask(folders / "input" / "camp/0.png", 2, 2, 12, 12)
    draw_mask(folders / "input" / "camp/1.png", 20, 20, 30, 50)
    _, masks, _, _ = load("camp/image.png", "camp/[0-9].png")
    assert [int(m.sum()) for m in _host.array(masks)] == [100, 300]
    _, one, _, _ = load("camp/image.png", "camp/1.png\n", BLACK)
    assert int(_host.array(one).sum()) == 40 * 60 - 300


def test_load_refuses_what_has_no_mask(folders: Path) -> None:
    draw(folders / "input" / "plain.png", (0, 0, 40, 60), alpha=False)
    with pytest.raises(MaskError, match="has no transparency"):
        load("plain.png")
    check = NODE_CLASS_MAPPINGS["SAM3DLoadImageMasks"].VALIDATE_INPUTS
    assert check(image="plain.png", masks="") is True
    assert "no file" in check(image="none.png", masks="")
    assert "leads out" in check(image="plain.png", masks="../../x.png")


def test_load_notices_changed_files(folders: Path) -> None:
    kind = NODE_CLASS_MAPPINGS["SAM3DLoadImageMasks"]
    draw(folders / "input" / "a.png", (2, 2, 8, 8))
    first = kind.IS_CHANGED(image="a.png", masks="", polarity=WHITE)
    assert first == kind.IS_CHANGED(image="a.png", masks="", polarity=WHITE)
    draw(folders / "input" / "a.png", (2, 2, 9, 30))
    os.utime(folders / "input" / "a.png", ns=(1, 1))
    assert first != kind.IS_CHANGED(image="a.png", masks="", polarity=WHITE)


def folder(**more: Any) -> Any:
    return run(
        "SAM3DLoadFolder", **{"folder": ".", "pairing": "any", "polarity": WHITE, "on_problem": "stop", "skip": 0, "limit": 0, **more}
    )


def test_load_a_folder(folders: Path) -> None:
    for name in ("b.png", "a2.png", "a10.png"):
        draw(folders / "input" / name, (2, 2, 8, 8))
    draw(folders / "input" / "c.png", (2, 2, 8, 8), alpha=False)
    draw_mask(folders / "input" / "c_mask.png", 5, 5, 25, 25)
    images, masks, names, prefixes = folder()
    assert names == ["a2", "a10", "b", "c"] and prefixes[3] == "3d/c"
    assert [int(_host.array(m).sum()) for m in masks] == [36, 36, 36, 400]
    assert all(_host.array(i).shape == (1, 40, 60, 3) for i in images)
    assert folder(skip=1, limit=2)[2] == ["a10", "b"]
    assert folder(pairing="suffix", on_problem="skip")[2] == ["c"]


def test_load_folder_problems(folders: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(PairingError, match="no picture to load"):
        folder()
    draw(folders / "input" / "good.png", (2, 2, 8, 8))
    draw(folders / "input" / "plain.png", (2, 2, 8, 8), alpha=False)
    (folders / "input" / "bad.png").write_bytes(b"junk")
    with pytest.raises(PairingError, match=r"bad: .*\(and 1 more\)"):
        folder()
    assert folder(on_problem="skip")[2] == ["good"]
    assert "No mask for plain.png" in caplog.text
    (folders / "input" / "bad.png").unlink()
    draw(folders / "input" / "clear.png")  # SAM3D Reconstruct would refuse it, and with it all the others
    with pytest.raises(PairingError, match=r"clear: .*selects nothing.*\(and 1 more\)"):
        folder()
    assert folder(on_problem="skip")[2] == ["good"]
    check = NODE_CLASS_MAPPINGS["SAM3DLoadFolder"].VALIDATE_INPUTS
    assert check(folder=".") is True
    assert "no folder" in check(folder="none") and "leads out" in check(folder="..")


def test_a_table_cant_name_files_elsewhere(folders: Path) -> None:
    draw(folders / "secret.png", (2, 2, 8, 8))
    draw(folders / "input" / "set" / "a.png", (2, 2, 8, 8))
    (folders / "input" / "set" / "pairs.csv").write_text("image\n../../secret.png\na.png\n")
    assert folder(folder="set", on_problem="skip")[2] == ["a"]
    with pytest.raises(PairingError, match="leads out"):
        folder(folder="set")


def test_folder_notices_changes(folders: Path) -> None:
    kind = NODE_CLASS_MAPPINGS["SAM3DLoadFolder"]
    draw(folders / "input" / "a.png", (2, 2, 8, 8))
    first = kind.IS_CHANGED(folder=".", pairing="any", polarity=WHITE, limit=0)
    draw(folders / "input" / "b.png", (2, 2, 8, 8))
    assert first != kind.IS_CHANGED(folder=".", pairing="any", polarity=WHITE, limit=0)


def test_linked_widgets_are_looked_at_later(folders: Path) -> None:
    for node, names in (("SAM3DLoadImageMasks", ("image", "masks", "polarity")), ("SAM3DLoadFolder", ("folder", "pairing", "polarity"))):
        kind = NODE_CLASS_MAPPINGS[node]
        linked = dict.fromkeys(names)
        assert kind.IS_CHANGED(**linked) != kind.IS_CHANGED(**linked), "never the same: always looked at again"
        taken = inspect.signature(kind.VALIDATE_INPUTS).parameters
        assert kind.VALIDATE_INPUTS(**{name: None for name in names if name in taken}) is True


def test_a_prefix_that_leads_out_is_said_before_the_work(folders: Path) -> None:
    check = NODE_CLASS_MAPPINGS["SAM3DExport"].VALIDATE_INPUTS
    assert check(filename_prefix="3d/%year%/a") is True and check(filename_prefix=None) is True and check(filename_prefix="") is True
    for wrong in ("../x", os.path.abspath(os.sep + "elsewhere/x")):
        assert "leads out" in check(filename_prefix=wrong)


# -- reconstruct


def test_from_picture_to_files(folders: Path, told: list[Any]) -> None:
    draw(folders / "input" / "two.png", (10, 5, 30, 25), (5, 35, 35, 55))
    draw_mask(folders / "input" / "0.png", 10, 5, 30, 25)
    draw_mask(folders / "input" / "1.png", 5, 35, 35, 55)
    image, masks, name, prefix = load("two.png", "0.png\n1.png")
    ((scene,), _, _) = make(image, masks, names=name)
    assert [o.name for o in scene.objects] == ["two_1", "two_2"]
    fractions = [t for t in told if isinstance(t, float)]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0 and len(fractions) >= 3
    assert any(isinstance(t, np.ndarray) and t.shape == (40, 60, 3) for t in told), "the engine's previews are shown"
    assert told[-1] == "draft: 2 objects\nThis is a stub."

    workflow = {"workflow": {"nodes": ["é"]}}
    made = run(
        "SAM3DExport",
        scene=scene,
        filename_prefix=prefix,
        glb=True,
        ply=True,
        each_object=True,
        obj=True,
        prompt={"1": 2},
        extra_pnginfo=workflow,
    )
    entries = made["ui"]["3d"]
    assert set(made["ui"]) == {"3d"}
    names = [f"{e['subfolder']}/{e['filename']}" for e in entries]
    assert names[:2] == ["3d/two_00001_.glb", "3d/two_00001_.ply"]
    assert {"3d/two_00001_/model.obj", "3d/two_00001_/objects/two_1.glb", "3d/two_00001_/objects/two_2.ply"} <= set(names)
    assert all((folders / "output" / n).stat().st_size > 0 for n in names) and len(names) == len(set(names))
    assert not any(n.endswith((".mtl", ".png")) for n in names)
    assert made["result"][2:] == ("3d/two_00001_.glb", "3d/two_00001_.ply")
    assert Path(made["result"][0]) == (folders / "output" / "3d" / "two_00001_.glb").resolve()

    data = (folders / "output" / "3d" / "two_00001_.glb").read_bytes()
    extras = glb_json(data)["asset"]["extras"]
    assert json.loads(extras["prompt"]) == {"1": 2} and json.loads(extras["workflow"]) == {"nodes": ["é"]}
    assert struct.unpack_from("<I", data, 8)[0] == len(data)

    import trimesh

    found = trimesh.load(io.BytesIO(data), file_type="glb")
    assert set(found.graph.nodes_geometry) == {"two_1", "two_2"}
    again = run("SAM3DExport", scene=scene, filename_prefix=prefix, glb=True, ply=False)
    assert [e["filename"] for e in again["ui"]["3d"]] == ["two_00002_.glb"]
    assert again["result"][1] is None and again["result"][3] is None


def test_metadata_can_be_refused(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_host, "metadata_wanted", lambda: False)
    ((scene,), _, _) = make(*SQUARE)
    run("SAM3DExport", scene=scene, filename_prefix="x", glb=True, ply=False, prompt={"secret": 1})
    assert "secret" not in (folders / "output" / "x_00001_.glb").read_bytes().decode("latin-1")


def test_export_refusals(folders: Path) -> None:
    ((scene,), _, _) = make(*SQUARE)
    with pytest.raises(OptionError, match="No format"):
        run("SAM3DExport", scene=scene, filename_prefix="x", glb=False, ply=False)
    with pytest.raises(OptionError, match="leads out"):
        run("SAM3DExport", scene=scene, filename_prefix="../x", glb=True, ply=False)
    with pytest.raises(OutputError):
        run("SAM3DExport", scene=Scene(objects=(), engine="draft"), filename_prefix="x", glb=True, ply=False)
    assert list((folders / "output").iterdir()) == []


def test_preview(folders: Path) -> None:
    ((scene,), _, _) = make(*SQUARE)
    turning = run("SAM3DPreview", scene=scene, view="turntable", size=64, frames=4)
    still = run("SAM3DPreview", scene=scene, view="still", size=64, frames=4)
    for made, frames, kind in ((turning, 4, "WEBP"), (still, 1, "PNG")):
        (entry,) = made["ui"]["images"]
        assert entry["type"] == "temp" and made["ui"]["animated"] == (frames > 1,)
        with Image.open(folders / "temp" / entry["subfolder"] / entry["filename"]) as picture:
            assert (picture.format, picture.size, getattr(picture, "n_frames", 1)) == (kind, (64, 64), frames)
    assert list((folders / "output").iterdir()) == []


def test_pairs_give_a_scene_each(folders: Path, told: list[Any]) -> None:
    images = np.concatenate([SQUARE[0], SQUARE[0] * 0.5])
    masks = np.concatenate([SQUARE[1], SQUARE[1][:, ::-1] * 1.0])
    scenes, meshes, splats = make(images, masks, names="a,b")
    assert [[o.name for o in scene.objects] for scene in scenes] == [["a"], ["b"]]
    assert len(meshes) == len(splats) == 2
    fractions = [t for t in told if isinstance(t, float)]
    assert fractions == sorted(fractions) and any(0.4 < f < 0.6 for f in fractions)


@pytest.mark.parametrize("names", ["a,b", "a,,b,c"])
def test_names_that_dont_fit(folders: Path, names: str) -> None:
    with pytest.raises(OptionError, match="names"):
        make(*SQUARE, names=names)


def test_bad_masks_never_reach_a_worker(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconstruct, "shared", SharedBackend(lambda: pytest.fail("a worker was opened")))
    with pytest.raises(FullMaskError):
        make(SQUARE[0], np.ones((1, 40, 60), np.float32))


def test_torch_tensors(folders: Path) -> None:
    torch = pytest.importorskip("torch")
    ((scene,), _, _) = make(torch.from_numpy(SQUARE[0]), torch.from_numpy(SQUARE[1]).half())
    assert len(scene.objects) == 1


def test_deterministic(folders: Path) -> None:
    files = []
    for _ in range(2):
        ((scene,), _, _) = make(*SQUARE)
        run("SAM3DExport", scene=scene, filename_prefix="d", glb=True, ply=True)
    for ending in (".glb", ".ply"):
        files = [p.read_bytes() for p in sorted((folders / "output").glob(f"*{ending}"))]
        assert len(files) == 2 and files[0] == files[1]


# -- the worker's bad days


def test_errors_come_as_they_are_and_the_next_call_works(folders: Path, one_worker: SharedBackend) -> None:
    with pytest.raises(OutOfMemoryError, match=r"no memory left\. Choose a lower quality"):
        make(*SQUARE, seed=667)
    with pytest.raises(WorkerCrashed, match="SIGKILL"):
        make(*SQUARE, seed=666)
    ((scene,), _, _) = make(*SQUARE, seed=668)  # prints into stdout
    assert len(scene.objects) == 1


def interrupt_after(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    end = time.monotonic() + seconds

    def check() -> None:
        if time.monotonic() > end and not fired:
            fired.append(True)
            raise Interrupted

    fired: list[bool] = []
    monkeypatch.setattr(_host, "check_interrupt", check)


def test_interrupt(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(*SQUARE)  # the worker is up
    interrupt_after(0.4, monkeypatch)
    start = time.monotonic()
    with pytest.raises(Interrupted):
        make(*SQUARE, seed=1060)
    assert time.monotonic() - start < 30, "the job alone takes a minute"
    ((scene,), _, _) = make(*SQUARE)
    assert len(scene.objects) == 1 and time.monotonic() - start < 30


def test_interrupt_of_a_worker_that_doesnt_listen(folders: Path, monkeypatch: pytest.MonkeyPatch, one_worker: SharedBackend) -> None:
    make(*SQUARE)
    interrupt_after(0.3, monkeypatch)
    start = time.monotonic()
    with pytest.raises(Interrupted):
        make(*SQUARE, seed=669)  # silent for 3 s, the grace is 2
    assert time.monotonic() - start < 1.5
    ((scene,), _, _) = make(*SQUARE)  # waits for its end, however it comes
    assert len(scene.objects) == 1


def test_interrupt_while_files_are_written(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow:
        closed = False

        def export(self, *_: Any) -> dict[str, bytes]:
            while not self.closed:
                time.sleep(0.02)
            raise JobCancelled("closed")

        def close(self) -> None:
            self.closed = True

    slow = Slow()
    monkeypatch.setattr(export, "shared", SharedBackend(lambda: slow))
    interrupt_after(0.3, monkeypatch)
    with pytest.raises(Interrupted):
        run("SAM3DExport", scene=Scene(objects=(), engine="draft"), filename_prefix="x", glb=True, ply=False)
    end = time.monotonic() + 5
    while not slow.closed and time.monotonic() < end:
        time.sleep(0.02)
    assert slow.closed and list((folders / "output").iterdir()) == []


def test_signs_of_life(folders: Path, told: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_backend, "SIGN_OF_LIFE", 0.5)
    make(*SQUARE, seed=669)
    assert any(isinstance(t, str) and "still working" in t for t in told)


def test_an_idle_worker_is_closed(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backends: list[LocalBackend] = []

    def open_one() -> LocalBackend:
        backends.append(LocalBackend(STUB))
        return backends[-1]

    quick = SharedBackend(open_one, idle=0.3)
    monkeypatch.setattr(reconstruct, "shared", quick)
    make(*SQUARE)
    make(*SQUARE)
    assert len(backends) == 1 and backends[0].worker_pid is not None
    end = time.monotonic() + 5
    while backends[0].worker_pid is not None and time.monotonic() < end:
        time.sleep(0.05)
    assert backends[0].worker_pid is None
    make(*SQUARE)
    assert len(backends) == 2
    quick.close()


@pytest.mark.parametrize(
    ("engine", "engines", "freed"), [("draft", ("draft",), 0), ("auto", ("draft",), 0), ("auto", ("draft", "sam3d"), 1), ("sam3d", (), 1)]
)
def test_vram_is_handed_over_to_engines_that_use_it(
    monkeypatch: pytest.MonkeyPatch, engine: str, engines: tuple[str, ...], freed: int
) -> None:
    from types import SimpleNamespace

    from comfyui_sam3d.contract.backend import Done

    calls: list[int] = []
    monkeypatch.setattr(_host, "free_vram", lambda: calls.append(1))
    job = SimpleNamespace(poll=lambda timeout: Done(Scene(objects=(), engine="x")))
    backend = SimpleNamespace(start=lambda: SimpleNamespace(engines=engines), reconstruct=lambda request: job, close=lambda: None)
    request = ReconstructRequest(image=np.zeros((4, 4, 3), np.uint8), masks=np.eye(4, dtype=bool)[None], engine=engine)  # type: ignore[arg-type]
    SharedBackend(lambda: backend).reconstruct(request, lambda fraction, picture: None)
    assert sum(calls) == freed


def test_a_missing_environment_names_the_installer(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from comfyui_sam3d.client import interpreter

    for name in ("SAM3D_WORKER_COMMAND", "SAM3D_WORKER_PYTHON"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(interpreter, "PACK", folders)
    monkeypatch.setattr(reconstruct, "shared", SharedBackend())
    with pytest.raises(SetupError, match=r"install\.py") as caught:
        make(*SQUARE)
    assert "\n" not in str(caught.value)
