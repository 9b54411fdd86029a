"""SAM3D Export: a scene -> files in the output folder."""

from __future__ import annotations

from typing import Any

from ..contract.errors import OptionError, Sam3dError
from ..contract.request import FORMATS, PLY_FRAMES, SPACES, ExportOptions
from ..contract.scene import Scene
from ..contract.targets import TARGETS
from . import _files, _glb, _host
from ._backend import shared

# widget -> how the file's name ends after `<prefix>_00001_`. Formats of several files get a folder of that name instead.
ENDINGS = {"glb": ".glb", "ply": ".ply", "splat": ".splat", "stl": ".stl", "mesh_ply": "mesh.ply", "obj": None}


class Export:
    CATEGORY = "SAM 3D"
    DESCRIPTION = (
        "Writes a scene into ComfyUI's output folder. Files are numbered and never overwritten. The GLB carries the workflow: "
        "drop it on the canvas to get the graph back."
    )
    SEARCH_ALIASES = ("save 3d", "save glb", "save ply", "save splat", "export mesh")
    OUTPUT_NODE = True
    RETURN_TYPES = ("FILE_3D_GLB", "FILE_3D_PLY", "STRING", "STRING")
    RETURN_NAMES = ("glb", "ply", "glb_path", "ply_path")
    OUTPUT_TOOLTIPS = (
        "The GLB, for core's 3D nodes.",
        "The splat PLY, for core's splat nodes.",
        "The GLB's path in the output folder: link it to core's Preview 3D.",
        "The splat PLY's path in the output folder: link it to core's Preview 3D.",
    )
    FUNCTION = "export"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        def switch(on: bool, tooltip: str) -> tuple[str, dict[str, Any]]:
            return ("BOOLEAN", {"default": on, "tooltip": tooltip})

        return {
            "required": {
                "scene": ("SAM3D_SCENE", {"tooltip": "What SAM3D Reconstruct made."}),
                "filename_prefix": (
                    "STRING",
                    {
                        "default": "3d/sam3d",
                        "tooltip": "Folder and beginning of the files' names in the output folder. %year%, %month%, %day%, %hour%, %minute% and "
                        "%second% are filled in.",
                    },
                ),
                "glb": switch(True, "Textured meshes, glTF binary: for engines, Blender and the web."),
                "ply": switch(True, "Gaussian splats as PLY: for splat viewers and core's splat nodes."),
            },
            "optional": {
                "splat": switch(False, "Gaussian splats as .splat, 32 bytes each: smaller, for web viewers."),
                "obj": switch(False, "Textured mesh as OBJ with its material and texture, in a folder of its own."),
                "stl": switch(False, "The bare surface as STL, for printing."),
                "mesh_ply": switch(False, "The mesh with vertex colours as PLY."),
                "each_object": switch(False, "Also write every object of a scene of several by itself, into a folder."),
                "ply_frame": (
                    ["auto", *PLY_FRAMES],
                    {
                        "default": "auto",
                        "tooltip": "Which way is up in splat files (.ply, .splat). y_down: ComfyUI and SuperSplat. y_up: three.js and Blender. "
                        "z_up: SAM 3D Objects' own. auto: as the target wants it, else y_down.",
                    },
                ),
                "target": (
                    list(TARGETS),
                    {
                        "default": "none",
                        "tooltip": "Whom the files are for: axes and units of OBJ, STL and PLY, the objects' origins, the largest texture, names of hulls.",
                    },
                ),
                "space": (
                    list(SPACES),
                    {
                        "default": "scene",
                        "tooltip": "scene: as reconstructed. object: each object at its own origin. floor: turned and moved so that the objects stand on y = 0.",
                    },
                ),
                "ground": switch(False, "A plane under the objects, as a node of its own (GLB, OBJ)."),
                "collision": switch(False, "A convex hull beside each object, named for the target (GLB, OBJ)."),
                "lods": (
                    "INT",
                    {"default": 0, "min": 0, "max": 4, "tooltip": "Coarser copies of each mesh, each with half of the faces (GLB, OBJ)."},
                ),
            },
            "hidden": {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"},
        }

    @classmethod
    def VALIDATE_INPUTS(cls, filename_prefix: str | None = None) -> bool | str:
        """Before minutes of work, not after them. What is linked is None here: it is looked at when it is there."""
        try:
            if filename_prefix is not None:
                _files.check_prefix(filename_prefix, _host.output_dir())
        except Sam3dError as problem:
            return str(problem)
        return True

    def export(
        self,
        scene: Scene,
        filename_prefix: str,
        glb: bool,
        ply: bool,
        splat: bool = False,
        obj: bool = False,
        stl: bool = False,
        mesh_ply: bool = False,
        each_object: bool = False,
        ply_frame: str = "auto",
        target: str = "none",
        space: str = "scene",
        ground: bool = False,
        collision: bool = False,
        lods: int = 0,
        prompt: Any = None,
        extra_pnginfo: Any = None,
    ) -> dict[str, Any]:
        chosen = {"glb": glb, "ply": ply, "splat": splat, "obj": obj, "stl": stl, "mesh_ply": mesh_ply}
        formats = [name for name, on in chosen.items() if on]
        if not formats:
            raise OptionError("No format is switched on.", "Switch on glb, ply or another one.")
        frame = None if ply_frame == "auto" else ply_frame
        options = ExportOptions(
            ply_frame=frame,  # type: ignore[arg-type]  # the record checks it
            target=target,  # type: ignore[arg-type]
            space=space,  # type: ignore[arg-type]
            ground=ground,
            collision=collision,
            lods=lods,
            objects=each_object,
        )
        encoded = shared.export(scene, formats, options)

        files, folder = _arrange(encoded)
        if _host.metadata_wanted():
            extras = _glb.host_metadata(prompt, extra_pnginfo)
            files = {ending: _glb.with_extras(data, extras) if ending == ".glb" else data for ending, data in files.items()}
        base = _host.output_dir()
        paths = _files.save(filename_prefix, base, files, folder)
        made = dict(zip(files, paths))
        shown = [path for path in paths if path.suffix not in (".mtl", ".png")]  # an OBJ's companions are no results of their own
        _host.say(f"{len(shown)} file{'s' if len(shown) != 1 else ''} written")
        return {
            # `ui` names each file once and `result` isn't shown: hosts count every mention of a 3D file as one more output.
            "ui": {"3d": [_files.ui_entry(path, base, "output") for path in shown]},
            "result": (
                *(_host.file_3d(made[end]) if end in made else _missing(end) for end in (".glb", ".ply")),
                *(_files.relative(made[end], base) if end in made else _missing(end) for end in (".glb", ".ply")),
            ),
        }


def _arrange(encoded: dict[str, bytes]) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """The encoder's files as (ending -> bytes, name in the folder -> bytes)."""
    single = {FORMATS[name][0]: ending for name, ending in ENDINGS.items() if ending is not None}
    files = {single[name]: data for name, data in encoded.items() if name in single}
    return files, {name: data for name, data in encoded.items() if name not in single}


def _missing(ending: str) -> Any:
    return _host.nothing(f"SAM3D Export wrote no {ending} file: switch {ending[1:]} on.")
