"""Both sides of nodes/_host.py: the fallbacks without a host, and the host's side with small fakes that record what is called."""

from __future__ import annotations

import sys
import tempfile
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comfyui_sam3d.nodes import _host

HOST = ("comfy", "comfy_api", "comfy_execution", "folder_paths", "server", "nodes")


@pytest.fixture(autouse=True)
def no_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever another test has loaded, these start without a host."""
    for name in list(sys.modules):
        if name.split(".")[0] in HOST:
            monkeypatch.delitem(sys.modules, name)


@pytest.fixture
def no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)  # hidden, not removed: torch can't be loaded twice


class Interrupted(BaseException):
    """As on current hosts: no Exception."""


class FakeHost:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, base: Path) -> None:
        self.calls: list[Any] = []
        self.interrupt = False
        host = self

        class ProgressBar:
            def __init__(self, total: int) -> None:
                host.calls.append(("bar", total))

            def update_absolute(self, value: int, total: int, preview: Any) -> None:
                host.calls.append(("update", value, total, preview))

        class Server:
            last_node_id = "last"

            def send_progress_text(self, text: str, node: str) -> None:
                host.calls.append(("text", text, node))

        def check() -> None:
            if host.interrupt:
                host.interrupt = False
                raise Interrupted

        class Kind:
            def __init__(self, **values: Any) -> None:
                self.values = values

        class OldMesh(Kind):
            def __init__(self, vertices: Any, faces: Any) -> None:
                super().__init__(vertices=vertices, faces=faces)

        class Blocker:
            def __init__(self, message: str) -> None:
                self.message = message

        self.context: Any = types.SimpleNamespace(node_id=7)
        modules: dict[str, dict[str, Any]] = {
            "folder_paths": {f"get_{kind}_directory": lambda kind=kind: str(base / f"host-{kind}") for kind in ("input", "output", "temp")},
            "comfy.utils": {"ProgressBar": ProgressBar},
            "comfy.cli_args": {"args": types.SimpleNamespace(disable_metadata=True)},
            "comfy.model_management": {
                "throw_exception_if_processing_interrupted": check,
                "unload_all_models": lambda: host.calls.append("unload"),
                "soft_empty_cache": lambda: host.calls.append("empty"),
            },
            "comfy_execution.utils": {"get_executing_context": lambda: host.context},
            "comfy_execution.graph_utils": {"ExecutionBlocker": Blocker},
            "server": {"PromptServer": types.SimpleNamespace(instance=Server())},
            "comfy_api.latest": {"Types": types.SimpleNamespace(MESH=OldMesh, File3D=lambda path: ("file", path))},
        }
        for name, values in modules.items():
            module = types.ModuleType(name)
            module.__dict__.update(values)
            monkeypatch.setitem(sys.modules, name, module)


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeHost:
    return FakeHost(monkeypatch, tmp_path)


def test_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAM3D_NODES_DIR", str(tmp_path / "alone"))
    for kind, folder in (("input", _host.input_dir()), ("output", _host.output_dir()), ("temp", _host.temp_dir())):
        assert folder == tmp_path / "alone" / kind and folder.is_dir()
    monkeypatch.delenv("SAM3D_NODES_DIR")
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path / "system"))
    assert _host.output_dir() == tmp_path / "system" / "sam3d_nodes" / "output"
    FakeHost(monkeypatch, tmp_path)
    assert _host.input_dir() == tmp_path / "host-input"


def test_without_a_host_nothing_is_told_and_nothing_interrupts(no_torch: None) -> None:
    bar = _host.Progress()
    bar.update(0.5, np.zeros((4, 4, 3), np.uint8))
    _host.say("anything")
    _host.check_interrupt()
    _host.free_vram()
    assert _host.metadata_wanted() is True
    assert _host.nothing("because") is None
    assert _host.file_3d(Path("a.glb")) == "a.glb"
    assert _host.mesh(vertices=np.zeros(3)) is None and _host.splat(positions=np.zeros(3)) is None
    assert isinstance(_host.tensor(np.zeros(3)), np.ndarray)


def test_progress(host: FakeHost) -> None:
    bar = _host.Progress()
    bar.update(0.25)
    bar.update(1.5, np.zeros((4, 4, 3), np.uint8))
    assert host.calls[:2] == [("bar", 1000), ("update", 250, 1000, None)]
    _, value, _, (form, picture, size) = host.calls[2]
    assert (value, form, picture.size, size) == (1000, "JPEG", (4, 4), 512)


def test_text_goes_to_the_running_node(host: FakeHost) -> None:
    _host.say("one")
    host.context = None
    _host.say("two")  # an older host: the node that the server started last
    del sys.modules["comfy_execution.utils"]
    _host.say("three")
    assert host.calls == [("text", "one", "7"), ("text", "two", "last"), ("text", "three", "last")]


def test_interrupt_is_the_hosts_own_exception(host: FakeHost) -> None:
    _host.check_interrupt()
    host.interrupt = True
    with pytest.raises(Interrupted):
        _host.check_interrupt()
    _host.check_interrupt()


def test_memory_metadata_files_and_blockers(host: FakeHost) -> None:
    _host.free_vram()
    assert host.calls == ["unload", "empty"]
    assert _host.metadata_wanted() is False
    assert _host.file_3d(Path("a.glb")) == ("file", "a.glb")
    assert _host.nothing("because").message == "because"


def test_an_older_host_gets_the_fields_that_it_knows(host: FakeHost) -> None:
    made = _host.mesh(vertices=np.zeros((1, 3, 3)), faces=np.zeros((1, 1, 3)), texture=np.zeros((1, 4, 4, 3)), uvs=None)
    assert set(made.values) == {"vertices", "faces"}
    assert _host.splat(positions=np.zeros((1, 3, 3))) is None, "this host has no SPLAT"


def test_tensors() -> None:
    torch = pytest.importorskip("torch")
    frozen = np.linspace(0, 1, 6, dtype=np.float32).reshape(2, 3)
    frozen.setflags(write=False)
    made = _host.tensor(frozen)
    assert isinstance(made, torch.Tensor) and made.dtype == torch.float32
    assert _host.tensor(np.arange(3)).dtype == torch.int64
    back = _host.array(made.to(torch.bfloat16).requires_grad_())
    assert back.dtype == np.float32 and np.allclose(back, frozen, atol=0.01)


def test_tensors_have_the_hosts_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    management = types.ModuleType("comfy.model_management")
    management.__dict__.update(intermediate_device=lambda: torch.device("cpu"), intermediate_dtype=lambda: torch.float16)
    monkeypatch.setitem(sys.modules, "comfy.model_management", management)
    assert _host.tensor(np.zeros(3, np.float32)).dtype == torch.float16
    assert _host.tensor(np.zeros(3, np.int64)).dtype == torch.int64, "faces stay whole numbers"
