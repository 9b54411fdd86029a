"""Names that we give: ULIDs for jobs and batches (they sort by time), sha256 in hex for everything that is named by its content."""

from __future__ import annotations

import secrets
import time

_LETTERS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's base 32
ULID = r"^[0-9A-HJKMNP-TV-Z]{26}$"
SHA = r"^[0-9a-f]{64}$"


def ulid() -> str:
    """48 bits of milliseconds, 80 of chance; source: the ULID specification."""
    number = (int(time.time() * 1000) << 80) | secrets.randbits(80)
    return "".join(_LETTERS[(number >> shift) & 31] for shift in range(125, -1, -5))
