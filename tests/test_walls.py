"""The walls between the rooms (design: "who may import whom"), read from the source of every tracked file."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator

import pytest

from tracked import sources, tree

# room -> the rooms of ours that it may import, besides itself. A room is a folder, the longest match counts.
WALLS: dict[str, set[str]] = {
    "": {"nodes"},  # the package's own __init__
    "nodes": {"client", "contract"},
    "factory": {"client", "contract", "factory/server"},
    "factory/server": {"client", "contract", "factory", "factory/segment"},
    "factory/segment": {"contract", "factory"},
    "client": {"contract"},
    "contract": set(),
    "environment": {"environment/probes"},
    "environment/probes": set(),  # run by the worker's Python
    "environment/engines/rattler_child": set(),  # run by the Python of a tool
    "worker": {"contract", "worker/job", "worker/engines", "worker/geometry", "worker/cache", "worker/weights"},
    "worker/job": {"contract"},  # what engines see of a job: progress out, cancellation in
    "worker/engines": {"contract", "worker/job", "worker/draft", "worker/geometry", "worker/engines/sam3d", "worker/weights"},
    "worker/engines/sam3d": {
        "contract",
        "worker/job",
        "worker/cache",
        "worker/pointmap",
        "worker/weights",
        "worker/sam3d",
        "worker/ops",
        "worker/geometry",
        "worker/geometry/cleanup",
        "worker/geometry/texture",
        "worker/geometry/layout",
    },
    "worker/cache": {"contract"},
    "worker/tool": {"contract"},  # what the programs beside the worker have in common
    "worker/doctor": {"contract", "worker/tool", "worker/weights", "worker/ops"},
    "worker/weights": {"contract", "worker/tool", "worker/sam3d", "worker/pointmap", "vendor/moge"},
    "worker/draft": {"contract", "worker/job", "worker/geometry"},
    "worker/sam3d": {"contract", "worker/ops"},
    "worker/geometry": {"contract", "worker/job", "worker/ops", "worker/geometry/parts"},
    "worker/geometry/parts": {"contract", "worker/geometry", "worker/geometry/cleanup"},  # imported inside functions, when it is asked for
    # rooms of their own, because they have torch: the draft, which imports geometry, stays out
    "worker/geometry/cleanup": {"contract", "worker/job", "worker/ops", "worker/geometry"},
    "worker/geometry/texture": {"contract", "worker/job", "worker/ops", "worker/geometry"},
    "worker/geometry/layout": {"contract", "worker/ops", "worker/geometry", "worker/geometry/cleanup"},
    "worker/ops": {"contract"},
    "worker/pointmap": {"contract", "vendor/moge"},
    "vendor/moge": {"contract"},
}

# room -> third-party modules that it may import when it loads, and those that it may import inside functions
OUTSIDE: dict[str, tuple[set[str], set[str]]] = {
    "": (set(), set()),
    "contract": ({"numpy"}, {"PIL"}),
    "client": ({"numpy"}, set()),
    "nodes": ({"numpy"}, {"PIL", "torch", *(HOST := {"comfy", "comfy_api", "comfy_execution", "folder_paths", "server", "nodes"})}),
    "factory": ({"numpy", "click", "typer", "rich"}, {"PIL", "cv2", "modal", "ray", "numpy"}),
    "factory/segment": ({"numpy"}, {"cv2", "PIL", "torch", "transformers"}),
    "factory/server": ({"numpy", "fastapi", "starlette", "pydantic", "uvicorn"}, {"PIL"}),
    "environment": (set(), {"uv"}),  # to find its program beside the running Python
    "environment/probes": (set(), {"numpy", "torch", "torchvision", "pytorch3d", "spconv", "xformers"}),
    "environment/engines/rattler_child": (set(), {"rattler"}),
    "worker": ({"numpy"}, {"PIL", "scipy"}),
    "worker/job": ({"numpy"}, set()),
    "worker/engines": ({"numpy"}, {"PIL", "scipy"}),
    "worker/cache": ({"numpy"}, set()),
    "worker/tool": (set(), set()),
    "worker/doctor": (set(), {"torch"}),
    "worker/pointmap": ({"numpy"}, {"PIL", "torch"}),
    "worker/draft": ({"numpy", "scipy", "PIL"}, set()),
    "worker/geometry": ({"numpy", "scipy", "PIL"}, {"av"}),
    "worker/geometry/parts": ({"numpy"}, set()),
}
# what torch code builds on; its accelerated backends are imported inside functions
TORCH_ROOMS = {
    "worker/engines/sam3d",
    "worker/weights",
    "worker/sam3d",
    "worker/geometry/cleanup",
    "worker/geometry/texture",
    "worker/geometry/layout",
    "worker/ops",
    "vendor/moge",
}
LAUNCHERS = ("install.py", "sam3d.py")


def room_of(path: str) -> str:
    """The room of a file or folder inside the package."""
    parts = path.removesuffix(".py").split("/")
    names = ("/".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next((name for name in names if name in WALLS), "")


def imports(module: ast.Module) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """Each import and whether it runs when the module loads. Imports for type checkers alone don't count."""

    def walk(node: ast.AST, loading: bool) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.Import, ast.ImportFrom)):
                yield child, loading
            elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                for other in child.orelse:
                    yield from walk(other, loading)
            else:
                yield from walk(child, loading and not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)))

    return walk(module, True)


def targets(name: str, node: ast.ImportFrom) -> list[str]:
    """The paths inside the package that a relative import names."""
    folder = name.split("/")[:-1]
    assert node.level <= len(folder) + 1, f"{name}:{node.lineno} leaves the package"
    base = folder[: len(folder) - node.level + 1] + (node.module.split(".") if node.module else [])
    return [
        "/".join([*base, alias.name]) if room_of("/".join([*base, alias.name])) != room_of("/".join(base)) else "/".join(base)
        for alias in node.names
    ]


def trespasses(name: str, module: ast.Module) -> list[str]:
    """What is wrong with the imports of one file of the package, or of a launcher."""
    room, found = room_of(name), []
    launcher = name in LAUNCHERS
    for node, loading in imports(module):
        where = f"{name}:{node.lineno}"
        if isinstance(node, ast.ImportFrom) and node.level:
            for target in targets(name, node):
                other = room_of(target)
                if other != room and other not in WALLS[room]:
                    found.append(f"{where} imports {other or 'the root'} from {room or 'the root'}")
            continue
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
        for full in names:
            top = full.split(".")[0]
            if top in sys.stdlib_module_names or (launcher and top == "environment"):
                continue
            if top == "comfyui_sam3d":
                found.append(f"{where} imports the package by name: in ComfyUI it has another one")
            elif not (room in TORCH_ROOMS and not launcher) and top not in _allowed(room, loading):
                found.append(f"{where} imports {full}" + (" when it loads" if loading else ""))
            elif top in HOST and name != "nodes/_host.py":
                found.append(f"{where} imports the host: only nodes/_host.py may")
    return found


def _allowed(room: str, loading: bool) -> set[str]:
    at_load, later = OUTSIDE[room]
    return at_load if loading else at_load | later


PACKAGE = ("contract", "client", "nodes", "factory", "worker", "vendor", "environment", "__init__.py", *LAUNCHERS)


def test_every_file_stays_inside_its_walls() -> None:
    found = [problem for name in sources(*PACKAGE) for problem in trespasses(name, tree(name))]
    assert not found, "\n".join(found)


def test_every_folder_of_the_package_is_a_room() -> None:
    others = {"tests", "benchmarks", "examples", "deploy", "docs", "web", "locales", "example_workflows", ".ci"}
    unknown = {name.split("/")[0] for name in sources() if "/" in name} - others - {room.split("/")[0] for room in WALLS}
    assert not unknown


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("contract/x.py", "from ..client import local", "imports client from contract"),
        ("contract/x.py", "from .. import client", "imports client from contract"),
        ("contract/x.py", "import scipy", "imports scipy when it loads"),
        ("contract/x.py", "import PIL", "imports PIL when it loads"),
        ("contract/x.py", "def f():\n from scipy import ndimage", "imports scipy"),
        ("contract/x.py", "from comfyui_sam3d.contract import request", "by name"),
        ("contract/x.py", "class A:\n from PIL import Image", "imports PIL when it loads"),
        ("contract/x.py", "try:\n import torch\nexcept ImportError: pass", "imports torch when it loads"),
        ("nodes/x.py", "import torch", "imports torch when it loads"),
        ("nodes/x.py", "def f():\n import folder_paths", "only nodes/_host.py"),
        ("nodes/x.py", "from ..worker import job", "imports worker/job from nodes"),
        ("factory/cli/x.py", "from ...worker.draft import mask", "imports worker/draft from factory"),
        ("worker/draft/x.py", "from ..sam3d import dino", "imports worker/sam3d from worker/draft"),
        ("worker/draft/x.py", "def f():\n import torch", "imports torch"),
        ("worker/geometry/files/x.py", "from ...draft.mask import clean", "imports worker/draft from worker/geometry"),
        ("worker/sam3d/x.py", "from ..job import Job", "imports worker/job from worker/sam3d"),
        ("worker/sam3d/x.py", "from ...vendor.moge import infer", "imports vendor/moge from worker/sam3d"),
        ("vendor/moge/x.py", "from ...worker.sam3d import dino", "imports worker/sam3d from vendor/moge"),
        ("client/x.py", "from ..nodes import _host", "imports nodes from client"),
        ("sam3d.py", "import numpy", "imports numpy"),
        ("environment/x.py", "import numpy", "imports numpy"),
    ],
)
def test_the_walls_hold(name: str, text: str, problem: str) -> None:
    assert any(problem in found for found in trespasses(name, ast.parse(text)))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("contract/x.py", "from .errors import MaskError\nimport numpy as np\nimport json\ndef f():\n from PIL import Image"),
        ("contract/x.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n from PIL.Image import Image"),
        ("nodes/_host.py", "def f():\n import folder_paths, torch"),
        ("worker/engines/x.py", "from ..draft.mask import clean\nfrom ..job import Job\nfrom ...contract.scene import Scene"),
        ("worker/sam3d/x.py", "import torch\nfrom ..ops import attention"),
        ("sam3d.py", "from environment import launch"),
    ],
)
def test_what_is_allowed(name: str, text: str) -> None:
    assert trespasses(name, ast.parse(text)) == []
