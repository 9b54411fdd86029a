"""No conda: a virtual environment of a Python that is on the machine, or that uv fetches. For profiles whose only conda package is Python."""

from __future__ import annotations

import os

from .. import uv
from ..errors import InstallError
from ..host import base_python
from . import Engine


class UvVenv(Engine):
    name = "uv"

    def find(self) -> str | None:
        found = uv.locate(self.job.root)
        return found.path if found else None

    def prepare(self) -> str:
        self.tool = uv.find(self.job.root, self.job.say, offline=self.job.settings.offline)
        return f"uv {self.tool.version}, from {self.tool.source}"

    @property
    def python(self) -> str:
        return base_python(self.job.host, str(self.job.profile.data.get("python", "")))

    def argv(self, *, dry_run: bool = False) -> list[str]:
        return [self.find() or "uv", *self._args()]

    def _args(self) -> list[str]:
        return ["venv", "--no-project", "--python", self.python, self.job.env]

    def solve(self) -> None:
        """Nothing to solve: a venv is one package."""

    def create(self) -> None:
        job = self.job
        job.say(f"      {self.python}")
        try:
            uv.run(self.tool, self._args(), log=job.log, say=_silent, lock=job.lock, offline=job.settings.offline)
        except InstallError as error:
            if os.path.isabs(self.python):
                raise
            has = ".".join(map(str, job.host.python))
            text = f"The Python that runs this ({has}) can't carry the environment, and uv got no {self.python}:\n{error.message}"
            raise InstallError("E_WRONG_PYTHON", text) from None


def _silent(line: str) -> None:
    """What uv says of a venv is nothing new."""
