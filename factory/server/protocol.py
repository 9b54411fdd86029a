"""uvicorn's HTTP protocol with a bound on connections, two more timers (for a whole request head, and for a client that takes nothing of its answer), and
our own words for what is refused before there is a call."""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from ...contract.errors import BusyError, OptionError, Sam3dError, TimeLimitError
from .answers import RETRY_AFTER, body_of
from .gate import HEADERS
from .limits import Limits


def protocol(limits: Limits) -> type[asyncio.Protocol]:
    """A protocol class for uvicorn's `http`."""

    class Bounded(H11Protocol):
        _late: asyncio.TimerHandle | None = None
        _stuck: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            transport.set_write_buffer_limits(high=0)  # any byte that waits counts, also the last ones of a connection that is to be closed
            if len(self.connections) > limits.max_connections:
                self._refuse(503, BusyError(f"{limits.max_connections} connections are open."))
                return
            self._late = self.loop.call_later(limits.head_time, self._too_late)

        def data_received(self, data: bytes) -> None:
            if self.transport.is_closing():  # refused
                return
            super().data_received(data)
            waiting = self.cycle is None or self.cycle.response_complete
            if not waiting and self._late is not None:
                self._late.cancel()
                self._late = None
            elif waiting and self._late is None:  # the first bytes of the next head on a connection that is kept
                self._late = self.loop.call_later(limits.head_time, self._too_late)

        def connection_lost(self, exc: Exception | None) -> None:
            for timer in (self._late, self._stuck):
                if timer is not None:
                    timer.cancel()
            super().connection_lost(exc)

        def pause_writing(self) -> None:
            """Something of the answer waits until the client takes it."""
            super().pause_writing()
            self._look_again()

        def _look_again(self, before: int | None = None) -> None:
            """before: what waited a while ago; nothing is added meanwhile. An answer given in one piece may take a slow client long, and that is its right."""
            left = self.transport.get_write_buffer_size()
            if left == before:
                self.transport.abort()
            else:
                self._stuck = self.loop.call_later(limits.answer_silence, self._look_again, left)

        def resume_writing(self) -> None:
            if self._stuck is not None:
                self._stuck.cancel()
            super().resume_writing()

        def send_400_response(self, msg: str) -> None:
            self._refuse(400, OptionError("This is no HTTP request.", "Speak HTTP/1.1; where TLS is meant, a proxy must stand in front."))

        def _too_late(self) -> None:
            if not self.transport.is_closing():
                self._refuse(408, TimeLimitError("The request came too slowly.", "Send it again over a faster connection."))

        def _refuse(self, status: int, problem: Sam3dError) -> None:
            self.transport.write(_answer(status, problem))
            self.transport.close()

    return Bounded


def _answer(status: int, problem: Sam3dError) -> bytes:
    """A whole answer of HTTP/1.1, with the body and the headers that all errors have."""
    body = json.dumps(body_of(problem)).encode()
    more = {"retry-after": str(RETRY_AFTER)} if isinstance(problem, BusyError) else {}
    own = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close", "cache-control": "no-store"}
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", *(f"{name}: {value}" for name, value in {**own, **HEADERS, **more}.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body
