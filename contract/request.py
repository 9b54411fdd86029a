"""What goes in: a picture, its masks and what is wanted of them. Making a request checks it; one that exists is valid."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from .errors import EmptyMaskError, ImageError, MaskError, MaskSizeError, OptionError
from .record import Record, array, content_key, limits, pack
from .targets import TARGETS, Target, Up

ENGINES = ("auto", "draft", "sam3d")
QUALITIES = ("fast", "standard", "best")
PRESETS = ("auto", "prop", "figure", "slab", "ball", "pixel")
PLY_FRAMES = ("y_down", "y_up", "z_up")
SPACES = ("scene", "object", "floor")
SPLATS_PER_VOXEL = (4, 32)  # the released model has a decoder for each

# format -> (file that it makes of a scene, what it is)
FORMATS: dict[str, tuple[str, str]] = {
    "glb": ("model.glb", "textured mesh, glTF binary"),
    "ply": ("splat.ply", "Gaussian splats, 17 properties"),
    "splat": ("splat.splat", "Gaussian splats, 32 bytes each"),
    "obj": ("model.obj", "textured mesh, with .mtl and .png beside it"),
    "stl": ("model.stl", "bare triangles"),
    "mesh_ply": ("mesh.ply", "mesh with vertex colours"),
    "preview": ("preview.png", "a rendered view"),
    "turntable": ("turntable.webp", "an animated turn"),
    "video": ("turntable.mp4", "the same turn as a film, H.264"),
    "contact_sheet": ("contact_sheet.png", "eight views on one sheet"),
    "normals": ("normals.png", "the view of the preview, directions of the surface as colours"),
    "wireframe": ("wireframe.png", "the view of the preview, faces outlined"),
    "overlay": ("overlay.png", "what was made, drawn over the photo"),
}
MESHES = ("glb", "obj", "stl", "mesh_ply")  # formats that hold meshes
SPLATS = ("ply", "splat")
MESH_PICTURES = ("normals", "wireframe")  # pictures that need a mesh
PICTURES = ("preview", "turntable", "video", "contact_sheet", "overlay", *MESH_PICTURES)

MAX_SIDE = 16384
MAX_MASKS = 256


@dataclass(frozen=True)
class ExportOptions(Record):
    """How files are written. None means: as the target says (docs/targets.md; `none` is what every version wrote).

    space `scene`: objects where the engine put them; `object`: each at its own origin, unturned; `floor`: the scene turned and moved so that its objects stand on
    y = 0. ply_frame: which way is up in splat files; a mesh PLY is y up, or z up with `z_up` (docs/frames.md). up, unit: of obj, stl and mesh_ply; a GLB is
    always y up and in metres. origin: where in its own box an object's origin lies. max_texture: larger textures are made smaller; those of pixel art are left alone.
    camera_node: a node of the GLB holds the photo's camera. ground: a node `ground` under the objects of a GLB or OBJ. lods: further levels of detail in a GLB or
    OBJ, each with half of the faces. collision: a convex hull beside each object of a GLB or OBJ. pad_sh: splat PLYs with at least this degree of f_rest columns,
    zeros, for readers that insist on them.
    """

    target: Literal["none", "blender", "unity", "unreal", "godot", "web"] = "none"
    space: Literal["scene", "object", "floor"] = "scene"
    ply_frame: Literal["y_down", "y_up", "z_up"] | None = None
    up: Literal["y", "z"] | None = None
    unit: Literal["m", "cm", "mm"] | None = None
    origin: Literal["keep", "bottom", "center"] | None = None
    max_texture: int | None = limits(None, 16, 16384)
    camera_node: bool | None = None
    ground: bool = False
    lods: int = limits(0, 0, 4)
    collision: bool = False
    pad_sh: int = limits(0, 0, 3)
    preview_size: int = limits(512, 64, 2048)
    turntable_frames: int = limits(24, 4, 120)
    objects: bool = True  # with several masks, also write objects/<name>.* one by one

    @property
    def usual(self) -> Target:
        """The target's defaults."""
        return TARGETS[self.target]

    def up_of(self, kind: str) -> Up:
        """Which axis is up in files of a format among obj, stl and mesh_ply."""
        as_splats: Up = "z" if kind == "mesh_ply" and self.ply_frame == "z_up" else "y"
        return self.up or self.usual.up.get(kind, as_splats)


@dataclass(frozen=True)
class DraftOptions(Record):
    """Every parameter of the draft engine (spec: draft_engine.md 2.8). None means: as preset and quality say."""

    preset: Literal["auto", "prop", "figure", "slab", "ball", "pixel"] = "auto"
    grid: int | None = limits(None, 32, 256)  # G, cells along the longest side
    thickness: float | None = limits(None, 0.1, 1.5)  # tau
    max_thickness: float | None = limits(None, 0.0, 1.0)  # sigma_H, share of the longest side; 0 switches saturation off
    flatten: float = limits(0.0, 0.0, 20.0)  # kappa, profile `round` only
    back_depth: float = limits(1.0, 0.05, 1.0)  # rho
    profile: Literal["puffball", "round", "voxel"] | None = None
    rim: Literal["round", "wall"] = "round"
    relief: float = limits(0.0, 0.0, 0.15)  # lambda
    back: Literal["mirror", "contour", "solid", "image", "detail"] | None = None
    back_image: np.ndarray | None = array("uint8", "BH BW 4", optional=True)  # for back = image: RGBA, seen from behind
    keep: Literal["all", "largest"] = "all"
    hole_min: float = limits(0.0002, 0.0, 0.01)  # share of the mask's area below which a hole is filled
    smooth_outline: bool = False  # one Taubin pass on the contour
    remove_shading: bool = False
    pivot: Literal["bottom", "center"] = "bottom"
    splat_target: int = limits(20000, 2000, 500000)

    def check(self) -> None:
        if (self.back == "image") != (self.back_image is not None):
            raise OptionError("back = image and a back image belong together.", "Give both, or neither.")


@dataclass(frozen=True)
class Sam3dOptions(Record):
    """Every parameter of the sam3d engine; the draft ignores them. None means: as quality says (docs/sam3d.md); `standard` samples as the released
    configuration does.

    steps, guidance: of stage 1, the voxels; latent_steps, latent_guidance: of stage 2. few_step: the model's own shortcut for stage 1, without
    guidance. mesh `raw`: the surface as the model makes it, inner shell included. texture `colors`: one colour for each vertex, no image.
    pointmap: a point for each pixel in camera axes `pointmap_frame`, NaN where there is none; its size may differ from the picture's.
    intrinsics: of that map's camera, for a picture of width and height 1; None: estimated. frame `object`: every object for itself, upright,
    `size` metres long; `camera`: where it stood before the camera. noise `original`: drawn in the order of the original code.
    """

    steps: int | None = limits(None, 1, 200)
    guidance: float | None = limits(None, 0.0, 30.0)
    few_step: bool | None = None
    few_step_grid: Literal["original", "uniform"] = "original"
    latent_steps: int | None = limits(None, 1, 200)
    latent_guidance: float | None = limits(None, 0.0, 30.0)
    latent_seed: int | None = limits(None, 0, 2**64 - 1)  # of stage 2; None: the request's seed
    splats_per_voxel: int | None = None
    mesh: Literal["clean", "raw"] = "clean"
    texture: Literal["direct", "views", "colors"] | None = None
    smooth: int = limits(0, 0, 50)  # rounds of smoothing of the cleaned mesh
    layout: bool = False  # refine the pose by comparing silhouettes
    frame: Literal["camera", "object"] = "camera"
    noise: Literal["independent", "original"] = "independent"
    pointmap: np.ndarray | None = array("float32", "PH PW 3", optional=True)
    pointmap_frame: Literal["pytorch3d", "opencv", "opengl"] = "opencv"
    intrinsics: np.ndarray | None = array("float32", "3 3", optional=True)
    memory: Literal["auto", "resident", "swapped", "staged"] = "auto"  # where the networks stay between their uses

    def check(self) -> None:
        if self.splats_per_voxel not in (None, *SPLATS_PER_VOXEL):
            raise OptionError(f"splats_per_voxel is {self.splats_per_voxel}.", "The model has decoders for 4 and for 32.")
        if self.intrinsics is not None and self.pointmap is None:
            raise OptionError("Intrinsics were given without a point map.", "Give both, or the point map alone.")


@dataclass(frozen=True)
class ReconstructRequest(Record):
    """One picture, N masks -> one scene of N objects.

    image: uint8 (H, W, 3) sRGB. masks: bool (N, H, W), N >= 1, none empty. alpha: uint8 (N, H, W) or None: soft edges of the
    same objects. names: one for each mask, unique (default: object_1, ...). engine `auto`: sam3d where it is ready, else draft.
    quality derives steps, sizes and budgets; texture_size and face_budget (None: as export.target says, else the quality) override it.
    size: metres of the longest side of a single object.
    """

    image: np.ndarray = array("uint8", "H W 3")
    masks: np.ndarray = array("bool", "N H W")
    alpha: np.ndarray | None = array("uint8", "N H W", optional=True)
    names: tuple[str, ...] = ()
    engine: Literal["auto", "draft", "sam3d"] = "auto"
    seed: int = limits(0, 0, 2**64 - 1)
    quality: Literal["fast", "standard", "best"] = "standard"
    outputs: tuple[str, ...] = ("glb", "ply", "preview")
    texture_size: int | None = limits(None, 256, 4096)
    face_budget: int | None = limits(None, 500, 200000)
    size: float = limits(1.0, 0.001, 1000.0)
    draft: DraftOptions = field(default_factory=DraftOptions)
    sam3d: Sam3dOptions = field(default_factory=Sam3dOptions)
    export: ExportOptions = field(default_factory=ExportOptions)

    def __post_init__(self) -> None:
        _check_image(self.image)  # before the generic shape check: a wrong size deserves its own words
        _check_masks(self.image, self.masks)
        super().__post_init__()

    def check(self) -> None:
        count = len(self.masks)
        if not 1 <= count <= MAX_MASKS:
            kind = MaskError if count else EmptyMaskError
            raise kind(f"A request needs 1 to {MAX_MASKS} masks, this one has {count}.", "Give one mask for each object.")
        for index, mask in enumerate(self.masks):
            if not mask.any():
                raise EmptyMaskError(f"Mask {index + 1} of {count} is empty.")
        if not self.names:
            object.__setattr__(self, "names", ("object",) if count == 1 else tuple(f"object_{i + 1}" for i in range(count)))
        if len(self.names) != count or len(set(self.names)) != count or not all(self.names):
            raise OptionError(f"{count} masks need {count} different names, got {list(self.names)}.", "Name each mask once, or none.")
        for output in self.outputs:
            if output not in FORMATS:
                raise OptionError(f"{output!r} is no output format.", f"Choose among: {', '.join(FORMATS)}.")
        if self.export.target != "none" and self.export.max_texture is None and self.texture_size is not None:
            object.__setattr__(
                self, "export", self.export.replace(max_texture=self.texture_size)
            )  # what was given isn't made smaller afterwards

    @property
    def texture_wanted(self) -> int | None:
        """texture_size, else the target's; None: as quality says."""
        return self.texture_size or self.export.usual.texture_size

    @property
    def faces_wanted(self) -> int | None:
        """face_budget, else the target's; None: as quality says."""
        return self.face_budget or self.export.usual.face_budget

    def content_key(self) -> str:
        """sha256 of everything that decides the result."""
        return content_key(self)

    def parameters(self) -> dict[str, Any]:
        """The scalars, as JSON values: what provenance records."""
        plain: dict[str, Any] = _without_arrays(pack(self)[0])
        return plain


@dataclass(frozen=True)
class PrepareRequest(Record):
    """A picture before there are masks. Its engine works out and keeps what depends on the picture alone (and on a point map that comes with it), for the
    requests with the same picture that follow."""

    image: np.ndarray = array("uint8", "H W 3")
    engine: Literal["auto", "draft", "sam3d"] = "auto"
    sam3d: Sam3dOptions = field(default_factory=Sam3dOptions)

    def __post_init__(self) -> None:
        _check_image(self.image)
        super().__post_init__()


def _check_image(image: Any) -> None:
    if not isinstance(image, np.ndarray) or image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ImageError("The picture must be a uint8 array of shape (H, W, 3), sRGB.", "Convert it first, e.g. Image.convert('RGB').")
    height, width = image.shape[:2]
    if not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE):
        raise ImageError(f"The picture is {width}x{height} pixels.", f"Each side must have 1 to {MAX_SIDE} pixels.")


def _check_masks(image: np.ndarray, masks: Any) -> None:
    height, width = image.shape[:2]
    if isinstance(masks, np.ndarray) and masks.ndim == 3 and masks.shape[1:] != (height, width):
        raise MaskSizeError(
            f"The masks are {masks.shape[2]}x{masks.shape[1]} pixels, the picture is {width}x{height}.",
            "Resize the masks first (nearest neighbour).",
        )


def _without_arrays(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_arrays(v) for k, v in value.items() if not (isinstance(v, dict) and set(v) == {"$"})}
    return value
