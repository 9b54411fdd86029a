"""Large answers of workers lie on the disk until they are written where they belong, and come out as they went in."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import tempfile
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi")

from comfyui_sam3d.contract.errors import ProtocolError
from comfyui_sam3d.contract.frames import encode_frame, read_frame
from comfyui_sam3d.factory.server import aside, instant, work
from comfyui_sam3d.factory.server.aside import Aside, pieces, released

from .server_app import send_job, server, wait

ARRAYS = {"a": np.arange(300_000, dtype=np.float32).reshape(3, -1), "b": np.arange(77_777, dtype=np.uint8), "c": np.zeros(0, bool)}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aside, "LARGE", 1000)
    monkeypatch.setattr(aside, "CHUNK", 4096)


def frame() -> bytes:
    return b"".join(encode_frame({"type": "x"}, ARRAYS))


def read(data: bytes, folder: Path) -> dict[str, np.ndarray]:
    found = read_frame(io.BytesIO(data).readinto, Aside(folder))
    assert found is not None
    return found[1]


def test_a_large_answer_comes_out_as_it_went_in(tmp_path: Path) -> None:
    found = read(frame(), tmp_path)
    for name, array in ARRAYS.items():
        assert np.array_equal(found[name], array) and found[name].dtype == array.dtype
        assert aside._mapping(found[name]) is not None
        assert b"".join(bytes(part) for part in released(pieces(array.reshape(-1)))) == array.tobytes()
    assert not list(tmp_path.iterdir())  # no name is left behind
    for _ in range(2):  # what has left the memory comes again
        assert b"".join(bytes(part) for part in released(pieces(found["a"].reshape(-1)))) == ARRAYS["a"].tobytes()
    with pytest.raises(ProtocolError, match="ended inside a frame"):
        read(frame()[:-1], tmp_path)


def test_what_workers_answer_into_memory_is_the_same_in_sum(tmp_path: Path) -> None:
    source = io.BytesIO(bytes(999))
    for workers, mapped in ((1, False), (2, True)):
        source.seek(0)
        assert (aside._mapping(Aside(tmp_path, workers)(source.readinto, 999)) is not None) == mapped


@pytest.mark.parametrize("room", [0, 1, 5000, 1_000_000])
def test_a_disk_that_is_full_costs_memory_and_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    class Full:
        """A file for which there is so much room."""

        def __init__(self, **options: Any) -> None:
            self.file, self.left = real(**options), room

        def write(self, data: memoryview) -> int:
            if not self.left:
                raise OSError(28, "No space left on device")
            wrote = int(self.file.write(data[: self.left]))
            self.left -= wrote
            return wrote

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

    real = tempfile.TemporaryFile
    monkeypatch.setattr(tempfile, "TemporaryFile", Full)
    found = read(frame(), tmp_path)
    assert all(np.array_equal(found[name], array) for name, array in ARRAYS.items())


def test_results_that_were_aside_are_the_same_files(tmp_path: Path) -> None:
    import shlex

    from comfyui_sam3d.client import LocalBackend

    from .factory_cli import STUB

    def backend(environment: Any) -> LocalBackend:
        return LocalBackend(shlex.split(STUB), environment=environment, grace=1.0, take=Aside(tmp_path))

    shas = []
    for n, options in enumerate(({}, {"open_backend": backend})):
        with server(tmp_path / str(n), **options) as client:  # type: ignore[arg-type]
            job = wait(client, send_job(client)["id"])
            assert job["status"] == "succeeded"
            text = client.get(f"/api/v1/jobs/{job['id']}/files/{work.SCENE}").content
            scene = read_frame(io.BytesIO(text).readinto)
            assert scene is not None
            shas.append(([(file["name"], file["sha256"]) for file in job["outputs"]], {name: a.tobytes() for name, a in scene[1].items()}))
    assert shas[0] == shas[1]


@pytest.mark.parametrize("size", [0, 1, 2, 3 << 18, (30 << 20) + 1])
def test_an_answer_with_files_in_json_is_never_in_memory_as_a_whole(tmp_path: Path, size: int) -> None:
    with server(tmp_path) as client:
        service = client.app.state.service  # type: ignore[attr-defined]
        job = wait(client, send_job(client, params={"outputs": ["glb", "ply"]})["id"])
        row = service.store.job(job["id"])
        data = np.random.default_rng(0).bytes(size)
        service.vault.place(row["result"]).path("splat.ply").write_bytes(data)
        answer, found = instant.response(service, row, instant.Instant(job["id"]), "json"), list[bytes]()

        async def take() -> None:
            async for piece in answer.body_iterator:  # type: ignore[attr-defined]
                found.append(piece)

        tracemalloc.start()
        asyncio.run(take())
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        text = b"".join(found)
        told = json.loads(text)
        assert len(text) == int(answer.headers["content-length"]) and answer.headers["content-type"] == "application/json"
        assert base64.b64decode(told["gaussian_ply"]) == base64.b64decode(told["objects"][0]["gaussian_ply"]) == data
        assert base64.b64decode(told["mesh_glb"])[:4] == b"glTF" and told["job_id"] == job["id"]
        assert max(map(len, found)) <= 1 << 20 and peak < len(text) + (4 << 20)  # it is kept here
