"""The renderers' backends: the Triton kernels against their twins, the optional libraries against ours, and what is refused.

On a machine with a CUDA device the kernels run there (python3 -m pytest tests/test_ops_render_backends.py); where Triton is installed without one, in
its interpreter, on small pictures; elsewhere those tests are skipped.
"""

from __future__ import annotations

import dataclasses
import math
import os

import pytest

torch = pytest.importorskip("torch", reason="the layer `model` isn't installed: python sam3d.py test adds it")

from comfyui_sam3d.contract.errors import OptionError, SetupError  # noqa: E402
from comfyui_sam3d.worker.ops import backends, rasterise, splatting  # noqa: E402
from comfyui_sam3d.worker.ops.cameras import Cameras, orbit, spherical_hammersley  # noqa: E402

from render_shapes import as_tensors, corners, draw, gaussians, looking_along_z, some_splats, sphere  # noqa: E402

CUDA = torch.cuda.is_available()
if backends.has("triton") and not CUDA:
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when a kernel is defined
DEVICE = "cuda" if CUDA else "cpu"
needs_triton = pytest.mark.skipif(not backends.has("triton"), reason="needs Triton (and a CUDA device, or patience)")
needs_gpu = pytest.mark.skipif(not CUDA or not backends.has("triton"), reason="needs a CUDA device and Triton")

pytestmark = pytest.mark.usefixtures("one_thread")


def test_wrong_shapes_are_refused() -> None:
    square, face = corners((0, 0), (1, 0), (0, 1)), torch.tensor([[0, 1, 2]])
    for call in (
        lambda: draw(square[0], face), lambda: draw(square, face.float()), lambda: draw(square, [[0, 1, 3]]), lambda: draw(square, [[0, 1, -1]]),
        lambda: draw(square, face, 0), lambda: draw(square, face, cull="both"),
        lambda: rasterise.interpolate(torch.ones(3, 1), face, draw(square, face, bary=False)),
        lambda: splatting.splat(*gaussians((0, 0, 2, 0.1, 0.8, 1, 1, 1))[:4], torch.ones(2, 3), looking_along_z()),
        lambda: Cameras(torch.eye(4), torch.ones(1, 2), torch.ones(1, 2), 4, 4),
    ):  # fmt: skip
        with pytest.raises(OptionError):
            call()


@pytest.mark.parametrize("name", ["pytorch3d", "nvdiffrast", "gsplat"])
def test_optional_backends(name: str) -> None:
    """Refused in words where they can't run; where they can, they draw what ours draw."""
    ball, cameras, splats = sphere(), orbit([0.5, 2.0], [0.2, 0.1], size=64).to(DEVICE), [t.to(DEVICE) for t in as_tensors(some_splats())]
    screen, faces = cameras.project(ball[0].to(DEVICE)), ball[1].to(DEVICE)
    if name == "nvdiffrast":  # it rounds corners to this grid, which alone changes the nearest face in 1.8 % of these pixels
        screen[..., :2] = (16 * screen[..., :2]).round() / 16
    call = (lambda: splatting.splat(*splats, cameras, depth=True)) if name == "gsplat" else (lambda: draw(screen, faces, 64, cull="back"))
    ours = call()
    if not backends.has(name) or (not CUDA and name != "pytorch3d"):
        with backends.force(name), pytest.raises(SetupError, match=name):
            call()
        return
    with backends.force(name):
        theirs = call()
    if name == "gsplat":
        assert (ours.image - theirs.image).abs().max() < 0.05 and (ours.image - theirs.image).abs().mean() < 2e-3
        assert (ours.alpha - theirs.alpha).abs().max() < 0.05
        return
    same = ours.face == theirs.face
    assert same.float().mean() > 0.99
    assert (ours.covered != theirs.covered).float().mean() < 0.002
    assert (ours.depth - theirs.depth)[same & ours.covered].abs().max() < 1e-3


def triton_fragments(
    screen: torch.Tensor, faces: torch.Tensor, height: int, width: int, perspective: bool, cull: str | None
) -> rasterise.Fragments:
    from comfyui_sam3d.worker.ops import rasterise_triton

    near = rasterise._limit(None, perspective)
    keys = rasterise_triton.nearest(screen, faces, height, width, perspective, cull, near)
    views = len(screen)
    out = (
        torch.empty(views, height, width, dtype=torch.int32, device=screen.device), torch.empty(views, height, width, device=screen.device),
        torch.empty(views, height, width, 3, device=screen.device),
    )  # fmt: skip
    rasterise_triton.resolve(keys, screen, faces, perspective, *out)
    return rasterise.Fragments(out[0], out[2], out[1])


@needs_triton
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the interpreter divides by zero in lanes that are masked
@pytest.mark.parametrize("perspective, cull", [(True, None), (True, "back"), (False, "front")])
def test_triton_rasteriser(perspective: bool, cull: str | None) -> None:
    """Random triangles, small and large, half of their corners on pixel centres, some behind the camera."""
    size, count = (200, 2000) if CUDA else (20, 24)
    generator = torch.Generator().manual_seed(3)
    middle = torch.rand(2, count, 1, 2, generator=generator) * (size + 8) - 4
    spread = torch.rand(1, count, 1, 1, generator=generator) * size + 3
    xy = middle + (torch.rand(2, count, 3, 2, generator=generator) - 0.5) * spread
    xy[:, ::2] = xy[:, ::2].floor() + 0.5
    depth = torch.rand(2, count, 3, 1, generator=generator) * 4 + (-0.1 if perspective else -2.0)
    screen = torch.cat([xy, depth], dim=3).view(2, -1, 3).to(DEVICE)
    faces = torch.arange(3 * count, device=DEVICE).view(-1, 3)
    got = triton_fragments(screen, faces, size, size + 3, perspective, cull)
    with backends.force("torch"):
        want = rasterise.rasterise(screen, faces, size, size + 3, perspective=perspective, cull=cull)
    assert torch.equal(got.covered, want.covered) and float(want.covered.float().mean()) > 0.15
    same = got.face == want.face
    assert same.float().mean() > 0.999
    assert torch.allclose(got.depth, want.depth, rtol=1e-5, atol=1e-5)
    assert torch.allclose(got.bary[same], want.bary[same], atol=1e-5)


@needs_triton
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("orthographic, compensate, portion", [(False, False, 1 << 24), (False, True, 60), (True, False, 1 << 24)])
def test_triton_splatter(orthographic: bool, compensate: bool, portion: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from comfyui_sam3d.worker.ops import splatting_triton

    monkeypatch.setattr(splatting_triton, "_PAIRS", portion)
    count, size = (3000, (150, 201)) if CUDA else (50, (20, 35))
    splats = [t.to(DEVICE) for t in as_tensors(some_splats(count))]
    splats[0][3] = math.nan
    splats[0][4] = 100.0
    splats[4][5] = math.inf
    splats[3][6:9] = 1.0
    cameras = orbit([0.3, 2.0], [0.2, -0.5], size=size).to(DEVICE)
    if orthographic:
        cameras = dataclasses.replace(cameras, focal=cameras.focal / 2, orthographic=True)
    with backends.force("torch"):
        want = splatting.splat(*splats, cameras, compensate=compensate, depth=True)
    image, alpha, far = splatting_triton.splat(splatting.Gaussians(*splats), cameras, 0.3, compensate, 0.01, True)
    assert want.alpha.mean() > 0.05
    # A share next to 1/255, or light next to 1e-4, may fall on either side.
    for got, wanted in ((image, want.image), (alpha, want.alpha), (far, torch.where(want.alpha > 0, want.depth * want.alpha, 0.0))):
        off = (got - wanted).abs()
        assert off.max() < 0.02 and (off > 1e-4).float().mean() < 2e-3


@needs_gpu
def test_the_gpu_path_is_the_default_and_keeps_to_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Splats as large as the picture, whose whole list would take gigabytes."""
    from comfyui_sam3d.worker.ops import splatting_triton

    called = []
    monkeypatch.setattr(splatting_triton, "_view", lambda *a, _real=splatting_triton._view: (called.append(1), _real(*a))[1])
    count = 40_000
    table = torch.rand(count, 3, device=DEVICE)
    turn = torch.randn(count, 4, device=DEVICE)
    cameras = orbit([0.3], [0.2], size=1024).to(DEVICE)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    found = splatting.splat(table - 0.5, table * 0 + 0.3, turn, table[:, 0] * 0.01 + 0.004, table, cameras)
    assert called and torch.cuda.max_memory_allocated() - before < 2e9
    assert found.alpha.max() > 0.99


@needs_gpu
def test_a_large_mesh_on_the_gpu() -> None:
    """Both sides of a closed surface of 100,000 small faces cover the same pixels, and the twin agrees on the same device."""
    points, faces = (t.to(DEVICE) for t in sphere(rows=223, columns=223))
    cameras = orbit(*spherical_hammersley(4), size=512).to(DEVICE)
    screen = cameras.project(points)
    front, back = (draw(screen, faces, 512, cull=cull) for cull in ("back", "front"))
    assert torch.equal(front.covered, back.covered) and 0.2 < front.covered.float().mean() < 0.9
    with backends.force("torch"):
        twin = draw(screen, faces, 512, cull="back")
    assert torch.equal(front.covered, twin.covered) and (front.face == twin.face).float().mean() > 0.999
    assert torch.equal(rasterise.visible_faces(points, faces, cameras, cull="back"), _seen(front.face, len(faces)))


def _seen(face: torch.Tensor, count: int) -> torch.Tensor:
    return sum(torch.bincount(view[view >= 0].unique(), minlength=count) for view in face)
