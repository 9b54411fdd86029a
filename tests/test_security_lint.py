"""What reviewers of the registry look for (no eval, pickle, shell, installation at run time, ...), read from the source; and what would be published."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tracked import ROOT, sources, tracked, tree

BANNED_MODULES = {
    "pickle",
    "cPickle",
    "marshal",
    "shelve",
    "dill",
    "cloudpickle",
    "joblib",
    "pty",
    "telnetlib",
    "ftplib",
    "ensurepip",
    "pip",
}
BANNED_CALLS = {
    "eval", "exec", "compile", "__import__", "breakpoint", "os.system", "os.popen", "os.startfile", "tempfile.mktemp", "yaml.load", "yaml.unsafe_load",
    "yaml.full_load", "numpy.fromregex", "ctypes.pythonapi", "subprocess.getoutput", "subprocess.getstatusoutput", "torch.hub.load", "runpy.run_path",
}  # fmt: skip
NETWORK = {"socket", "socketserver", "http", "urllib", "ssl", "requests", "httpx", "aiohttp", "smtplib", "xmlrpc"}
HARMLESS_NETWORK = {"urllib.parse"}
INSTALLERS = ("install.py", "sam3d.py", "environment/")  # run by a person, never by the canvas
# who may start processes: the client its worker, the worker a library that crashes, the installer its tools, `serve` the builder of its page
STARTERS = (*INSTALLERS, "client/", "worker/geometry/texture/unwrap.py", "factory/page_build.py")
# who may open connections: nobody in the node pack
CONNECTED = (*INSTALLERS, "factory/", "client/remote.py")


def published() -> list[str]:
    """Tracked files minus .comfyignore, as `comfy node pack` takes them."""
    done = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--ignored", "--exclude-from=.comfyignore"], cwd=ROOT, capture_output=True, check=True
    )
    ignored = set(done.stdout.decode("utf-8").split("\0"))
    return [name for name in tracked() if name not in ignored]


def problems(name: str, module: ast.Module) -> Iterator[str]:
    aliases = _aliases(module)
    for node in ast.walk(module):
        where = f"{name}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, (ast.Import, ast.ImportFrom)) and not getattr(node, "level", 0):
            for full in _modules(node):
                top = full.split(".")[0]
                if top in BANNED_MODULES:
                    yield f"{where} imports {top}"
                if top in NETWORK and full not in HARMLESS_NETWORK and not name.startswith(CONNECTED):
                    yield f"{where} imports {full}: it has no business with the network"
                if top in ("subprocess", "multiprocessing") and not name.startswith(STARTERS):
                    yield f"{where} imports {top}: it starts no processes"
        if isinstance(node, ast.Call):
            called = _dotted(node.func, aliases)
            keywords = {word.arg: word.value for word in node.keywords}
            if called in BANNED_CALLS:
                yield f"{where} calls {called}"
            if called.startswith(("os.exec", "os.spawn", "os.posix_spawn", "os.fork")) and not name.startswith(STARTERS):
                yield f"{where} calls {called}: it starts no processes"
            if "shell" in keywords and not _is(keywords["shell"], False):
                yield f"{where} passes shell="
            if "allow_pickle" in keywords and not _is(keywords["allow_pickle"], False):
                yield f"{where} passes allow_pickle="
            if called in ("torch.load", "torch.serialization.load") and not _is(keywords.get("weights_only"), True):
                yield f"{where} calls torch.load without weights_only=True"
            if called.endswith("extractall") and "filter" not in keywords:
                yield f"{where} calls extractall without a filter"
        if isinstance(node, (ast.List, ast.Tuple)) and not name.startswith(INSTALLERS):
            words = {item.value for item in node.elts if isinstance(item, ast.Constant) and isinstance(item.value, str)}
            if words & {"pip", "ensurepip", "conda", "mamba"} and words & {"install", "-m", "download"}:
                yield f"{where} installs packages"


def _modules(node: ast.Import | ast.ImportFrom) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [
        f"{node.module}.{alias.name}" if f"{node.module}.{alias.name}" in HARMLESS_NETWORK else str(node.module) for alias in node.names
    ]


def _aliases(module: ast.Module) -> dict[str, str]:
    """local name -> what it was imported as, so that `from os import system as s` isn't missed."""
    found = {}
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            found |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _dotted(node: ast.expr, aliases: dict[str, str]) -> str:
    if isinstance(node, ast.Name):
        return aliases.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value, aliases)}.{node.attr}"
    return "?"


def _is(node: ast.expr | None, value: bool) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def test_no_dangerous_calls() -> None:
    ours = set(published())
    found = [problem for name in sources() if name in ours for problem in problems(name, tree(name))]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "text",
    [
        "eval('1')",
        "exec('x')",
        "import pickle",
        "from marshal import loads",
        "import os\nos.system('ls')",
        "from os import system as s\ns('ls')",
        "import os as o\no.popen('ls')",
        "f(['x'], shell=True)",
        "f(['x'], shell=flag)",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "import torch\ntorch.load('x')",
        "import torch\ntorch.load('x', weights_only=False)",
        "import yaml\nyaml.load('x')",
        "import socket",
        "from urllib.request import urlopen",
        "from urllib import request",
        "import subprocess",
        "import os\nos.execv('x', [])",
        "run([python, '-m', 'pip', 'install', 'x'])",
        "run(['pip', 'install', 'x'])",
        "archive.extractall(folder)",
    ],
)
def test_the_lint_finds(text: str) -> None:
    assert list(problems("nodes/x.py", ast.parse(text)))


@pytest.mark.parametrize(
    "text",
    [
        "import json\njson.loads('1')",
        "from urllib.parse import quote",
        "import urllib.parse",
        "model.eval()",
        "import re\nre.compile('x')",
        "import torch\ntorch.load('x', weights_only=True)",
    ],
)
def test_the_lint_leaves_alone(text: str) -> None:
    assert not list(problems("nodes/x.py", ast.parse(text)))


# -- the archive

NEEDED = {"__init__.py", "LICENSE", "README.md", "pyproject.toml", "requirements.txt", "install.py", "sam3d.py"}
ROOMS = {"nodes", "client", "contract", "worker", "factory", "environment", "example_workflows"}
TEXT = {"", ".py", ".md", ".txt", ".toml", ".json", ".yml", ".yaml", ".js", ".ts", ".tsx", ".css", ".html", ".svg"}
PICTURES = {".png", ".webp", ".jpg", ".gif"}


def test_the_archive_holds_what_it_needs_and_nothing_else() -> None:
    names = published()
    assert set(names) >= NEEDED, NEEDED - set(names)
    folders = {name.split("/")[0] for name in names if "/" in name}
    assert folders >= ROOMS, ROOMS - folders
    assert not folders & {"tests", "benchmarks", "deploy", ".ci", "_env", ".git"}
    unknown = [name for name in names if Path(name).suffix not in TEXT | PICTURES]
    assert not unknown, f"binaries of unknown origin: {unknown}"
    assert not [name for name in names if (ROOT / name).is_symlink()]
    total = sum((ROOT / name).stat().st_size for name in names)
    assert total < 20_000_000, f"{total} bytes"
    for name in names:
        if Path(name).suffix in TEXT:
            (ROOT / name).read_text("utf-8")  # text is text


def test_the_archive_loads_as_comfyui_loads_it(tmp_path: Path) -> None:
    """Unpacked into a folder of another name, in a process where torch and Pillow can't be imported."""
    pack = tmp_path / "custom_nodes" / "some-pack @1"
    for name in published():
        (pack / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, pack / name)
    program = (
        "import importlib.util, sys\n"
        "for name in ('torch', 'PIL', 'comfyui_sam3d', 'scipy'): sys.modules[name] = None\n"
        "path = sys.argv[1]\n"
        "spec = importlib.util.spec_from_file_location(path, path + '/__init__.py', submodule_search_locations=[path])\n"
        "module = importlib.util.module_from_spec(spec)\n"
        "sys.modules[path] = module\n"
        "spec.loader.exec_module(module)\n"
        "assert module.NODE_CLASS_MAPPINGS, 'no nodes'\n"
    )
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, str(pack)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=tmp_path,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_host_gets_no_requirement_that_it_lacks() -> None:
    """ComfyUI has these; anything else would change its environment."""
    has = {"numpy", "pillow", "scipy", "pyyaml", "tqdm", "psutil", "aiohttp", "safetensors", "torch"}
    lines = [line.split("#")[0].strip() for line in (ROOT / "requirements.txt").read_text("utf-8").splitlines()]
    asked = {line.lower() for line in lines if line}
    assert asked <= has
