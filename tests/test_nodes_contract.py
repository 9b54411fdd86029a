"""What every node class promises ComfyUI, checked without it: ids, inputs, tooltips, help pages, translations.

`python tests/test_nodes_contract.py` writes locales/en/nodeDefs.json from the classes.
"""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest
from comfyui_sam3d.nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

PACK = Path(__file__).resolve().parent.parent

# The API that saved graphs rely on. A line may be added; none may change or go.
GOLDEN = {
    "SAM3DLoadImageMasks": (["image", "masks", "polarity"], ["IMAGE", "MASK", "STRING", "STRING"]),
    "SAM3DLoadFolder": (["folder", "pairing", "polarity", "on_problem", "skip", "limit"], ["IMAGE", "MASK", "STRING", "STRING"]),
    "SAM3DReconstruct": (
        ["image", "masks", "polarity", "engine", "preset", "quality", "seed", "names", "options", "moge_geometry"],
        ["SAM3D_SCENE", "MESH", "SPLAT"],
    ),
    "SAM3DOptions": (
        [
            *("steps", "guidance", "few_step", "latent_steps", "latent_guidance", "latent_seed", "splats_per_voxel", "mesh", "smooth"),
            *("face_budget", "texture", "texture_size", "frame", "size", "layout", "memory", "outputs"),
        ],
        ["SAM3D_OPTIONS"],
    ),
    "SAM3DExport": (
        [
            *("scene", "filename_prefix", "glb", "ply", "splat", "obj", "stl", "mesh_ply", "each_object", "ply_frame"),
            *("target", "space", "ground", "collision", "lods"),
        ],
        ["FILE_3D_GLB", "FILE_3D_PLY", "STRING", "STRING"],
    ),
    "SAM3DPreview": (["scene", "view", "size", "frames"], []),
}
TAKEN = re.compile(r"SAM3DBody_|SAM3DExportPLY|SAM3DGenerateSLAT|SAM3DMeshDecode|LoadSAM3DModel")  # ids of core and of another pack
SOCKETS = {"IMAGE", "MASK", "SAM3D_SCENE", "SAM3D_OPTIONS", "MOGE_GEOMETRY"}

nodes = pytest.mark.parametrize("node", list(NODE_CLASS_MAPPINGS))


@pytest.fixture(autouse=True)
def _folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAM3D_NODES_DIR", str(tmp_path))


def inputs(node: str, *groups: str) -> dict[str, Any]:
    found = NODE_CLASS_MAPPINGS[node].INPUT_TYPES()
    assert set(found) <= {"required", "optional", "hidden"}
    return {name: spec for group in groups for name, spec in found.get(group, {}).items()}


def english() -> dict[str, Any]:
    """locales/en/nodeDefs.json as the classes say it."""
    out: dict[str, Any] = {}
    for node, kind in NODE_CLASS_MAPPINGS.items():
        out[node] = {
            "display_name": NODE_DISPLAY_NAME_MAPPINGS[node],
            "description": kind.DESCRIPTION,
            "inputs": {name: {"name": name, "tooltip": spec[1]["tooltip"]} for name, spec in inputs(node, "required", "optional").items()},
        }
        if kind.RETURN_TYPES:
            out[node]["outputs"] = {
                str(i): {"name": name, "tooltip": tip} for i, (name, tip) in enumerate(zip(kind.RETURN_NAMES, kind.OUTPUT_TOOLTIPS))
            }
    return out


def test_golden_ids_and_inputs() -> None:
    now = {node: (list(inputs(node, "required", "optional")), list(kind.RETURN_TYPES)) for node, kind in NODE_CLASS_MAPPINGS.items()}
    assert now == GOLDEN
    assert all(node.startswith("SAM3D") and not TAKEN.match(node) for node in now)
    assert set(NODE_DISPLAY_NAME_MAPPINGS) == set(now)


@nodes
def test_class(node: str) -> None:
    kind = NODE_CLASS_MAPPINGS[node]
    assert kind.CATEGORY == "SAM 3D"
    assert len(kind.DESCRIPTION) > 20
    assert len(kind.RETURN_TYPES) == len(kind.RETURN_NAMES) == len(kind.OUTPUT_TOOLTIPS)
    assert len(getattr(kind, "OUTPUT_IS_LIST", kind.RETURN_TYPES)) == len(kind.RETURN_TYPES)
    assert all(len(tip) > 8 for tip in kind.OUTPUT_TOOLTIPS)
    assert kind.RETURN_TYPES or kind.OUTPUT_NODE, "a node without outputs must be an output node, or it never runs"


@nodes
def test_function_takes_exactly_the_inputs(node: str) -> None:
    kind = NODE_CLASS_MAPPINGS[node]
    parameters = list(inspect.signature(getattr(kind, kind.FUNCTION)).parameters.values())[1:]
    assert {p.name for p in parameters} == set(inputs(node, "required", "optional", "hidden"))
    with_default = {p.name for p in parameters if p.default is not p.empty}
    assert with_default == set(inputs(node, "optional", "hidden")), "optional and hidden inputs, and only these, may be left out"


@nodes
def test_inputs(node: str) -> None:
    json.dumps(NODE_CLASS_MAPPINGS[node].INPUT_TYPES())
    for name, (kind, options) in inputs(node, "required", "optional").items():
        assert len(options["tooltip"]) > 8, name
        default = options.get("default")
        if isinstance(kind, list):
            assert default in kind or (default is None and options.get("image_upload")), name
        elif kind in ("INT", "FLOAT"):
            assert options["min"] <= default <= options["max"], name
        elif kind in ("STRING", "BOOLEAN"):
            assert isinstance(default, str if kind == "STRING" else bool), name
        else:
            assert kind in SOCKETS, f"{name}: {kind}"


def test_seed_and_upload_widgets() -> None:
    seed = inputs("SAM3DReconstruct", "required")["seed"][1]
    assert seed["control_after_generate"] is True and seed["max"] == 2**64 - 1
    assert inputs("SAM3DLoadImageMasks", "required")["image"][1]["image_upload"] is True


@nodes
@pytest.mark.parametrize("page", ["{}.md", "{}/ja.md"])
def test_help_page(node: str, page: str) -> None:
    text = (PACK / "web" / "docs" / page.format(node)).read_text(encoding="utf-8")
    for name in inputs(node, "required", "optional"):
        assert f"`{name}`" in text, f"{page.format(node)} doesn't tell of {name}"
    for name in NODE_CLASS_MAPPINGS[node].RETURN_NAMES:
        assert f"`{name}`" in text, f"{page.format(node)} doesn't tell of {name}"
    assert "http" not in text, "help pages load nothing from elsewhere"


def test_english_is_what_the_classes_say() -> None:
    found = json.loads((PACK / "locales/en/nodeDefs.json").read_text(encoding="utf-8"))
    assert found == english(), "run: python tests/test_nodes_contract.py"


def test_japanese_is_complete() -> None:
    found = json.loads((PACK / "locales/ja/nodeDefs.json").read_text(encoding="utf-8"))

    def keys(value: Any) -> Any:
        return {k: keys(v) for k, v in value.items()} if isinstance(value, dict) else None

    assert keys(found) == keys(english())

    def texts(value: Any) -> list[str]:
        return [t for v in value.values() for t in texts(v)] if isinstance(value, dict) else [value]

    for text in texts(found):
        assert re.search(r"[぀-ヿ一-鿿]", text) or re.fullmatch(r"SAM3D.*|GLB|PLY|OBJ|STL|SPLAT", text), f"not translated: {text}"


@pytest.mark.parametrize("language", ["en", "ja"])
def test_category_is_translated(language: str) -> None:
    found = json.loads((PACK / "locales" / language / "main.json").read_text(encoding="utf-8"))
    assert set(found["nodeCategories"]) == {"SAM 3D"}


if __name__ == "__main__":
    target = PACK / "locales/en/nodeDefs.json"
    target.write_text(json.dumps(english(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
