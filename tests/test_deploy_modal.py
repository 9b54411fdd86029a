"""The Modal app with the real `modal` package and no account: what it declares, its class by `.local()` over a real worker, its batch, its endpoint, its errors."""

from __future__ import annotations

import ast
import asyncio
import base64
import importlib.util
import inspect
import io
import json
import re
import subprocess
import sys
import wsgiref.util
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from wsgiref.validate import validator

import numpy as np
import pytest
from comfyui_sam3d.client import LocalBackend
from comfyui_sam3d.contract.errors import EmptyMaskError, ImageError, OptionError, SetupError
from comfyui_sam3d.contract.request import ReconstructRequest
from comfyui_sam3d.factory.executors.endpoint import MAX_BODY, request_from_bytes, wsgi
from comfyui_sam3d.factory.executors.modal import APP, CLASS, METHOD
from comfyui_sam3d.factory.executors.relay import Relay, read_event, request_frame

from factory_cli import STUB, is_complete, mask, sprite
from tracked import ROOT

modal = pytest.importorskip("modal", reason="layer `modal`: python install.py --layers base,modal")
SOURCE = ROOT / "deploy" / "sam3d_modal_app.py"
TOKEN = "a-token-of-some-length"
# GPUs that Modal's documentation lists (modal.com/docs/guide/gpu); the client takes any name.
GPUS = {"T4", "L4", "A10", "L40S", "A100", "A100-40GB", "A100-80GB", "RTX-PRO-6000", "H100", "H100!", "H200", "B200", "B200+"}

pytestmark = pytest.mark.filterwarnings("ignore:The .* function is executing locally:UserWarning")


@pytest.fixture(scope="module")
def loaded() -> ModuleType:
    spec = importlib.util.spec_from_file_location("sam3d_modal_app", SOURCE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def draft(loaded, monkeypatch) -> Iterator[Any]:
    """The class with the real draft engine behind it."""
    monkeypatch.delenv("SAM3D_WORKER_COMMAND", raising=False)
    monkeypatch.setenv("SAM3D_WORKER_PYTHON", sys.executable)
    opened: list[LocalBackend] = []
    real = LocalBackend.__init__

    def counted(self: LocalBackend, *arguments: Any, **more: Any) -> None:
        real(self, *arguments, **more)
        opened.append(self)

    monkeypatch.setattr(LocalBackend, "__init__", counted)
    yield loaded.Sam3d(engine="draft")
    for backend in opened:
        backend.close()


def png(path: Path) -> bytes:
    return path.read_bytes()


# --- what it declares ---


def decorators(name: str) -> dict[str, ast.expr]:
    """The keywords of the decorator of a class or function of the app, from its source: the client takes most of them unseen."""
    tree = ast.parse(SOURCE.read_text(encoding="utf-8"))
    (node,) = [n for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and n.name == name]
    (call,) = [d for d in node.decorator_list if isinstance(d, ast.Call)]
    return {word.arg: word.value for word in call.keywords if word.arg}


def test_what_it_declares(loaded):
    assert loaded.app.name == APP and hasattr(loaded, CLASS) and hasattr(loaded.Sam3d, METHOD)
    assert loaded.GPU and set(loaded.GPU) <= GPUS
    assert (loaded.ROOT / "deploy" / "Dockerfile").is_file()
    cls = decorators("Sam3d")
    number = {name: ast.literal_eval(cls[name]) for name in ("timeout", "startup_timeout", "scaledown_window", "retries", "memory", "cpu")}
    assert number["timeout"] > 300 and number["startup_timeout"] > 300, "Modal's default of 300 s is shorter than a cold start"
    assert number["retries"] == 0, "attempts are counted in the manifest alone"
    assert number["scaledown_window"] <= 300 and "min_containers" not in cls and "buffer_containers" not in cls, "it scales to zero"
    assert ast.unparse(cls["volumes"]) == "{WEIGHTS: weights.read_only()}" and "max_containers" in cls
    schedule = decorators("make_new")
    assert (
        ast.literal_eval(schedule["max_containers"]) == 1 and "gpu" not in schedule and "modal.Period" in ast.unparse(schedule["schedule"])
    )
    assert "gpu" not in decorators("fetch_weights")


def test_the_image_has_what_client_and_batch_need():
    """Modal's own Python gets the packages of the layer `base` that contract, client and the batch import."""
    pinned = dict(re.findall(r"^([a-z]+)(>=[\d.]+)", (ROOT / "environment" / "base.txt").read_text(encoding="utf-8"), re.MULTILINE))
    text = SOURCE.read_text(encoding="utf-8")
    for name in ("numpy", "pillow"):
        assert f'"{name}{pinned[name]}"' in text
    code = (
        "import sys\nfor name in ('click', 'rich', 'scipy', 'torch', 'fastapi', 'starlette', 'pydantic'):\n    sys.modules[name] = None\n"
        "import comfyui_sam3d.factory.batch.run, comfyui_sam3d.factory.executors.endpoint, comfyui_sam3d.factory.executors.modal\n"
        "import comfyui_sam3d.factory.executors.relay, comfyui_sam3d.factory.output\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_the_app_imports_the_pack_inside_functions_alone():
    """`modal deploy` loads it in a Python that may have nothing but modal."""
    for node in ast.parse(SOURCE.read_text(encoding="utf-8")).body:
        for name in (
            [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module] if isinstance(node, ast.ImportFrom) else []
        ):
            assert name and (name == "modal" or name.split(".")[0] in sys.stdlib_module_names), name


def test_without_an_account_it_says_so(loaded, monkeypatch, tmp_path):
    monkeypatch.setenv("MODAL_CONFIG_PATH", str(tmp_path / "none.toml"))
    for name in ("MODAL_TOKEN_ID", "MODAL_TOKEN_SECRET"):
        monkeypatch.delenv(name, raising=False)
    if (Path.home() / ".modal.toml").exists():
        pytest.skip("this machine has a Modal account: it isn't called")
    with pytest.raises(modal.exception.AuthError):
        loaded.Sam3d(engine="draft").run_sam3d.remote(b"", b"")


# --- the class ---


def test_a_picture_and_its_mask(draft, tmp_path):
    picture, cut = sprite(tmp_path / "a.png", alpha=False, size=48), mask(tmp_path / "m.png", size=48, where=(slice(10, 40), slice(10, 40)))
    made = draft.reconstruct.local(png(picture), png(cut))
    assert set(made) == {"glb", "ply", "meta"} and made["glb"][:4] == b"glTF" and made["ply"][:4] == b"ply\n"
    meta = json.loads(json.dumps(made["meta"]))
    assert meta["engine"] == "draft" and meta["objects"][0]["faces"] > 0 and len(meta["key"]) == 64 and meta["seconds"] > 0
    assert draft.run_sam3d.local(png(picture), png(cut)) == made["ply"]
    own = sprite(tmp_path / "b.png", size=48)  # its alpha is the mask
    seeded = draft.reconstruct.local(png(own), None, {"seed": 7, "outputs": ["glb"], "faces": 600})
    assert seeded["ply"] is None and seeded["meta"]["seed"] == 7 and seeded["meta"]["parameters"]["face_budget"] == 600
    polygon = json.dumps([[10.0, 10.0, 40.0, 10.0, 40.0, 40.0]]).encode()
    assert draft.reconstruct.local(png(picture), polygon)["glb"][:4] == b"glTF"


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"image": b"no picture"}, ImageError),
        ({"image": "text"}, OptionError),
        ({"mask": None}, Exception),  # no alpha either
        ({"mask": "black"}, EmptyMaskError),
        ({"options": {"thicknes": 1}}, OptionError),
        ({"options": {"quality": "perfect"}}, OptionError),
        ({"options": {"back_image": "/etc/passwd"}}, OptionError),
        ({"options": {"pointmap": "/etc/passwd"}}, OptionError),
    ],
)
def test_wrong_input_is_refused_before_the_worker(tmp_path, change, error):
    picture, cut = sprite(tmp_path / "a.png", alpha=False), mask(tmp_path / "m.png")
    if change.get("mask") == "black":
        change = {"mask": png(mask(tmp_path / "black.png", where=(slice(0), slice(0))))}
    given = {"image": png(picture), "mask": png(cut), "options": {}, **change}
    with pytest.raises(error) as raised:
        request_from_bytes(given["image"], given["mask"], given["options"])
    assert type(raised.value).__module__.endswith("contract.errors") and raised.value.hint


def test_a_container_whose_engine_is_not_ready_refuses_every_job(loaded, monkeypatch, tmp_path, capsys):
    """It must not make drafts instead, and a batch must stop instead of quarantining every item."""
    monkeypatch.setenv("SAM3D_WORKER_COMMAND", STUB)  # knows no engine sam3d
    container = loaded.Sam3d()
    with pytest.raises(SetupError):
        container.run_sam3d.local(png(sprite(tmp_path / "a.png")))
    assert "E_SETUP" in capsys.readouterr().out
    disc = np.zeros((1, 8, 8), bool)
    disc[:, 2:6, 2:6] = True
    event = read_event(container.answer.local(request_frame(9, ReconstructRequest(image=np.zeros((8, 8, 3), np.uint8), masks=disc))))
    assert event[0] == 9 and event[1].error.code == "E_SETUP"


def test_the_worker_is_warm_before_the_first_job(monkeypatch, tmp_path):
    monkeypatch.setenv("SAM3D_WORKER_COMMAND", STUB)
    with LocalBackend() as backend:
        assert Relay(backend).warm() == "draft" and backend.worker_pid is not None


# --- batches ---


def of(method: Any) -> SimpleNamespace:
    """A method whose `.map.aio` runs `.local` here, and answers in the order in which it finishes; as Modal's, it takes these keywords."""

    async def aio(
        frames: AsyncIterator[bytes], *, order_outputs: bool = True, return_exceptions: bool = False
    ) -> AsyncGenerator[Any, None]:
        assert not order_outputs and return_exceptions
        async for frame in frames:
            yield await asyncio.to_thread(method.local, frame)

    return SimpleNamespace(map=SimpleNamespace(aio=aio))


def test_a_batch_keeps_its_manifest_here(draft, loaded, tmp_path, capsys):
    for number in range(3):
        sprite(tmp_path / "in" / f"{number}.png", shade=50 + 40 * number)
    (tmp_path / "in" / "broken.png").write_bytes(b"no picture")
    code = loaded.batch(tmp_path / "in", tmp_path / "out", of(draft.answer), 2, engine="draft", quality="fast", seed="")
    assert code == 1
    lines = [json.loads(line) for line in (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()]
    assert sorted((line["name"], line["status"]) for line in lines) == [("0", "done"), ("1", "done"), ("2", "done"), ("broken", "refused")]
    assert is_complete(tmp_path / "out" / "1")["parameters"]["quality"] == "fast"
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["event"] == "end"


def test_the_schedule_makes_what_is_new(loaded, monkeypatch, tmp_path):
    """First nothing is there, then something new, then nothing new: no container is asked."""
    monkeypatch.setenv("SAM3D_WORKER_COMMAND", STUB)
    said: list[str] = []
    monkeypatch.setattr(loaded, "files", SimpleNamespace(reload=lambda: said.append("reload"), commit=lambda: said.append("commit")))
    monkeypatch.setattr(loaded, "FILES", str(tmp_path))
    relay = Relay()
    asked = 0

    def local(frame: bytes) -> bytes:
        nonlocal asked
        asked += 1
        return relay.answer(frame)

    monkeypatch.setattr(loaded, "Sam3d", lambda: SimpleNamespace(answer=of(SimpleNamespace(local=local))))
    assert loaded.make_new.local() == 0 and said == ["reload"] and not (tmp_path / "out").exists()
    sprite(tmp_path / "in" / "a.png")
    assert loaded.make_new.local() == 3 and said[-1] == "commit", "the stub has no engine sam3d: the batch stops and says so"
    monkeypatch.setattr(loaded, "batch", lambda *a, engine, batch=loaded.batch: batch(*a, engine="draft"))
    assert loaded.make_new.local() == 0 and is_complete(tmp_path / "out" / "a")
    before, asked = asked, 0
    assert loaded.make_new.local() == 0 and asked == 0 and before == 2
    relay.close()


def test_the_demo(draft, loaded, tmp_path):
    folder = loaded.demo(ROOT / "examples" / "steak.png", None, tmp_path / "out", draft.reconstruct.local)
    meta = is_complete(folder)
    assert folder.name == "steak" and meta["engine"] == "draft" and set(meta["files"]) == {"model.glb", "splat.ply"}
    run_demo = loaded.run_demo.info.raw_f
    assert Path(inspect.signature(run_demo).parameters["image"].default).is_file()


# --- the endpoint ---


@pytest.fixture
def call(monkeypatch) -> Iterator[Callable[..., tuple[int, dict[str, str], Any]]]:
    """POST a body to the endpoint over the stub's worker -> status, headers, JSON or bytes. The standard's own validator sits between."""
    monkeypatch.setenv("SAM3D_WORKER_COMMAND", STUB)
    backend = LocalBackend()
    served = validator(wsgi(backend, TOKEN))

    def send(body: Any = None, *, path: str = "/reconstruct", method: str = "POST", token: str | None = TOKEN, **more: str) -> Any:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        environ: dict[str, Any] = {
            "PATH_INFO": path,
            "REQUEST_METHOD": method,
            "SCRIPT_NAME": "",
            "QUERY_STRING": "",
            "CONTENT_LENGTH": str(len(data)),
            "wsgi.input": io.BytesIO(data),
            **more,
        }
        if token is not None:
            environ["HTTP_AUTHORIZATION"] = f"Bearer {token}"
        wsgiref.util.setup_testing_defaults(environ)
        said: list[Any] = []

        def start(status: str, headers: list[tuple[str, str]], _problem: object = None) -> Callable[[bytes], object]:
            said.extend((int(status.split()[0]), dict(headers)))
            return lambda data: None

        answer = served(environ, start)
        found = b"".join(answer)
        answer.close()
        status, headers = said
        return status, headers, json.loads(found) if headers["Content-Type"] == "application/json" else found

    yield send
    backend.close()


def coded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_the_endpoint(call, tmp_path):
    picture = coded(png(sprite(tmp_path / "a.png")))
    status, _, body = call({"image": picture, "options": {"seed": 5}})
    assert status == 200 and base64.b64decode(body["glb"])[:4] == b"glTF" and base64.b64decode(body["ply"])[:4] == b"ply\n"
    assert body["meta"]["seed"] == 5
    status, headers, body = call({"image": picture}, HTTP_ACCEPT="model/gltf-binary")
    assert (status, headers["Content-Type"], body[:4]) == (200, "model/gltf-binary", b"glTF")
    black = coded(png(mask(tmp_path / "m.png", where=(slice(0), slice(0)))))
    status, _, body = call({"image": picture, "mask": black})
    assert status == 400 and body["error"]["code"] == "E_MASK_EMPTY"


def test_only_with_the_token(call, tmp_path):
    assert call(path="/healthz", method="GET", token=None)[0] == 200
    for token in (None, "", "wrong", TOKEN[:-1], TOKEN + "x", "é"):
        status, headers, body = call({"image": ""}, token=token)
        assert status == 401 and headers["WWW-Authenticate"] == "Bearer" and body["error"]["hint"]
    assert call({}, path="/", token=None)[0] == 401, "who has no token learns nothing of what there is"
    for token in ("", "short", "  "):
        with pytest.raises(SetupError, match="SAM3D_TOKEN"):
            wsgi(LocalBackend(), token)


@pytest.mark.parametrize(
    ("body", "more", "status", "code"),
    [
        (b"{", {}, 400, "E_OPTION"),
        (b"[1]", {}, 400, "E_OPTION"),
        (b"\xff\xfe", {}, 400, "E_OPTION"),
        ({}, {}, 400, "E_OPTION"),
        ({"image": "%%%"}, {}, 400, "E_OPTION"),
        ({"image": 5}, {}, 400, "E_OPTION"),
        ({"image": coded(b"no picture")}, {}, 400, "E_IMAGE"),
        ({"image": "good", "options": [1]}, {}, 400, "E_OPTION"),
        ({"image": "good", "options": {"seed": -1}}, {}, 400, "E_OPTION"),
        ({"image": "good", "options": {"seed": 666}}, {}, 422, "E_WORKER_CRASH"),
        ({"image": "good", "options": {"engine": "sam3d"}}, {}, 503, "E_SETUP"),
        ({}, {"method": "GET"}, 405, "E_OPTION"),
        ({}, {"path": "/else"}, 404, "E_OPTION"),
        ({}, {"CONTENT_LENGTH": str(MAX_BODY + 1)}, 413, "E_OPTION"),
        ({}, {"CONTENT_LENGTH": "many"}, 413, "E_OPTION"),
    ],
)
def test_what_the_endpoint_refuses(call, tmp_path, body, more, status, code):
    if isinstance(body, dict) and body.get("image") == "good":
        body = {**body, "image": coded(png(sprite(tmp_path / "a.png")))}
    if "CONTENT_LENGTH" in more and more["CONTENT_LENGTH"] == "many":  # the validator wouldn't let it through
        said: list[str] = []
        environ = {"PATH_INFO": "/reconstruct", "REQUEST_METHOD": "POST", "HTTP_AUTHORIZATION": f"bearer {TOKEN}", **more}
        (answer,) = wsgi(LocalBackend(), TOKEN)(environ, lambda text, headers: said.append(text))
        assert said[0].startswith("413") and json.loads(answer)["error"]["code"] == code
        return
    found = call(body, **more)
    assert (found[0], found[2]["error"]["code"]) == (status, code) and found[2]["error"]["hint"]
