"""The web page at `/`: the built one, where it is there; else a plain form that sends a picture and a mask and waits. The form is at `/plain` always."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, HTMLResponse, Response

from .. import page_build

_TYPES = {  # a system's own table of types may say something else, and browsers believe what they are told
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".webp": "image/webp",
    ".wasm": "application/wasm",
    ".txt": "text/plain; charset=utf-8",
}

_FORM = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1"><link rel="icon" href="data:,"><title>SAM 3D</title>
<style>
:root{color-scheme:light dark}
body{font:16px/1.5 system-ui,sans-serif;max-width:34em;margin:3em auto;padding:0 1.2em}
label{display:block;margin:1.2em 0}
input,select{display:block;margin-top:.3em;font:inherit;max-width:100%}
button{font:inherit;font-weight:600;padding:.6em 1.4em;border:0;border-radius:.7em;background:#0f766e;color:#fff}
small{opacity:.7}
</style></head>
<body>
<h1>SAM 3D</h1>
<p>One picture and its mask in, a textured mesh out. The answer comes when it is made: leave the page open.</p>
<form method="post" action="/api/v1/reconstruct" enctype="multipart/form-data">
<label>Picture (PNG, JPEG, WebP)<input type="file" name="image" accept="image/png,image/jpeg,image/webp" required></label>
<label>Mask, white is the object <small>(none: the picture's transparency)</small><input type="file" name="mask" accept="image/png,image/webp"></label>
<label>Answer<select name="answer"><option value="glb">mesh (GLB)</option><option value="ply">splats (PLY)</option></select></label>
<p><button>Reconstruct</button></p>
</form>
<p><small>This is the form without scripts. docs/page.md says how the full page is built.</small></p>
</body></html>
"""


def install(app: FastAPI, built: Path = page_build.BUILT) -> None:
    """`/` and the page's own files. No name from a call is part of a path: the files are listed when the server starts."""
    files = {path.relative_to(built).as_posix(): path for path in built.rglob("*") if path.is_file()}
    files = {name: path for name, path in files.items() if path.suffix in _TYPES} if "index.html" in files else {}
    index = _sender(files["index.html"], hashed=False) if files else None

    @app.get("/plain", include_in_schema=False)
    async def plain() -> Response:
        # With no-referrer, browsers call a form's origin "null", and the gate refuses.
        return HTMLResponse(_FORM, headers={"Referrer-Policy": "same-origin"})

    @app.get("/", include_in_schema=False)
    async def front(request: Request) -> Response:
        return await plain() if index is None else await index(request)

    for name, path in files.items():
        app.add_api_route(f"/{name}", _sender(path, hashed="assets/" in name), include_in_schema=False, methods=["GET", "HEAD"])


def _sender(path: Path, hashed: bool) -> Callable[[Request], Awaitable[Response]]:
    """hashed: its name changes with its content, as Vite does in assets/. A file with a packed twin beside it is sent packed."""
    headers = {"Cache-Control": "public, max-age=31536000, immutable" if hashed else "no-cache"}
    packed = path.with_name(f"{path.name}.gz")
    has_packed = packed.is_file()

    async def send(request: Request) -> Response:
        wanted = {item.split(";")[0].strip() for item in request.headers.get("accept-encoding", "").split(",")}
        if has_packed:
            more = {"Vary": "Accept-Encoding", **({"Content-Encoding": "gzip"} if "gzip" in wanted else {})}
            return FileResponse(packed if "gzip" in wanted else path, media_type=_TYPES[path.suffix], headers={**headers, **more})
        return FileResponse(path, media_type=_TYPES[path.suffix], headers=headers)

    return send
