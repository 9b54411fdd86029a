"""Fetching one file whose digest is known. What arrives is looked at before it gets its name, so a broken download is never mistaken for a tool.

Servers lie: they cut connections, answer 503 for a while, redirect, send an HTML page with status 200. Each source gets a few tries, then the next.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import os
import re
import ssl
import tarfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import IO

from .errors import InstallError
from .process import Say, mask

PATIENCE = 8.0  # seconds until an address that doesn't answer is given up
TIMEOUT = 30.0  # seconds without a byte
TRIES = 3
PAUSE = 1.0  # seconds before the second try; doubled for each further one
SMALLEST = 2_000_000  # bytes; an executable of ours is larger, an error page smaller
_BLOCK = 1 << 18
_AGENT = "Mozilla/5.0 (compatible; comfyui-sam3d installer)"  # some proxies cut Python's own name off


class Refused(Exception):
    """What arrived isn't what was asked for."""


def fetch(urls: list[str], sha256: str, target: str, say: Say, *, smallest: int = SMALLEST) -> str:
    """The file at the first address that has it, executable, at `target`; the address.

    sha256: of the executable, hex; "" where it isn't known: then an address counts only with its digest at the same address plus `.sha256`.
    An address that ends in .tar.bz2 is a conda package, whose bin/micromamba (Library/bin/micromamba.exe) is taken.
    Raises InstallError E_MM_DOWNLOAD, or E_HASH when the last source's file was another one.
    """
    os.makedirs(os.path.dirname(target), exist_ok=True)
    part = target + ".part"
    said = []
    code = "E_MM_DOWNLOAD"
    try:
        for url in urls:
            for attempt in range(TRIES):
                if attempt:
                    time.sleep(PAUSE * 2 ** (attempt - 1))
                try:
                    _one(url, sha256 or _published(url), part, say, smallest)
                    os.chmod(part, 0o755)
                    os.replace(part, target)
                    return url
                except Refused as problem:
                    code = "E_HASH"
                    said.append(f"{mask(url)}: {problem}")
                    break  # the same file would come again
                except urllib.error.HTTPError as problem:
                    problem.close()
                    said.append(f"{mask(url)}: status {problem.code} {problem.reason}")
                    if problem.code < 500 and problem.code != 429:
                        break
                except (OSError, http.client.HTTPException, ValueError, tarfile.TarError, EOFError) as problem:
                    said.append(f"{mask(url)}: {getattr(problem, 'reason', problem) or type(problem).__name__}")
    finally:
        for leftover in (part, part + ".archive"):
            with contextlib.suppress(OSError):
                os.remove(leftover)
    raise InstallError(code, "micromamba can't be fetched.\n" + "\n".join("      " + line for line in said[-6:]), network=True)


def _one(url: str, sha256: str, part: str, say: Say, smallest: int) -> None:
    archive = re.search(r"\.tar\.bz2(\?|$)", url) or "/api/micromamba/" in url
    _save(url, part + ".archive" if archive else part, say)
    if archive:
        _member(part + ".archive", part)
    size = os.path.getsize(part)
    if size < smallest:
        raise Refused(f"{size} bytes are too few: a page or a cut file instead of the program")
    digest = hashlib.sha256()
    with open(part, "rb") as file:
        for block in iter(lambda: file.read(_BLOCK), b""):
            digest.update(block)
    if digest.hexdigest() != sha256:
        raise Refused(f"its sha256 is {digest.hexdigest()[:12]}..., expected was {sha256[:12]}...")


def _save(url: str, path: str, say: Say) -> None:
    began = told = time.monotonic()
    with open_url(url, TIMEOUT) as reply, open(path, "wb") as file:
        total = int(reply.headers.get("Content-Length") or 0)
        got = 0
        while block := reply.read(_BLOCK):
            got += file.write(block)
            if time.monotonic() - told > 3:
                told = time.monotonic()
                say(f"      {got / 1e6:.1f}{f' of {total / 1e6:.1f}' if total else ''} MB, {told - began:.0f} s")
    if total and got != total:
        raise EOFError(f"the connection was cut after {got} of {total} bytes")


def _member(archive: str, path: str) -> None:
    with tarfile.open(archive, "r:bz2") as package:
        for name in ("bin/micromamba", "Library/bin/micromamba.exe"):
            with contextlib.suppress(KeyError):
                source: IO[bytes] | None = package.extractfile(name)
                if source:
                    with source, open(path, "wb") as file:
                        while block := source.read(_BLOCK):
                            file.write(block)
                    return
    raise Refused("there is no micromamba in the archive")


def _published(url: str) -> str:
    """The digest beside the file. Raises Refused where there is none: nothing is run whose digest nobody knows."""
    try:
        with open_url(url + ".sha256", TIMEOUT) as reply:
            found = re.match(r"\s*([0-9a-fA-F]{64})\b", reply.read(4096).decode("ascii", "replace"))
    except (OSError, ValueError) as problem:
        raise Refused(f"its digest isn't known, and {mask(url)}.sha256 can't be read ({problem})") from None
    if not found:
        raise Refused(f"{mask(url)}.sha256 holds no digest")
    return found[1].lower()


def open_url(url: str, timeout: float) -> http.client.HTTPResponse:
    """A GET that trusts PIP_CERT's authorities where that is set, and never leaves https for http."""
    trust = ssl.create_default_context(cafile=os.environ.get("PIP_CERT") or None)
    opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=trust), _Redirects())
    request = urllib.request.Request(re.sub(r"(?<=://)[^/@]+@", "", url), headers={"User-Agent": _AGENT})
    named = re.match(r"https?://([^/@]+)@", url)  # a login in the address; not handed on where it redirects to
    if named:
        login = base64.b64encode(urllib.parse.unquote(named[1]).encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {login}")
    reply: http.client.HTTPResponse = opener.open(request, timeout=timeout)
    return reply


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req, fp, code, msg, headers, newurl):  # type: ignore[no-untyped-def]
        if req.full_url.startswith("https:") and not newurl.startswith("https:"):
            raise urllib.error.URLError(f"it redirects from https to {mask(newurl)}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def answers(url: str) -> bool:
    """Whether the address answers within PATIENCE. In a thread, because a name look-up can't be timed out."""
    result: list[bool] = []

    def ask() -> None:
        try:
            with open_url(url, PATIENCE) as reply:
                result.append(bool(reply.read(1)))
        except (OSError, ValueError, http.client.HTTPException):
            result.append(False)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return result == [True]


def reachable(channel: str) -> bool:
    """Whether a conda channel can be had: a folder on this machine, or an address that has an index of packages. Its root need not answer: mirrors refuse that."""
    if channel.startswith("file://"):
        return os.path.isdir(urllib.request.url2pathname(channel[7:]))
    return any(answers(f"{channel}/noarch/{name}") for name in ("repodata.json.zst", "repodata.json"))
