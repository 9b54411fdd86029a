"""A hub on the loopback that misbehaves on request: what the tests of `weights fetch` talk to."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PLACE = re.compile(r"^/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<name>[^?]+)$")


@dataclass
class Hub:
    """files: path in a repository -> bytes. The rest says how it misbehaves; keys are those paths."""

    files: dict[str, bytes] = field(default_factory=dict)
    gated: int = 0  # status for everything
    token: str = ""  # asked for, if any
    cuts: dict[str, list[int]] = field(default_factory=dict)  # after how many bytes the next answers break off
    sent: dict[str, bytes] = field(default_factory=dict)  # what is really sent
    no_ranges: bool = False
    pause: float = 0.0  # seconds before each answer to GET
    elsewhere: bool = False  # files lie on another host (its name, the same machine)
    small: Callable[[str], bool] = lambda name: name.endswith(".yaml")  # has git's id, not sha256
    no_digest: bool = False
    log: list[tuple[str, str, str | None, str | None]] = field(default_factory=list)  # method, path, Range, Authorization
    url: str = ""

    def digest(self, name: str) -> str:
        data = self.files[name]
        if self.no_digest:
            return f"W-{len(data)}"
        if self.small(name):
            return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
        return hashlib.sha256(data).hexdigest()


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            time.sleep(hub.pause)
            self.answer(body=True)

        def answer(self, *, body: bool) -> None:
            hub.log.append((self.command, self.path, self.headers.get("Range"), self.headers.get("Authorization")))
            stored = self.path.startswith("/stored/")
            found = PLACE.match(self.path)
            name = self.path.removeprefix("/stored/") if stored else found["name"] if found else ""
            if hub.gated and not stored:
                return self.refuse(hub.gated, "GatedRepo")
            if hub.token and not stored and self.headers.get("Authorization") != f"Bearer {hub.token}":
                return self.refuse(401, "RepoNotFound")
            if name not in hub.files:
                return self.refuse(404, "EntryNotFound")
            self.send(name, stored, body)

        def send(self, name: str, stored: bool, body: bool) -> None:
            true, data = hub.files[name], hub.sent.get(name, hub.files[name])
            digest = hub.digest(name)
            kind = "X-Linked-Etag" if len(digest) == 64 else "ETag"
            common = {kind: f'"{digest}"', "X-Repo-Commit": "c" * 40, "X-Linked-Size": str(len(true))}
            if hub.elsewhere and not stored:
                port = self.server.server_address[1]
                return self.head(302, {**common, "Location": f"http://localhost:{port}/stored/{name}", "Content-Length": "0"})
            start, status = 0, 200
            wanted = re.match(r"bytes=(\d+)-", self.headers.get("Range") or "")
            if wanted and not hub.no_ranges:
                start, status = int(wanted[1]), 206
                common["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            self.head(status, {**common, "Content-Length": str(len(data) - start), "Accept-Ranges": "bytes"})
            if body:
                left = hub.cuts.get(name, [])
                count = left.pop(0) if left else len(data)
                self.wfile.write(data[start : start + count])
                if start + count < len(data):
                    self.close_connection = True
                    self.wfile.flush()
                    self.connection.close()

        def head(self, status: int, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()

        def refuse(self, status: int, code: str) -> None:
            text = b"no"
            self.head(status, {"X-Error-Code": code, "X-Error-Message": "no", "Content-Length": str(len(text))})
            if self.command == "GET":
                self.wfile.write(text)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients that go away are what the tests are about
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
