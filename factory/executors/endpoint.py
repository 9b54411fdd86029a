"""A picture and its mask as bytes in, files as bytes out; and the same over HTTP behind a token. For a container that holds one worker (deploy/sam3d_modal_app.py).

    POST /reconstruct    {"image": base64, "mask": base64 or absent, "options": {"seed": 3, ...}}
    200                  {"glb": base64, "ply": base64, "meta": {...}}; with `Accept: model/gltf-binary` the GLB itself
    400 401 404 405 413  {"error": {"code", "message", "hint"}}; 422 where the engine failed, 503 where it isn't ready
    GET /healthz         {"status": "ok"}, without a token

The job server (docs/server.md) has queues, progress, masks and a page; this has none of them, and no state.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ...contract.backend import Backend
from ...contract.errors import InputError, OptionError, Sam3dError, SetupError, WorkerStartError
from ...contract.request import FORMATS, ReconstructRequest
from ..events import error_event
from ..inputs import make_request
from ..output import described
from ..settings import canonical

MAX_BODY = 64 << 20
GLB = "model/gltf-binary"
_TEXTS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 405: "Method Not Allowed", 413: "Content Too Large",
          422: "Unprocessable Content", 503: "Service Unavailable"}  # fmt: skip

Environ = dict[str, Any]
StartResponse = Callable[[str, list[tuple[str, str]]], object]


def request_from_bytes(image: bytes, mask: bytes | None, options: Mapping[str, Any] | None = None) -> ReconstructRequest:
    """image: the bytes of a picture file. mask: those of a mask file, a picture or JSON; None: the picture's alpha. options: settings by name (docs/cli.md).

    Raises InputError.
    """
    for name, value in (("image", image), ("mask", mask)):
        if not isinstance(value, (bytes, bytearray)) and (value is not None or name == "image"):
            raise OptionError(f"The {name} must be the bytes of a file, not {type(value).__name__}.", "Read the file first.")
    settings = {canonical(str(key)): value for key, value in (options or {}).items()}
    for name in ("back_image", "pointmap", "intrinsics"):
        if settings.get(name) is not None:
            raise OptionError(f"{name} names a file, and none can be sent here.", "Use the batch or the job server.")
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder, "object.image")
        picture.write_bytes(image)
        masks = []
        if mask is not None:
            masks.append(Path(folder, "object_mask.json" if mask[:64].lstrip()[:1] in (b"{", b"[") else "object_mask.png"))
            masks[0].write_bytes(mask)
        return make_request(picture, masks, name="object", settings=settings)


def reconstruct(backend: Backend, image: bytes, mask: bytes | None = None, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """-> {"glb": bytes, "ply": bytes, "meta": JSON values}; a format that the options leave out is None. Raises a Sam3dError."""
    request = request_from_bytes(image, mask, {"outputs": ["glb", "ply"], **(options or {})})
    start = time.perf_counter()
    scene = backend.reconstruct(request).result()
    files = {kind: scene.files.get(FORMATS[kind][0]) for kind in ("glb", "ply")}
    meta = {
        "key": request.content_key(),
        "parameters": request.parameters(),
        **described(scene),
        "seconds": round(time.perf_counter() - start, 3),
    }
    return {**{kind: None if data is None else data.tobytes() for kind, data in files.items()}, "meta": meta}


def wsgi(
    backend: Backend, token: str, options: Mapping[str, Any] | None = None, check: Callable[[], None] = lambda: None
) -> Callable[[Environ, StartResponse], Iterable[bytes]]:
    """The HTTP form, as a WSGI application. Raises SetupError for a token that is no secret.

    options: settings of requests that don't give them. check: raises a Sam3dError where no job can be taken.
    """
    if len(token.strip()) < 16:
        raise SetupError(
            "SAM3D_TOKEN is missing or shorter than 16 characters.",
            'Make one: python -c "import secrets; print(secrets.token_urlsafe(32))"',
        )

    def application(environ: Environ, start: StartResponse) -> Iterable[bytes]:
        def work(image: bytes, mask: bytes | None, given: Mapping[str, Any] | None) -> dict[str, Any]:
            check()
            return reconstruct(backend, image, mask, {**(options or {}), **(given or {})})

        status, kind, body = _answer(environ, token.strip(), work)
        more = [("WWW-Authenticate", "Bearer")] if status == 401 else []
        start(f"{status} {_TEXTS[status]}", [("Content-Type", kind), ("Content-Length", str(len(body))), *more])
        return [body]

    return application


def _answer(environ: Environ, token: str, work: Callable[..., dict[str, Any]]) -> tuple[int, str, bytes]:
    path, method = environ.get("PATH_INFO", "/"), environ.get("REQUEST_METHOD", "GET")
    if path == "/healthz" and method == "GET":
        return _json(200, {"status": "ok"})
    given = str(environ.get("HTTP_AUTHORIZATION", "")).partition(" ")
    if given[0].lower() != "bearer" or not hmac.compare_digest(given[2].strip().encode(), token.encode()):
        return _error(401, OptionError("The token is missing or wrong.", "Send it as `Authorization: Bearer ...`."))
    if path != "/reconstruct":
        return _error(404, OptionError(f"There is no {path}.", "POST to /reconstruct."))
    if method != "POST":
        return _error(405, OptionError(f"{method} isn't understood here.", "POST to /reconstruct."))
    try:
        length = int(environ.get("CONTENT_LENGTH") or -1)
    except ValueError:
        length = -1
    if not 0 <= length <= MAX_BODY:
        return _error(413, OptionError(f"A request has 0 to {MAX_BODY >> 20} MiB, and says how many.", "Send a smaller picture."))
    try:
        body = json.loads(environ["wsgi.input"].read(length))
        made = work(_bytes(body, "image"), _bytes(body, "mask") if body.get("mask") else None, body.get("options"))
    except (ValueError, AttributeError, TypeError) as problem:
        return _error(
            400, OptionError(f"The request can't be read: {problem}.", 'Send JSON: {"image": base64, "mask": base64, "options": {}}.')
        )
    except InputError as problem:
        return _error(400, problem)
    except Sam3dError as problem:
        return _error(503 if isinstance(problem, (SetupError, WorkerStartError)) else 422, problem)
    if GLB in str(environ.get("HTTP_ACCEPT", "")) and made["glb"] is not None:
        return 200, GLB, made["glb"]
    coded = {kind: None if made[kind] is None else base64.b64encode(made[kind]).decode() for kind in ("glb", "ply")}
    return _json(200, {**coded, "meta": made["meta"]})


def _bytes(body: dict[str, Any], name: str) -> bytes:
    try:
        return base64.b64decode(body[name], validate=True)
    except KeyError:
        raise OptionError(f"The request has no {name}.", f'Send {{"{name}": the file in base64}}.') from None
    except (binascii.Error, ValueError, TypeError):
        raise OptionError(f"{name} is no base64.", "Encode the file's bytes, without a `data:` prefix.") from None


def _error(status: int, problem: Sam3dError) -> tuple[int, str, bytes]:
    return _json(status, {"error": error_event(problem)})


def _json(status: int, value: Mapping[str, Any]) -> tuple[int, str, bytes]:
    return status, "application/json", json.dumps(value).encode()
