"""`serve`: the job server. Decides who may reach it, opens the port, says where it is, and runs until Ctrl-C."""

from __future__ import annotations

import ipaddress
import logging
import os
import secrets
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ...contract.errors import OptionError, SetupError
from .. import page_build
from ..events import OK
from ..executors.local import environments

if TYPE_CHECKING:
    from ..server.gate import Access

TOKEN = "SAM3D_TOKEN"


def run(
    *,
    host: str,
    port: int,
    data: Path,
    token_file: Path | None,
    insecure_no_auth: bool,
    allow_host: tuple[str, ...],
    allow_origin: tuple[str, ...],
    workers: int | None,
    gpus: str | None,
    queue: int,
    job_time: float,
    attempts: int,
    quota: int | None,
    keep_days: float,
    idle_unload: float,
    no_build: bool,
    quiet: bool,
) -> int:
    """The command; returns its exit code when the server was stopped in good order. Raises a Sam3dError where it can't start."""
    slots = environments(workers, gpus)
    token, made = find_token(token_file, needed=not is_loopback(host) and not insecure_no_auth)
    try:
        from ..server.limits import MIB, Limits
        from ..server.run import run as run_server
    except ImportError as problem:
        raise SetupError(f"The job server lacks a package: {problem.name}.", "Type: python install.py --layers base,server") from None
    limits = Limits(
        max_queue=queue,
        job_time=job_time,
        attempts=attempts,
        quota=None if quota is None else quota * MIB,
        keep_jobs=keep_days * 86400,
        idle_unload=idle_unload,
    )
    logging.basicConfig(level=logging.WARNING if quiet else logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    access = access_of(host, token, allow_host, allow_origin)
    with listen(host, port) as listener:  # before the page is built: a port that is taken is said at once
        if not no_build:
            build_page(quiet)
        number = listener.getsockname()[1]
        run_server(listener, data.absolute(), limits, slots, access, lambda: say_where(host, number, token if made else None))
    return OK


def build_page(quiet: bool) -> None:
    """In a clone, once. Where that fails the server has a plain form, or the page as it was built before."""
    if page_build.is_current():
        return
    if not quiet:
        print("Building the web page, once: about a minute.", file=sys.stderr, flush=True)
    try:
        page_build.build()
    except SetupError as problem:
        print(f"{problem.message} {problem.hint} Until then there is a plain form.", file=sys.stderr, flush=True)
        if problem.detail:
            print(problem.detail, file=sys.stderr, flush=True)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens there."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def access_of(host: str, token: str | None, names: tuple[str, ...], origins: tuple[str, ...]) -> Access:
    """Who may come in. The name or number that we listen on is one of ours: it is what `say_where` prints."""
    from ..server.gate import Access

    return Access(token=token, loopback=is_loopback(host), hosts=(host.strip("[]"), *names), origins=origins)


def find_token(file: Path | None, *, needed: bool) -> tuple[str | None, bool]:
    """The token, and whether it was made now. Raises OptionError for a file or a variable that holds none."""
    if file is not None:
        try:
            text = file.read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as problem:
            raise OptionError(f"--token-file {file} can't be read: {problem}.", "Name a text file that holds the token.") from None
    else:
        text = os.environ.get(TOKEN, "").strip()
        if not text:
            return (secrets.token_urlsafe(24), True) if needed else (None, False)
    if not (8 <= len(text) <= 500 and text.isascii() and text.isprintable() and " " not in text):
        raise OptionError("The token must have 8 to 500 plain characters without spaces.", f"Correct {file or TOKEN}.")
    return text, False


def listen(host: str, port: int) -> socket.socket:
    """Raises OptionError where the address can't be had."""
    try:
        family, kind, number, _, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, kind, number)
        try:
            if os.name != "nt":  # there it would let two programs have one port
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(512)
        except OSError:
            listener.close()
            raise
    except OSError as problem:
        raise OptionError(
            f"{host}, port {port}, can't be listened on: {problem.strerror or problem}.", "Choose another --port or --host."
        ) from None
    return listener


def say_where(host: str, port: int, made: str | None) -> None:
    shown = f"[{host}]" if ":" in host else host
    print(f"http://{shown}:{port}/", flush=True)
    if made is not None:
        print(f"token: {made}   (made for this run; set {TOKEN} to choose one)", flush=True)
