"""The official files, from the hub to a folder: resumable, checked, nothing half-written under its own name.

Only here is the network touched, and only because somebody typed `fetch`. huggingface_hub finds the token and speaks with the hub; its endpoint is
HF_ENDPOINT, as for every program that uses it. A part that arrived stays in <folder>/.fetch under the name of the version that it belongs to.

SAM3D_WEIGHTS_REPO, SAM3D_WEIGHTS_REVISION, SAM3D_MOGE_REPO   other repositories that hold the same layout
HF_HUB_OFFLINE, SAM3D_OFFLINE                                 refused at once
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from ...contract.errors import OutputError, Sam3dError, SetupError
from . import files, layout, records

PARTS = ".fetch"  # below the folder
WAITS = (1.0, 5.0)  # seconds before another attempt after one that brought nothing; then that is the end
Report = Callable[..., None]


@dataclass(frozen=True)
class Wanted:
    """A file to fetch. name: below our folder; published: what is known about it, None of another repository's."""

    repository: str
    revision: str
    remote: str
    name: str
    published: layout.File | None


@dataclass(frozen=True)
class Remote:
    """What the hub says about a file. digest: sha256 (64 digits), git's blob id (40), or something else. headers: without a token for another host."""

    url: str
    size: int | None
    digest: str
    headers: dict[str, str]


def fetch(folder: Path, report: Report, *, endpoint: str | None = None) -> list[str]:
    """Fill `folder`; the names of what was fetched. endpoint: None means the hub's own, or HF_ENDPOINT. Raises SetupError (offline, gated, unreachable,
    not what was published), OutputError (disk)."""
    for variable in ("SAM3D_OFFLINE", "HF_HUB_OFFLINE"):
        if os.environ.get(variable, "").strip().lower() in ("1", "true", "yes", "on"):
            raise SetupError(f"{variable} is set: nothing is fetched.", f"Unset it, or copy the files to {folder} by hand.")
    try:
        from huggingface_hub.utils import disable_progress_bars
    except ImportError as problem:
        raise SetupError(f"Fetching needs the package huggingface_hub: {problem}.", "Type: python install.py --layers model") from problem
    disable_progress_bars()
    try:
        (folder / layout.MOGE).mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise OutputError(f"{folder} can't be made: {problem.strerror or problem}.") from problem
    due = []
    for wanted in everything():
        if (there := _converted(folder, wanted)) is not None:
            report("file", name=wanted.name, state="there", bytes=there.stat().st_size, text=f"converted: {there.name}")
            continue
        remote = _ask(wanted, endpoint)
        _check_claim(wanted, remote)
        if _there(folder, wanted, remote, report):
            continue
        due.append((wanted, remote))
    files.check_space(folder, sum(remote.size or 0 for _, remote in due) - _arrived(folder))
    for wanted, remote in due:
        _fetch_one(folder, wanted, remote, endpoint, report)
    shutil.rmtree(folder / PARTS, ignore_errors=True)
    return [wanted.name for wanted, _ in due]


def everything() -> list[Wanted]:
    """All files, small ones first: a refusal or a wrong version shows before gigabytes have come."""
    repository = os.environ.get("SAM3D_WEIGHTS_REPO") or layout.REPOSITORY
    official = repository == layout.REPOSITORY and not os.environ.get("SAM3D_WEIGHTS_REVISION")
    revision = os.environ.get("SAM3D_WEIGHTS_REVISION") or (layout.REVISION if official else "main")
    known = [*(layout.File(name, 0) for name in layout.SETTINGS), *(network.checkpoint for network in layout.NETWORKS)]
    model = [Wanted(repository, revision, f"{layout.REMOTE_FOLDER}/{file.name}", file.name, file if official else None) for file in known]
    moge = os.environ.get("SAM3D_MOGE_REPO") or layout.MOGE_REPOSITORY
    return [*model, Wanted(moge, layout.MOGE_REVISION, Path(layout.MOGE_FILE).name, layout.MOGE_FILE, None)]


# -- what is there already


def _converted(folder: Path, wanted: Wanted) -> Path | None:
    """The converted file that replaces a published one whose digest it carries; its source may have been removed to save space."""
    path = (folder / wanted.name).with_suffix(".safetensors")
    if (folder / wanted.name).exists() or not path.is_file() or wanted.name.endswith(".yaml"):
        return None
    try:
        source = files.metadata(path).get("source_sha256")
    except Sam3dError:
        return None
    known = wanted.published.sha256 if wanted.published else None
    return path if source and known in (None, source) else None


def _there(folder: Path, wanted: Wanted, remote: Remote, report: Report) -> bool:
    path = folder / wanted.name
    if not path.is_file():
        return False
    record = records.of(folder, path)
    if record is None or remote.size not in (None, path.stat().st_size):
        if remote.size not in (None, path.stat().st_size):
            return False
        sha256 = files.hash_file(path, lambda done: report("bytes", name=wanted.name, what="hashing", done=done, total=remote.size))
        if _wrong(path, sha256, wanted, remote):
            return False
        records.save(folder, path, sha256, _source(wanted, remote))
    elif _wrong(path, str(record.get("sha256")), wanted, remote):
        return False
    report("file", name=wanted.name, state="there", bytes=path.stat().st_size, text="")
    return True


def _arrived(folder: Path) -> int:
    return sum(path.stat().st_size for path in (folder / PARTS).glob("*.part"))


# -- one file


def _fetch_one(folder: Path, wanted: Wanted, remote: Remote, endpoint: str | None, report: Report) -> None:
    parts = folder / PARTS
    parts.mkdir(exist_ok=True)
    version = hashlib.sha256(f"{wanted.repository} {wanted.revision} {remote.digest}".encode()).hexdigest()[:12]
    part = parts / f"{wanted.name.replace('/', '_')}.{version}.part"
    waits = list(WAITS)
    while True:
        before = part.stat().st_size if part.is_file() else 0
        try:
            _receive(part, wanted, remote, report)
            break
        except Sam3dError:
            raise
        except OSError as problem:
            if problem.filename is not None or (problem.errno is not None and not isinstance(problem, (ConnectionError, TimeoutError))):
                raise OutputError(f"{part} can't be written: {problem.strerror or problem}.") from problem
            again = _broken(part, before, wanted, problem, waits)
        except Exception as problem:  # of the library's HTTP client, which changed twice
            again = _broken(part, before, wanted, problem, waits)
        report("log", name=wanted.name, level="warning", text=f"{again}; going on where it stopped")
        remote = _ask(wanted, endpoint)  # links to a file are good for an hour
    size = part.stat().st_size
    sha256 = files.hash_file(part, lambda done: report("bytes", name=wanted.name, what="hashing", done=done, total=size))
    if problem := _wrong(part, sha256, wanted, remote):
        part.unlink()
        raise SetupError(
            f"{wanted.name} arrived, but {problem}; it was thrown away.",
            "Type the same command again; if it happens again, the source is another one.",
        )
    target = folder / wanted.name
    os.replace(part, target)
    source = _source(wanted, remote)
    records.save(folder, target, sha256, source)
    state, text = ("verified", "as published" if source == "published" else "as the hub said")
    if source == "first":
        state, text = "not verified", "nobody published a digest of it; recorded now"
    report("file", name=wanted.name, state=state, bytes=size, text=text)


def _receive(part: Path, wanted: Wanted, remote: Remote, report: Report) -> None:
    """Bytes into `part`, after those that are there. The library tries again by itself a few times."""
    from huggingface_hub.file_download import http_get

    start = part.stat().st_size if part.is_file() else 0
    if remote.size is not None and start > remote.size:
        part.unlink()
        start = 0
    with part.open("r+b" if start else "wb") as file:
        file.seek(start)
        counted = _Counted(file, lambda done: report("bytes", name=wanted.name, what="fetching", done=done, total=remote.size))
        http_get(remote.url, counted, resume_size=start, headers=remote.headers, expected_size=remote.size)  # type: ignore[arg-type]
        file.flush()
        os.fsync(file.fileno())


class _Counted:
    """A file that tells how long it is after each write."""

    def __init__(self, file: BinaryIO, on_bytes: Callable[[int], None]) -> None:
        self._file, self._on_bytes = file, on_bytes

    def write(self, data: bytes) -> int:
        written = self._file.write(data)
        self._on_bytes(self._file.tell())
        return written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _broken(part: Path, before: int, wanted: Wanted, problem: Exception, waits: list[float]) -> str:
    """Why it stopped, where there is reason to try again: something came before it did, or that hasn't been tried often."""
    if (part.stat().st_size if part.is_file() else 0) > before:
        waits[:] = WAITS
    elif waits:
        time.sleep(waits.pop(0))
    else:
        raise SetupError(
            f"{wanted.name} can't be fetched: {str(problem) or type(problem).__name__}",
            "Type the same command again: it goes on where it stopped.",
        ) from problem
    return f"the connection broke ({type(problem).__name__})"


# -- the hub


def _ask(wanted: Wanted, endpoint: str | None) -> Remote:
    """Size, digest and place of a file. Raises SetupError, in words of ours."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
    from huggingface_hub.utils import build_hf_headers

    url = hf_hub_url(wanted.repository, wanted.remote, revision=wanted.revision, endpoint=endpoint)
    try:
        found = get_hf_file_metadata(url, endpoint=endpoint) if endpoint else get_hf_file_metadata(url)
    except GatedRepoError as problem:
        raise _gated(wanted, url, problem) from problem
    except (RevisionNotFoundError, EntryNotFoundError) as problem:
        raise SetupError(
            f"{wanted.repository} has no {wanted.remote} at {wanted.revision}.",
            "Check SAM3D_WEIGHTS_REPO, SAM3D_WEIGHTS_REVISION and SAM3D_MOGE_REPO.",
        ) from problem
    except RepositoryNotFoundError as problem:  # also what the hub says of a gated one to somebody whom it doesn't know
        raise _gated(wanted, url, problem) from problem
    except Exception as problem:
        status = getattr(getattr(problem, "response", None), "status_code", None)
        if status in (401, 403):
            raise _gated(wanted, url, problem) from problem
        raise SetupError(
            f"{urlsplit(url).netloc} can't be reached: {str(problem).splitlines()[0] if str(problem) else type(problem).__name__}",
            "Check the connection (a proxy? HF_ENDPOINT?), then type the same command again.",
        ) from problem
    headers = dict(build_hf_headers())
    if urlsplit(found.location).netloc != urlsplit(url).netloc:
        headers = {name: value for name, value in headers.items() if name.lower() != "authorization"}
    return Remote(found.location, found.size, (found.etag or "").lower(), headers)


def _check_claim(wanted: Wanted, remote: Remote) -> None:
    """Before gigabytes come: what the hub says it has is what was published. Raises SetupError."""
    known = wanted.published
    if known is None:
        return
    wrong = f"of {remote.size} bytes instead of {known.size}" if known.size and remote.size not in (None, known.size) else ""
    if not wrong and known.sha256 and re.fullmatch(r"[0-9a-f]{64}", remote.digest) and remote.digest != known.sha256:
        wrong = f"with the sha256 {remote.digest} instead of {known.sha256}"
    if wrong:
        raise SetupError(
            f"{wanted.repository} has another {wanted.name} than was published, {wrong}.",
            "Look whether HF_ENDPOINT leads to an honest mirror; for another model set SAM3D_WEIGHTS_REPO.",
        )


def _gated(wanted: Wanted, url: str, problem: Exception) -> SetupError:
    page = url.split("/resolve/")[0]
    return SetupError(
        f"The hub doesn't hand out {wanted.repository} to this account, or knows no account here.",
        f"1. Log in at {page} and accept the licence there (Meta answers within hours or days).\n"
        "2. Make a token in the account's settings, and set HF_TOKEN to it, or type: hf auth login   (hf lies beside _env's python)\n"
        "3. Type the same command again.",
        detail=str(problem),
    )


def _source(wanted: Wanted, remote: Remote) -> str:
    if wanted.published is not None and wanted.published.sha256:
        return "published"
    return "hub" if re.fullmatch(r"[0-9a-f]{64}|[0-9a-f]{40}", remote.digest) else "first"


def _wrong(path: Path, sha256: str, wanted: Wanted, remote: Remote) -> str:
    """What is wrong with a file, by what was published, else by what the hub says; empty: nothing."""
    size, published = path.stat().st_size, wanted.published
    for wanted_size in (published.size if published else None, remote.size):
        if wanted_size is not None and size != wanted_size:
            return f"it has {size} bytes instead of {wanted_size}"
    if published is not None and published.sha256 and sha256 != published.sha256:
        return "its sha256 isn't the published one"
    if re.fullmatch(r"[0-9a-f]{64}", remote.digest) and sha256 != remote.digest:
        return "its sha256 isn't the one that the hub has"
    if re.fullmatch(r"[0-9a-f]{40}", remote.digest) and _blob_id(path) != remote.digest:
        return "it isn't the file that the hub has"
    return ""


def _blob_id(path: Path) -> str:
    """Git's name for a file's content, which the hub gives for small files."""
    data = path.read_bytes()
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data, usedforsecurity=False).hexdigest()
