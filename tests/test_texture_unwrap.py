"""UV unwrapping: both ways give a sound atlas, and whatever the child process with xatlas does, the worker goes on and nothing is left
running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the layer `model` isn't installed: python sam3d.py test adds it")

from comfyui_sam3d.contract.errors import EngineError, InputError, JobCancelled, SetupError  # noqa: E402
from comfyui_sam3d.tests.zoo.keeper import alive, until  # noqa: E402
from comfyui_sam3d.worker.geometry.texture import unwrap as module  # noqa: E402
from comfyui_sam3d.worker.geometry.texture.atlas import shared, texels  # noqa: E402
from comfyui_sam3d.worker.geometry.texture.unwrap import Unwrapped, unwrap  # noqa: E402
from comfyui_sam3d.worker.job import QuietJob  # noqa: E402

from texture_shapes import SHAPES  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
SIZE, PADDING = 256, 4


class Log(QuietJob):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def log(self, text: str, level: str = "info") -> None:
        self.lines.append(text)


@pytest.fixture(scope="module")
def blob() -> tuple[np.ndarray, np.ndarray]:
    return SHAPES["blob"].raw_mesh(20)


def check(found: Unwrapped, vertices: np.ndarray, faces: np.ndarray) -> None:
    """The mesh is the same one, no texel is given away twice, and charts keep their distance."""
    assert found.faces.shape == faces.shape and np.array_equal(found.source[found.faces], faces)
    assert found.uvs.shape == (len(found.source), 2) and found.uvs.min() >= 0 and found.uvs.max() <= 1 and np.isfinite(found.uvs).all()
    corners = torch.from_numpy(found.uvs[found.faces])
    assert not bool(shared(corners, SIZE, SIZE).any())
    reach = texels(corners, SIZE, SIZE, reach=0.0)
    owner = np.full(SIZE * SIZE, -1)
    owner[reach.index.numpy()] = found.charts[reach.face.numpy()]
    owner = owner.reshape(SIZE, SIZE)
    for step in range(1, PADDING):  # straight across; slantwise the distance is larger
        for a, b in ((owner[step:], owner[:-step]), (owner[:, step:], owner[:, :-step])):
            touching = (a >= 0) & (b >= 0) & (a != b)
            assert not touching.any(), f"two charts lie {step} texels apart"


@pytest.mark.parametrize("shape", ["blob", "ring"])
def test_box_charts(shape: str) -> None:
    vertices, faces = SHAPES[shape].raw_mesh(24)
    found = unwrap(vertices, faces, QuietJob(), method="box", size=SIZE, padding=PADDING)
    check(found, vertices, faces)
    assert found.method == "box" and 6 <= len(np.unique(found.charts)) < 60
    away = np.minimum(found.uvs, 1 - found.uvs) * SIZE  # from the sides, where a repeated texture begins anew
    assert away.min() >= PADDING / 2
    corners = found.uvs[found.faces].astype(np.float64)
    sides = corners[:, 1:] - corners[:, :1]
    areas = (
        np.cross(sides[:, 0], sides[:, 1]) / 2
        if np.__version__ < "2"
        else (sides[:, 0, 0] * sides[:, 1, 1] - sides[:, 0, 1] * sides[:, 1, 0]) / 2
    )
    assert 0.3 < np.abs(areas).sum() < 0.95


def test_box_charts_of_a_surface_that_lies_over_itself() -> None:
    """Two turns of a spiral ramp: every face looks upwards, so that it would be one chart, and lie over itself."""
    turns = np.linspace(0, 4 * np.pi, 81)
    rows = np.stack([np.stack([r * np.cos(turns), 0.05 * turns, r * np.sin(turns)], 1) for r in (0.5, 0.75, 1.0)])
    vertices = rows.reshape(-1, 3).astype(np.float32)
    a = (np.arange(2)[:, None] * 81 + np.arange(80)).ravel()
    faces = np.concatenate([np.stack([a, a + 1, a + 81], 1), np.stack([a + 1, a + 82, a + 81], 1)])
    found = unwrap(vertices, faces, QuietJob(), method="box", size=SIZE, padding=PADDING)
    check(found, vertices, faces)
    assert 2 <= len(np.unique(found.charts)) < 12


def test_box_charts_of_scattered_triangles() -> None:
    """No neighbours, any direction, some without area: nothing to hold on to, and still an atlas."""
    rng = np.random.default_rng(0)
    vertices = rng.normal(size=(900, 3)).astype(np.float32)
    vertices[:3] = vertices[0]
    faces = np.arange(900).reshape(-1, 3)
    found = unwrap(vertices, faces, QuietJob(), method="box", size=SIZE, padding=PADDING)
    assert np.array_equal(found.source[found.faces], faces) and not bool(shared(torch.from_numpy(found.uvs[found.faces]), SIZE, SIZE).any())


def test_xatlas(blob: tuple[np.ndarray, np.ndarray]) -> None:
    pytest.importorskip("xatlas")
    found = unwrap(*blob, QuietJob(), method="xatlas", size=SIZE, padding=PADDING)
    check(found, *blob)
    assert found.method == "xatlas" and found.note == "" and (found.charts >= 0).all()


def test_faces_that_xatlas_leaves_out_lie_beside_their_neighbours(blob: tuple[np.ndarray, np.ndarray]) -> None:
    pytest.importorskip("xatlas")
    vertices, faces = blob
    # A face without area along an edge, and one far from everything.
    lone = np.full((3, 3), 9.0, np.float32)
    faces = np.concatenate([faces, [[faces[0, 0], faces[0, 1], faces[0, 0]], [len(vertices), len(vertices) + 1, len(vertices) + 2]]])
    vertices = np.concatenate([vertices, lone])
    found = unwrap(vertices, faces, QuietJob(), method="xatlas", size=SIZE, padding=PADDING)
    assert np.array_equal(found.source[found.faces], faces) and (found.charts >= 0).all()
    ends = found.uvs[found.faces[-2]]
    neighbours = found.uvs[np.isin(found.source, faces[0, :2])]
    assert all(np.abs(neighbours - end).sum(1).min() < 1e-6 for end in ends)


# -- what the child may do

STUB = """
import ctypes, importlib.util, os, sys, time, types
import numpy as np
fake = types.ModuleType("xatlas")
class Options: pass
class Atlas:
    def add_mesh(self, vertices, faces): pass
    def generate(self, charts, pack):
        open({pid!r}, "w").write(str(os.getpid()))
        {deed}
    def get_mesh(self, number): return {answer}
    def get_mesh_vertex_assignment(self, number): return None, np.zeros(3, np.uint32)
fake.ChartOptions = fake.PackOptions = Options
fake.Atlas = Atlas
sys.modules["xatlas"] = fake
spec = importlib.util.spec_from_file_location("child", {child!r})
child = importlib.util.module_from_spec(spec)
spec.loader.exec_module(child)
child.main()
"""
WRONG = "np.zeros(3, np.uint32), np.zeros((1, 3), np.uint32), np.zeros((3, 2), np.float32)"
LOCKED = "ctypes.PyDLL(None).sleep(60)"  # sleeps in C without giving up the interpreter lock


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    pid, real = tmp_path / "pid", str(module.CHILD)

    def make(deed: str, answer: str = WRONG) -> Path:
        script = tmp_path / "child.py"
        script.write_text(STUB.format(pid=str(pid), deed=deed, answer=answer, child=real), encoding="utf-8")
        monkeypatch.setattr(module, "CHILD", script)
        monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: object())
        return pid

    return make


DEEDS = {
    "crash": ("os.kill(os.getpid(), 11)", "code -11"),
    "exit": ("os._exit(7)", "code 7"),
    "error": ("raise RuntimeError('no charts today')", "code 1"),
    "prints": ("os.write(1, b'x' * 100000); print('y' * 100000, flush=True); os._exit(5)", "code 5"),
    "wrong": ("pass", "doesn't belong"),
    "locked": (LOCKED, "within 1 s"),
}


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("deed", DEEDS)
def test_a_bad_child_means_box_charts_and_a_note(stub, blob, deed: str) -> None:  # type: ignore[no-untyped-def]
    code, said = DEEDS[deed]
    pid = stub(code)
    job = Log()
    limit = 1.0 if deed == "locked" else 30.0
    start = time.monotonic()
    found = unwrap(*blob, job, size=SIZE, padding=PADDING, limit=limit)
    assert time.monotonic() - start < 20
    assert found.method == "box" and said in found.note and job.lines == [found.note]
    check(found, *blob)
    if pid.exists():
        assert not alive(int(pid.read_text()))
    if deed == "error":
        with pytest.raises(EngineError) as caught:
            unwrap(*blob, job, method="xatlas", size=SIZE)
        assert "no charts today" in caught.value.detail and caught.value.hint


def test_without_xatlas(blob: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    assert "isn't installed" in unwrap(*blob, QuietJob(), size=SIZE).note
    with pytest.raises(SetupError):
        unwrap(*blob, QuietJob(), method="xatlas")


def test_a_cancelled_child_is_gone(stub, blob) -> None:  # type: ignore[no-untyped-def]
    pid = stub(LOCKED)

    class Impatient(QuietJob):
        def step(self, stage: str, step: int, total: int) -> None:
            if pid.exists() and pid.read_text():
                raise JobCancelled("The job was cancelled.")

    start = time.monotonic()
    with pytest.raises(JobCancelled):
        unwrap(*blob, Impatient(), limit=60)
    assert time.monotonic() - start < 20 and not alive(int(pid.read_text()))


@pytest.mark.skipif(sys.platform == "win32", reason="another way to sleep")
def test_the_child_ends_with_its_time_limit_by_itself(stub, blob) -> None:  # type: ignore[no-untyped-def]
    """Even while it holds the interpreter lock, and though its parent lives and does nothing."""
    stub(LOCKED)
    child = subprocess.Popen(
        [sys.executable, str(module.CHILD)], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        vertices, faces = blob
        module._send(child.stdin, [np.array([1.0, SIZE, PADDING]), vertices, faces.astype(np.uint32)])
        assert child.wait(20) == 1
    finally:
        child.kill()
        child.wait()
        child.stdin.close()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the time limit ends it")
def test_the_child_ends_with_a_killed_worker(stub, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """Even while it holds the interpreter lock; and the killed process can't have said goodbye."""
    pid = stub(LOCKED)
    program = tmp_path / "worker.py"
    program.write_text(
        "import numpy as np, sys\n"
        "from pathlib import Path\n"
        "from comfyui_sam3d.worker.geometry.texture import unwrap as module\n"
        "from comfyui_sam3d.worker.job import QuietJob\n"
        f"module.CHILD = Path({str(module.CHILD)!r})\n"
        "module.importlib.util.find_spec = lambda name: object()\n"
        "module.unwrap(np.eye(3), np.array([[0, 1, 2]]), QuietJob(), limit=50)\n",
        encoding="utf-8",
    )
    worker = subprocess.Popen([sys.executable, str(program)], start_new_session=True)
    try:
        until(lambda: pid.exists() and pid.read_text() != "", 60)
        child = int(pid.read_text())
        time.sleep(0.3)
        assert alive(child)
        worker.kill()
        worker.wait()
        until(lambda: not alive(child), 10)
    finally:
        if worker.poll() is None:
            os.killpg(worker.pid, signal.SIGKILL)


def test_a_mesh_that_cant_be_unwrapped() -> None:
    for vertices in (np.zeros((0, 3)), np.full((3, 3), np.nan)):
        with pytest.raises(InputError) as caught:
            unwrap(vertices, np.zeros((0, 3), int) if not len(vertices) else np.array([[0, 1, 2]]), QuietJob())
        assert caught.value.hint
