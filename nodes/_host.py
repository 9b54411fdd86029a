"""The only file that touches ComfyUI. Without a host every function still works, on its own terms.

A host's modules are taken from `sys.modules`, never imported: ComfyUI has loaded them long before a node exists, and names as plain as
`nodes` or `server` could be anybody's elsewhere. Nothing is remembered between calls; tests put fakes in place and take them away.

    what                     with ComfyUI                              without
    model_folders            folder_paths                              nothing
    directories              folder_paths                              $SAM3D_NODES_DIR/{input,output,temp}, else a folder in the system's temp
    progress, text           comfy.utils.ProgressBar, PromptServer     nothing
    interrupt                its flag, raised as its own exception     never
    free_vram                comfy.model_management                    nothing
    tensor                   torch, on the host's intermediate device  numpy
    mesh, splat, file_3d     comfy_api's Types                         contract records; the path
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


def _module(name: str) -> Any:
    """A host module that is already loaded, or None."""
    return sys.modules.get(name)


def _attribute(module: str, *names: str) -> Any:
    """module.a.b, or None where any part of it is missing (an older host, or none)."""
    found = _module(module)
    for name in names:
        found = getattr(found, name, None)
    return found


# -- directories


def _directory(kind: str) -> Path:
    paths = _module("folder_paths")
    if paths is not None:
        return Path(getattr(paths, f"get_{kind}_directory")())
    import tempfile

    base = os.environ.get("SAM3D_NODES_DIR") or os.path.join(tempfile.gettempdir(), "sam3d_nodes")
    folder = Path(base) / kind
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def input_dir() -> Path:
    return _directory("input")


def output_dir() -> Path:
    return _directory("output")


def temp_dir() -> Path:
    return _directory("temp")


def model_folders() -> dict[str, str]:
    """Where the host keeps models, those of extra_model_paths.yaml included, as the variables that tell the worker (worker/weights/locate.py).

    What the user has set himself comes first. Empty without a host.
    """
    paths = _module("folder_paths")
    known = getattr(paths, "get_folder_paths", None)
    if known is None:
        return {}
    if (models := getattr(paths, "models_dir", None)) and hasattr(paths, "add_model_folder_path"):
        paths.add_model_folder_path("sam3d", os.path.join(models, "sam3d"))
    found = {}
    for variable, kind in (("SAM3D_MODELS", "sam3d"), ("SAM3D_MOGE", "geometry_estimation")):
        try:
            folders = [str(folder) for folder in known(kind)]
        except KeyError:  # an older host doesn't know the kind
            continue
        own = os.environ.get(variable)
        found[variable] = os.pathsep.join(dict.fromkeys([*([own] if own else []), *folders]))
    return {variable: value for variable, value in found.items() if value}


def expand_prefix(prefix: str) -> str:
    """The prefix with the host's variables filled in: %year%, %month%, %day%, %hour%, %minute%, %second%."""
    import time

    now = time.localtime()
    values = {"year": now.tm_year, "month": now.tm_mon, "day": now.tm_mday, "hour": now.tm_hour, "minute": now.tm_min, "second": now.tm_sec}
    for name, value in values.items():
        prefix = prefix.replace(f"%{name}%", f"{value:02}")
    return prefix


def metadata_wanted() -> bool:
    """Whether the prompt and the workflow may be written into files (the host's --disable-metadata says no)."""
    return not _attribute("comfy.cli_args", "args", "disable_metadata")


# -- progress, interrupt, memory


class Progress:
    """A node's progress bar. Call it in the node's own thread: the host takes the node from there, and may raise its interrupt."""

    def __init__(self, total: int = 1000) -> None:
        bar = _attribute("comfy.utils", "ProgressBar")
        self._bar = bar(total) if bar is not None else None
        self._total = total

    def update(self, fraction: float, picture: np.ndarray | None = None) -> None:
        """fraction: 0..1 of the whole; picture: uint8 (H, W, 3), shown on the node."""
        if self._bar is None:
            return
        preview = None
        if picture is not None:
            from PIL import Image

            preview = ("JPEG", Image.fromarray(picture), 512)
        self._bar.update_absolute(round(min(max(fraction, 0.0), 1.0) * self._total), self._total, preview)


def _node_id() -> str | None:
    context = _attribute("comfy_execution.utils", "get_executing_context")
    found = context() if context is not None else None
    if found is not None:
        return str(found.node_id)
    last = _attribute("server", "PromptServer", "instance", "last_node_id")
    return None if last is None else str(last)


def say(text: str) -> None:
    """A line of text on the node that runs now. Also a sign of life for whoever waits at the websocket."""
    send, node = _attribute("server", "PromptServer", "instance", "send_progress_text"), _node_id()
    if send is not None and node is not None:
        send(text, node)


def check_interrupt() -> None:
    """Raises the host's own exception once somebody pressed cancel (which clears its flag). Let it pass, unwrapped."""
    check = _attribute("comfy.model_management", "throw_exception_if_processing_interrupted")
    if check is not None:
        check()


def free_vram() -> None:
    """Unload the host's models: another process is about to need the GPU, and the host can't know."""
    management = _module("comfy.model_management")
    if management is not None:
        management.unload_all_models()
        management.soft_empty_cache()


# -- values for sockets


def tensor(values: np.ndarray) -> Any:
    """An array as what IMAGE and MASK sockets carry."""
    torch = _module("torch")
    if torch is None or not hasattr(torch, "from_numpy"):
        return values
    out = torch.from_numpy(np.array(values))  # a copy: ours may be read-only
    if not out.is_floating_point():
        return out
    management = _module("comfy.model_management")
    device, dtype = getattr(management, "intermediate_device", None), getattr(management, "intermediate_dtype", None)
    return out.to(device=device() if device else None, dtype=dtype() if dtype else None)


def array(value: Any) -> np.ndarray:
    """What an IMAGE or MASK socket carries, as float32."""
    if hasattr(value, "detach"):  # a torch tensor, wherever it lives and whatever its precision
        value = value.detach().cpu().float().numpy()
    return np.asarray(value, np.float32)


def _host_type(name: str, values: Mapping[str, np.ndarray | None]) -> Any:
    """comfy_api's Types.<name> of tensors, without the fields that an older host doesn't know; None where it has no such type."""
    kind = _attribute("comfy_api.latest", "Types", name)
    if kind is None:
        return None
    known = inspect.signature(kind).parameters
    return kind(**{key: tensor(value) for key, value in values.items() if value is not None and key in known})


def mesh(**values: np.ndarray | None) -> Any:
    """Types.MESH with these fields as tensors, or None."""
    return _host_type("MESH", values)


def splat(**values: np.ndarray | None) -> Any:
    """Types.SPLAT with these fields as tensors, or None."""
    return _host_type("SPLAT", values)


def file_3d(path: Path) -> Any:
    """What FILE_3D_* sockets carry: Types.File3D of the file, or its path as text."""
    kind = _attribute("comfy_api.latest", "Types", "File3D")
    return str(path) if kind is None else kind(str(path))


def nothing(why: str) -> Any:
    """For an output that isn't there: nodes linked to it don't run and show `why`. None where the host has no such thing."""
    kind = _attribute("comfy_execution.graph_utils", "ExecutionBlocker") or _attribute("comfy_execution.graph", "ExecutionBlocker")
    return None if kind is None else kind(why)
