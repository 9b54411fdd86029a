"""Is every file of every installed package there? By conda's own lists (conda-meta/*.json) and by the wheels' (*.dist-info/RECORD).

uv takes half-installed packages for installed ones: the metadata is written early. So an environment counts as ready only after this.
"""

from __future__ import annotations

import csv
import glob
import json
import os
import re
from typing import Any, NamedTuple


class Audit(NamedTuple):
    files: int  # that the packages list
    broken: list[str]  # paths of those that are missing or cut short


def packages(env: str) -> set[str]:
    """The `*.dist-info` folders of an environment: one for each package and version that is in it, or looks so."""
    where = "Lib" if os.name == "nt" else os.path.join("lib", "python3*")
    return set(glob.glob(os.path.join(glob.escape(env), where, "site-packages", "*.dist-info")))


def lists(env: str) -> set[str]:
    """The names of both kinds of list. The journal keeps them, so that a package which is gone with its list is missed."""
    found = {*packages(env), *glob.glob(os.path.join(glob.escape(env), "conda-meta", "*.json"))}
    return {os.path.basename(path) for path in found}


def gone(env: str, record: dict[str, Any]) -> list[str]:
    """The lists that the journal `record` names of packages that aren't there in any version. A journal of an earlier installer names none."""
    there = {_package(name) for name in lists(env)}
    return sorted(name for name in record.get("packages", ()) if _package(name) not in there)


def _package(name: str) -> str:
    return (name.rsplit("-", 2)[0] if name.endswith(".json") else name.partition("-")[0]).lower()


def torch_builds(env: str) -> set[tuple[str, int]]:
    """(dist-info folder, when its metadata was written) of torch and torchvision: changes when either is installed anew."""
    found = set()
    for info in packages(env):
        if re.match(r"torch(vision)?-", os.path.basename(info)):
            try:
                found.add((os.path.basename(info), os.stat(os.path.join(info, "METADATA")).st_mtime_ns))
            except OSError:
                found.add((os.path.basename(info), 0))
    return found


def audit(env: str) -> Audit:
    """Every listed file of the environment, by both kinds of list. A package without its list counts as broken."""
    infos = packages(env)
    count, broken, condas = _conda(env, infos)
    for info in infos - condas:
        files, missing = _record(info)
        count += files
        broken += missing
    return Audit(count, sorted(broken))


def _conda(env: str, infos: set[str]) -> tuple[int, list[str], set[str]]:
    """(files, broken ones, the dist-info folders that conda wrote). A package that uv has put a wheel in the place of is passed over."""
    count, broken, theirs = 0, [], set()
    for path in glob.glob(os.path.join(glob.escape(env), "conda-meta", "*.json")):
        try:
            with open(path, encoding="utf-8") as file:
                record = json.load(file)
            entries = (record.get("paths_data") or {}).get("paths") or [{"_path": name} for name in record["files"]]
            names = [str(entry["_path"]) for entry in entries]
        except (OSError, ValueError, KeyError, TypeError):
            broken.append(path)
            continue
        own = {os.path.join(env, *name.split("/")[:-1]) for name in names if re.search(r"\.dist-info/METADATA$", name)}
        if any(not os.path.exists(os.path.join(info, "METADATA")) and _replaced(info, infos) for info in own):
            continue
        theirs |= own
        for entry, name in zip(entries, names):
            if name.endswith(".pyc"):
                continue  # Python writes these as it likes
            count += 1
            fixed = not entry.get("prefix_placeholder") and entry.get("path_type") == "hardlink"
            if not _whole(os.path.join(env, *name.split("/")), entry.get("size_in_bytes") if fixed else None):
                broken.append(os.path.join(env, *name.split("/")))
    return count, broken, theirs


def _replaced(info: str, infos: set[str]) -> bool:
    """Whether another version of the same package is there."""
    name = os.path.basename(info).partition("-")[0].lower()
    return any(os.path.basename(other).partition("-")[0].lower() == name and other != info for other in infos)


def _record(info: str) -> tuple[int, list[str]]:
    count, broken = 0, []
    site = os.path.dirname(info)
    try:
        with open(os.path.join(info, "RECORD"), encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
    except OSError:
        return 0, [os.path.join(info, "RECORD")]
    for row in rows:
        if not row:
            continue
        count += 1
        path = os.path.join(site, row[0])
        if not _whole(path, int(row[2]) if len(row) > 2 and row[2].isdigit() else None):
            broken.append(path)
    return count, broken


def _whole(path: str, size: object) -> bool:
    try:
        found = os.lstat(path) if os.path.islink(path) else os.stat(path)
    except OSError:
        return False
    return os.path.islink(path) or not isinstance(size, int) or found.st_size == size
