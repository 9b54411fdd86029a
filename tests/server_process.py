"""The job server as a user starts it: a process of its own, to be killed in the middle of things. Its worker is the stub's."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from .factory_cli import command, environment

V1 = "/api/v1"


class Served:
    """`sam3d serve` on a free port with its data in `root`. A context manager; `kill` and `start` in between as you like."""

    def __init__(self, root: Path, *options: object, variables: dict[str, str] | None = None, stub: bool = True) -> None:
        self._args = ("serve", "--port", "0", "--data", root / "data", "--quiet", "--no-build", *options)
        self._environment = environment(stub=stub, **(variables or {}))
        self._log = root / "server.log"
        self._process: subprocess.Popen[str] | None = None
        self.url = self.token = ""

    def start(self) -> None:
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(
                command(*self._args), env=self._environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True
            )
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip().rstrip("/")
        if not self.url:
            raise AssertionError(self.log)
        if not self.url.startswith("http://127."):
            self.token = self._process.stdout.readline().split()[1]

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def kill(self, number: int = signal.SIGKILL) -> int:
        """End it by a signal; returns the exit code."""
        assert self._process is not None and self._process.stdout is not None
        self._process.send_signal(number)
        code = self._process.wait(60)
        self._process.stdout.close()
        self._process = None
        return code

    def kill_worker(self) -> bool:
        """SIGKILL to one of its worker processes; False where it has none at the moment."""
        import psutil

        try:
            children = psutil.Process(self.pid).children()
            if not children:
                return False
            os.kill(children[0].pid, signal.SIGKILL)
            return True
        except (psutil.NoSuchProcess, ProcessLookupError):
            return False

    def call(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> tuple[int, Any]:
        """The status and the JSON of an answer. Raises OSError where the server is gone."""
        data = None if body is None else json.dumps(body).encode()
        kind = {"Content-Type": "application/json"} if data is not None else {}
        request = urllib.request.Request(self.url + V1 + path, data, {**kind, **(headers or {})}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                text = answer.read()
                return answer.status, json.loads(text) if text else None
        except urllib.error.HTTPError as problem:
            with problem:
                return problem.code, json.loads(problem.read())
        except http.client.HTTPException as problem:  # killed in the middle of its answer
            raise ConnectionError(str(problem)) from problem

    def wait(self, seconds: float = 30.0) -> None:
        """Until it answers."""
        end = time.monotonic() + seconds
        while True:
            try:
                self.call("GET", "/healthz")
                return
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.02)

    def __enter__(self) -> Served:
        self.start()
        self.wait()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self.kill(signal.SIGTERM)
