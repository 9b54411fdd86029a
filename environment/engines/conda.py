"""An existing conda, 23.10 or later (the first with the fast solver): CONDA_EXE, else on PATH. It keeps its own package cache."""

from __future__ import annotations

import os
import re
import shutil

from ..errors import InstallError
from ..process import output
from . import Engine


class Conda(Engine):
    name = "conda"

    def find(self) -> str | None:
        for place in (os.environ.get("CONDA_EXE"), shutil.which("conda")):
            if place and os.path.isfile(place) and _new_enough(place):
                return place
        return None

    def prepare(self) -> str:
        found = self.find()
        if not found:
            raise InstallError("E_ENGINE", "There is no conda 23.10 or later on this machine.")
        return f"conda {'.'.join(map(str, _version(found)))}, {found}"

    def argv(self, *, dry_run: bool = False) -> list[str]:
        words = [
            self.find() or "conda",
            "create",
            "--yes",
            "--quiet",
            "--prefix",
            self.job.env,
            "--no-default-packages",
            "--override-channels",
        ]
        for channel in self.job.channels:
            words += ["--channel", channel]
        words += ["--dry-run"] if dry_run else []
        words += ["--offline"] if self.job.settings.offline else []
        return [*words, *self.job.profile.specs]


def _version(path: str) -> tuple[int, ...]:
    found = re.match(r"conda (\d+)\.(\d+)", (output([path, "--version"]) or "").strip())
    return (int(found[1]), int(found[2])) if found else ()


def _new_enough(path: str) -> bool:
    return _version(path) >= (23, 10)
