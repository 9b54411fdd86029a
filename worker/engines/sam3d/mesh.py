"""The mesh decoder's surface -> the mesh that people get: cleaned, within its budget, textured from the splats."""

from __future__ import annotations

from typing import Any

import torch

from ....contract.errors import EngineError, InputError
from ....contract.request import ReconstructRequest
from ....contract.scene import Mesh, Splats
from ...geometry.cleanup.clean import CleanOptions, clean
from ...geometry.texture.bake import BakeOptions, bake
from ...job import Job, timed
from .settings import Settings


def finish(
    mesh: Mesh, splats: Splats | None, request: ReconstructRequest, settings: Settings, job: Job, device: torch.device
) -> tuple[Mesh, dict[str, Any]]:
    """mesh, splats: of one object, in the model's frame. Returns the mesh in that frame and what was done to it, as JSON values."""
    info: dict[str, Any] = {"raw_faces": len(mesh.faces)}
    if request.sam3d.mesh == "raw" or len(mesh.faces) == 0:
        return mesh, info
    with timed(job, "clean-up"):
        options = CleanOptions(budget=settings.face_budget, smooth=request.sam3d.smooth)
        try:
            cleaned = clean(mesh, options, job, device)
        except (EngineError, InputError) as problem:  # a surface that isn't one: better as it is than none
            job.log(f"the mesh could not be cleaned: {problem.message}", "warning")
            return mesh, {**info, "clean": {"failed": problem.message}}
    info["clean"] = {key: value for key, value in cleaned.report.items() if key != "seconds"}  # equal requests, equal files
    if settings.texture == "colors" or splats is None:
        return cleaned.mesh, info
    baked = bake(cleaned.mesh, splats, job, BakeOptions(size=settings.texture_size, mode=settings.texture), device)
    return baked.mesh.replace(vertex_colors=None), {**info, "bake": baked.report}
