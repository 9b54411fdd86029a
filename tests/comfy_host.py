"""A real ComfyUI for tests: started as users start it, driven over its HTTP API and its websocket.

COMFYUI_PATH names its source tree, COMFYUI_PYTHON the interpreter of its environment (default: this one). Nothing here stands in for ComfyUI.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import websocket

PACK = Path(__file__).resolve().parent.parent
STUB = f'"{sys.executable}" "{Path(__file__).with_name("stub_worker.py")}"'


class Host:
    """One running server. `base` holds its input, output and temp folders."""

    def __init__(self, port: int, base: Path, log: Path) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.base = base
        self.log = log

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=30) as answer:
            return json.load(answer)

    def raw(self, path: str) -> bytes:
        with urllib.request.urlopen(self.url + path, timeout=30) as answer:
            return bytes(answer.read())

    def post(self, path: str, body: Any) -> tuple[int, Any]:
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                text = answer.read()
                return answer.status, json.loads(text) if text else None
        except urllib.error.HTTPError as refused:
            return refused.code, json.load(refused)

    @contextmanager
    def listening(self) -> Iterator[Run]:
        """A websocket from before the prompt is posted, so that nothing is missed."""
        client = uuid.uuid4().hex
        socket_ = websocket.create_connection(f"{self.url.replace('http', 'ws')}/ws?clientId={client}", timeout=60)
        try:
            yield Run(self, client, socket_)
        finally:
            socket_.close()

    def run(self, graph: dict[str, Any], **options: Any) -> Run:
        """Post a graph and wait for its end."""
        with self.listening() as run:
            run.post(graph)
            run.wait(**options)
            return run


class Run:
    """One prompt: its websocket messages with the time they came, its history."""

    def __init__(self, host: Host, client: str, socket_: Any) -> None:
        self.host, self.client, self._socket = host, client, socket_
        self.id = ""
        self.messages: list[tuple[float, str, Any]] = []  # seconds, type, data; type "text" and "picture" for the binary ones

    def post(self, graph: dict[str, Any]) -> None:
        status, answer = self.host.post(
            "/prompt", {"prompt": graph, "client_id": self.client, "extra_data": {"extra_pnginfo": {"workflow": {"id": "x"}}}}
        )
        assert status == 200, answer
        self.id = answer["prompt_id"]

    def next(self) -> tuple[str, Any]:
        data = self._socket.recv()
        if isinstance(data, str):
            message = json.loads(data)
            kind, value = message["type"], message["data"]
        else:
            kind = {1: "picture", 3: "text", 4: "picture"}.get(int.from_bytes(data[:4], "big"), "binary")
            value = data[4:]
            if kind == "text":
                start = 4 + int.from_bytes(value[:4], "big")
                value = value[start:].decode()
        self.messages.append((time.monotonic(), kind, value))
        return kind, value

    def wait(self, seconds: float = 120) -> str:
        """Read until the prompt's end; returns execution_success, execution_error or execution_interrupted."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            kind, value = self.next()
            if kind in ("execution_success", "execution_error", "execution_interrupted") and value["prompt_id"] == self.id:
                return kind
        raise AssertionError(f"no end after {seconds} s: {[m[1] for m in self.messages][-20:]}")

    def of(self, kind: str) -> list[Any]:
        return [value for _, found, value in self.messages if found == kind]

    @property
    def outputs(self) -> dict[str, Any]:
        """Node id -> ui, from the history (which may lag a little)."""
        for _ in range(50):
            history = self.host.get(f"/history/{self.id}")
            if self.id in history:
                return dict(history[self.id]["outputs"])
            time.sleep(0.05)
        raise AssertionError("the prompt isn't in the history")


@contextmanager
def comfyui(base: Path, worker: str | None = None, *options: str, variables: Mapping[str, str] = MappingProxyType({})) -> Iterator[Host]:
    """A server with this pack and a base folder that is made, or empty but for models. worker: SAM3D_WORKER_COMMAND, else the pack's own worker in this
    interpreter. variables: further ones; no SAM3D_ variable of this process gets there."""
    tree = Path(os.environ["COMFYUI_PATH"])
    (base / "custom_nodes").mkdir(parents=True)
    (base / "custom_nodes" / "comfyui-sam3d").symlink_to(PACK, target_is_directory=True)
    for name in ("input", "output", "temp"):
        (base / name).mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SAM3D_")}
    environment |= {"SAM3D_WORKER_PYTHON": sys.executable, **variables}
    environment.pop("COVERAGE_PROCESS_START", None)
    if worker is not None:
        environment["SAM3D_WORKER_COMMAND"] = worker
    command = [
        os.environ.get("COMFYUI_PYTHON", sys.executable), "main.py", "--cpu", "--listen", "127.0.0.1", "--port", str(port), "--base-directory", str(base),
        "--database-url", "sqlite:///:memory:", "--disable-auto-launch", "--log-stdout", *options,
    ]  # fmt: skip
    log = base / "host.log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=tree, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env=environment)
    host = Host(port, base, log)
    try:
        for _ in range(480):
            if process.poll() is not None:
                raise AssertionError(f"ComfyUI ended:\n{log.read_text()[-4000:]}")
            try:
                host.get("/system_stats")
                break
            except OSError:
                time.sleep(0.25)
        yield host
    finally:
        process.terminate()
        reaper = threading.Timer(15, process.kill)
        reaper.start()
        process.wait()
        reaper.cancel()
