"""A running job's picture of its work, over HTTP."""

from __future__ import annotations

import io
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi")

from comfyui_sam3d.factory.server import previews
from comfyui_sam3d.factory.server.dispatcher import Dispatcher

from .server_app import V1, error, events, send_job, server, wait


def test_a_preview_is_small_and_its_shape_stays() -> None:
    image = np.zeros((300, 900, 3), np.uint8)
    image[:, 450:] = (10, 200, 30)
    found = np.asarray(Image.open(io.BytesIO(previews.png(image))))
    assert found.shape == (171, 512, 3) and tuple(found[80, 400]) == (10, 200, 30)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(previews.png(image[:20, :30])))), image[:20, :30])


def test_the_preview_is_there_while_the_job_runs(tmp_path: Path) -> None:
    with server(tmp_path) as client:
        job = send_job(client, params={"seed": 1030})["id"]
        wait(client, job, ("running",))
        end = time.monotonic() + 20
        while (answer := client.get(f"{V1}/jobs/{job}/preview")).status_code != 200:
            assert time.monotonic() < end, answer.text
            time.sleep(0.02)
        assert answer.headers["content-type"] == "image/png" and answer.headers["cache-control"] == "no-store"
        assert Image.open(io.BytesIO(answer.content)).size == (512, 171)
        told = client.app.state.service.store.events(job, 0)
        assert [row["kind"] for row in told].count("preview") == 1
        client.post(f"{V1}/jobs/{job}/cancel")
        wait(client, job)
        assert client.get(f"{V1}/jobs/{job}/preview").content == answer.content  # for those who heard of it just before the end
        assert "preview" not in [one["event"] for one in events(client.get(f"{V1}/jobs/{job}/events").text)]
        other = send_job(client, params={"seed": 1})["id"]
        wait(client, other)
        error(client.get(f"{V1}/jobs/{job}/preview"), 404, "E_NOT_FOUND")
        assert client.delete(f"{V1}/jobs/{other}").status_code == 204
        error(client.get(f"{V1}/jobs/{other}/preview"), 404, "E_NOT_FOUND")


class Hands:
    """Slots whose previews change whenever they are looked at, as their threads may change them."""

    def __init__(self, job: str | None, *told: tuple[str, bytes]) -> None:
        self.job, self._told = job, list(told)

    @property
    def preview(self) -> tuple[str, bytes]:
        return self._told.pop(0) if len(self._told) > 1 else self._told[0]


def test_a_preview_is_never_that_of_another_job() -> None:
    dispatcher = Dispatcher.__new__(Dispatcher)
    dispatcher.slots = [Hands("next", ("mine", b"mine"), ("next", b"next"))]  # type: ignore[list-item]
    assert dispatcher.preview("mine") == b"mine"
    assert dispatcher.preview("mine") is None


def test_a_second_attempt_on_another_worker_goes_before_the_first() -> None:
    dispatcher = Dispatcher.__new__(Dispatcher)
    dispatcher.slots = [Hands(None, ("mine", b"old")), Hands("mine", ("mine", b"new"))]  # type: ignore[list-item]
    assert dispatcher.preview("mine") == b"new"
    dispatcher.slots[1] = Hands("mine", ("", b""))  # type: ignore[call-overload]
    assert dispatcher.preview("mine") == b"old"
