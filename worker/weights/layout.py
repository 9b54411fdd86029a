"""The official layout as data: which files there are, what they hold, how large they are and what they hash to (spec: stage1.md 8.1, stage2.md 12.1, moge.md 1).

    <folder>/pipeline.yaml             what refers to what, and the pipeline's settings
    <folder>/<network>.yaml            a network's settings
    <folder>/<network>.ckpt            its tensors; once converted, <network>.safetensors beside it
    <folder>/moge/model.pt             MoGe, where `fetch` puts it; other places are looked at too (locate.py)

No torch here: the doors that only ask whether weights are there stay fast.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

REPOSITORY, REVISION = "facebook/sam-3d-objects", "2e73555018d2741ccd486e56c24fac41155a1dc6"
REMOTE_FOLDER = "checkpoints"  # in the repository
MOGE_REPOSITORY, MOGE_REVISION = "Ruicheng/moge-vitl", "main"
PIPELINE = "pipeline.yaml"
MOGE = "moge"
MOGE_FILE = "moge/model.pt"  # below the folder
FAKE_FILE, FAKE_KEY = "fake.json", "sam3d_fake"  # the two marks of random weights (fake.py)
RECORD_FILE = "sha256.json"  # what was hashed here before (records.py)
SUFFIXES = (".safetensors", ".ckpt", ".pt")  # preferred first, as sam3d/checkpoint.py takes them


@dataclass(frozen=True)
class File:
    """A file of the official layout. size: bytes, None where nobody has written it down; about: bytes, for the space on a disk. sha256 of the content."""

    name: str
    about: int
    size: int | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class Network:
    """A file of tensors and its settings. optional: an engine can do most things without it."""

    stem: str
    checkpoint: File
    optional: bool = False

    @property
    def settings(self) -> str:
        return f"{self.stem}.yaml"

    def there(self, folder: Path) -> Path | None:
        """The file of tensors that a program would load from `folder`."""
        paths = (folder / f"{self.stem}{suffix}" for suffix in SUFFIXES)
        return next((path for path in paths if path.is_file()), None)


def _network(stem: str, size: int | None, sha256: str | None = None, *, about: int = 0, optional: bool = False) -> Network:
    return Network(stem, File(f"{stem}.ckpt", size or about, size, sha256), optional)


NETWORKS = (
    _network("ss_generator", None, about=6_690_000_000),
    _network("ss_decoder", None, about=148_000_000),
    _network("slat_generator", 4_906_537_684, "91529bde8e7daa12d09618a66c319e3a5a6398db6b23b958cedcb1c3f28faabb"),
    _network("slat_decoder_gs", 171_476_155, "f8077c36a06eaf890dd93cda1937411f793dea1eb80b3dd9329f2038ba84a111"),
    _network("slat_decoder_gs_4", 170_269_801, "731a0eceaa47945b52aa27f650d695b2aea9cc70945751e5609e5cb5b49f0186", optional=True),
    _network("slat_decoder_mesh", 363_726_862, "85907b37b67d8ce5b099a96629bdcfbd873eb407dee6b3aa9a75deb15038db33"),
)
MOGE_CHECKPOINT = File(MOGE_FILE, 1_257_000_000)
STEMS = tuple(network.stem for network in NETWORKS)
SETTINGS = (PIPELINE, *(network.settings for network in NETWORKS))


def network(stem: str) -> Network:
    return NETWORKS[STEMS.index(stem)]


def missing(folder: Path, *, all_networks: bool = False) -> list[str]:
    """The files that `folder` lacks; without `all_networks` the optional ones may be absent, together with their settings."""
    asked = [item for item in NETWORKS if all_networks or not item.optional]
    lacking = [] if (folder / PIPELINE).is_file() else [PIPELINE]
    for item in asked:
        if not (folder / item.settings).is_file():
            lacking.append(item.settings)
        if item.there(folder) is None:
            lacking.append(item.checkpoint.name)
    return lacking
