"""The calls of /api/v1, through the real application with a real worker around a stub engine."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import socket
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from comfyui_sam3d.factory.server.gate import Access
from fastapi.testclient import TestClient
from PIL import Image

from .server_app import V1, encoded, error, events, mask_png, on_port, png, send_image, send_job, send_mask, server, wait


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    with server(tmp_path_factory.mktemp("server")) as found:
        yield found


def test_picture_is_known_by_its_pixels(client: TestClient) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (12, 16, 3), np.uint8)
    first = client.post(f"{V1}/images", files={"file": ("a.png", encoded(pixels))})
    again = client.post(f"{V1}/images", files={"file": ("b.webp", encoded(pixels, "WEBP", lossless=True))})
    assert (first.status_code, again.status_code) == (201, 200) and first.json() == again.json()
    assert first.json() == {
        "id": first.json()["id"],
        "width": 16,
        "height": 12,
        "has_alpha": False,
        "url": f"{V1}/images/{first.json()['id']}",
    }
    stored = client.get(first.json()["url"])
    assert stored.headers["content-type"] == "image/png" and "immutable" in stored.headers["cache-control"]
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(stored.content))), pixels)
    assert client.get(first.json()["url"], headers={"If-None-Match": stored.headers["etag"]}).status_code == 304


def test_picture_is_turned_and_loses_its_metadata(client: TestClient) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a secret place"  # orientation, description
    found = send_image(client, encoded(np.zeros((10, 30, 3), np.uint8), "JPEG", exif=exif))
    assert (found["width"], found["height"]) == (10, 30)
    stored = Image.open(io.BytesIO(client.get(found["url"]).content))
    assert not stored.getexif() and set(stored.info) <= {"dpi"}


def test_thumbnails(client: TestClient) -> None:
    found = send_image(client, width=300, height=200, alpha=True)
    answer = client.get(found["url"], params={"w": 128})
    small = Image.open(io.BytesIO(answer.content))
    assert answer.headers["content-type"] == "image/webp" and small.size == (128, 85) and small.mode == "RGBA"
    assert error(client.get(found["url"], params={"w": 129}), 422, "E_OPTION")


def test_mask_must_fit_and_select(client: TestClient) -> None:
    image = send_image(client)
    mask = send_mask(client, image["id"])
    assert mask["area"] == 14 * 10 and mask["bounds"] == [5, 5, 19, 15] and mask["image_id"] == image["id"]
    post = {"data": {"image_id": image["id"]}}
    error(client.post(f"{V1}/masks", files={"file": mask_png(24, 24)}, **post), 422, "E_MASK_SIZE")
    error(client.post(f"{V1}/masks", files={"file": encoded(np.zeros((20, 24), np.uint8))}, **post), 422, "E_MASK_EMPTY")
    error(client.post(f"{V1}/masks", files={"file": mask_png()}, data={"image_id": "0" * 64}), 404, "E_NOT_FOUND")


def test_soft_masks_stay_soft(client: TestClient) -> None:
    image = send_image(client)
    soft = np.zeros((20, 24), np.uint8)
    soft[5:15, 5:15], soft[5, 5:15], soft[6, 5:15] = 255, 40, 140
    mask = send_mask(client, image["id"], encoded(soft))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(client.get(mask["url"]).content))), soft)
    assert mask["area"] == 9 * 10


def test_a_job_from_end_to_end(client: TestClient) -> None:
    image = send_image(client)
    masks = [send_mask(client, image["id"])["id"], send_mask(client, image["id"], mask_png(inset=7))["id"]]
    job = send_job(client, image_id=image["id"], mask_ids=masks, names=["plate", "fork/1"], name="Tisch 食卓", params={"seed": 3})
    assert job["status"] in ("queued", "starting", "running") and job["params"] == {"seed": 3}
    done = wait(client, job["id"])
    assert done["status"] == "succeeded" and done["progress"] == 1 and done["attempts"] == 1 and done["queue_position"] is None, done
    assert done["result"]["engine"] == "draft" and done["result"]["seed"] == 3
    assert [item["name"] for item in done["result"]["objects"]] == ["plate", "fork_1"]
    assert done["name"] == "Tisch 食卓" and done["names"] == ["plate", "fork_1"]
    names = [file["name"] for file in done["outputs"]]
    assert {"model.glb", "splat.ply", "preview.png", "objects/plate.glb"} <= set(names) and "scene.frame" not in names
    for file in done["outputs"]:
        answer = client.get(file["url"])
        assert answer.status_code == 200 and len(answer.content) == file["bytes"]
        assert hashlib.sha256(answer.content).hexdigest() == file["sha256"] and answer.headers["etag"] == f'"{file["sha256"]}"'
        assert answer.headers["content-disposition"].startswith("attachment")
    glb = client.get(next(file["url"] for file in done["outputs"] if file["name"] == "model.glb"))
    assert len(trimesh.load(io.BytesIO(glb.content), file_type="glb").geometry) == 2
    part = client.get(done["outputs"][0]["url"], headers={"Range": "bytes=0-3"})
    assert part.status_code == 206 and part.content == glb.content[:4] == b"glTF"
    assert client.get(done["outputs"][0]["url"], headers={"If-None-Match": glb.headers["etag"]}).status_code == 304
    assert client.get(f"{done['links']['self']}/files/meta.json").json()["complete"] is True
    archive = zipfile.ZipFile(io.BytesIO(client.get(done["links"]["archive"]).content))
    assert archive.testzip() is None and archive.read("Tisch 食卓/model.glb") == glb.content


def test_the_same_request_is_not_made_again(client: TestClient) -> None:
    image = send_image(client, alpha=True, shade=99)
    first = wait(client, send_job(client, image_id=image["id"])["id"])
    again = send_job(client, image_id=image["id"], params={"seed": 0}, expect=200)  # 0 is what it would be anyway
    assert again["status"] == "succeeded" and again["cached"] and again["attempts"] == 0 and again["id"] != first["id"]
    assert again["outputs"][0]["sha256"] == first["outputs"][0]["sha256"]
    assert wait(client, send_job(client, image_id=image["id"], no_cache=True)["id"])["cached"] is False
    assert wait(client, send_job(client, image_id=image["id"], params={"seed": 1})["id"])["cached"] is False


def test_idempotency_key(client: TestClient) -> None:
    image, key = send_image(client, alpha=True, shade=50)["id"], {"Idempotency-Key": "one-and-only"}
    first = send_job(client, image_id=image, headers=key)
    assert send_job(client, image_id=image, headers=key, expect=200)["id"] == first["id"]
    error(client.post(f"{V1}/jobs", json={"image_id": image, "params": {"seed": 5}}, headers=key), 409, "E_CONFLICT")
    error(client.post(f"{V1}/jobs", json={"image_id": image}, headers={"Idempotency-Key": "a b"}), 422, "E_OPTION")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"mask_ids": ["0" * 64]}, 404, "E_NOT_FOUND"),
        ({"image_id": "0" * 64}, 404, "E_NOT_FOUND"),
        ({"image_id": "../../etc"}, 422, "E_OPTION"),
        ({"params": {"thickness": 9}}, 422, "E_OPTION"),
        ({"params": {"thickness": "0.5"}}, 422, "E_OPTION"),
        ({"params": {"pointmap": "x.npy"}}, 422, "E_OPTION"),
        ({"params": {"back_image": "/etc/passwd"}}, 422, "E_OPTION"),
        ({"params": {"back_image": "0" * 64}}, 404, "E_NOT_FOUND"),
        ({"params": {"outputs": ["exe"]}}, 422, "E_OPTION"),
        ({"names": ["a", "b"]}, 422, "E_OPTION"),
        ({"unknown": 1}, 422, "E_OPTION"),
    ],
)
def test_wrong_jobs_are_refused_at_once(client: TestClient, body: dict[str, Any], status: int, code: str) -> None:
    full = {"image_id": send_image(client, alpha=True)["id"], **body}
    found = error(client.post(f"{V1}/jobs", json=full), status, code)
    assert found["message"]


def test_a_picture_without_alpha_needs_a_mask(client: TestClient) -> None:
    error(client.post(f"{V1}/jobs", json={"image_id": send_image(client)["id"]}), 422, "E_MASK")


def test_the_back_of_a_draft_comes_by_id(client: TestClient) -> None:
    back = send_image(client, shade=10)["id"]
    done = wait(client, send_job(client, params={"back_image": back})["id"])
    assert done["status"] == "succeeded", done


def test_failures_are_told(client: TestClient) -> None:
    done = wait(client, send_job(client, params={"seed": 667})["id"])  # lack of memory: every attempt is made
    assert done["status"] == "failed" and done["attempts"] == 2 and done["error"]["code"] == "E_MEMORY" and done["error"]["hint"]
    assert done["finished_at"] and not done["outputs"]
    error(client.get(done["links"]["self"] + "/archive.zip"), 409, "E_CONFLICT")


def test_cancel_while_it_waits_and_while_it_runs(client: TestClient) -> None:
    running = send_job(client, params={"seed": 1020})
    wait(client, running["id"], ("running",))
    waiting = send_job(client, params={"seed": 1021})
    assert client.get(f"{V1}/jobs/{waiting['id']}").json()["queue_position"] == 0
    answer = client.post(f"{V1}/jobs/{waiting['id']}/cancel")
    assert answer.status_code == 200 and answer.json()["status"] == "canceled"
    wait(client, running["id"], ("running",))
    error(client.post(f"{V1}/jobs/{running['id']}/retry"), 409, "E_CONFLICT")
    answer = client.post(f"{V1}/jobs/{running['id']}/cancel")
    assert answer.status_code == 202 and answer.json()["cancel_requested"]
    assert wait(client, running["id"])["status"] == "canceled"
    error(client.post(f"{V1}/jobs/{running['id']}/cancel"), 409, "E_CONFLICT")
    again = client.post(f"{V1}/jobs/{running['id']}/retry")
    assert again.status_code == 201 and again.json()["retry_of"] == running["id"]
    client.post(f"{V1}/jobs/{again.json()['id']}/cancel")
    wait(client, again.json()["id"])


def test_priority_decides_who_is_next(client: TestClient) -> None:
    busy = send_job(client, params={"seed": 1001}, no_cache=True)
    wait(client, busy["id"], ("running",))
    late = [send_job(client, params={"seed": 70 + i}, priority=i, no_cache=True) for i in range(3)]
    assert [client.get(f"{V1}/jobs/{job['id']}").json()["queue_position"] for job in late] == [2, 1, 0]
    ended = [wait(client, job["id"])["finished_at"] for job in late]
    assert ended == sorted(ended, reverse=True)


def test_events_tell_the_whole_story_and_go_on_where_they_broke_off(client: TestClient) -> None:
    job = send_job(client, params={"seed": 1001}, no_cache=True)["id"]
    with client.stream("GET", f"{V1}/jobs/{job}/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        told = events("".join(stream.iter_text()))
    kinds = [event["event"] for event in told]
    assert kinds[0] == "status" and kinds[-2:] == ["output", "done"] and "progress" in kinds
    assert [e["data"]["status"] for e in told if e["event"] == "status"] == ["queued", "starting", "running", "succeeded"]
    assert [e["id"] for e in told] == sorted({e["id"] for e in told})
    fractions = [e["data"]["progress"] for e in told if e["event"] == "progress"]
    assert fractions == sorted(fractions)
    middle = next(e["id"] for e in told if e["data"].get("status") == "running")
    rest = events(client.get(f"{V1}/jobs/{job}/events", headers={"Last-Event-ID": str(middle)}).text)
    assert [e["event"] for e in rest] == ["status", "output", "done"] and all(
        e["id"] > middle for e in rest
    )  # progress went with the job's end
    assert events(client.get(f"{V1}/jobs/{job}/events", headers={"Last-Event-ID": str(told[-1]["id"])}).text) == []
    everything = client.get(f"{V1}/events", params={"once": True}, headers={"Last-Event-ID": "0"}).text
    assert {e["data"]["job"] for e in events(everything)} >= {job}
    assert events(client.get(f"{V1}/events", params={"once": True}).text) == []


def test_pages_of_jobs(client: TestClient) -> None:
    mine = [send_job(client, params={"seed": 900 + i}, no_cache=True)["id"] for i in range(5)]
    first = client.get(f"{V1}/jobs", params={"limit": 3}).json()
    second = client.get(f"{V1}/jobs", params={"limit": 2, "cursor": first["next"]}).json()
    assert [job["id"] for job in first["jobs"] + second["jobs"]] == mine[::-1]
    for job in mine:
        wait(client, job)
    found = client.get(f"{V1}/jobs", params={"status": "succeeded", "limit": 200}).json()["jobs"]
    assert {job["status"] for job in found} == {"succeeded"} and set(mine) <= {job["id"] for job in found}


def test_deleted_is_gone(client: TestClient) -> None:
    job = wait(client, send_job(client, params={"seed": 31})["id"])["id"]
    assert client.delete(f"{V1}/jobs/{job}").status_code == 204
    for answer in (client.get(f"{V1}/jobs/{job}"), client.delete(f"{V1}/jobs/{job}"), client.get(f"{V1}/jobs/{job}/events")):
        error(answer, 404, "E_NOT_FOUND")


def test_batch(client: TestClient) -> None:
    images = [send_image(client, alpha=True, shade=shade)["id"] for shade in (1, 2)]
    items = [{"image_id": image, "name": "thing"} for image in images]
    items.append({"image_id": images[0], "name": "broken", "params": {"seed": 667}})
    key = {"Idempotency-Key": "batch-1"}
    answer = client.post(f"{V1}/batches", json={"name": "lot", "items": items, "params": {"quality": "fast"}}, headers=key)
    assert answer.status_code == 201, answer.text
    batch = answer.json()
    assert [job["name"] for job in batch["jobs"]] == ["thing", "thing", "broken"] and batch["jobs"][2]["params"]["quality"] == "fast"
    assert client.post(f"{V1}/batches", json={"name": "lot", "items": items, "params": {"quality": "fast"}}, headers=key).status_code == 200
    for job in batch["jobs"]:
        wait(client, job["id"])
    batch = client.get(batch["links"]["self"]).json()
    assert batch["done"] and batch["counts"]["succeeded"] == 2 and batch["counts"]["failed"] == 1
    archive = zipfile.ZipFile(io.BytesIO(client.get(batch["links"]["archive"]).content))
    assert {name.split("/")[0] for name in archive.namelist()} == {"thing", "thing-2"} and archive.testzip() is None
    assert client.get(f"{V1}/batches").json()["batches"][0]["id"] == batch["id"]
    wrong = [*items, {"image_id": "0" * 64}]
    error(client.post(f"{V1}/batches", json={"items": wrong}), 404, "E_NOT_FOUND")  # all or none
    assert len(client.get(f"{V1}/batches").json()["batches"]) == 1


def test_cancelling_a_batch(client: TestClient) -> None:
    image = send_image(client, alpha=True)["id"]
    items = [{"image_id": image, "params": {"seed": 1010 + i}} for i in range(3)]
    batch = client.post(f"{V1}/batches", json={"items": items}).json()
    wait(client, batch["jobs"][0]["id"], ("running",))
    client.post(batch["links"]["cancel"])
    assert {wait(client, job["id"])["status"] for job in batch["jobs"]} == {"canceled"}


def test_reconstruct_waits_for_a_form(client: TestClient) -> None:
    answer = client.post(f"{V1}/reconstruct", files={"image": png(), "mask": mask_png()}, data={"params": '{"seed": 4}'})
    assert answer.status_code == 200 and answer.headers["content-type"] == "model/gltf-binary" and answer.content[:4] == b"glTF"
    assert client.get(f"{V1}/jobs/{answer.headers['x-job-id']}").json()["params"]["seed"] == 4
    assert client.post(f"{V1}/reconstruct?answer=ply", files={"image": png(alpha=True)}).content[:3] == b"ply"
    error(client.post(f"{V1}/reconstruct", files={"image": png()}), 422, "E_MASK")
    error(client.post(f"{V1}/reconstruct", files={"mask": mask_png()}), 422, "E_IMAGE")
    error(client.post(f"{V1}/reconstruct", files={"image": png(alpha=True), "more": b"x"}), 422, "E_OPTION")
    error(client.post(f"{V1}/reconstruct", files={"image": png(alpha=True)}, data={"params": '{"seed": 666}'}), 500, "E_WORKER_CRASH")
    error(client.post(f"{V1}/reconstruct", content=b"x", headers={"Content-Type": "text/plain"}), 422, "E_OPTION")


RING = [5.0, 5.0, 19.0, 5.0, 19.0, 15.0, 5.0, 15.0]


@pytest.mark.parametrize(
    ("mask_input", "objects"),
    [
        (RING, 1),
        ([RING, [n - 3 for n in RING]], 2),
        ([[RING, [n - 4 for n in RING]]], 1),
        ([[5, 5], [19, 5], [19, 15]], 1),
        ({"size": [20, 24], "counts": [100, 60, 320]}, 1),
        (base64.b64encode(mask_png()).decode(), 1),
        (None, 1),
    ],
)
def test_reconstruct_in_the_words_of_roboflows_guide(client: TestClient, mask_input: Any, objects: int) -> None:
    body = {
        "image": {"type": "base64", "value": base64.b64encode(png(alpha=mask_input is None)).decode()},
        "mask_input": mask_input,
        "api_key": "ignored",
    }
    answer = client.post(f"{V1}/reconstruct", json=body)
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert base64.b64decode(told["mesh_glb"])[:4] == b"glTF" and base64.b64decode(told["gaussian_ply"])[:3] == b"ply"
    assert len(told["objects"]) == objects and told["time"] > 0
    for item in told["objects"]:
        assert base64.b64decode(item["mesh_glb"])[:4] == b"glTF" and base64.b64decode(item["gaussian_ply"])[:3] == b"ply"
        assert len(item["metadata"]["rotation"]) == 4 and item["metadata"]["scale"] == [item["pose"]["scale"]] * 3
        x, y, z = item["pose"]["translation"]
        assert np.allclose(item["metadata"]["translation"], [-x, y, -z])


def test_reconstruct_leaves_out_what_is_not_wanted(client: TestClient) -> None:
    body = {
        "image": {"type": "base64", "value": base64.b64encode(png()).decode()},
        "mask_input": RING,
        "output_scene": False,
        "output_meshes": False,
    }
    told = client.post(f"{V1}/reconstruct", json=body).json()
    assert (
        told["mesh_glb"] is None
        and told["gaussian_ply"] is None
        and told["objects"][0]["mesh_glb"] is None
        and told["objects"][0]["gaussian_ply"]
    )
    for image in (
        {"type": "url", "value": "http://127.0.0.1/x"},
        {"type": "file", "value": "/etc/passwd"},
        {"type": "base64", "value": "%%%"},
    ):
        answer = client.post(f"{V1}/reconstruct", json={**body, "image": image})
        assert answer.status_code == 422 and "passwd" not in answer.text


def test_health_and_info(client: TestClient) -> None:
    for path in ("/healthz", f"{V1}/healthz"):
        assert client.get(path).json() == {"status": "ok"}
    ready = client.get("/readyz").json()
    assert ready["workers"][0]["engines"] == ["draft"] and ready["workers"][0]["error"] is None
    info = client.get(f"{V1}/info").json()
    assert info["limits"]["max_body"] == 32 << 20 and info["formats"]["glb"] == "model.glb" and info["storage"]["used"] > 0


def test_unknown_addresses_and_methods(client: TestClient) -> None:
    error(client.get("/nothing/here"), 404, "E_NOT_FOUND")
    answer = client.put(f"{V1}/jobs")
    assert answer.status_code == 405 and "POST" in answer.headers["allow"] and answer.json()["error"]["code"] == "E_OPTION"


def test_the_plain_form_is_there_without_the_page(client: TestClient) -> None:
    answer = client.get("/")
    assert answer.status_code == 200 and ('action="/api/v1/reconstruct"' in answer.text or "<script" in answer.text)


def test_readyz_says_why_nothing_works(tmp_path: Path) -> None:
    from comfyui_sam3d.client import LocalBackend

    broken = lambda environment: LocalBackend(["/no/such/program"], environment=environment)  # noqa: E731
    with server(tmp_path, open_backend=broken, access=Access()) as client:
        job = wait(client, send_job(client)["id"])
        assert job["status"] == "failed" and job["error"]["code"] == "E_WORKER_START"
        answer = client.get("/readyz")
        assert answer.status_code == 503 and answer.json()["status"] == "failed" and answer.json()["code"] == "E_WORKER_START"
        assert answer.json()["workers"][0]["error"]["code"] == "E_WORKER_START"
        assert json.loads(answer.text)["workers"][0]["error"]["hint"]


def test_allow_names_every_method_of_an_address(client: TestClient) -> None:
    for path, methods in ((f"{V1}/jobs", "GET, POST"), (f"{V1}/jobs/{'0' * 26}", "DELETE, GET"), (f"{V1}/frames", "POST")):
        answer = client.request("OPTIONS", path)
        assert answer.status_code == 405 and answer.headers["allow"] == methods


def test_two_workers_make_the_same_thing_once(tmp_path: Path) -> None:
    with server(tmp_path, workers=2) as client:
        image = send_image(client, alpha=True)["id"]
        jobs = [send_job(client, image_id=image, params={"seed": 1001}) for _ in range(3)]
        done = [wait(client, job["id"]) for job in jobs]
        assert [job["status"] for job in done] == ["succeeded"] * 3 and sorted(job["cached"] for job in done) == [False, True, True]


def test_who_goes_away_takes_the_job_along(tmp_path: Path) -> None:
    body = png(alpha=True)
    head = b'--xx\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n'
    form = head + body + b'\r\n--xx\r\nContent-Disposition: form-data; name="params"\r\n\r\n{"seed": 1020}\r\n--xx--\r\n'
    with on_port(tmp_path) as (url, running):
        with socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1]))) as caller:
            text = "POST /api/v1/reconstruct HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=xx\r\nContent-Length: {}\r\n\r\n"
            caller.sendall(text.format(len(form)).encode() + form)
            while running.service.store.counts()["running"] == 0:
                time.sleep(0.01)
        end = time.monotonic() + 20
        while running.service.store.counts()["canceled"] == 0:
            assert time.monotonic() < end
            time.sleep(0.05)
