"""What the programs that take our files expect: the presets behind `target` (docs/targets.md has the sources).

A GLB is the same for all of them in axes and unit: their glTF importers turn and scale by themselves. What differs is what formats that can't
say it (OBJ, STL, PLY) should hold, how nodes for collisions are called, and how much of a mesh is usual.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Up = Literal["y", "z"]


@dataclass(frozen=True)
class Target:
    """Defaults; an option that is given wins.

    up: which axis is up in obj, stl and mesh_ply, format by format (y where none is named). unit: of the same formats. ply_frame: of splat files. origin: where
    an object's origin lies. texture_size, face_budget: None leaves them to the quality. camera_node: whether the photo's camera hangs on a node.
    collision: what a hull's node is called, for an object's node {name}.
    """

    up: dict[str, Up] = field(default_factory=dict)
    unit: Literal["m", "cm", "mm"] = "m"
    ply_frame: Literal["y_down", "y_up", "z_up"] = "y_down"
    origin: Literal["keep", "bottom", "center"] = "bottom"
    texture_size: int | None = None
    face_budget: int | None = None
    camera_node: bool = False
    collision: str = "{name}_collider"


_ALL_Z: dict[str, Up] = {"obj": "z", "stl": "z", "mesh_ply": "z"}

TARGETS: dict[str, Target] = {
    "none": Target(origin="keep"),
    "blender": Target(up={"stl": "z", "mesh_ply": "z"}, ply_frame="z_up", camera_node=True),
    "unity": Target(texture_size=2048, face_budget=20_000),
    "unreal": Target(up=_ALL_Z, unit="cm", texture_size=2048, face_budget=50_000, collision="UCX_{name}_00"),
    "godot": Target(ply_frame="y_up", texture_size=1024, face_budget=20_000, collision="{name}-convcolonly"),
    "web": Target(ply_frame="y_up", texture_size=1024, face_budget=10_000),
}
METRES = {"m": 1.0, "cm": 100.0, "mm": 1000.0}  # units in a metre
