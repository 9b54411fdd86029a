"""The Backend that is a job server (docs/server.md) on this or another machine. Standard library only.

    SAM3D_SERVER=http://gpu-box:8765      nodes, command line and executors then reconstruct there; never a widget, never a field of a graph
    SAM3D_TOKEN=...                       where the server wants one

A request travels as one frame of docs/protocol.md and becomes a job there; its events come back as a stream, its scene as a frame. A connection that breaks is
taken up again where it broke: sending twice makes one job (Idempotency-Key), and a stream goes on behind the last event seen (Last-Event-ID). The job
itself is never repeated here; attempts are the server's business.
"""

from __future__ import annotations

import hashlib
import http.client
import itertools
import json
import os
import secrets
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np

from ..contract import messages
from ..contract.backend import Cancelled, Done, Event, Failed, Log, Progress
from ..contract.errors import BusyError, DeniedError, OptionError, ProtocolError, Sam3dError, ServiceError, UnreachableError
from ..contract.frames import encode_frame, read_frame
from ..contract.record import Record
from ..contract.request import FORMATS, ExportOptions, PrepareRequest, ReconstructRequest
from ..contract.scene import Scene
from ..contract.version import PROTOCOL
from .job import LocalJob

V1 = "/api/v1"
SILENCE = 45.0  # seconds without a byte of a stream, which pings every 15
PAUSES = (0.2, 0.5, 1.0, 2.0, 5.0)  # seconds between attempts to reach the server
GOODBYE = 10.0  # seconds for which a server that is gone is tried again for a job that was cancelled


class RemoteBackend:
    """A job server behind the verbs of contract.backend.Backend. Usable as a context manager, from several threads, and for several jobs at once.

    url: http:// or https://, with a path where a proxy puts one. timeout: seconds for one answer. patience: seconds for which a server that is gone, or whose
    queue is full, is tried again. Raises OptionError for an address that is none.
    """

    def __init__(self, url: str, token: str | None = None, *, timeout: float = 60.0, patience: float = 120.0) -> None:
        parts = urlsplit(url)
        try:
            port = parts.port
        except ValueError:
            port = -1
        if parts.scheme not in ("http", "https") or not parts.hostname or port == -1 or parts.query or parts.fragment or parts.username:
            raise OptionError(f"{url!r} is no address of a server.", "Give one like http://gpu-box:8765; the token stands in SAM3D_TOKEN.")
        self.url = url
        self._kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._host, self._port, self._prefix = parts.hostname, port, parts.path.rstrip("/")
        self._token, self._timeout, self._patience = token, timeout, patience
        self._numbers = itertools.count(1)
        self._jobs: dict[LocalJob, _Errand] = {}
        self._lock = threading.Lock()

    # -- the verbs

    def reconstruct(self, request: ReconstructRequest) -> LocalJob:
        """Start a job there; returns at once. Raises OptionError; what happens later is an event."""
        if not isinstance(request, ReconstructRequest):
            raise OptionError(f"reconstruct() takes a ReconstructRequest, not {type(request).__name__}.")
        return self._submit(messages.Reconstruct(1, request))

    def prepare(self, request: PrepareRequest) -> LocalJob:
        """Start the job that makes later requests with this picture shorter."""
        if not isinstance(request, PrepareRequest):
            raise OptionError(f"prepare() takes a PrepareRequest, not {type(request).__name__}.")
        return self._submit(messages.Prepare(1, request))

    def export(self, scene: Scene, formats: Iterable[str], options: ExportOptions | None = None) -> dict[str, bytes]:
        """Encode a scene: file name -> bytes. Waits; raises a Sam3dError."""
        if not isinstance(scene, Scene):
            raise OptionError(f"export() takes a Scene, not {type(scene).__name__}.")
        wanted = (formats,) if isinstance(formats, str) else tuple(formats)
        for name in wanted:
            if name not in FORMATS:
                raise OptionError(f"{name!r} is no output format.", f"Choose among: {', '.join(FORMATS)}.")
        job = self._submit(messages.Export(1, scene.replace(files={}), wanted, options or ExportOptions()))
        job.result()
        return {name: data.tobytes() for name, data in job.files.items()}

    def start(self) -> messages.Hello:
        """Who answers there, and which engines it has. Raises a Sam3dError."""
        info = self._ask("GET", f"{V1}/info")
        if info.get("protocol") != PROTOCOL:
            raise ProtocolError(f"The server speaks protocol {info.get('protocol')}, this side speaks {PROTOCOL}.")
        end = time.monotonic() + self._timeout
        while (ready := self._ask("GET", f"{V1}/readyz", also=(503,))).get("status") == "starting" and time.monotonic() < end:
            time.sleep(0.2)
        for worker in ready["workers"]:
            if ready["status"] == "failed" and worker["error"]:
                raise Sam3dError.from_json(worker["error"])
        engines = next((tuple(worker["engines"]) for worker in ready["workers"] if worker["engines"]), ())
        return messages.Hello(PROTOCOL, str(info.get("version")), 0, "", engines)

    def close(self) -> None:
        """Jobs under way end as cancelled, there and here."""
        with self._lock:
            errands = list(self._jobs.items())
        for job, _ in errands:
            job.cancel()
        for job, errand in errands:
            job.put(Cancelled())
            errand.thread.join(2.0)

    def __enter__(self) -> RemoteBackend:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- jobs

    def _submit(self, message: Record) -> LocalJob:
        try:
            plain, arrays = messages.to_wire(message)
            next(encode_frame(plain, arrays))  # what can't be sent is said now
        except TypeError as problem:
            raise OptionError(f"This can't be sent to the server: {problem}.") from problem
        job = LocalJob(next(self._numbers), self._cancel)
        errand = _Errand(self, job, lambda: encode_frame(plain, arrays))
        with self._lock:
            self._jobs[job] = errand
        errand.thread.start()
        return job

    def _cancel(self, job: LocalJob) -> None:
        with self._lock:
            errand = self._jobs.get(job)
        if errand is not None and not errand.cancelled.is_set():
            errand.cancelled.set()
            threading.Thread(target=errand.tell_cancel, name="sam3d-remote-cancel", daemon=True).start()

    def _over(self, job: LocalJob) -> None:
        with self._lock:
            self._jobs.pop(job, None)

    # -- HTTP

    @contextmanager
    def _call(
        self, method: str, path: str, *, headers: dict[str, str] | None = None, body: Any = None, silence: float | None = None
    ) -> Iterator[http.client.HTTPResponse]:
        """One call on a connection of its own. Raises OSError or HTTPException where the connection fails."""
        connection = self._kind(self._host, self._port, timeout=silence or self._timeout)
        own = {"Accept": "application/json", **({"Authorization": f"Bearer {self._token}"} if self._token else {}), **(headers or {})}
        try:
            try:
                connection.request(method, self._prefix + path, body, own)
            except (BrokenPipeError, ConnectionResetError):
                pass  # it may have answered before it had read everything
            yield connection.getresponse()
        finally:
            connection.close()

    def _ask(self, method: str, path: str, *, also: tuple[int, ...] = (), **call: Any) -> dict[str, Any]:
        """The JSON of an answer. Raises the server's error, or UnreachableError."""
        try:
            with self._call(method, path, **call) as answer:
                return _json(answer, also)
        except (OSError, http.client.HTTPException) as problem:
            raise self._unreachable(problem) from problem

    def _unreachable(self, problem: Exception) -> UnreachableError:
        return UnreachableError(f"The job server {self.url} can't be reached: {problem or type(problem).__name__}.")


class _Errand:
    """One job's thread: sends the request, watches, fetches what was made."""

    def __init__(self, backend: RemoteBackend, job: LocalJob, frame: Callable[[], Iterator[memoryview]]) -> None:
        self._backend, self._job, self._frame = backend, job, frame
        self._id: str | None = None
        self.cancelled = threading.Event()
        self.thread = threading.Thread(target=self._run, name=f"sam3d-remote-{job.number}", daemon=True)

    def _run(self) -> None:
        event: Event
        try:
            event = self._errand()
        except _Stop:
            event = Cancelled()
        except Sam3dError as problem:
            event = Failed(problem)
        except MemoryError:
            event = Failed(ServiceError("There isn't enough memory on this side for the result.", "Ask for fewer formats."))
        self._backend._over(self._job)
        self._job.put(event)

    def _errand(self) -> Event:
        key = secrets.token_hex(16)
        self._id = str(self._patiently(lambda: self._send(key))["id"])
        self._watch()
        told = self._patiently(lambda: self._backend._ask("GET", f"{V1}/jobs/{self._id}"))
        if told["status"] == "failed":
            return Failed(Sam3dError.from_json(told["error"]))
        if told["status"] != "succeeded":
            return Cancelled()
        files = {file["name"]: self._fetch(file["url"], file["sha256"], file["bytes"]) for file in told["outputs"]}
        if told["kind"] == "export":
            self._job.files = files
            return Done(Scene(objects=(), engine="none"))
        scene = self._patiently(self._scene)
        return Done(scene.replace(files=files))

    def tell_cancel(self) -> None:
        """On a thread of its own; a server that can't be told ends the job some day by itself."""
        if self._id is not None:
            with suppress(Sam3dError):
                self._backend._ask("POST", f"{V1}/jobs/{self._id}/cancel", headers={"Content-Length": "0"})

    def _patiently(self, call: Callable[[], Any]) -> Any:
        """`call`, and again for a while where the server is gone or busy. Raises what it raised last."""
        end, pauses, leaving = time.monotonic() + self._backend._patience, iter(PAUSES), False
        failures = 0
        while True:
            try:
                return call()
            except (UnreachableError, BusyError) as problem:
                pause = next(pauses, PAUSES[-1])
                if time.monotonic() + pause > end:
                    if self.cancelled.is_set():
                        raise _Stop from problem
                    raise
                reason, failures = problem, failures + 1
                if (
                    failures == 2 and not self.cancelled.is_set()
                ):  # once, and not for a hiccup: who waits for minutes wants to know for what
                    self._job.put(Log(f"{problem.message} Trying again for {self._backend._patience:.0f} s.", "warning"))
            if self.cancelled.wait(pause):
                if self._id is None:
                    raise _Stop from reason  # nobody there knows of it
                if not leaving:
                    leaving, end = True, min(end, time.monotonic() + GOODBYE)
                time.sleep(pause)

    def _send(self, key: str) -> dict[str, Any]:
        head = next(self._frame())
        length = 8 + struct.unpack("<Q", head[:8])[0]
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(length), "Idempotency-Key": key}
        return self._backend._ask("POST", f"{V1}/frames", headers=headers, body=self._frame())

    def _watch(self) -> None:
        """Hand on the events until the job's last one."""
        last, over = 0, False

        def listen() -> None:
            nonlocal last, over
            backend = self._backend
            headers = {"Accept": "text/event-stream", "Last-Event-ID": str(last)}
            if self.cancelled.is_set():  # maybe while nobody could be told: the job was on its way, or the server was gone
                self.tell_cancel()
            try:
                with backend._call("GET", f"{V1}/jobs/{self._id}/events", headers=headers, silence=SILENCE) as answer:
                    if answer.status != 200:
                        _json(answer, ())
                    for number, kind, data in _events(answer):
                        last, over = number, kind == "done"
                        self._say(kind, data)
            except (OSError, http.client.HTTPException) as problem:
                raise backend._unreachable(problem) from problem

        while not over:
            before = last
            self._patiently(listen)
            if not over and last == before:  # ended without a word: the job was deleted, or had ended before
                return

    def _say(self, kind: str, data: dict[str, Any]) -> None:
        if kind == "progress":
            self._job.put(Progress(data["stage"], data["step"], data["total"], data["progress"], data["eta_s"]))
        elif kind == "log":
            self._job.put(Log(data["text"], data["level"]))

    def _fetch(self, path: str, sha: str, size: int) -> np.ndarray:
        """A file of the result, whole and as it was written there."""

        def fetch() -> np.ndarray:
            buffer = np.empty(size, np.uint8)
            try:
                with self._backend._call("GET", path) as answer:
                    if answer.status != 200:
                        _json(answer, ())
                    view, filled = buffer.data, 0
                    while filled < size and (got := answer.readinto(view[filled:])):
                        filled += got
            except (OSError, http.client.HTTPException) as problem:
                raise self._backend._unreachable(problem) from problem
            if filled < size or hashlib.sha256(buffer.data).hexdigest() != sha:
                raise UnreachableError("A file of the result arrived damaged.", "Try again.")
            return buffer

        found: np.ndarray = self._patiently(fetch)
        return found

    def _scene(self) -> Scene:
        try:
            with self._backend._call("GET", f"{V1}/jobs/{self._id}/files/{quote('scene.frame')}") as answer:
                if answer.status != 200:
                    _json(answer, ())
                found = read_frame(answer.readinto)
        except (OSError, http.client.HTTPException) as problem:
            raise self._backend._unreachable(problem) from problem
        except ProtocolError as problem:
            raise UnreachableError("The scene arrived damaged.", "Try again.") from problem
        if found is None:
            raise UnreachableError("The scene arrived empty.", "Try again.")
        scene: Scene = messages.from_wire(*found, messages.FROM_WORKER).scene
        return scene


class _Stop(Exception):
    """Cancelled before the server heard of the job."""


def _json(answer: http.client.HTTPResponse, also: tuple[int, ...]) -> dict[str, Any]:
    """Raises the error that an answer carries, UnreachableError for what no server of ours would say."""
    text = answer.read(16 << 20)
    try:
        found = json.loads(text)
        if not isinstance(found, dict):
            raise ValueError("no object")
        if answer.status < 300 or answer.status in also:
            return found
        problem = Sam3dError.from_json(found["error"])
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UnreachableError(f"What answers there (status {answer.status}) is no job server.") from None
    if isinstance(problem, DeniedError) and answer.status == 401:
        raise DeniedError("The job server wants a token.", "Set SAM3D_TOKEN to the server's.")
    raise problem


def _events(answer: http.client.HTTPResponse) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """number, kind and data of each event, as they come."""
    fields: dict[str, str] = {}
    while line := answer.readline(1 << 20):
        name, _, value = line.decode("utf-8", "replace").rstrip("\r\n").partition(": ")
        if name:
            fields[name] = value
        elif "data" in fields:
            try:
                yield int(fields["id"]), fields["event"], json.loads(fields["data"])
            except (ValueError, KeyError):
                raise UnreachableError("What answers there is no job server.") from None
            fields = {}


def from_environment() -> RemoteBackend | None:
    """The server that SAM3D_SERVER names, or None. Raises OptionError for one that is no address."""
    url = os.environ.get("SAM3D_SERVER", "").strip()
    return RemoteBackend(url, os.environ.get("SAM3D_TOKEN", "").strip() or None) if url else None
