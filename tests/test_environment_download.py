"""download.py against a server on the loopback that does everything wrong that servers do."""

from __future__ import annotations

import hashlib
import http.server
import io
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from comfyui_sam3d.environment import download
from comfyui_sam3d.environment.errors import InstallError

PROGRAM = b"#!/bin/sh\necho 2.9.0\n" + bytes(5000)
DIGEST = hashlib.sha256(PROGRAM).hexdigest()


def package(member: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:bz2") as archive:
        entry = tarfile.TarInfo(member)
        entry.size = len(PROGRAM)
        archive.addfile(entry, io.BytesIO(PROGRAM))
    return buffer.getvalue()


class Server:
    """Answers by path; counts what was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                answer = ANSWERS.get(self.path)
                answer(self, outer.asked.count(self.path)) if answer else send(self, 404, b"nothing here")

            def log_message(self, *args: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


def send(request: http.server.BaseHTTPRequestHandler, status: int, body: bytes, **headers: str) -> None:
    request.send_response(status)
    request.send_header("Content-Length", headers.pop("length", str(len(body))))
    for name, value in headers.items():
        request.send_header(name, value)
    request.end_headers()
    try:
        request.wfile.write(body)
    except OSError:
        pass


def slowly(request: http.server.BaseHTTPRequestHandler, _: int) -> None:
    request.send_response(200)
    request.send_header("Content-Length", str(len(PROGRAM)))
    request.end_headers()
    for start in range(0, len(PROGRAM), 1000):
        request.wfile.write(PROGRAM[start : start + 1000])
        request.wfile.flush()
        time.sleep(0.05)


def silent(request: http.server.BaseHTTPRequestHandler, _: int) -> None:
    request.send_response(200)
    request.send_header("Content-Length", str(len(PROGRAM)))
    request.end_headers()
    time.sleep(1)


ANSWERS: dict[str, Callable[[http.server.BaseHTTPRequestHandler, int], None]] = {
    "/good": lambda request, _: send(request, 200, PROGRAM),
    "/good.sha256": lambda request, _: send(request, 200, f"{DIGEST}  micromamba\n".encode()),
    "/truncated": lambda request, _: send(request, 200, PROGRAM[:3000], length=str(len(PROGRAM))),
    "/mended": lambda request, count: send(request, 200, PROGRAM if count > 1 else PROGRAM[:3000], length=str(len(PROGRAM))),
    "/other": lambda request, _: send(request, 200, PROGRAM.replace(b"2.9.0", b"6.6.6")),
    "/page": lambda request, _: send(request, 200, b"<html>please log in</html>"),
    "/empty": lambda request, _: send(request, 200, b""),
    "/busy": lambda request, count: send(request, 503, b"busy") if count < 3 else send(request, 200, PROGRAM),
    "/down": lambda request, _: send(request, 500, b"broken"),
    "/moved": lambda request, _: send(request, 302, b"", Location="/good"),
    "/circle": lambda request, _: send(request, 302, b"", Location="/circle"),
    "/login": lambda request, _: send(request, 200 if request.headers["Authorization"] == "Basic bWU6YSBi" else 401, PROGRAM),
    "/mirror/noarch/repodata.json": lambda request, _: send(request, 200, b"{}"),
    "/slow": slowly,
    "/silent": silent,
    "/unpublished": lambda request, _: send(request, 200, PROGRAM),
    "/lies": lambda request, _: send(request, 200, PROGRAM),
    "/lies.sha256": lambda request, _: send(request, 200, b"<html>not found</html>"),
    "/package.tar.bz2": lambda request, _: send(request, 200, package("bin/micromamba")),
    "/windows.tar.bz2": lambda request, _: send(request, 200, package("Library/bin/micromamba.exe")),
    "/wrong.tar.bz2": lambda request, _: send(request, 200, package("bin/conda")),
    "/cut.tar.bz2": lambda request, _: send(request, 200, package("bin/micromamba")[:60]),
}


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.server.serve_forever)
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


@pytest.fixture
def server(running: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setattr(download, "PAUSE", 0.01)
    monkeypatch.setattr(download, "TIMEOUT", 0.5)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    running.asked.clear()
    return running


def fetch(server: Server, folder: Path, *names: str, sha256: str = DIGEST) -> Path:
    target = folder / "tools" / "micromamba"
    taken = download.fetch([server.url + name for name in names], sha256, str(target), lambda line: None, smallest=1000)
    assert target.read_bytes() == PROGRAM and target.stat().st_mode & 0o111
    assert [path.name for path in target.parent.iterdir()] == ["micromamba"]
    assert taken.startswith(server.url)
    return target


@pytest.mark.parametrize(
    ("name", "asked"),
    [("/good", 1), ("/mended", 2), ("/busy", 3), ("/moved", 1), ("/slow", 1), ("/package.tar.bz2", 1), ("/windows.tar.bz2", 1)],
)
def test_what_arrives_in_the_end(server: Server, tmp_path: Path, name: str, asked: int) -> None:
    fetch(server, tmp_path, name)
    assert server.asked.count(name) == asked


@pytest.mark.parametrize(
    ("name", "code", "says", "asked"),
    [
        ("/truncated", "E_MM_DOWNLOAD", "cut after 3000 of 5021 bytes", 3),
        ("/other", "E_HASH", "its sha256 is", 1),
        ("/page", "E_HASH", "26 bytes are too few", 1),
        ("/empty", "E_HASH", "0 bytes are too few", 1),
        ("/down", "E_MM_DOWNLOAD", "status 500", 3),
        ("/nothing", "E_MM_DOWNLOAD", "status 404", 1),
        ("/circle", "E_MM_DOWNLOAD", "status 302", None),
        ("/silent", "E_MM_DOWNLOAD", "timed out", 3),
        ("/wrong.tar.bz2", "E_HASH", "no micromamba in the archive", 1),
        ("/cut.tar.bz2", "E_MM_DOWNLOAD", "", 3),
    ],
)
def test_what_never_arrives(server: Server, tmp_path: Path, name: str, code: str, says: str, asked: int | None) -> None:
    with pytest.raises(InstallError) as caught:
        fetch(server, tmp_path, name)
    assert caught.value.code == code and says in caught.value.message and caught.value.network
    assert asked is None or server.asked.count(name) == asked
    assert list((tmp_path / "tools").iterdir()) == []  # nothing that could be taken for a tool


def test_the_next_source_counts(server: Server, tmp_path: Path) -> None:
    fetch(server, tmp_path, "/page", "/nothing", "/other", "/good")
    assert server.asked == ["/page", "/nothing", "/other", "/good"]


def test_a_digest_that_nobody_knows(server: Server, tmp_path: Path) -> None:
    """The published one counts where none is pinned; without either nothing is run."""
    fetch(server, tmp_path, "/good", sha256="")
    for name in ("/unpublished", "/lies"):
        with pytest.raises(InstallError) as caught:
            fetch(server, tmp_path / "other", name, sha256="")
        assert caught.value.code == "E_HASH" and name not in [asked for asked in server.asked if asked == name]


def test_a_login_in_the_address(server: Server, tmp_path: Path) -> None:
    server.url = server.url.replace("://", "://me:a%20b@")
    try:
        fetch(server, tmp_path, "/login")
    finally:
        server.url = server.url.replace("me:a%20b@", "")
    with pytest.raises(InstallError, match="status 401"):
        fetch(server, tmp_path / "other", "/login")


def test_nobody_is_there(tmp_path: Path, server: Server) -> None:
    with pytest.raises(InstallError) as caught:
        download.fetch(["http://me:secret@127.0.0.1:9/x"], DIGEST, str(tmp_path / "x"), lambda line: None)
    assert caught.value.code == "E_MM_DOWNLOAD" and "refused" in caught.value.message and "secret" not in caught.value.message


def test_https_never_becomes_http() -> None:
    import urllib.error
    import urllib.request

    handler = download._Redirects()
    with pytest.raises(urllib.error.URLError, match="from https to"):
        handler.redirect_request(urllib.request.Request("https://a.example/x"), None, 302, "", {}, "http://a.example/x")
    assert handler.redirect_request(urllib.request.Request("http://a.example/x"), None, 302, "", {}, "https://a.example/x")


def test_what_answers(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert download.reachable(server.url + "/mirror") and not download.reachable(server.url + "/nothing")
    assert server.asked == [
        "/mirror/noarch/repodata.json.zst",
        "/mirror/noarch/repodata.json",
        *(f"/nothing/noarch/repodata.json{end}" for end in (".zst", "")),
    ]
    assert download.reachable(tmp_path.as_uri()) and not download.reachable((tmp_path / "no").as_uri())
    monkeypatch.setattr(download, "PATIENCE", 0.2)
    assert not download.answers(server.url + "/silent-for-ever")
