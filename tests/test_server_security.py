"""Every row of the table of limits and attacks (docs/server.md, "What is kept out"), each with its own clear answer."""

from __future__ import annotations

import base64
import http.client
import io
import json
import os
import socket
import struct
import threading
import time
import tracemalloc
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from comfyui_sam3d.contract.errors import OptionError, Sam3dError, StorageError
from comfyui_sam3d.factory.cli.serve import find_token, is_loopback, listen
from comfyui_sam3d.factory.server.gate import COOKIE, CSP, Access
from comfyui_sam3d.factory.server.keeper import tidy
from comfyui_sam3d.factory.server.limits import MIB
from fastapi.testclient import TestClient

from .server_app import SMALL, V1, encoded, error, mask_png, on_port, png, send_image, send_job, send_mask, server, wait

TOKEN = "correct-horse-battery"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    with server(tmp_path_factory.mktemp("server")) as found:
        yield found


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """Reached from elsewhere, with a token."""
    access = Access(token=TOKEN, loopback=False, hosts=("assets.example",), origins=("https://page.example",))
    with server(tmp_path_factory.mktemp("guarded"), access=access) as found:
        yield found


def post_image(client: TestClient, data: bytes, **options: object) -> object:
    return client.post(f"{V1}/images", files={"file": ("x.png", data, "image/png")}, **options)  # type: ignore[arg-type]


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


# -- who calls


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "192.168.1.5", "", "[::2]", "a b"])
def test_rebinding_hosts_are_refused(client: TestClient, host: str) -> None:
    error(client.get(f"{V1}/info", headers={"Host": host}), 421, "E_DENIED")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:8765", "[::1]:80", "LOCALHOST"])
def test_this_machine_by_its_names(client: TestClient, host: str) -> None:
    assert client.get(f"{V1}/info", headers={"Host": host}).status_code == 200


def test_hosts_of_a_server_on_the_network(guarded: TestClient) -> None:
    for host, status in (("assets.example", 200), ("192.168.1.5:8765", 200), ("evil.example", 421)):
        assert guarded.get(f"{V1}/info", headers={**BEARER, "Host": host}).status_code == status


def test_posts_from_pages_elsewhere(client: TestClient) -> None:
    post = {"url": f"{V1}/reconstruct", "files": {"image": png(alpha=True)}}
    for headers in (
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:3000"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},
    ):
        error(client.post(**post, headers=headers), 403, "E_DENIED")  # type: ignore[arg-type]
    error(client.get(f"{V1}/jobs", headers={"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}), 403, "E_DENIED")
    assert client.get("/", headers={"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}).status_code == 200  # a link
    assert client.post(**post, headers={"Origin": "http://127.0.0.1", "Sec-Fetch-Site": "same-origin"}).status_code == 200  # type: ignore[arg-type]


def test_a_form_post_is_no_json(client: TestClient) -> None:
    body = json.dumps({"image_id": send_image(client, alpha=True)["id"]})
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        assert client.post(f"{V1}/jobs", content=body, headers={"Content-Type": kind}).status_code == 422


def test_other_origins_only_where_they_are_named(client: TestClient, guarded: TestClient) -> None:
    asked = {"Origin": "https://page.example", "Access-Control-Request-Method": "POST"}
    assert "access-control-allow-origin" not in client.options(f"{V1}/jobs", headers=asked).headers
    answer = guarded.options(f"{V1}/jobs", headers=asked)
    assert answer.status_code == 204 and answer.headers["access-control-allow-origin"] == "https://page.example"
    assert guarded.options(f"{V1}/jobs", headers={**asked, "Origin": "https://other.example"}).status_code == 403
    answer = guarded.get(f"{V1}/jobs", headers={**BEARER, "Origin": "https://page.example", "Sec-Fetch-Site": "cross-site"})
    assert answer.status_code == 200 and answer.headers["access-control-allow-origin"] == "https://page.example"
    assert "access-control-allow-credentials" not in answer.headers
    error(guarded.get(f"{V1}/jobs", headers={**BEARER, "Origin": "https://other.example"}), 403, "E_DENIED")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Bearer \xff"},
    ],
)
def test_without_the_token_there_is_nothing(guarded: TestClient, headers: dict[str, str]) -> None:
    raw = {key: value.encode("latin-1") for key, value in headers.items()}
    for path in ("/info", "/jobs", "/events", "/openapi.json", "/images/" + "0" * 64, "/nothing"):
        answer = guarded.get(V1 + path, headers=raw)  # type: ignore[arg-type]
        error(answer, 401, "E_DENIED")
        assert answer.headers["www-authenticate"] == "Bearer"
    assert guarded.get("/healthz").status_code == guarded.get("/").status_code == 200


def test_the_page_gets_a_cookie_for_the_token(guarded: TestClient) -> None:
    error(guarded.post(f"{V1}/session", json={"token": "wrong"}), 403, "E_DENIED")
    answer = guarded.post(f"{V1}/session", json={"token": TOKEN})
    cookie = answer.headers["set-cookie"]
    assert answer.status_code == 204 and "HttpOnly" in cookie and "SameSite=strict" in cookie and TOKEN not in cookie
    assert guarded.get(f"{V1}/jobs").status_code == 200  # the client keeps cookies
    guarded.cookies.clear()
    guarded.cookies.set(COOKIE, "0" * 64)
    error(guarded.get(f"{V1}/jobs"), 401, "E_DENIED")
    guarded.cookies.clear()


def test_headers_of_every_answer(client: TestClient) -> None:
    for answer in (
        client.get("/"),
        client.get(f"{V1}/info"),
        client.get("/nothing"),
        client.get("/", headers={"Host": "evil"}),
        client.post(f"{V1}/jobs"),
    ):
        assert answer.headers["content-security-policy"] == CSP and "unsafe-eval" not in CSP.replace("wasm-unsafe-eval", "")
        assert answer.headers["x-content-type-options"] == "nosniff" and answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["referrer-policy"] == "no-referrer" and answer.headers["cache-control"] in ("no-store", "no-cache")
        assert "server" not in answer.headers


def test_where_a_token_is_needed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SAM3D_TOKEN", raising=False)
    assert all(is_loopback(host) for host in ("127.0.0.1", "::1", "[::1]", "localhost", "127.8.8.8"))
    assert not any(is_loopback(host) for host in ("0.0.0.0", "::", "192.168.1.5", "box", ""))
    assert find_token(None, needed=False) == (None, False)
    made, fresh = find_token(None, needed=True)
    assert fresh and made is not None and len(made) >= 32 and find_token(None, needed=True)[0] != made
    monkeypatch.setenv("SAM3D_TOKEN", TOKEN)
    assert find_token(None, needed=False) == (TOKEN, False)
    file = tmp_path / "token"
    file.write_text("another-token\n")
    assert find_token(file, needed=True) == ("another-token", False)
    for text in ("short", "", "with space in it", "non-ascii-ü-token"):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(OptionError):
            find_token(file, needed=True)
    with pytest.raises(OptionError):
        find_token(tmp_path / "none", needed=True)
    with listen("127.0.0.1", 0) as taken, pytest.raises(OptionError):
        listen("127.0.0.1", taken.getsockname()[1])


# -- too much, too slow


def test_more_uploads_at_once_than_allowed(tmp_path: Path) -> None:
    """Each of 24 parallel uploads is stored, or answered 429 with the whole answer, although its body was still under way."""
    rng = np.random.default_rng(0)
    pictures = [encoded(rng.integers(0, 256, (300, 300, 3), np.uint8), compress_level=0) for _ in range(24)]
    found: list[tuple[int, dict[str, object]]] = []
    with on_port(tmp_path, limits=replace(SMALL, max_uploads=2)) as (url, _):
        threads = [threading.Thread(target=lambda data=data: found.append(upload(url, data))) for data in pictures]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(found) == 24 and {status for status, _ in found} <= {201, 429}
    assert any(status == 201 for status, _ in found)
    for status, body in found:
        assert "id" in body if status == 201 else body["error"]["code"] == "E_BUSY"  # type: ignore[index]


def upload(url: str, data: bytes) -> tuple[int, dict[str, object]]:
    boundary = "xxxxxxxxxxxx"
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="x.png"\r\nContent-Type: image/png\r\n\r\n'
    body = head.encode() + data + f"\r\n--{boundary}--\r\n".encode()
    host = url.removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=120)
    try:
        connection.request("POST", f"{V1}/images", body, {"Content-Type": f"multipart/form-data; boundary={boundary}"})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


@pytest.mark.full
def test_200_uploads_of_30_megabytes_stay_under_a_gigabyte(tmp_path: Path) -> None:
    import psutil

    from .server_process import Served

    rng = np.random.default_rng(0)
    base = rng.integers(0, 256, (3200, 3200, 3), np.uint8)
    found: list[tuple[int, dict[str, object]]] = []
    with Served(tmp_path) as served:
        peak, over = 0, threading.Event()

        def weigh() -> None:
            nonlocal peak
            process = psutil.Process(served.pid)
            while not over.wait(0.02):
                peak = max(peak, process.memory_info().rss)

        watcher = threading.Thread(target=weigh)
        watcher.start()
        data = [encoded(np.roll(base, n, axis=0), compress_level=0) for n in range(8)]
        assert 29 * MIB < len(data[0]) < 31 * MIB
        threads = [threading.Thread(target=lambda n=n: found.append(upload(served.url, data[n % 8]))) for n in range(200)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        over.set()
        watcher.join()
    assert len(found) == 200 and {status for status, _ in found} <= {200, 201, 429}
    print(f"peak {peak / MIB:.0f} MiB, {sum(status != 429 for status, _ in found)} stored")
    assert peak < 1 << 30


@pytest.mark.full
def test_the_largest_picture_stays_under_a_gigabyte(tmp_path: Path) -> None:
    import psutil

    from .server_process import Served

    pixels = np.zeros((5000, 8000, 4), np.uint8)
    pixels[1000:4000, 1000:7000] = (200, 100, 50, 200)
    data = encoded(pixels)
    with Served(tmp_path) as served:
        process = psutil.Process(served.pid)
        peak, over = 0, threading.Event()

        def weigh() -> None:
            nonlocal peak
            while not over.wait(0.005):
                peak = max(peak, process.memory_info().rss)

        watcher = threading.Thread(target=weigh)
        watcher.start()
        status, _ = upload(served.url, data)
        over.set()
        watcher.join()
    assert status == 201
    print(f"peak {peak / MIB:.0f} MiB")
    assert peak < 1 << 30


def said(connection: socket.socket) -> bytes:
    """All that comes until the server closes the connection."""
    found = b""
    connection.settimeout(10)
    while part := connection.recv(65536):
        found += part
    return found


def test_slow_clients_are_let_go(tmp_path: Path) -> None:
    limits = replace(SMALL, head_time=0.4, body_silence=0.4, body_time=0.9)
    with on_port(tmp_path, limits=limits) as (url, _):
        address = ("127.0.0.1", int(url.rsplit(":", 1)[1]))
        with socket.create_connection(address) as silent, socket.create_connection(address) as dripping:
            dripping.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127")
            for connection in (silent, dripping):
                answer = said(connection)
                assert b" 408 " in answer and b"E_TIME_LIMIT" in answer
        head = b"POST /api/v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"
        with socket.create_connection(address) as stuck:
            stuck.sendall(head)
            answer = said(stuck)
            assert answer.startswith(b"HTTP/1.1 408 ") and b"E_TIME_LIMIT" in answer
        with socket.create_connection(address) as dripping:
            dripping.sendall(head)
            began = time.monotonic()
            try:
                for _ in range(60):
                    dripping.sendall(b" ")
                    time.sleep(0.05)
            except OSError:
                pass
            assert b"E_TIME_LIMIT" in said(dripping) or time.monotonic() - began < 3
        with socket.create_connection(address) as kept:  # a connection that is kept has the same time for its next head
            kept.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            time.sleep(0.1)
            kept.sendall(b"GET /heal")
            assert said(kept).count(b"HTTP/1.1 ") == 2


def test_http_that_is_none(tmp_path: Path) -> None:
    with on_port(tmp_path) as (url, _):
        address = ("127.0.0.1", int(url.rsplit(":", 1)[1]))
        for text in (b"\x16\x03\x01\x02\0\x01\0\x01", b"GET / HTTP/9.9\r\n\r\n", b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 20000 + b"\r\n"):
            with socket.create_connection(address) as connection:
                connection.sendall(text)
                connection.shutdown(socket.SHUT_WR)
                try:
                    said(connection)
                except ConnectionError:
                    pass
        with socket.create_connection(address) as connection:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert b'"ok"' in said(connection)


def test_the_queue_pushes_back(tmp_path: Path) -> None:
    with server(tmp_path, limits=replace(SMALL, max_queue=2)) as client:
        first = send_job(client, params={"seed": 1020})
        wait(client, first["id"], ("running",))
        for n in range(2):
            send_job(client, params={"seed": n})
        answer = client.post(f"{V1}/jobs", json={"image_id": first["image_id"]})
        error(answer, 429, "E_BUSY")
        assert int(answer.headers["retry-after"]) >= 1
        client.post(f"{V1}/jobs/{first['id']}/cancel")


def test_a_job_has_its_time(tmp_path: Path) -> None:
    with server(tmp_path) as client:
        wait(client, send_job(client)["id"])  # what a worker loads at its first job isn't timed
        for slot in client.app.state.service.dispatcher.slots:  # type: ignore[attr-defined]
            slot._limits = replace(SMALL, job_time=1.5)
        job = wait(client, send_job(client, params={"seed": 1020})["id"])
        assert job["status"] == "failed" and job["error"]["code"] == "E_TIME_LIMIT" and job["attempts"] == 1
        assert wait(client, send_job(client, params={"seed": 1})["id"])["status"] == "succeeded"  # the worker works on


def test_the_share_of_the_disk(tmp_path: Path) -> None:
    with server(tmp_path, limits=replace(SMALL, quota=40_000)) as client:
        rng = np.random.default_rng(0)
        image = send_image(client, alpha=True)
        job = wait(client, send_job(client, image_id=image["id"])["id"])
        assert job["status"] == "succeeded"
        error(post_image(client, encoded(rng.integers(0, 256, (150, 150, 3), np.uint8))), 507, "E_STORAGE")
        service = client.app.state.service  # type: ignore[attr-defined]
        with pytest.raises(StorageError):
            service.vault.check_room(1 << 50)
        before = service.vault.used()
        client.delete(f"{V1}/jobs/{job['id']}")
        tidy(service.store, service.vault, replace(SMALL, keep_files=-1.0))
        assert service.vault.used() < before and not list((tmp_path / "results").iterdir())


def test_old_jobs_go_with_their_files(tmp_path: Path) -> None:
    with server(tmp_path) as client:
        service = client.app.state.service  # type: ignore[attr-defined]
        old = wait(client, send_job(client, params={"seed": 1})["id"])
        kept = send_job(client, params={"seed": 1020})
        wait(client, kept["id"], ("running",))
        later = time.time() + 40 * 86400
        assert tidy(service.store, service.vault, service.limits, later) == 1
        error(client.get(f"{V1}/jobs/{old['id']}"), 404, "E_NOT_FOUND")
        assert client.get(f"{V1}/images/{kept['image_id']}").status_code == 200  # a job that runs still needs it
        client.post(f"{V1}/jobs/{kept['id']}/cancel")
        wait(client, kept["id"])
        tidy(service.store, service.vault, service.limits, later + 80 * 86400)
        assert service.vault.used() == 0 and not list(tmp_path.glob("images/*/*.png"))


def test_one_server_for_each_folder(tmp_path: Path) -> None:
    with server(tmp_path) as _, pytest.raises(Sam3dError, match="in use"), server(tmp_path):
        pass


def test_defects_tell_nothing(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("secret /path/of/this/machine")

    monkeypatch.setattr(client.app.state.service.store, "jobs", broken)  # type: ignore[attr-defined]
    answer = client.get(f"{V1}/jobs")
    assert answer.status_code == 500 and "secret" not in answer.text and answer.json()["error"]["code"] == "E_SERVICE"


# -- what a review found


@pytest.mark.parametrize("origin", ["http://[", "null", "//", "http://127.0.0.1:99999999", "\u00ff"])
def test_an_origin_that_is_none(client: TestClient, origin: str) -> None:
    answer = client.get(f"{V1}/jobs", headers={"Origin": origin.encode("latin-1")})  # type: ignore[dict-item]
    error(answer, 403, "E_DENIED")
    assert answer.headers["content-security-policy"] == CSP


def test_answers_of_defects_have_the_headers_of_all_others(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(client.app.state.service.store, "jobs", broken)  # type: ignore[attr-defined]
    answer = client.get(f"{V1}/jobs")
    error(answer, 500, "E_SERVICE")
    assert answer.headers["content-security-policy"] == CSP and answer.headers["x-content-type-options"] == "nosniff"


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


def test_segmentations_that_wait_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One works, and nobody may line up hundreds behind it."""
    from comfyui_sam3d.factory.segment.desk import Desk

    free = threading.Event()

    def slow(*_: object) -> list[object]:
        free.wait(10)
        return []

    monkeypatch.setattr(Desk, "predict", slow)
    with server(tmp_path, limits=replace(SMALL, max_segments=3)) as client:
        url = f"{V1}/images/{send_image(client)['id']}/segment"
        found: list[int] = []
        threads = [threading.Thread(target=lambda: found.append(client.post(url, json={}).status_code)) for _ in range(8)]
        for thread in threads:
            thread.start()
        end = time.monotonic() + 5
        while found.count(429) < 5 and time.monotonic() < end:
            time.sleep(0.01)
        free.set()
        for thread in threads:
            thread.join()
    assert sorted(found) == [200] * 3 + [429] * 5


def test_the_address_that_serve_prints_is_one_of_its_names() -> None:
    from comfyui_sam3d.factory.cli.serve import access_of

    for host, shown in (("gpu-box", "gpu-box:8765"), ("127.0.0.2", "127.0.0.2:80"), ("::1", "[::1]:8765"), ("0.0.0.0", "10.0.0.7")):
        assert access_of(host, None, (), ()).names_us(shown)
    assert not access_of("gpu-box", None, (), ()).names_us("evil.example")
    assert not access_of("127.0.0.1", None, (), ()).names_us("10.0.0.7")
