"""`sam3d weights ...` and `doctor` as a user types them: a program of the worker's side behind the command line, its end, its errors, its events."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

pytest.importorskip("torch", reason="the layer `model` isn't installed: python sam3d.py test adds it")
pytest.importorskip("yaml", reason="the layer `model` isn't installed: python sam3d.py test adds it")

from comfyui_sam3d.client.tools import run_tool
from comfyui_sam3d.contract.errors import SetupError, WorkerCrashed
from comfyui_sam3d.environment.launch import _layers
from comfyui_sam3d.nodes import _host
from comfyui_sam3d.worker import doctor
from comfyui_sam3d.worker.weights import __main__ as weights

from factory_cli import cli, command, environment
from hub_server import Hub, serving

HERE = {"SAM3D_WORKER_PYTHON": sys.executable, "PYTHONWARNINGS": "default"}  # libraries of the layer warn on some Pythons


@pytest.fixture
def variables(tmp_path: Path) -> dict[str, str]:
    return {**HERE, "HF_HOME": str(tmp_path / "no cache"), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "model"
    ran = cli("weights", "fake", folder, "--tiny", "--json", stub=False, variables=HERE)
    assert ran.code == 0, ran.err
    assert ran.only("file")[0]["name"] == "ss_generator.ckpt" and ran.events[-1]["ok"] is True
    return folder


def test_from_nothing_to_verified(tiny, variables):
    variables["SAM3D_WEIGHTS"] = str(tiny)
    ran = cli("weights", "convert", stub=False, variables=variables)
    assert ran.code == 0 and "7 converted" in ran.out and "ss_generator.safetensors" in ran.out
    ran = cli("weights", "status", "--json", stub=False, variables=variables)
    assert ran.code == 0 and {e["state"] for e in ran.only("file")} == {"there"} and "random weights" in ran.events[-1]["text"]
    ran = cli("weights", "verify", "--json", stub=False, variables=variables)
    assert ran.code == 0 and ran.events[-1] == {
        "event": "weights", "command": "verify", "folder": str(tiny), "ok": True, "text": "everything is as it should be",
    }  # fmt: skip


def test_nothing_there(tmp_path, variables):
    ran = cli("weights", "status", "--folder", tmp_path / "none", stub=False, variables=variables)
    assert ran.code == 1 and "!!  pipeline.yaml" in ran.out and "sam3d.py weights fetch" in ran.out
    ran = cli("weights", "fetch", "--folder", tmp_path / "none", stub=False, variables={**variables, "HF_HUB_OFFLINE": "1"})
    assert ran.code == 3 and "HF_HUB_OFFLINE is set: nothing is fetched" in ran.err and not (tmp_path / "none").exists()


def test_status_says_where_only_the_packages_lack(tiny, monkeypatch):
    """It runs without them: a look shouldn't cost a gigabyte of downloads."""
    said: list[dict] = []
    ask = argparse.Namespace(verb="status", folder=str(tiny))
    assert weights._do(ask, lambda kind, **fields: said.append(fields)) is True
    monkeypatch.setattr("comfyui_sam3d.worker.weights.locate._NEEDS", ("json", "no_such_package"))
    assert weights._do(ask, lambda kind, **fields: said.append(fields)) is False
    assert "no_such_package" in said[-1]["text"] and "install.py --layers model" in said[-1]["text"] and "json" not in said[-1]["text"]


def test_a_refusal_is_three_lines(tmp_path, variables):
    pytest.importorskip("huggingface_hub")
    with serving(Hub(gated=403)) as hub:
        variables |= {"HF_ENDPOINT": hub.url, "NO_PROXY": "127.0.0.1", "HF_TOKEN": "hf_secret"}
        ran = cli("weights", "fetch", "--folder", tmp_path / "new", stub=False, variables=variables)
    lines = ran.err.strip().splitlines()
    assert ran.code == 3 and len(lines) == 4 and [line.strip()[:2] for line in lines[1:]] == ["1.", "2.", "3."]
    assert f"{hub.url}/facebook/sam-3d-objects" in lines[1] and "hf_secret" not in ran.err


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_ctrl_c_ends_the_program_too(tmp_path, variables, tiny):
    pytest.importorskip("huggingface_hub")
    names = [f"checkpoints/{path.name}" for path in tiny.iterdir() if path.suffix in (".yaml", ".ckpt")]
    with serving(
        Hub(dict.fromkeys([*names, "model.pt"], b"x" * 100), pause=60)
    ) as hub:  # each file is asked about, then the first is waited for
        more = {**variables, "HF_ENDPOINT": hub.url, "NO_PROXY": "127.0.0.1", "SAM3D_WEIGHTS_REPO": "a/b"}
        process = subprocess.Popen(
            command("weights", "fetch", "--folder", tmp_path / "new", "--json"),
            env=environment(stub=False, **more),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            deadline = time.monotonic() + 60
            while len(hub.log) <= len(names) and time.monotonic() < deadline and process.poll() is None:
                time.sleep(0.05)
            programs = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(signal.SIGINT)
        finally:
            said = process.communicate(timeout=60)
    assert hub.log and programs, said
    assert process.returncode == 130, said
    assert not [program for program in psutil.wait_procs(programs, timeout=10)[1] if program.status() != psutil.STATUS_ZOMBIE]


def test_where_the_worker_is_elsewhere(tmp_path):
    ran = cli("weights", "status", "--json")  # SAM3D_WORKER_COMMAND leads to the stub
    assert ran.code == 3 and "SAM3D_WORKER_COMMAND is set" in ran.only("failed")[0]["error"]["message"]
    doctor = cli("doctor", "--json", "--out", tmp_path)
    checks = {check["name"]: check for check in json.loads(doctor.out)["checks"]}
    assert doctor.code == 0 and checks["sam3d"]["state"] == "note" and "not looked at" in checks["sam3d"]["text"]


def test_wrong_usage():
    for arguments in (
        ["weights", "fake"],
        ["weights", "nonsense"],
        ["weights", "status", "--seed", "1"],
        ["weights", "fake", "x", "--seed", "-1"],
    ):
        assert cli(*arguments).code == 2
    helped = cli("weights", "--help")
    assert helped.code == 0 and all(verb in helped.out for verb in ("status", "fetch", "verify", "convert", "fake"))


def test_doctor_says_what_the_learned_engine_lacks(tmp_path, variables):
    ran = cli("doctor", "--out", tmp_path, stub=False, variables=variables)
    assert ran.code == 0 and "sam3d packages" in ran.out and "sam3d gpu" in ran.out and "sam3d operations" in ran.out
    assert "note   sam3d weights" in ran.out and "Type: python sam3d.py weights fetch" in ran.out


def looked(monkeypatch: pytest.MonkeyPatch, folder: Path) -> dict[str, tuple[str, str, str]]:
    monkeypatch.setenv("SAM3D_WEIGHTS", str(folder))
    return {name: (state, text, hint) for name, state, text, hint in doctor.checks()}


def test_what_doctor_says_of_weights(tiny, tmp_path, monkeypatch):
    copy = Path(shutil.copytree(tiny, tmp_path / "copy"))
    state, text, hint = looked(monkeypatch, copy)["weights"]
    assert state == "note" and "random ones" in text and hint
    (copy / "fake.json").unlink()
    for path in copy.rglob("*.safetensors"):
        path.unlink()
    assert looked(monkeypatch, copy)["weights"][2] == "Type: python sam3d.py weights convert"
    shutil.move(copy / "moge", tmp_path / "elsewhere")
    assert "weights of MoGe" in looked(monkeypatch, copy)["weights"][1]
    shutil.move(tmp_path / "elsewhere", copy / "moge")
    (copy / "ss_decoder.yaml").write_text("a: 1")
    state, text, _ = looked(monkeypatch, copy)["weights"]
    assert state == "wrong" and "ss_decoder.yaml" in text


def test_what_doctor_says_of_gpus_and_packages(tmp_path, monkeypatch):
    import torch

    assert looked(monkeypatch, tmp_path)["operations"][0] == "ok"
    monkeypatch.setattr(doctor, "_driver", lambda: "570.1")
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "computes on the CPU alone" in looked(monkeypatch, tmp_path)["gpu"][1]
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert "driver" in looked(monkeypatch, tmp_path)["gpu"][2]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "A GPU")
    for free, state in ((2e9, "note"), (6e9, "ok"), (60e9, "ok")):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (int(free), int(80e9)))
        found = looked(monkeypatch, tmp_path)
        assert found["memory"][0] == state and "A GPU, compute capability 9.0, driver 570.1, CUDA 13.0" in found["gpu"][1]

    def dead(device: object) -> tuple[int, int]:
        raise RuntimeError("no answer")

    monkeypatch.setattr(torch.cuda, "mem_get_info", dead)
    assert looked(monkeypatch, tmp_path)["gpu"][0] == "wrong"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    found = looked(monkeypatch, tmp_path)
    assert (
        "needs torch, safetensors, pyyaml" in found["packages"][1]
        and "--layers model" in found["packages"][2]
        and found["gpu"][0] == "note"
    )


# -- the program's other ends


def tool(monkeypatch: pytest.MonkeyPatch, code: str) -> list[dict[str, object]]:
    """run_tool with another program behind it."""
    from comfyui_sam3d.client import tools

    monkeypatch.setattr(tools, "tool_command", lambda name: [sys.executable, "-c", code])
    return list(run_tool("weights"))


def test_a_program_that_dies_or_says_nonsense(monkeypatch):
    event = 'print(\'{"event": "log"}\', flush=True)'
    assert tool(monkeypatch, event) == [{"event": "log"}]
    assert tool(monkeypatch, f"{event}; raise SystemExit(1)") == [{"event": "log"}]
    with pytest.raises(WorkerCrashed, match="no event: hello"):
        tool(monkeypatch, "print('hello', flush=True); import time; time.sleep(60)")
    with pytest.raises(WorkerCrashed, match="exit code 7; its last words: too bad"):
        tool(monkeypatch, f"import sys; {event}; sys.stderr.write('too bad\\n'); sys.exit(7)")
    with pytest.raises(SetupError, match="can't be started"):
        from comfyui_sam3d.client import tools

        monkeypatch.setattr(tools, "tool_command", lambda name: ["/no/such/python"])
        list(run_tool("weights"))


def test_leaving_early_ends_the_program(monkeypatch, tmp_path):
    from comfyui_sam3d.client import tools

    code = f'import os, time; print(\'{{"event": "log", "pid": %d}}\' % os.getpid(), flush=True); time.sleep(60); open({str(tmp_path / "lived")!r}, \'w\')'
    monkeypatch.setattr(tools, "tool_command", lambda name: [sys.executable, "-c", code])
    events = run_tool("weights")
    pid = int(next(events)["pid"])
    events.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


# -- what leads here


def test_the_hosts_model_folders_reach_the_worker(monkeypatch):
    assert _host.model_folders() == {}
    added: list[tuple[str, str]] = []

    class Paths:
        models_dir = "/host/models"

        @staticmethod
        def add_model_folder_path(kind: str, folder: str) -> None:
            added.append((kind, folder))

        @staticmethod
        def get_folder_paths(kind: str) -> list[str]:
            return {
                "sam3d": [folder for _, folder in added] + ["/extra/sam3d"],
                "geometry_estimation": ["/host/models/geometry_estimation"],
            }[kind]

    monkeypatch.setitem(sys.modules, "folder_paths", Paths)
    monkeypatch.setenv("SAM3D_MODELS", "/mine")
    own = os.path.join("/host/models", "sam3d")
    assert _host.model_folders() == {
        "SAM3D_MODELS": os.pathsep.join(["/mine", own, "/extra/sam3d"]),
        "SAM3D_MOGE": "/host/models/geometry_estimation",
    }
    assert added == [("sam3d", own)]


@pytest.mark.parametrize(
    ("line", "model"),
    [
        ("weights status", False),
        ("weights status --json --folder models", False),
        ("weights fetch", True),
        ("weights convert --folder status", True),
        ("weights --help", False),
        ("reconstruct a.png --engine sam3d", True),
        ("reconstruct a.png --engine=sam3d", True),
        ("batch in --set engine=sam3d", True),
        ("reconstruct a.png --engine draft --name sam3d", False),
        ("reconstruct sam3d", False),
        ("doctor", False),
    ],
)
def test_the_launcher_adds_the_layer_where_it_is_needed(line, model, tmp_path):
    assert ("model" in _layers(str(tmp_path), line.split())) is model
