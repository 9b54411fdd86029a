"""What a request's quality and options mean for the sam3d engine (docs/sam3d.md has the table). An option that is given wins over the quality."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ....contract.request import MESH_PICTURES, MESHES, PICTURES, SPLATS, ReconstructRequest
from ...sam3d.sampler import SamplerOptions

Texture = Literal["direct", "views", "colors"]
Unwrap = Literal["auto", "box"]

# `standard` samples as the released configuration does; `fast` takes the model's shortcut; `best` doubles the steps, and waits for xatlas: its charts are larger
# and stretch less than boxes, but take seconds instead of tenths of one, on one core.
_QUALITIES: dict[str, dict[str, Any]] = {
    "fast": {"steps": 4, "few_step": True, "latent_steps": 12, "splats": 4, "texture_size": 512, "faces": 10_000, "unwrap": "box"},
    "standard": {"steps": 25, "few_step": False, "latent_steps": 25, "splats": 32, "texture_size": 1024, "faces": 20_000, "unwrap": "box"},
    "best": {"steps": 50, "few_step": False, "latent_steps": 50, "splats": 32, "texture_size": 2048, "faces": 60_000, "unwrap": "auto"},
}
_MESH = {*MESHES, *MESH_PICTURES}
_SPLATS = {*SPLATS}
_PICTURES = {*PICTURES}


@dataclass(frozen=True)
class Settings:
    """A job's parameters in effect. want_mesh, want_splats: what is wanted of the decoders; what isn't, is neither loaded nor run."""

    structure: SamplerOptions
    latents: SamplerOptions
    splats_per_voxel: int
    texture: Texture
    texture_size: int
    unwrap: Unwrap
    face_budget: int
    want_mesh: bool
    want_splats: bool

    def needs_splats(self) -> bool:
        """A texture is looked up in the splats."""
        return self.want_splats or (self.want_mesh and self.texture != "colors")

    def facts(self) -> dict[str, Any]:
        """As JSON values, for the result's provenance."""
        return {
            "steps": self.structure.steps,
            "guidance": 0.0 if self.structure.shortcut else self.structure.guidance,
            "few_step": self.structure.shortcut,
            "latent_steps": self.latents.steps,
            "latent_guidance": self.latents.guidance,
            "splats_per_voxel": self.splats_per_voxel,
            "texture": self.texture,
            "texture_size": self.texture_size,
            "unwrap": self.unwrap,
            "face_budget": self.face_budget,
        }


def settings_of(request: ReconstructRequest) -> Settings:
    """The settings in effect for a request; nothing here can fail, the request was checked when it was made."""
    usual, own, wanted = _QUALITIES[request.quality], request.sam3d, set(request.outputs)
    few = usual["few_step"] if own.few_step is None else own.few_step
    steps = own.steps or (usual["steps"] if few == usual["few_step"] else 4 if few else 25)
    pictures_only = not wanted & (_MESH | _SPLATS)
    return Settings(
        structure=SamplerOptions(steps=steps, guidance=_or(own.guidance, 7.0), shortcut=few, grid=own.few_step_grid if few else "original"),
        latents=SamplerOptions(
            steps=own.latent_steps or usual["latent_steps"], rescale=1.0, guidance=_or(own.latent_guidance, 1.0), interval=(0.0, 500.0)
        ),
        splats_per_voxel=own.splats_per_voxel or usual["splats"],
        texture=own.texture or "direct",
        texture_size=request.texture_wanted or usual["texture_size"],
        unwrap=usual["unwrap"],
        face_budget=request.faces_wanted or usual["faces"],
        want_mesh=bool(wanted & _MESH) or (pictures_only and bool(wanted & _PICTURES)) or not wanted,
        want_splats=bool(wanted & _SPLATS) or not wanted,
    )


def _or(value: float | None, usual: float) -> float:
    return usual if value is None else value
