"""The web page at `/`: the built one, where it is there; else a plain form that sends a picture and a mask and waits."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse, HTMLResponse, Response

BUILT = Path(__file__).resolve().parent.parent / "web" / "dist"

_FORM = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1"><title>SAM 3D</title></head>
<body style="font:16px/1.5 system-ui,sans-serif;max-width:40em;margin:2em auto;padding:0 1em">
<h1>SAM 3D</h1>
<p>One picture and its mask in, a textured mesh out. The answer comes when it is made: leave the page open.</p>
<form method="post" action="/api/v1/reconstruct" enctype="multipart/form-data">
<p><label>Picture (PNG, JPEG, WebP)<br><input type="file" name="image" accept="image/png,image/jpeg,image/webp" required></label></p>
<p><label>Mask, white is the object (none: the picture's transparency)<br><input type="file" name="mask" accept="image/png,image/webp"></label></p>
<p><label>Answer <select name="answer"><option value="glb">mesh (GLB)</option><option value="ply">splats (PLY)</option></select></label></p>
<p><button>Reconstruct</button></p>
</form>
<p>The full page isn't built here. <code>docs/server.md</code> says how.</p>
</body></html>
"""


def install(app: FastAPI, built: Path = BUILT) -> None:
    """`/` and the page's own files. No name from a call is part of a path: the files are listed when the server starts."""
    files = (
        {path.relative_to(built).as_posix(): path for path in built.rglob("*") if path.is_file()}
        if (built / "index.html").is_file()
        else {}
    )

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return FileResponse(files["index.html"], headers={"Cache-Control": "no-cache"}) if files else HTMLResponse(_FORM)

    for name, path in files.items():
        app.add_api_route(f"/{name}", _sender(path, hashed="assets/" in name), include_in_schema=False, methods=["GET", "HEAD"])


def _sender(path: Path, hashed: bool):  # type: ignore[no-untyped-def]
    """hashed: its name changes with its content, as Vite does in assets/."""
    cache = "public, max-age=31536000, immutable" if hashed else "no-cache"

    async def send() -> FileResponse:
        return FileResponse(path, headers={"Cache-Control": cache})

    return send
