"""The API's description as it stands in docs/openapi.json: `python -m comfyui_sam3d.factory.server.schema` writes it."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from .app import make_app
from .limits import Limits
from .service import Service

FILE = Path(__file__).resolve().parents[2] / "docs" / "openapi.json"


def text() -> str:
    """Of an application that never starts: no worker, no port."""
    with tempfile.TemporaryDirectory() as folder:
        service = Service(Path(folder), Limits(), [])
        try:
            return json.dumps(make_app(service).openapi(), indent=1, ensure_ascii=False, sort_keys=True) + "\n"
        finally:
            service.stop()


def write() -> None:
    aside = FILE.with_name(f"{FILE.name}.part")
    aside.write_text(text(), encoding="utf-8", newline="\n")
    os.replace(aside, FILE)


if __name__ == "__main__":
    write()
