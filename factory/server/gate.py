"""What stands before every call: who may come in, how much they may bring, how slow they may be; and the headers of every answer.

| against | rule |
| --- | --- |
| a page elsewhere that knows our address (DNS rebinding) | the Host header must name us: this machine, an address in numbers where we listen on more, or a name from --allow-host |
| a page elsewhere that posts to us (CSRF) | Sec-Fetch-Site `cross-site` only for a link that somebody follows; an Origin must be our own, or from --allow-origin |
| everybody on the network | a token, compared in constant time; without one the server listens on this machine alone |
| somebody who guesses the token | so many wrong ones, then one every few seconds (guesses.py) |
| large bodies | counted while they come, refused by Content-Length before that; what is refused is answered at once, then read to its end, within reason, so that the answer arrives |
| slow bodies | a time for the next byte, and one for the whole |
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import logging
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ...contract.errors import BusyError, DeniedError, Sam3dError, ServiceError, TimeLimitError, TooLargeError
from .answers import Refused, answer
from .guesses import Guesses
from .limits import MIB, Limits

COOKIE = "sam3d_session"
OPEN = ("/healthz", "/readyz", "/api/v1/healthz", "/api/v1/readyz", "/api/v1/session")  # without a token
API = "/api/"
FRAMES = "/api/v1/frames"
_LARGE = {"/api/v1/images": "upload", "/api/v1/masks": "upload", FRAMES: "upload", "/api/v1/reconstruct": "wait"}
log = logging.getLogger("sam3d.server")
DRAIN_AT_ONCE = 0.2  # seconds for a refused body to come before its answer, so that the connection can be kept
DRAIN_BYTES, DRAIN_TIME, DRAIN_SILENCE = 64 * MIB, 60.0, 20.0  # after the answer
CSP = (
    "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self' blob:; connect-src 'self' blob: data:; "
    "img-src 'self' blob: data:; style-src 'self' 'unsafe-inline'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": CSP,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}

DEFECT = ServiceError("The server made a mistake.", "This is a defect: please report it with the server's log.")


@dataclass(frozen=True)
class Access:
    """loopback: we listen on this machine alone. token: None lets everybody in who can reach us."""

    token: str | None = None
    loopback: bool = True
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()

    @property
    def cookie(self) -> str:
        """What the page's cookie holds: made from the token, and not the token."""
        return hmac.new((self.token or "").encode(), b"sam3d session", hashlib.sha256).hexdigest()

    def knows(self, headers: Mapping[str, str]) -> bool:
        """Whether a call carries the token, or the cookie that a page got for it."""
        if self.token is None:
            return True
        given = bearer(headers)
        if given is not None:
            return same(given, self.token)
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            return False
        return cookie is not None and same(cookie.value, self.cookie)

    def names_us(self, host: str) -> bool:
        """Whether a Host header (with or without a port) is one of ours."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in ("localhost", "127.0.0.1", "::1") or name in (allowed.lower() for allowed in self.hosts):
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return not self.loopback  # an address in numbers can't be rebound

    def check(self, scope: Scope, headers: Mapping[str, str]) -> tuple[Sam3dError, int] | None:
        """Why this call may not come in, and the status that says so."""
        host, origin = headers.get("host", ""), headers.get("origin")
        if not self.names_us(host):
            return DeniedError("This server has another name.", "Start it with --allow-host NAME if the name is right."), 421
        foreign = origin is not None and origin not in self.origins and authority(origin) != host
        navigation = scope["method"] == "GET" and headers.get("sec-fetch-mode") == "navigate"
        cross = headers.get("sec-fetch-site") == "cross-site" and not navigation and origin not in self.origins
        if foreign or cross:
            return DeniedError("The call comes from a page of another site.", "Start the server with --allow-origin if that is right."), 403
        if preflight(scope, headers) and origin in self.origins:
            return None  # it can't carry a token
        if scope["path"].startswith(API) and scope["path"] not in OPEN and not self.knows(headers):
            return DeniedError("The call carries no valid token.", "Send the header Authorization: Bearer TOKEN."), 401
        return None


def authority(origin: str) -> str:
    """Name and port of an Origin; empty for `null` and for what is none."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


def bearer(headers: Mapping[str, str]) -> str | None:
    """What a call gives as its token; None where it gives none."""
    scheme, _, given = headers.get("authorization", "").partition(" ")
    return given.strip() if scheme.lower() == "bearer" else None


def same(given: str, expected: str) -> bool:
    """In constant time, whatever the lengths."""
    one, other = (hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest() for text in (given, expected))
    return hmac.compare_digest(one, other)


def too_many(seconds: int) -> Response:
    """The answer to one who guesses."""
    problem = BusyError(
        "Too many wrong tokens came from this address.", f"Try again in {seconds} s, with the token that the server printed."
    )
    return answer(problem, headers={"Retry-After": str(seconds)})


class Gate:
    """ASGI middleware, the outermost."""

    def __init__(self, app: ASGIApp, access: Access, limits: Limits, guesses: Guesses) -> None:
        self.app, self.access, self.limits, self.guesses = app, access, limits, guesses
        self._under_way: Counter[str] = Counter()  # calls with large bodies, which are received at once

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]}
        body = _Body(receive, headers, self._most(scope["path"]), self.limits)
        began, send = False, self._dressed(send, headers.get("origin"))

        async def seen(message: Message) -> None:
            nonlocal began
            began = True
            await send(message)

        try:
            await self._answer(scope, headers, body, seen)
        except ClientDisconnect:  # in the middle of its body: there is nobody to answer
            pass
        except Exception:
            if began:
                raise
            log.exception("%s %s", scope["method"], scope["path"])
            await answer(DEFECT)(scope, receive, send)

    async def _answer(self, scope: Scope, headers: dict[str, str], body: _Body, send: Send) -> None:
        given = bearer(headers)
        if self.access.token is not None and given is not None:
            address = (scope.get("client") or ("",))[0]
            if seconds := self.guesses.wait(address):
                await too_many(seconds)(scope, body.receive, body.emptied(send))
                return
            if not self.access.knows(headers):
                self.guesses.wrong(address, given)
        refused = self.access.check(scope, headers)
        if refused is not None:
            extra = {"WWW-Authenticate": "Bearer"} if refused[1] == 401 else {}
            await self._refuse(refused[0], scope, body, send, refused[1], extra)
        elif body.too_large:
            await self._refuse(body.too_large, scope, body, send)
        elif preflight(scope, headers) and headers["origin"] in self.access.origins:
            await _preflight(headers, send)
        else:
            await self._admit(scope, body, send)

    async def _admit(self, scope: Scope, body: _Body, send: Send) -> None:
        """Calls with large bodies come in only so many at a time; the others are told to come back, before anything of them is kept."""
        kind = _LARGE.get(scope["path"], "")
        most = {"upload": self.limits.max_uploads, "wait": self.limits.max_sync}.get(kind)
        if most is None or scope["method"] != "POST":
            await self._pass(scope, body, send)
        elif self._under_way[kind] >= most:
            await self._refuse(BusyError(f"The server takes {most} of these at once, and it does."), scope, body, send)
        else:
            self._under_way[kind] += 1
            try:
                await self._pass(scope, body, send)
            finally:
                self._under_way[kind] -= 1

    def _most(self, path: str) -> int:
        if path == FRAMES:
            return self.limits.max_frame
        return self.limits.max_body + MIB // 16 if path in _LARGE else self.limits.max_json  # and the multipart form around it

    async def _pass(self, scope: Scope, body: _Body, send: Send) -> None:
        await self.app(scope, body, body.emptied(send))

    async def _refuse(
        self, problem: Sam3dError, scope: Scope, body: _Body, send: Send, status: int | None = None, headers: dict[str, str] | None = None
    ) -> None:
        await answer(problem, status, headers)(scope, body.receive, body.emptied(send))

    def _dressed(self, send: Send, origin: str | None) -> Send:
        """The headers that every answer has, unless the call set its own."""
        more = [(key.encode(), value.encode()) for key, value in HEADERS.items()]
        if origin is not None and origin in self.access.origins:
            more += [(b"access-control-allow-origin", origin.encode("latin-1")), (b"vary", b"Origin")]

        async def dressed(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = list(message.get("headers", ()))
                there = {key.lower() for key, _ in own}
                message = {**message, "headers": own + [(key, value) for key, value in more if key not in there]}
                if b"cache-control" not in there:
                    message["headers"].append((b"cache-control", b"no-store"))
            await send(message)

        return dressed


def preflight(scope: Scope, headers: Mapping[str, str]) -> bool:
    """Whether a browser asks beforehand, for a page of another origin."""
    return scope["method"] == "OPTIONS" and "origin" in headers and "access-control-request-method" in headers


async def _preflight(headers: Mapping[str, str], send: Send) -> None:
    allowed = [
        (b"access-control-allow-methods", b"GET, POST, DELETE"),
        (b"access-control-allow-headers", b"authorization, content-type, idempotency-key, last-event-id"),
        (b"access-control-max-age", b"600"),
    ]
    await send({"type": "http.response.start", "status": 204, "headers": allowed})
    await send({"type": "http.response.body", "body": b""})


class _Body:
    """A call's body, counted and timed while it is read. Callable as ASGI's `receive`."""

    def __init__(self, receive: Receive, headers: Mapping[str, str], most: int, limits: Limits) -> None:
        self.receive, self._most, self._limits = receive, most, limits
        self.ended = "content-length" not in headers and "transfer-encoding" not in headers
        self._count, self._began, self._late = 0, time.monotonic(), False
        length = headers.get("content-length", "0")
        self.too_large = self._excess() if not length.isdecimal() or int(length[:20]) > most else None

    def _excess(self) -> TooLargeError:
        return TooLargeError(
            f"The body is larger than {self._most / MIB:.3g} MiB.", "Make the picture smaller first, or send less at once."
        )

    async def __call__(self) -> Message:
        if self.ended:
            return await self.receive()
        left = self._limits.body_time - (time.monotonic() - self._began)
        try:
            message = await asyncio.wait_for(self.receive(), max(0.0, min(left, self._limits.body_silence)))
        except asyncio.TimeoutError:
            self._late = True
            raise Refused(TimeLimitError("The body came too slowly.", "Send it again over a faster connection.")) from None
        self._count += len(message.get("body", b""))
        self.ended = message["type"] != "http.request" or not message.get("more_body", False)
        if self._count > self._most:
            raise Refused(self._excess())
        return message

    def emptied(self, send: Send) -> Send:
        """`send` for a call that may end before its body. A client that is still sending when the connection goes would see that instead of its answer: so
        a refusal is given whole, and ended only when the rest has come, or enough of it."""
        after = False

        async def sent(message: Message) -> None:
            nonlocal after
            if message["type"] == "http.response.start" and message["status"] >= 400:
                if not self._late:
                    await self._drain(DRAIN_AT_ONCE, DRAIN_AT_ONCE)
                after = not self.ended and not self._late
                if not self.ended:
                    message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
            elif after and message["type"] == "http.response.body" and not message.get("more_body", False):
                await send({**message, "more_body": True})
                await self._drain(DRAIN_TIME, DRAIN_SILENCE)
                message = {"type": "http.response.body", "body": b""}
            await send(message)

        return sent

    async def _drain(self, seconds: float, silence: float) -> None:
        """Read what is still coming and forget it, until nothing has come for `silence` seconds."""
        end, count = time.monotonic() + seconds, 0
        while not self.ended and count < DRAIN_BYTES:
            try:
                message = await asyncio.wait_for(self.receive(), min(silence, max(0.0, end - time.monotonic())))
            except asyncio.TimeoutError:
                return
            count += len(message.get("body", b""))
            self.ended = message["type"] != "http.request" or not message.get("more_body", False)
