"""An object's latents -> the mesh that people get: decoded, cleaned, within its budget, textured from the splats.

What was cleaned and what was baked is kept: another texture size cleans nothing, another format decodes nothing. An object without a texture is worth more than
none: where a step can't be done, the mesh goes on as it is, and a warning says why; what fell short isn't kept.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from ....contract.errors import EngineError, InputError, OutputError, SetupError
from ....contract.request import ReconstructRequest
from ....contract.scene import Mesh, Splats
from ...geometry.cleanup.clean import CleanOptions, clean
from ...geometry.texture.bake import Baked, BakeOptions, bake
from ...job import Job, timed
from ...sam3d.decoded import mesh_of, splats_of
from ...sam3d.pipeline import Pipeline, StructuredLatent
from . import kept
from .settings import Settings

if TYPE_CHECKING:
    from .engine import Engine

D = TypeVar("D")
T = TypeVar("T")
_PROBLEMS = (EngineError, InputError, OutputError, SetupError)  # not JobCancelled


@dataclass(frozen=True)
class Finished:
    """mesh, splats: in the model's frame, None where not wanted or not there. bare: the mesh before it got a texture, and its key, None where it isn't kept.
    info: what was done, as JSON values."""

    mesh: Mesh | None
    splats: Splats | None
    bare: Mesh | None
    bare_key: str | None
    info: dict[str, Any]


class Finisher:
    """One object, from its latents on. key: of these. Its own keys are known before anything is made."""

    def __init__(self, engine: Engine, request: ReconstructRequest, settings: Settings, key: str) -> None:
        self.engine, self.request, self.settings = engine, request, settings
        self.clean_options = CleanOptions(budget=settings.face_budget, smooth=request.sam3d.smooth)
        self.raw = request.sam3d.mesh == "raw"
        self.surface_key = engine.key("surface", latents=key)
        self.clean_key = engine.key("clean-up", surface=self.surface_key, options=vars(self.clean_options))
        self.bake_options = None
        if settings.texture != "colors" and not self.raw:
            self.bake_options = BakeOptions(size=settings.texture_size, mode=settings.texture, unwrap=settings.unwrap)
            self.bake_key = engine.key("texture", mesh=self.clean_key, splats=settings.splats_per_voxel, options=vars(self.bake_options))
        holds = engine.cache.holds
        self.cleans = settings.want_mesh and not self.raw and not holds(self.clean_key)
        self.bakes = settings.want_mesh and self.bake_options is not None and not (holds(self.clean_key) and holds(self.bake_key))
        self.decodes_surface = self.cleans or (settings.want_mesh and self.raw)
        self.decodes_splats = settings.want_splats or self.bakes

    def finish(self, latent: StructuredLatent, job: Job) -> Finished:
        """Decode, clean and texture what is wanted and isn't kept."""
        self.job = job
        decoded = _Decoded(self.engine.pipeline, latent, self.settings.splats_per_voxel, self.job)
        mesh = bare = bare_key = None
        info: dict[str, Any] = {}
        if self.settings.want_mesh:
            bare, bare_key, info = self._bare(decoded)
        if bare is not None:
            mesh = bare
            if self.bake_options is not None and "failed" not in info.get("clean", {}):
                mesh, report = self._textured(bare, self.bake_options, bare_key, decoded)
                info = {**info, **report}
        return Finished(mesh, decoded.splats if self.settings.want_splats else None, bare, bare_key, info)

    # -- the steps

    def _bare(self, decoded: _Decoded) -> tuple[Mesh | None, str | None, dict[str, Any]]:
        """The mesh without a texture, cleaned where that is wanted and can be done; its key where it is kept; None where there is no surface."""
        if not self.raw and (found := self.engine.cache.get(self.clean_key)) is not None:
            mesh, facts = kept.record_of(Mesh, found)
            return self._noted(mesh, facts)
        surface = decoded.surface
        if len(surface.faces) == 0:
            return None, None, {}
        raw_faces = {"raw_faces": len(surface.faces)}
        if self.raw:
            return surface, self.surface_key, raw_faces
        pipeline = self.engine.pipeline
        with timed(self.job, "clean-up"):
            try:
                cleaned = pipeline.insisting("clean-up", lambda: clean(surface, self.clean_options, self.job, pipeline.device))
            except _PROBLEMS as problem:  # a surface that isn't one
                pipeline.note(f"a mesh could not be cleaned and stays as the model made it: {_said(problem)}")
                return surface, None, {**raw_faces, "clean": {"failed": problem.message}}
        report = {key: value for key, value in cleaned.report.items() if key != "seconds"}  # equal requests, equal files
        facts = {**raw_faces, "clean": report}
        self.engine.cache.put(self.clean_key, *kept.of_record(cleaned.mesh, facts))
        return self._noted(cleaned.mesh, facts)

    def _noted(self, mesh: Mesh, facts: dict[str, Any]) -> tuple[Mesh, str, dict[str, Any]]:
        for note in facts["clean"]["notes"]:
            self.engine.pipeline.note(str(note))
        return mesh, self.clean_key, facts

    def _textured(self, bare: Mesh, options: BakeOptions, bare_key: str | None, decoded: _Decoded) -> tuple[Mesh, dict[str, Any]]:
        """The mesh with a texture, or as it is where there are no splats or the bake fails."""
        if bare_key is not None and (found := self.engine.cache.get(self.bake_key)) is not None:
            mesh, facts = kept.record_of(Mesh, found)
            return mesh, {"bake": facts}
        splats, pipeline = decoded.splats, self.engine.pipeline
        if len(splats.positions) == 0:
            return bare, {}
        device = pipeline.device if pipeline.device.type == "cuda" else torch.device("cpu")

        def baked() -> Baked:
            return bake(bare, splats, self.job, options, device)

        try:
            made = pipeline.insisting("texture", baked)
        except _PROBLEMS as problem:
            pipeline.note(f"a texture could not be made, the mesh has vertex colours instead: {_said(problem)}")
            return bare, {"bake": {"failed": problem.message}}
        mesh = made.mesh.replace(vertex_colors=None)
        if bare_key is not None and "note" not in made.report:  # xatlas may have had too little time
            self.engine.cache.put(self.bake_key, *kept.of_record(mesh, made.report))
        return mesh, {"bake": made.report}


class _Decoded:
    """One object's latents through the decoders, each run once, where it is asked for."""

    def __init__(self, pipeline: Pipeline, latent: StructuredLatent, per_voxel: int, job: Job) -> None:
        self._pipeline, self._latent, self._per_voxel, self._job = pipeline, latent, per_voxel, job

    @functools.cached_property
    def splats(self) -> Splats:
        return self._run(lambda: self._pipeline.splats(self._latent, self._per_voxel), splats_of)

    @functools.cached_property
    def surface(self) -> Mesh:
        return self._run(lambda: self._pipeline.surface(self._latent), mesh_of)

    def _run(self, decode: Callable[[], D], copied: Callable[[D], T]) -> T:
        with timed(self._job, "decode"):
            self._job.step("decode", 0, 1)  # each a stage of its own: the clean-up lies between the two
            decoded = decode()
            made = self._pipeline.insisting("decode", lambda: copied(decoded))  # it takes memory as well
            self._job.step("decode", 1, 1)
        return made


def _said(problem: EngineError | InputError | OutputError | SetupError) -> str:
    return problem.message.removesuffix(".")  # a note gets its own
