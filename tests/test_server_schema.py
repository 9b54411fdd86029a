"""docs/openapi.json is what the server says of itself, and the server does what it says: schemathesis calls it as the description allows, and as it doesn't."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest
from comfyui_sam3d.factory.server import schema

from .server_app import SMALL, on_port, send_image, send_job, send_mask, wait


def test_the_description_is_current() -> None:
    """Written with one version of FastAPI, read with another: titles may differ there, calls and fields may not."""
    kept, now = json.loads(schema.FILE.read_text(encoding="utf-8")), json.loads(schema.text())
    assert without_titles(kept) == without_titles(now), "python -m comfyui_sam3d.factory.server.schema writes it"


def without_titles(value: object) -> object:
    if isinstance(value, dict):
        return {k: without_titles(v) for k, v in value.items() if k not in ("title", "summary", "operationId") or not isinstance(v, str)}
    return [without_titles(item) for item in value] if isinstance(value, list) else value


def test_every_call_is_described() -> None:
    said = json.loads(schema.FILE.read_text(encoding="utf-8"))
    for path, calls in said["paths"].items():
        for method, call in calls.items():
            assert call.get("description"), (method, path)
            assert {"4XX", "5XX"} <= set(call["responses"]) and "422" not in call["responses"], (method, path)


# No schema can say which bytes are a picture, a frame, or a mask that selects something: there 400 and 422 are good answers to what looks valid.
FILES = (
    "/api/v1/images",
    "/api/v1/masks",
    "/api/v1/frames",
    "/api/v1/reconstruct",
    "/api/v1/jobs",
    "/api/v1/batches",
    "/api/v1/images/{id}/segment",
)


def config(url: str, phases: str) -> str:
    """Things that exist, so that there is something behind half of the calls; what a call of each kind may answer. Stateful calls make their own things, and
    delete them: there a known one would be missed afterwards."""
    with httpx2.Client(base_url=url) as client:
        image = send_image(client, alpha=True)
        mask = send_mask(client, image["id"])
        job = wait(client, send_job(client, image_id=image["id"])["id"])
        batch = client.post("/api/v1/batches", json={"items": [{"image_id": image["id"]}]}).json()
    known = {"images": image["id"], "masks": mask["id"], "jobs": job["id"], "batches": batch["id"]}
    lines = []
    for path in FILES:
        lines += [
            "[[operations]]",
            f'include-path = "{path}"',
            "include-method = 'POST'",
            "checks.positive_data_acceptance.enabled = false",
        ]
    for noun, id in known.items() if phases != "stateful" else ():
        lines += [
            "[[operations]]",
            f"include-path-regex = '^/api/v1/{noun}/'",
            "exclude-method = 'DELETE'",
            f'parameters = {{ "path.id" = "{id}" }}',
        ]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("examples", "phases"),
    [
        pytest.param(2, "examples,fuzzing", id="short"),
        pytest.param(60, "examples,coverage,fuzzing", id="long", marks=pytest.mark.full),
        pytest.param(60, "stateful", id="stateful", marks=pytest.mark.full),
    ],
)
def test_the_server_keeps_its_word(tmp_path: Path, examples: int, phases: str) -> None:
    with on_port(tmp_path / "data", limits=replace(SMALL, max_uploads=64)) as (url, _):
        (tmp_path / "schemathesis.toml").write_text(config(url, phases), encoding="utf-8")
        command = [
            *(sys.executable, "-m", "schemathesis.cli", "run", f"{url}/api/v1/openapi.json"),
            *("--phases", phases, "--max-examples", str(examples), "--seed", "1", "--workers", "1", "--no-color"),
            *("--exclude-path", "/api/v1/events"),  # a stream without an end
            *("--request-timeout", "60", "--generation-database", "none"),
        ]
        ran = subprocess.run(command, cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=3000)
    assert ran.returncode == 0, ran.stdout[-6000:] + ran.stderr[-2000:]
    assert "passed" in ran.stdout and "\u274c" not in ran.stdout, ran.stdout[-3000:]
