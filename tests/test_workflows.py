"""The example graphs: run by a stand-in for ComfyUI's executor, and their canvas twins compared with them.

The stand-in (`run_graph`) only follows links and maps lists; it claims nothing about ComfyUI's scheduling, caching or validation - the real
host is tests/test_comfyui.py.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comfyui_sam3d.client import LocalBackend
from comfyui_sam3d.contract.pointmaps import fov_intrinsics
from comfyui_sam3d.nodes import NODE_CLASS_MAPPINGS, export, preview, reconstruct
from comfyui_sam3d.nodes._backend import SharedBackend
from PIL import Image

PACK = Path(__file__).resolve().parent.parent
GRAPHS = PACK / "example_workflows"
API = sorted((GRAPHS / "api").glob("*.json"))
STUB = [sys.executable, str(Path(__file__).with_name("stub_worker.py"))]
CORE = {  # allowed core nodes and their inputs
    "LoadImage": {"image"},
    "Preview3D": {"model_file"},
    "SaveGLB": {"mesh", "filename_prefix"},
    "LoadMoGeModel": {"model_name"},
    "MoGeInference": {"moge_model", "image", "resolution_level", "fov_x_degrees", "batch_size", "force_projection", "apply_mask"},
}
NOTES = {"MarkdownNote", "Note"}

graphs = pytest.mark.parametrize("path", API, ids=lambda p: p.stem)


class StandInPreview3D:
    """Stands in for core's Preview3D: takes a path relative to the output folder and returns it."""

    OUTPUT_NODE = True
    FUNCTION = "show"

    def __init__(self) -> None:
        pass

    def show(self, model_file: str) -> dict[str, Any]:
        return {"ui": {"result": [model_file]}}


class StandInLoadMoGeModel:
    FUNCTION = "load"

    def load(self, model_name: str) -> tuple[str]:
        return (model_name,)


class StandInMoGeInference:
    """Stands in for core's Run MoGe Inference: every picture shows a wall two metres away."""

    FUNCTION = "run"

    def run(self, moge_model: str, image: Any, **_: Any) -> tuple[dict[str, Any]]:
        pictures = np.asarray(image)
        size = pictures.shape[1:3]
        depth = np.full(pictures.shape[:3], 2, np.float32)
        return ({"depth": depth, "intrinsics": np.stack([fov_intrinsics(60, size)] * len(depth)), "mask": depth > 0, "image": pictures},)


STAND_INS = {"Preview3D": StandInPreview3D, "LoadMoGeModel": StandInLoadMoGeModel, "MoGeInference": StandInMoGeInference}


def run_graph(graph: dict[str, Any], classes: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Executes an API-format graph in the order of its links; node id -> the ui of each of its runs."""
    values: dict[str, list[list[Any]]] = {}  # node id -> for each output, a list of values
    shown: dict[str, list[dict[str, Any]]] = {}

    def visit(node: str) -> None:
        if node in values:
            return
        kind = classes[graph[node]["class_type"]]
        inputs: dict[str, list[Any]] = {}
        for name, value in graph[node]["inputs"].items():
            if isinstance(value, list):
                visit(value[0])
                inputs[name] = values[value[0]][value[1]]
            else:
                inputs[name] = [value]
        made = []
        for turn in range(max((len(v) for v in inputs.values()), default=1)):
            answer = getattr(kind(), kind.FUNCTION)(**{name: v[min(turn, len(v) - 1)] for name, v in inputs.items()})
            if isinstance(answer, dict):
                shown.setdefault(node, []).append(answer["ui"])
                answer = answer.get("result", ())
            made.append(answer)
        lists = getattr(kind, "OUTPUT_IS_LIST", (False,) * len(made[0]))
        values[node] = [[v for answer in made for v in (answer[i] if lists[i] else [answer[i]])] for i in range(len(made[0]))]

    for node in graph:
        visit(node)
    return shown


@pytest.fixture
def examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The example pictures where the graphs look for them: input/sam3d."""
    shutil.copytree(PACK / "examples", tmp_path / "input" / "sam3d", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    monkeypatch.setenv("SAM3D_NODES_DIR", str(tmp_path))
    worker = SharedBackend(lambda: LocalBackend(STUB))
    for module in (reconstruct, export, preview):
        monkeypatch.setattr(module, "shared", worker)
    yield tmp_path  # type: ignore[misc]
    worker.close()


def small(path: Path) -> dict[str, Any]:
    """The graph with a preview that is quick to draw."""
    graph: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    for node in graph.values():
        if node["class_type"] == "SAM3DPreview":
            node["inputs"] |= {"size": 64, "frames": 4}
    return graph


@graphs
def test_runs(path: Path, examples: Path) -> None:
    shown = run_graph(small(path), {**NODE_CLASS_MAPPINGS, **STAND_INS})
    entries = [entry for uis in shown.values() for ui in uis for key in ("3d", "images") for entry in ui.get(key, ())]
    assert {entry["type"] for entry in entries} == {"output", "temp"}
    for entry in entries:
        assert (examples / entry["type"] / entry["subfolder"] / entry["filename"]).stat().st_size > 0
    for ui in (ui for uis in shown.values() for ui in uis):
        for name in ui.get("result", ()):
            assert (examples / "output" / name).is_file(), "Preview 3D is given a file that exists"


def test_what_each_graph_makes(examples: Path) -> None:
    for path in API:
        run_graph(small(path), {**NODE_CLASS_MAPPINGS, **STAND_INS})
    made = sorted(p.relative_to(examples / "output").as_posix() for p in (examples / "output").rglob("*.glb"))
    assert "3d/steak_00001_.glb" in made, "one object, named after its picture"
    assert "3d/campsite_00001_.glb" in made and "3d/campsite_00001_/objects/burger.glb" in made, "several masks, one scene and each alone"
    assert "3d/campsite_options_00001_.glb" in made, "with the engine's options"
    assert len([name for name in made if name.count("/") == 1]) == 1 + 1 + 1 + 3, "the folder graph makes three"


def test_the_options_and_the_points_of_a_graph_reach_the_request(examples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    backend = reconstruct.shared.reconstruct
    monkeypatch.setattr(reconstruct.shared, "reconstruct", lambda request, progress: (seen.append(request), backend(request, progress))[1])
    run_graph(small(GRAPHS / "api" / "sam3d_engine_options.json"), {**NODE_CLASS_MAPPINGS, **STAND_INS})
    (request,) = seen
    assert (request.face_budget, request.texture_size, request.sam3d.layout, request.sam3d.steps) == (8000, 512, True, None)
    assert request.sam3d.pointmap.shape == request.image.shape and (request.sam3d.pointmap[..., 2] == 2).all()


@graphs
def test_names_only_known_nodes_and_inputs(path: Path) -> None:
    graph = json.loads(path.read_text(encoding="utf-8"))
    for node in graph.values():
        kind, given = node["class_type"], set(node["inputs"])
        if kind in CORE:
            assert given <= CORE[kind]
            continue
        known = NODE_CLASS_MAPPINGS[kind].INPUT_TYPES()
        assert set(known["required"]) <= given <= set(known["required"]) | set(known.get("optional", {}))
        for name, value in node["inputs"].items():
            options = {**known["required"], **known.get("optional", {})}[name]
            if isinstance(options[0], list) and name not in ("image", "folder"):
                assert value in options[0], f"{name}: {value}"


@graphs
def test_canvas_twin(path: Path) -> None:
    """The same nodes, links and values as a UI graph with a picture of the same name; nodes don't lie on each other."""
    api = json.loads(path.read_text(encoding="utf-8"))
    canvas = json.loads((GRAPHS / path.name).read_text(encoding="utf-8"))
    nodes = {str(n["id"]): n for n in canvas["nodes"] if n["type"] not in NOTES}
    assert {i: n["type"] for i, n in nodes.items()} == {i: n["class_type"] for i, n in api.items()}
    assert any(n["type"] in NOTES for n in canvas["nodes"]), "a note says what to do"

    links = {
        (str(target), nodes[str(target)]["inputs"][slot]["name"]): [str(source), out] for _, source, out, target, slot, _ in canvas["links"]
    }
    assert links == {(i, name): value for i, n in api.items() for name, value in n["inputs"].items() if isinstance(value, list)}
    for i, n in api.items():
        for value in (v for v in n["inputs"].values() if not isinstance(v, list) and n["class_type"] != "Preview3D"):
            assert value in nodes[i]["widgets_values"], f"{n['class_type']}: {value!r}"

    boxes = [(*n["pos"], *n["size"]) for n in canvas["nodes"]]
    for k, (x, y, w, h) in enumerate(boxes):
        for x2, y2, w2, h2 in boxes[:k]:
            assert x >= x2 + w2 or x2 >= x + w or y >= y2 + h2 + 30 or y2 >= y + h + 30, "two nodes overlap"
    text = json.dumps(canvas)
    assert str(PACK) not in text and str(Path.home()) not in text, "no path of the machine that made it"
    with Image.open(GRAPHS / f"{path.stem}.jpg") as thumbnail:
        assert thumbnail.format == "JPEG" and 256 <= thumbnail.width <= 1280
        assert len(set(thumbnail.convert("L").resize((32, 32)).tobytes())) > 8, "the thumbnail shows something"
