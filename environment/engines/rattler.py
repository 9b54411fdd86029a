"""rattler: a conda solver and installer that the package registry has as a wheel (rattler.txt). It lives in an environment of its own, `_tools/rattler`,
and works in a child process (rattler_child.py): the Python that runs the installer gets nothing."""

from __future__ import annotations

import json
import os
import shutil

from .. import uv
from ..host import base_python
from ..process import output
from . import Engine, python_of


class Rattler(Engine):
    name = "rattler"

    @property
    def _home(self) -> str:
        return os.path.join(self.job.root, "_tools", "rattler")

    @property
    def _pin(self) -> str:
        with open(os.path.join(self.job.root, "environment", "rattler.txt"), encoding="utf-8") as file:
            return next(line.strip() for line in file if line.startswith("py-rattler=="))

    def find(self) -> str | None:
        python = python_of(self._home, self.job.host.system)
        said = output([python, "-I", "-c", "import rattler; print(rattler.__version__)"]) if python else None
        return python if said and said.strip() == self._pin.partition("==")[2] else None

    def prepare(self) -> str:
        if not self.find():
            shutil.rmtree(self._home, ignore_errors=True)
            job = self.job
            tool = uv.find(job.root, job.say, offline=job.settings.offline)
            common = {"log": job.log, "say": job.say, "lock": job.lock, "offline": job.settings.offline}
            uv.run(tool, ["venv", "--no-project", "--python", base_python(job.host), self._home], **common)  # type: ignore[arg-type]
            python = python_of(self._home, job.host.system)
            args = ["pip", "install", "--python", python, "--only-binary", ":all:", *uv.index_flags(dict(os.environ)), self._pin]
            uv.run(tool, args, **common)  # type: ignore[arg-type]
        return f"{self._pin.replace('==', ' ')}, {self._home}"

    def argv(self, *, dry_run: bool = False) -> list[str]:
        child = os.path.join(self.job.root, "environment", "engines", "rattler_child.py")
        return [python_of(self._home, self.job.host.system) or "python", "-I", child, "solve" if dry_run else "create"]

    def solve(self) -> None:
        self._run(self.argv(dry_run=True), self._request())

    def create(self) -> None:
        self._run(self.argv(), self._request())

    def _request(self) -> str:
        job = self.job
        return json.dumps(
            {
                "prefix": job.env,
                "channels": job.channels,
                "specs": list(job.profile.specs),
                "cache": job.cache,
                "system": job.host.system,
                "cuda": job.variables.get("CONDA_OVERRIDE_CUDA", ""),
                "offline": job.settings.offline,
            }
        )
