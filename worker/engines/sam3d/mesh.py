"""The mesh decoder's surface -> the mesh that people get: cleaned, within its budget, textured from the splats.

An object without a texture is worth more than none: where a step can't be done, the mesh goes on as it is, and a warning says why.
"""

from __future__ import annotations

from typing import Any

import torch

from ....contract.errors import EngineError, InputError, OutputError, SetupError
from ....contract.request import ReconstructRequest
from ....contract.scene import Mesh, Splats
from ...geometry.cleanup.clean import CleanOptions, clean
from ...geometry.texture.bake import Baked, BakeOptions, bake
from ...job import Job, timed
from ...sam3d.pipeline import Pipeline
from .settings import Settings

_PROBLEMS = (EngineError, InputError, OutputError, SetupError)  # not JobCancelled


def finish(
    mesh: Mesh, splats: Splats | None, request: ReconstructRequest, settings: Settings, job: Job, pipeline: Pipeline
) -> tuple[Mesh, dict[str, Any]]:
    """mesh, splats: of one object, in the model's frame. Returns the mesh in that frame and what was done to it, as JSON values.

    pipeline: whose device is used, whose networks make room where its memory runs out, and who is told what couldn't be done.
    """
    info: dict[str, Any] = {"raw_faces": len(mesh.faces)}
    if request.sam3d.mesh == "raw" or len(mesh.faces) == 0:
        return mesh, info
    with timed(job, "clean-up"):
        options = CleanOptions(budget=settings.face_budget, smooth=request.sam3d.smooth)
        try:
            cleaned = pipeline.insisting("clean-up", lambda: clean(mesh, options, job, pipeline.device))
        except _PROBLEMS as problem:  # a surface that isn't one
            pipeline.note(f"a mesh could not be cleaned and stays as the model made it: {_said(problem)}")
            return mesh, {**info, "clean": {"failed": problem.message}}
    for note in cleaned.report["notes"]:
        pipeline.note(str(note))
    info["clean"] = {key: value for key, value in cleaned.report.items() if key != "seconds"}  # equal requests, equal files
    if settings.texture == "colors" or splats is None or len(splats.positions) == 0:
        return cleaned.mesh, info
    device = pipeline.device if pipeline.device.type == "cuda" else torch.device("cpu")

    def baked() -> Baked:
        wanted = BakeOptions(size=settings.texture_size, mode=settings.texture, unwrap=settings.unwrap)
        return bake(cleaned.mesh, splats, job, wanted, device)

    try:
        made = pipeline.insisting("texture", baked)
    except _PROBLEMS as problem:
        pipeline.note(f"a texture could not be made, the mesh has vertex colours instead: {_said(problem)}")
        return cleaned.mesh, {**info, "bake": {"failed": problem.message}}
    return made.mesh.replace(vertex_colors=None), {**info, "bake": made.report}


def _said(problem: EngineError | InputError | OutputError | SetupError) -> str:
    return problem.message.removesuffix(".")  # a note gets its own
