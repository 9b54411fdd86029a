"""What strangers send: pictures, masks, frames, JSON and paths that are meant to hurt (docs/server.md, "What is kept out"), each with its own clear answer."""

from __future__ import annotations

import base64
import io
import os
import struct
import time
import tracemalloc
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from comfyui_sam3d.factory.server.limits import MIB
from fastapi.testclient import TestClient

from .server_app import SMALL, V1, encoded, error, mask_png, png, post_image, send_image, send_job, send_mask, server, wait


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    with server(tmp_path_factory.mktemp("server")) as found:
        yield found


# -- sizes


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def claimed_png(width: int, height: int, body: bytes = b"") -> bytes:
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body or zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("width", "height"), [(12000, 12000), (16385, 16), (7000, 6000), (2**31 - 1, 2**31 - 1)])
def test_many_megapixels_in_few_bytes(client: TestClient, width: int, height: int) -> None:
    began = time.monotonic()
    error(post_image(client, claimed_png(width, height)), 422, "E_IMAGE")
    assert time.monotonic() - began < 2  # the header was enough


def test_a_real_picture_of_144_megapixels(client: TestClient) -> None:
    body = zlib.compressobj(1)
    rows = b"".join(body.compress(b"\0" * 36001) for _ in range(12000)) + body.flush()
    error(post_image(client, claimed_png(12000, 12000, rows)), 422, "E_IMAGE")


def test_text_chunks_that_grow(client: TestClient) -> None:
    bomb = b"Comment\0\0" + zlib.compress(b"a" * (64 * MIB), 9)
    whole = png()
    error(post_image(client, whole[:33] + chunk(b"zTXt", bomb) * 3 + whole[33:]), 422, "E_IMAGE")


def test_a_zip_bomb_is_no_picture(client: TestClient) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", b"\0" * (20 * MIB))
    error(post_image(client, out.getvalue()), 422, "E_IMAGE")


@pytest.mark.parametrize(
    "data",
    [
        b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>",
        b"<!DOCTYPE html><script>alert(1)</script>",
        b"GIF89a" + b"\0" * 40,
        b"SIMPLE  =                    T" + b" " * 200,
        b"8BPS" + b"\0" * 100,
        b"II*\0" + b"\0" * 100,
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
        b"",
        b"\x89PNG\r\n\x1a\n",
        b"RIFF\x10\0\0\0WEBPjunk",
        b"\xff\xd8\xff\xe0" + b"\0" * 50,
    ],
    ids=lambda data: repr(data[:8]),
)
def test_a_lying_content_type(client: TestClient, data: bytes) -> None:
    error(post_image(client, data), 422, "E_IMAGE")


def test_our_pngs_are_served_as_such_whatever_came(client: TestClient) -> None:
    answer = client.post(f"{V1}/images", files={"file": ("x.svg", png(shade=9), "image/svg+xml")})
    stored = client.get(answer.json()["url"])
    assert stored.headers["content-type"] == "image/png" and stored.headers["x-content-type-options"] == "nosniff"


def test_large_bodies_are_refused_by_their_length(client: TestClient) -> None:
    found = error(post_image(client, b"\x89PNG\r\n\x1a\n" + b"\0" * (33 * MIB)), 413, "E_TOO_LARGE")
    assert "MiB" in found["message"]
    error(client.post(f"{V1}/jobs", content=b" " * (5 * MIB), headers={"Content-Type": "application/json"}), 413, "E_TOO_LARGE")
    error(client.post(f"{V1}/jobs", content=b"{}", headers={"Content-Length": "many"}), 413, "E_TOO_LARGE")


def test_large_bodies_without_a_length_are_counted(client: TestClient) -> None:
    def body() -> Iterator[bytes]:
        for _ in range(6):
            yield b" " * MIB

    error(client.post(f"{V1}/jobs", content=body(), headers={"Content-Type": "application/json"}), 413, "E_TOO_LARGE")


def test_one_file_a_call(client: TestClient) -> None:
    many = [("file", ("x.png", png(), "image/png"))] * 1100
    assert client.post(f"{V1}/images", files=many).status_code in (400, 422)


def test_deep_and_odd_json(client: TestClient) -> None:
    for text in ("[" * 100_000, '{"image_id":' * 50_000, '{"image_id": NaN}', "\udc80", '"\\ud800"', "{", "null", ""):
        answer = client.post(f"{V1}/jobs", content=text.encode("utf-8", "surrogatepass"), headers={"Content-Type": "application/json"})
        assert answer.status_code in (400, 422) and set(answer.json()["error"]) == {"code", "message", "hint"}, text[:20]
        answer = client.post(
            f"{V1}/reconstruct", content=text.encode("utf-8", "surrogatepass"), headers={"Content-Type": "application/json"}
        )
        assert answer.status_code in (400, 422), text[:20]


def test_masks_beyond_the_limit(tmp_path: Path) -> None:
    with server(tmp_path, limits=replace(SMALL, max_mask_pixels=24 * 20 * 2)) as client:
        image = send_image(client)
        masks = [send_mask(client, image["id"], mask_png(inset=n))["id"] for n in (4, 5, 6)]
        error(client.post(f"{V1}/jobs", json={"image_id": image["id"], "mask_ids": masks}), 422, "E_MASK")


def frame_of(claim: int, rest: bytes = b"") -> bytes:
    return struct.pack("<Q", claim) + rest


@pytest.mark.parametrize(
    "data", [b"", b"x", frame_of(1 << 40), frame_of(20, struct.pack("<Q", 1 << 40) + b"\0" * 12), frame_of(10, b"\x02" + b"\0" * 7 + b"{}")]
)
def test_frames_that_are_none(client: TestClient, data: bytes) -> None:
    error(client.post(f"{V1}/frames", content=data, headers={"Content-Type": "application/octet-stream"}), 400, "E_PROTOCOL")
    assert not list((client.app.state.service.root / "spool").iterdir())  # type: ignore[attr-defined]


# -- paths


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/images/../../../../etc/passwd",
        "/api/v1/images/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "/api/v1/images/..%5c..%5cwindows",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/assets/../../sam3d.sqlite3",
        "//etc/passwd",
        "/api/v1/jobs/../../x",
        "/sam3d.sqlite3",
    ],
)
def test_paths_lead_nowhere(client: TestClient, path: str) -> None:
    connectionless = client.get(path)
    assert connectionless.status_code in (404, 422) and "root:" not in connectionless.text


@pytest.mark.parametrize(
    "name",
    [
        "../meta.json",
        "..%2f..%2fsam3d.sqlite3",
        "%2e%2e/%2e%2e/sam3d.sqlite3",
        "model.glb/../../x",
        "/etc/passwd",
        "objects",
        "model.glb%00.png",
        ".",
    ],
)
def test_names_of_results_are_a_closed_set(client: TestClient, name: str) -> None:
    job = wait(client, send_job(client)["id"])
    answer = client.get(f"{V1}/jobs/{job['id']}/files/{name}")
    assert answer.status_code in (404, 422), answer.text[:100]


def test_a_link_in_the_results_leads_nowhere(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    with server(tmp_path / "data") as client:
        job = wait(client, send_job(client)["id"])
        file = next((tmp_path / "data" / "results").rglob("model.glb"))
        file.unlink()
        os.symlink(secret, file)
        error(client.get(job["outputs"][0]["url"]), 404, "E_NOT_FOUND")


@pytest.mark.parametrize("name", ["../../evil", "a/b", "..", "con", "x\0y", ".hidden", "<b>"])
def test_names_of_people_never_become_paths(client: TestClient, name: str) -> None:
    job = wait(client, send_job(client, name=name, names=[name])["id"])
    assert job["status"] == "succeeded", job
    archive = zipfile.ZipFile(io.BytesIO(client.get(job["links"]["archive"]).content))
    for entry in archive.namelist():
        parts = entry.split("/")
        assert ".." not in parts and not entry.startswith("/") and "\0" not in entry and len(parts) <= 3


def instant(client: TestClient, image: bytes, mask_input: object) -> object:
    return client.post(
        f"{V1}/reconstruct", json={"image": {"type": "base64", "value": base64.b64encode(image).decode()}, "mask_input": mask_input}
    )


def test_masks_in_json_are_counted_before_they_are_drawn(tmp_path: Path) -> None:
    """200 RLEs of a few bytes each would be a hundred times as many pixels as a job may have."""
    with server(tmp_path, limits=replace(SMALL, max_mask_pixels=3000)) as client:
        rle = {"size": [20, 24], "counts": [100, 60, 320]}
        assert instant(client, png(), [rle] * 6).status_code == 200  # type: ignore[attr-defined]
        tracemalloc.start()
        error(instant(client, png(1000, 1000), [{"size": [1000, 1000], "counts": [100, 60, 999840]}] * 200), 422, "E_MASK")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 60 * MIB


def test_outlines_in_json_have_a_budget(tmp_path: Path) -> None:
    """Thousands of outlines for one mask would hold up everybody's pictures for minutes."""
    with server(tmp_path, limits=replace(SMALL, max_mask_pixels=1_000_000)) as client:
        outline = [5, 5, 15, 5, 15, 15]
        assert instant(client, png(), [[outline] * 5]).status_code == 200  # type: ignore[attr-defined]
        for many in ([[outline] * 5000], [[x % 2 * 23, x % 20] for x in range(5000)]):
            found = error(instant(client, png(), many), 422, "E_MASK")
            assert "RLE" in found["hint"]


def test_masks_of_a_form_are_counted_before_they_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with server(tmp_path, limits=replace(SMALL, max_mask_pixels=1000)) as client:
        monkeypatch.setattr("comfyui_sam3d.factory.server.pictures.mask_of", None)
        files = [("image", ("x.png", png()))] + [("mask", ("m.png", mask_png()))] * 3
        error(client.post(f"{V1}/reconstruct", files=files), 422, "E_MASK")


@pytest.mark.parametrize("format", ["TIFF", "BMP", "GIF"])
@pytest.mark.parametrize("several", [False, True])
def test_masks_in_json_reach_no_other_decoder(client: TestClient, format: str, several: bool) -> None:
    pixels = np.zeros((20, 24), np.uint8)
    pixels[5:15, 5:15] = 255
    text = base64.b64encode(encoded(pixels, format)).decode()
    for form in (text, f" data:image/png;base64,{text}"):
        error(instant(client, png(), [form] if several else form), 422, "E_MASK")


def test_masks_in_json_are_looked_at_before_they_are_decoded(client: TestClient) -> None:
    found = error(instant(client, png(), base64.b64encode(claimed_png(7000, 6000)).decode()), 422, "E_MASK")
    assert "megapixels" in found["hint"]


def test_a_wrong_answer_makes_no_job(client: TestClient) -> None:
    before = len(client.get(f"{V1}/jobs?limit=200").json()["jobs"])
    error(client.post(f"{V1}/reconstruct", files={"image": png(alpha=True)}, data={"answer": "zip"}), 422, "E_OPTION")
    assert len(client.get(f"{V1}/jobs?limit=200").json()["jobs"]) == before
