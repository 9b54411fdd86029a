"""How many files and connections the process may have open at once, and how many connections fit into that."""

from __future__ import annotations

import logging
import sys
from dataclasses import replace

from ...contract.errors import SetupError
from .limits import Limits

EACH = 2  # of a connection: itself, and the file that it is sent
ACCEPTED = 16  # connections that are accepted at once, before the first of them is counted
OURS = 64 + 4 * ACCEPTED  # database, log, libraries, files that are being written; connections that are about to be refused
WORKER = 10  # pipes and handles of a worker, and the files of its job
FORM = 32  # files of one upload that lie on the disk: each has more than a megabyte
LEAST = 8  # connections with which a server is one
log = logging.getLogger("sam3d.server")


def fitted(limits: Limits, workers: int) -> Limits:
    """The limits with as many connections as the process may have, after the system was asked for what all would need. Raises SetupError where that is too few."""
    calls = limits.max_uploads + limits.max_sync
    fixed = OURS + WORKER * workers + calls
    allowed = ask(fixed + FORM * calls + EACH * limits.max_connections)
    if allowed is None:
        return limits
    connections = min(limits.max_connections, (allowed - fixed) // EACH)
    if connections < min(LEAST, limits.max_connections):
        raise SetupError(
            f"This process may open {allowed} files; with its workers ({workers}) the server needs {fixed + EACH * LEAST}.",
            "Type: ulimit -n 4096",
        )
    if connections < limits.max_connections:
        log.warning("This process may open %d files: %d connections at once (ulimit -n).", allowed, connections)
    return replace(limits, max_connections=connections)


def ask(wanted: int) -> int | None:
    """Raise the soft limit to this, or as far as the hard one lets it; returns how many files may be open. None: the system has no such limit.

    Not beyond what is wanted: workers inherit it, and older libraries go wrong with descriptors from 1024 on."""
    if sys.platform == "win32":
        return None
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return None
    if soft < wanted:
        higher = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (higher, hard))
        except (OSError, ValueError):  # macOS has a second limit, which isn't told here
            return soft
        return higher
    return soft
