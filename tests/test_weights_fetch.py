"""`weights fetch` against a hub on the loopback that refuses, cuts, stalls, and lies."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("torch", reason="the layer `model` isn't installed: python sam3d.py test adds it")
pytest.importorskip("huggingface_hub", reason="the layer `model` isn't installed: python sam3d.py test adds it")


from comfyui_sam3d.contract.errors import OutputError, SetupError
from comfyui_sam3d.worker.weights import fake, layout
from comfyui_sam3d.worker.weights import fetch as fetching
from comfyui_sam3d.worker.weights.store import open_store

from hub_server import Hub, serving

pytestmark = pytest.mark.usefixtures("one_thread")
BIG = "checkpoints/slat_decoder_mesh.ckpt"


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What the hub holds: a tiny model in the official layout."""
    folder = tmp_path_factory.mktemp("hub") / "model"
    fake.write(folder, tiny=True)
    files = {f"checkpoints/{path.name}": path.read_bytes() for path in folder.iterdir() if path.suffix in (".yaml", ".ckpt")}
    return {**files, "model.pt": (folder / layout.MOGE_FILE).read_bytes()}


@pytest.fixture(autouse=True)
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No token, no cache, no proxy of this machine; another repository than the official one, whose digests are known."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "SAM3D_WEIGHTS_REVISION", "SAM3D_OFFLINE", "HF_HUB_OFFLINE", "SAM3D_WEIGHTS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setenv("SAM3D_WEIGHTS_REPO", "somebody/tiny")
    monkeypatch.setenv("SAM3D_MOGE_REPO", "somebody/moge")
    from huggingface_hub import constants, file_download

    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
    for module in (constants, file_download.constants):
        monkeypatch.setattr(module, "HF_HUB_DOWNLOAD_TIMEOUT", 0.5)
        monkeypatch.setattr(module, "DOWNLOAD_CHUNK_SIZE", 500)  # what of a broken answer is lost at most: 10 MB otherwise
    monkeypatch.setattr(fetching, "WAITS", (0.0, 0.0))
    impatient = SimpleNamespace(**{**vars(time), "sleep": lambda seconds: None})  # between two attempts of the library
    monkeypatch.setattr(file_download, "time", impatient)


@pytest.fixture
def hub(official: dict[str, bytes]):
    with serving(Hub(dict(official))) as running:
        yield running


class Events(list):
    def __call__(self, kind: str, /, **fields: object) -> None:
        self.append({"event": kind, **fields})

    def states(self) -> dict[str, str]:
        return {e["name"]: e["state"] for e in self if e["event"] == "file"}


def got(hub: Hub, method: str = "GET") -> list[str]:
    return [path.rsplit("/", 1)[-1] for kind, path, *_ in hub.log if kind == method]


def whole(folder: Path, hub: Hub) -> bool:
    places = {name: folder / (layout.MOGE_FILE if name == "model.pt" else Path(name).name) for name in hub.files}
    return all(path.is_file() and path.read_bytes() == hub.files[name] for name, path in places.items())


def test_everything_comes_checked_and_loads(hub, tmp_path):
    events, folder = Events(), tmp_path / "models" / "sam3d"
    assert len(fetching.fetch(folder, events, endpoint=hub.url)) == 14 and whole(folder, hub)
    assert set(events.states().values()) == {"verified"} and not (folder / ".fetch").exists()
    assert all(e["done"] <= e["total"] for e in events if e["event"] == "bytes")
    store = open_store(folder)
    assert store.fake and store.moge == folder / layout.MOGE_FILE
    hub.log.clear()
    again = Events()
    assert fetching.fetch(folder, again, endpoint=hub.url) == [] and got(hub) == [] and set(again.states().values()) == {"there"}


def test_only_what_lacks_or_is_wrong_is_fetched_again(hub, tmp_path):
    fetching.fetch(tmp_path, Events(), endpoint=hub.url)
    (tmp_path / "ss_decoder.ckpt").unlink()
    damaged = bytearray((tmp_path / "ss_generator.ckpt").read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (tmp_path / "ss_generator.ckpt").write_bytes(damaged)
    (tmp_path / "slat_generator.yaml").write_text("module: {}\n")
    assert sorted(fetching.fetch(tmp_path, Events(), endpoint=hub.url)) == ["slat_generator.yaml", "ss_decoder.ckpt", "ss_generator.ckpt"]
    assert whole(tmp_path, hub)


@pytest.mark.parametrize("status", [401, 403])
def test_a_gated_repository_is_explained(hub, tmp_path, status):
    hub.gated = status
    with pytest.raises(SetupError) as caught:
        fetching.fetch(tmp_path, Events(), endpoint=hub.url)
    lines = caught.value.hint.splitlines()
    assert len(lines) == 3 and f"{hub.url}/somebody/tiny" in lines[0] and "HF_TOKEN" in lines[1] and "same command" in lines[2]
    assert got(hub) == [] and "Traceback" not in str(caught.value)


def test_the_token_opens_it_and_goes_to_no_other_host(hub, tmp_path, monkeypatch):
    hub.token, hub.elsewhere = "hf_secret", True
    with pytest.raises(SetupError, match="doesn't hand out"):
        fetching.fetch(tmp_path, Events(), endpoint=hub.url)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.log.clear()
    fetching.fetch(tmp_path, Events(), endpoint=hub.url)
    assert whole(tmp_path, hub)
    assert {secret for _, path, _, secret in hub.log if path.startswith("/stored/")} == {None}
    assert {secret for _, path, _, secret in hub.log if "/resolve/" in path} == {"Bearer hf_secret"}


def test_a_connection_that_breaks_again_and_again(hub, tmp_path):
    hub.cuts[BIG] = [1000, 70_000, 0, 5000, 300_000, 1, 200_000]
    fetching.fetch(tmp_path, Events(), endpoint=hub.url)
    assert whole(tmp_path, hub)
    ranges = [wanted for method, path, wanted, _ in hub.log if method == "GET" and path.endswith("mesh.ckpt")]
    assert len(ranges) == 8 and ranges[0] is None and ranges[-1] not in (None, "bytes=0-")


def test_what_arrived_is_kept_for_the_next_run(hub, tmp_path):
    hub.cuts[BIG] = [1_000_000] + [0] * 60
    with pytest.raises(SetupError, match=r"slat_decoder_mesh.ckpt can't be fetched") as caught:
        fetching.fetch(tmp_path, Events(), endpoint=hub.url)
    assert "goes on where it stopped" in caught.value.hint and not (tmp_path / "slat_decoder_mesh.ckpt").exists()
    (part,) = (tmp_path / ".fetch").iterdir()
    assert part.stat().st_size == 1_000_000
    hub.cuts.clear()
    hub.log.clear()
    assert fetching.fetch(tmp_path, Events(), endpoint=hub.url) == ["slat_decoder_mesh.ckpt", layout.MOGE_FILE]
    assert whole(tmp_path, hub) and [wanted for method, path, wanted, _ in hub.log if method == "GET" and "mesh" in path] == [
        "bytes=1000000-"
    ]


def test_a_part_of_another_version_is_not_continued(hub, tmp_path):
    hub.cuts[BIG] = [1_000_000] + [0] * 60
    with pytest.raises(SetupError):
        fetching.fetch(tmp_path, Events(), endpoint=hub.url)
    hub.cuts.clear()
    hub.files[BIG] = bytes(reversed(hub.files[BIG]))
    fetching.fetch(tmp_path, Events(), endpoint=hub.url)
    assert whole(tmp_path, hub)


def test_a_server_without_ranges(hub, tmp_path):
    hub.no_ranges, hub.cuts[BIG] = True, [500_000]
    fetching.fetch(tmp_path, Events(), endpoint=hub.url)
    assert whole(tmp_path, hub)


@pytest.mark.parametrize("change", ["bit", "short", "long"])
def test_what_isnt_the_file_is_thrown_away(hub, tmp_path, change):
    data = hub.files[BIG]
    hub.sent[BIG] = {"bit": data[:500] + bytes([data[500] ^ 1]) + data[501:], "short": data[:-1], "long": data + b"x"}[change]
    with pytest.raises(SetupError, match=r"slat_decoder_mesh\.ckpt"):
        fetching.fetch(tmp_path, Events(), endpoint=hub.url)
    assert not (tmp_path / "slat_decoder_mesh.ckpt").exists()
    hub.sent.clear()
    fetching.fetch(tmp_path, Events(), endpoint=hub.url)
    assert whole(tmp_path, hub)


def test_a_settings_file_is_checked_by_gits_id(hub, tmp_path):
    hub.sent["checkpoints/pipeline.yaml"] = hub.files["checkpoints/pipeline.yaml"].replace(b"float16", b"float61")
    with pytest.raises(SetupError, match=r"pipeline\.yaml arrived, but it isn't the file that the hub has"):
        fetching.fetch(tmp_path, Events(), endpoint=hub.url)


def test_the_published_digest_wins_over_the_hubs(hub, tmp_path, monkeypatch):
    """A mirror of the official repository under its own name can't hand out something else."""
    monkeypatch.delenv("SAM3D_WEIGHTS_REPO")
    with pytest.raises(SetupError, match=r"facebook/sam-3d-objects has another slat_generator\.ckpt .* bytes instead of 4906537684"):
        fetching.fetch(tmp_path, Events(), endpoint=hub.url)
    assert got(hub) == [] and all(f"/{layout.REPOSITORY}/resolve/{layout.REVISION}/" in path for _, path, *_ in hub.log)


def test_nothing_to_hold_it_against_is_recorded_and_said(hub, tmp_path):
    hub.no_digest, events = True, Events()
    fetching.fetch(tmp_path, events, endpoint=hub.url)
    assert set(events.states().values()) == {"not verified"}
    recorded = json.loads((tmp_path / layout.RECORD_FILE).read_text())
    assert recorded["ss_decoder.ckpt"]["source"] == "first"
    assert recorded["ss_decoder.ckpt"]["sha256"] == hashlib.sha256(hub.files["checkpoints/ss_decoder.ckpt"]).hexdigest()


def test_a_hub_that_stalls_or_isnt_there(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "WAITS", ())
    hub.pause = 0.6
    with pytest.raises(SetupError, match=r"pipeline\.yaml can't be fetched"):
        fetching.fetch(tmp_path, Events(), endpoint=hub.url)
    with pytest.raises(SetupError, match="can't be reached"):
        fetching.fetch(tmp_path, Events(), endpoint="http://127.0.0.1:9")
    del hub.files["checkpoints/ss_decoder.yaml"]
    with pytest.raises(SetupError, match=r"somebody/tiny has no checkpoints/ss_decoder\.yaml at main"):
        fetching.fetch(tmp_path, Events(), endpoint=hub.url)


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "SAM3D_OFFLINE"])
def test_offline_is_offline(hub, tmp_path, monkeypatch, variable):
    monkeypatch.setenv(variable, "1")
    with pytest.raises(SetupError, match=f"{variable} is set"):
        fetching.fetch(tmp_path / "new", Events(), endpoint=hub.url)
    assert hub.log == [] and not (tmp_path / "new").exists()


def test_a_full_or_forbidden_disk(hub, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        fetching.fetch(tmp_path / "file", Events(), endpoint=hub.url)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    with pytest.raises(OutputError, match=r"are needed in .*, 0\.0 GB are free"):
        fetching.fetch(tmp_path / "full", Events(), endpoint=hub.url)
    assert got(hub) == []


def test_converted_files_replace_their_sources(hub, tmp_path):
    from comfyui_sam3d.worker.weights.convert import convert

    fetching.fetch(tmp_path, Events(), endpoint=hub.url)
    convert(tmp_path, Events())
    for path in tmp_path.glob("*.ckpt"):
        path.unlink()
    hub.log.clear()
    assert fetching.fetch(tmp_path, Events(), endpoint=hub.url) == [] and got(hub) == []
