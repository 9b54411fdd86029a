"""Start the worker on this process's stdin and stdout. Takes no arguments, on purpose: nothing a user types reaches it."""

from __future__ import annotations

from .channel import claim_stdio
from .loop import serve

if __name__ == "__main__":
    channel = claim_stdio()  # first of all: from here on nothing that prints can corrupt the stream
    from .engines import engines
    from .geometry import encode, ready
    from .in_use import hold
    from .weights import locate

    hold()
    serve(channel, engines(), encode, ready, locate.identity()[1])
