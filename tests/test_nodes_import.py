"""The pack is imported as ComfyUI imports it, in a process of its own, with torch and ComfyUI out of reach."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PACK = Path(__file__).resolve().parent.parent

SCRIPT = """
import importlib.util, json, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "comfy", "comfy_api", "comfy_execution", "folder_paths", "server", "execution", "comfyui_sam3d", "nodes"}:
            raise ImportError(name + " is out of reach")

sys.meta_path.insert(0, Absent())
import numpy
before = set(sys.modules)
folder = sys.argv[1]
spec = importlib.util.spec_from_file_location(folder.replace(".", "_x_"), folder + "/__init__.py")
module = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = module
spec.loader.exec_module(module)
bare = sorted(set(sys.modules) - before)
mappings, names = module.NODE_CLASS_MAPPINGS, module.NODE_DISPLAY_NAME_MAPPINGS
for kind in mappings.values():
    kind.INPUT_TYPES()
loaded = sorted({n.split(".")[0] for n in set(sys.modules) - before if not n.startswith(spec.name)})
third = [n for n in loaded if n not in sys.stdlib_module_names]
print(json.dumps({"ids": list(mappings), "names": list(names), "web": module.WEB_DIRECTORY, "third": third, "bare": bare, "spec": spec.name}), file=sys.stderr)
"""


def imported(folder: Path, home: Path) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder)], capture_output=True, text=True, env={"SAM3D_NODES_DIR": str(home), "PATH": ""}
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "", "importing the pack printed something"
    return dict(json.loads(done.stderr.splitlines()[-1]))


@pytest.mark.parametrize("name", ["comfyui-sam3d", "any other.name", "写真から立体"])
def test_import_under_any_folder_name(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.symlink_to(PACK, target_is_directory=True)
    found = imported(folder, tmp_path / "home")
    assert found["ids"] == ["SAM3DLoadImageMasks", "SAM3DLoadFolder", "SAM3DReconstruct", "SAM3DOptions", "SAM3DExport", "SAM3DPreview"]
    assert found["names"] == found["ids"]
    assert (PACK / str(found["web"])).is_dir()
    assert found["third"] == [], "the host's start must not pay for libraries"
    assert found["bare"] == [found["spec"]], "the root module loads nothing before the mappings are asked for"
