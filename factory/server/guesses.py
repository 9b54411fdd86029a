"""How often a token may be guessed: so many wrong ones in a row, then one every few seconds.

Each address has an allowance of its own, and all have one together. Where the common one is used up, an address that never guessed wrong has its own still: whoever
knows the token comes in, whatever others try. What carries no token, a cookie or the right token costs nothing; a cookie is no guess, it has 256 bits. Nor is the
same wrong token again: a forgotten script that calls with an old one must not lock out all who share its address, behind a router or a proxy.
"""

from __future__ import annotations

import hashlib
import ipaddress
import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

KEPT = 4096  # addresses; of more than that the one whose last guess is longest ago is forgotten
TRIED = 32  # wrong tokens of an address that are known again


@dataclass
class _Allowance:
    """Starts full; `every` seconds give one back."""

    most: float
    every: float
    left: float
    at: float
    tried: deque[bytes] = field(default_factory=lambda: deque(maxlen=TRIED))  # sha256 of each

    def now(self, moment: float) -> float:
        self.left = min(self.most, self.left + (moment - self.at) / self.every)
        self.at = moment
        return self.left


class Guesses:
    """On the event loop's thread. address: of one client; an IPv6 network of 64 bits counts as one."""

    def __init__(
        self,
        own: int = 20,
        own_every: float = 3.0,
        common: int = 200,
        common_every: float = 0.5,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._own, self._own_every, self._clock = own, own_every, clock
        self._common = _Allowance(common, common_every, common, clock())
        self._addresses: OrderedDict[str, _Allowance] = OrderedDict()

    def wait(self, address: str) -> int:
        """Seconds until a token from there is looked at; 0: now. While it waits, none is looked at, not even the right one: else the limit were none."""
        moment, known = self._clock(), self._addresses.get(_network(address))
        if known is None:
            return 0
        if known.now(moment) >= known.most:
            del self._addresses[_network(address)]
            return 0
        spent = [one for one in (known, self._common) if one.now(moment) < 1]
        return max((math.ceil((1 - one.left) * one.every) for one in spent), default=0)

    def wrong(self, address: str, token: str) -> None:
        """This token from there was looked at, and was none."""
        moment, name = self._clock(), _network(address)
        known = self._addresses.setdefault(name, _Allowance(self._own, self._own_every, self._own, moment))
        self._addresses.move_to_end(name)
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        if digest in known.tried:
            return
        known.tried.append(digest)
        for one in (known, self._common):
            one.left = max(0.0, one.now(moment) - 1)
        if len(self._addresses) > KEPT:
            self._addresses.popitem(last=False)


def _network(address: str) -> str:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if found.version == 4:
        return address
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((int(found) >> 64 << 64, 64)))
