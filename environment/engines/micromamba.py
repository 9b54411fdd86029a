"""micromamba, or a mamba 2, which has the same command line: found, or fetched into `_tools/micromamba`.

Looked for in SAM3D_MICROMAMBA, `_tools/`, then on PATH. micromamba.json pins the release that is fetched and the sha256 of each system's file.
The options: --no-rc and --no-env keep the user's configuration out, --override-channels leaves ours alone; the root prefix, with the
package cache, lies in our folder. The prefix must not exist: micromamba refuses a folder that isn't one of conda's.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from typing import Any

from .. import download
from ..errors import InstallError
from ..process import output
from . import Engine, Job


class Micromamba(Engine):
    name = "micromamba"

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        exe = "micromamba.exe" if job.host.system.startswith("win") else "micromamba"
        self.own = os.path.join(job.root, "_tools", "micromamba", exe)
        self.path = self.own

    def find(self) -> str | None:
        named = self.job.settings.micromamba
        if named:
            return shutil.which(named) or named
        for place in (self.own, shutil.which("micromamba"), shutil.which("mamba")):
            if place and os.path.isfile(place) and _version(place):
                return place
        return None

    def prepare(self) -> str:
        found = self.find()
        if found is None:
            found = self._fetch()
        version = _version(found)
        if not version:
            if self.job.settings.micromamba:
                text = f"SAM3D_MICROMAMBA is {self.job.settings.micromamba}, which is no micromamba or mamba 2."
                raise InstallError("E_MM_DOWNLOAD", text, "Correct it or unset it.")
            raise InstallError("E_MM_DOWNLOAD", f"The micromamba that was fetched doesn't run here: {found}")
        self.path = found
        return f"micromamba {version}, {found}"

    def argv(self, *, dry_run: bool = False) -> list[str]:
        words = [self.path, "create", "--yes", "--prefix", self.job.env, "--root-prefix", self.job.cache]
        words += ["--no-rc", "--no-env", "--override-channels"]
        for channel in self.job.channels:
            words += ["--channel", channel]
        words += ["--channel-priority", "flexible", "--repodata-ttl", "3600", "--retry-clean-cache"]
        words += ["--dry-run"] if dry_run else []
        words += ["--offline"] if self.job.settings.offline else []
        return [*words, *self.job.profile.specs]

    def downloads(self) -> list[dict[str, str]]:
        if self.find():
            return []
        urls, sha256 = self._sources()
        return [{"url": url, "sha256": sha256} for url in urls]

    def _sources(self) -> tuple[list[str], str]:
        settings = self.job.settings
        if settings.micromamba_url:
            return [settings.micromamba_url], settings.micromamba_sha256
        pinned = _pins(self.job.root)
        system = self.job.host.system
        sha256 = pinned["sha256"].get(system, "")
        channels = settings.channels or self.job.profile.base_url
        return [url.format(system=system, channels=channels) for url in pinned["sources"]] if sha256 else [], sha256

    def _fetch(self) -> str:
        urls, sha256 = self._sources()
        if not urls:
            raise InstallError("E_MM_DOWNLOAD", f"There is no micromamba for {self.job.host.system}.")
        if self.job.settings.offline:
            raise InstallError(
                "E_OFFLINE_MISS", "There is no micromamba here, and nothing may be fetched.", "Set SAM3D_MICROMAMBA, or drop --offline."
            )
        self.job.say("      fetching micromamba")
        download.fetch(urls, sha256, self.own, self.job.say)
        return self.own


def _pins(root: str) -> dict[str, Any]:
    with open(os.path.join(root, "environment", "micromamba.json"), encoding="utf-8") as file:
        read: dict[str, Any] = json.load(file)
    return read


def _version(path: str) -> str:
    """The version of a micromamba or mamba from 2 on; "" for anything else."""
    said = output([path, "--version"]) or ""
    found = re.match(r"(?:micromamba |mamba )?(\d+)\.(\d+)\.(\d+)", said.strip())
    return ".".join(found.groups()) if found and int(found[1]) >= 2 else ""
