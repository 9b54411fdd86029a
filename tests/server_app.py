"""The job server for its tests: in this process behind a test client, with the real worker loop around a stub engine; pictures and masks to send."""

from __future__ import annotations

import http.client
import io
import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from comfyui_sam3d.client import LocalBackend
from comfyui_sam3d.factory.server.app import make_app
from comfyui_sam3d.factory.server.gate import Access
from comfyui_sam3d.factory.server.limits import Limits
from comfyui_sam3d.factory.server.protocol import protocol
from comfyui_sam3d.factory.server.service import Service
from fastapi.testclient import TestClient
from PIL import Image

from .factory_cli import STUB

V1 = "/api/v1"
SMALL = replace(Limits(), reserve=0)
OVER = ("succeeded", "failed", "canceled")


def stub(environment: Mapping[str, str]) -> LocalBackend:
    import shlex

    return LocalBackend(shlex.split(STUB), environment=environment, grace=1.0)


@contextmanager
def server(
    root: Path,
    *,
    limits: Limits = SMALL,
    access: Access | None = None,
    workers: int = 1,
    open_backend: Any = stub,
    base: str = "http://127.0.0.1",
) -> Iterator[TestClient]:
    """A running server. Its Service is `client.app.state.service`."""
    service = Service(root, limits, [{} for _ in range(workers)], open_backend)
    with TestClient(make_app(service, access or Access()), base_url=base, raise_server_exceptions=False) as client:
        yield client


def png(width: int = 24, height: int = 20, *, alpha: bool = False, shade: int = 120, **options: Any) -> bytes:
    """A disc on white, or on nothing."""
    rows, columns = np.mgrid[:height, :width]
    disc = (rows - height / 2 + 0.5) ** 2 + (columns - width / 2 + 0.5) ** 2 < (min(width, height) * 0.4) ** 2
    pixels = np.full((height, width, 4), 255, np.uint8)
    pixels[disc] = (shade, 200 - shade // 2, 60, 255)
    if alpha:
        pixels[~disc, 3] = 0
    return encoded(pixels if alpha else pixels[..., :3], **options)


def mask_png(width: int = 24, height: int = 20, inset: int = 5) -> bytes:
    pixels = np.zeros((height, width), np.uint8)
    pixels[inset:-inset, inset:-inset] = 255
    return encoded(pixels)


def encoded(pixels: np.ndarray, format: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format=format, **options)
    return out.getvalue()


def send_image(client: TestClient, data: bytes | None = None, **options: Any) -> dict[str, Any]:
    answer = client.post(f"{V1}/images", files={"file": ("x.png", png(**options) if data is None else data, "image/png")})
    assert answer.status_code in (200, 201), answer.text
    found: dict[str, Any] = answer.json()
    return found


def send_mask(client: TestClient, image: str, data: bytes | None = None) -> dict[str, Any]:
    answer = client.post(f"{V1}/masks", files={"file": ("m.png", mask_png() if data is None else data)}, data={"image_id": image})
    assert answer.status_code in (200, 201), answer.text
    found: dict[str, Any] = answer.json()
    return found


def send_job(client: TestClient, *, headers: dict[str, str] | None = None, expect: int | None = None, **body: Any) -> dict[str, Any]:
    if "image_id" not in body:
        body["image_id"] = send_image(client, alpha=True)["id"]
    answer = client.post(f"{V1}/jobs", json=body, headers=headers or {})
    assert answer.status_code in ((200, 201) if expect is None else (expect,)), answer.text
    found: dict[str, Any] = answer.json()
    return found


def wait(client: TestClient, job: str, until: tuple[str, ...] = OVER, seconds: float = 30.0) -> dict[str, Any]:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found: dict[str, Any] = client.get(f"{V1}/jobs/{job}").json()
        if found["status"] in until:
            return found
        time.sleep(0.01)
    raise AssertionError(f"the job is still {found['status']}")


def error(answer: Any, status: int, code: str) -> dict[str, Any]:
    """The error of an answer, with its status and code as expected, and nothing of this machine in its words."""
    assert answer.status_code == status, (answer.status_code, answer.text)
    found: dict[str, Any] = answer.json()["error"]
    assert found["message"] and found["hint"], found
    assert set(answer.json()) == {"error"} and set(found) == {"code", "message", "hint"} and found["code"] == code, found
    assert "/" not in found["message"].replace("a/b", "").replace("application/json", "").replace("multipart/form-data", "")
    return found


def events(text: str) -> list[dict[str, Any]]:
    """The events of a stream's text: id, event, data."""
    import json

    found = []
    for block in text.split("\n\n"):
        lines = dict(line.partition(": ")[::2] for line in block.splitlines() if line and not line.startswith(":"))
        if "data" in lines:
            found.append({"id": int(lines["id"]), "event": lines["event"], "data": json.loads(lines["data"])})
    return found


class OnPort:
    """A server on a port of this machine, in a thread; `restart` stops it in good order and starts another one on the same data and port."""

    def __init__(self, root: Path, limits: Limits, access: Access, workers: int) -> None:
        self._made = root, limits, access, workers
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.start()

    def start(self) -> None:
        root, limits, access, workers = self._made
        self.service = Service(root, limits, [{} for _ in range(workers)], stub)
        config = uvicorn.Config(
            make_app(self.service, access), http=protocol(limits), ws="none", log_config=None, timeout_graceful_shutdown=1
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._listener.dup()]})
        self._thread.start()
        while not self._server.started:
            time.sleep(0.005)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()

    def restart(self) -> None:
        self.stop()
        self.start()

    def close(self) -> None:
        self.stop()
        self._listener.close()


@contextmanager
def on_port(root: Path, *, limits: Limits = SMALL, access: Access | None = None, workers: int = 1) -> Iterator[tuple[str, OnPort]]:
    """Its address and itself."""
    found = OnPort(root, limits, access or Access(), workers)
    try:
        yield found.url, found
    finally:
        found.close()


def post_image(client: TestClient, data: bytes, **options: object) -> object:
    return client.post(f"{V1}/images", files={"file": ("x.png", data, "image/png")}, **options)  # type: ignore[arg-type]


def upload(url: str, data: bytes, image: str = "") -> tuple[int, dict[str, object]]:
    """A picture, or a mask of the picture `image`. Returns the answer's status and body."""
    boundary = "xxxxxxxxxxxx"
    field = f'--{boundary}\r\nContent-Disposition: form-data; name="image_id"\r\n\r\n{image}\r\n' if image else ""
    head = field + f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="x.png"\r\nContent-Type: image/png\r\n\r\n'
    body = head.encode() + data + f"\r\n--{boundary}--\r\n".encode()
    host = url.removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=120)
    try:
        connection.request(
            "POST", f"{V1}/{'masks' if image else 'images'}", body, {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        )
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()
