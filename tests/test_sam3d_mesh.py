"""What becomes of the mesh decoder's surface: textured where it can be, never lost where it can't, and what the user reads then."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the layer `model` isn't installed: python sam3d.py test adds it")

from comfyui_sam3d.contract import ReconstructRequest, Sam3dOptions  # noqa: E402
from comfyui_sam3d.contract.errors import JobCancelled, OutOfMemoryError  # noqa: E402
from comfyui_sam3d.contract.scene import Mesh, Splats  # noqa: E402
from comfyui_sam3d.worker.cache import Cache, key_of  # noqa: E402
from comfyui_sam3d.worker.engines.sam3d import mesh as finishing  # noqa: E402
from comfyui_sam3d.worker.engines.sam3d.settings import settings_of  # noqa: E402
from comfyui_sam3d.worker.job import QuietJob  # noqa: E402

from texture_shapes import SHAPES  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


class Pipeline:
    """As much of one as a Finisher uses, with decoders that have decoded. full: stages that run out of memory however little is loaded."""

    def __init__(self, *full: str) -> None:
        self.device, self.full = torch.device("cpu"), full
        self.notes: list[str] = []

    def surface(self, latent: tuple[Mesh, Splats]) -> Mesh:
        return latent[0]

    def splats(self, latent: tuple[Mesh, Splats], per_voxel: int) -> Splats:
        return latent[1]

    def note(self, text: str) -> None:
        self.notes.append(text)

    def insisting(self, stage: str, run: Callable[[], object]) -> object:
        if stage in self.full:
            raise OutOfMemoryError("The job doesn't fit.")
        return run()


@pytest.fixture(scope="module")
def ball() -> tuple[Mesh, Splats]:
    shape = SHAPES["ball"]
    return shape.colored(*shape.raw_mesh(10)), shape.splats(voxels=8)


def request(quality: str = "fast", **own: object) -> ReconstructRequest:
    image, masks = np.zeros((8, 8, 3), np.uint8), np.zeros((1, 8, 8), bool)
    masks[0, 2:6, 2:6] = True
    return ReconstructRequest(
        image=image, masks=masks, engine="sam3d", quality=quality, texture_size=256, face_budget=500, sam3d=Sam3dOptions(**own)
    )


@pytest.fixture(autouse=True)
def decoded(monkeypatch) -> None:
    """What the decoders give is the contract's already."""
    monkeypatch.setattr(finishing, "mesh_of", lambda mesh: mesh)
    monkeypatch.setattr(finishing, "splats_of", lambda splats: splats)


def run(ball, pipeline: Pipeline, splats: Splats | None = None, job: QuietJob | None = None, **own: object):
    wanted = request(**own)
    engine = SimpleNamespace(pipeline=pipeline, cache=Cache(Path("nowhere"), limit=0), key=key_of)
    made = finishing.Finisher(engine, wanted, settings_of(wanted), "x").finish((ball[0], splats or ball[1]), job or QuietJob())
    return made.mesh, made.info


def test_a_surface_becomes_a_textured_mesh(ball) -> None:
    pipeline = Pipeline()
    mesh, info = run(ball, pipeline)
    assert mesh.texture.shape == (256, 256, 3) and mesh.vertex_colors is None and len(mesh.faces) <= 500
    assert (info["bake"]["mode"], info["bake"]["unwrap"]) == ("direct", "box") and pipeline.notes == []
    mesh, info = run(ball, pipeline, texture="colors")
    assert mesh.texture is None and mesh.vertex_colors is not None and "bake" not in info
    mesh, info = run(ball, pipeline, mesh="raw")
    assert mesh is ball[0]


def test_without_a_texture_the_colours_are_left_and_a_note(ball) -> None:
    broken = Splats(
        np.full_like(ball[1].positions, np.nan), *(getattr(ball[1], name) for name in ("scales", "rotations", "opacities", "sh"))
    )
    for pipeline, splats, said in ((Pipeline(), broken, "None of the splats is finite"), (Pipeline("texture"), None, "doesn't fit")):
        mesh, info = run(ball, pipeline, splats)
        assert mesh.texture is None and mesh.vertex_colors is not None and info["clean"]["closed"]
        assert said in info["bake"]["failed"] and len(pipeline.notes) == 1
        assert "texture" in pipeline.notes[0] and said in pipeline.notes[0] and not pipeline.notes[0].endswith(".")


def test_what_cant_be_cleaned_stays(ball) -> None:
    pipeline = Pipeline("clean-up")
    mesh, info = run(ball, pipeline)
    assert mesh is ball[0] and "doesn't fit" in info["clean"]["failed"] and "cleaned" in pipeline.notes[0]


def test_a_cancelled_texture_is_no_excuse_for_colours(ball) -> None:
    class Impatient(QuietJob):
        def step(self, stage: str, step: int, total: int) -> None:
            if stage == "texture":
                raise JobCancelled("The job was cancelled.")

    with pytest.raises(JobCancelled):
        run(ball, Pipeline(), job=Impatient())


def test_only_best_waits_for_xatlas() -> None:
    ways = {quality: settings_of(request(quality)).unwrap for quality in ("fast", "standard", "best")}
    assert ways == {"fast": "box", "standard": "box", "best": "auto"}
