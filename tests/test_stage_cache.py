"""The stage cache: whole entries or none, least recently used go first, two processes and kills."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from comfyui_sam3d.contract.errors import OptionError
from comfyui_sam3d.worker import cache as stage_cache
from comfyui_sam3d.worker.cache import LEAST, Cache, key_of


def entry(seed: int, size: int = 1000) -> dict[str, np.ndarray]:
    return {"a": np.random.default_rng(seed).integers(0, 255, size, dtype=np.uint8), "flags": np.array([True, False])}


def names(cache: Cache) -> list[str]:
    return sorted(path.name for path in cache.folder.iterdir())


def test_what_is_put_comes_back(tmp_path):
    cache, key = Cache(tmp_path / "c"), key_of("x", seed=1, picture=np.arange(6, dtype=np.uint8))
    assert cache.get(key) is None
    cache.put(key, {"n": 2, "text": "ü"}, entry(0))
    value, arrays = cache.get(key)
    assert value == {"n": 2, "text": "ü"}
    assert all(np.array_equal(arrays[name], item) for name, item in entry(0).items())
    assert Cache(tmp_path / "c").get(key) is not None
    assert names(cache) == [key + stage_cache.SUFFIX]


def test_keys_tell_everything_apart():
    picture = np.zeros((2, 3), np.uint8)
    keys = {
        key_of("x"), key_of("y"), key_of("x", seed=1), key_of("x", seed=2), key_of("x", picture=picture), key_of("x", picture=picture.T),
        key_of("x", picture=picture.astype(bool)), key_of("x", before=key_of("y")),
    }  # fmt: skip
    assert len(keys) == 8 and key_of("x", a=1, b=2) == key_of("x", b=2, a=1)


def test_nothing_is_kept_where_nothing_may_be(tmp_path):
    cache, key = Cache(tmp_path, limit=0, memory=0), key_of("x")
    cache.put(key, {"pose": [1, 2, 3]}, {})  # without an array, and yet something
    assert cache.get(key) is None and not cache.holds(key) and not list(tmp_path.iterdir())


def test_what_was_used_last_is_in_memory_too(tmp_path):
    cache = Cache(tmp_path, limit=0, memory=2500)
    keys = [key_of("x", n=n) for n in range(3)]
    for n, key in enumerate(keys[:2]):
        cache.put(key, {"n": n}, entry(n))
    assert cache.get(keys[0])[0] == {"n": 0} and not list(tmp_path.iterdir())
    cache.put(keys[2], {}, entry(2))  # keys[1] was used longest ago
    assert [cache.holds(key) for key in keys] == [True, False, True] and cache.get(keys[1]) is None
    cache.put(keys[2], {"n": 9}, entry(9))
    assert cache.get(keys[2])[0] == {"n": 9} and cache._memory.size == 2 * (LEAST + sum(item.nbytes for item in entry(0).values()))
    cache.put(keys[1], {}, entry(1, 2000))  # more than half of the limit
    assert cache.get(keys[1]) is None and cache.get(keys[0]) is not None


def test_what_is_in_memory_can_not_be_changed_from_outside(tmp_path):
    cache, key, own = Cache(tmp_path, memory=10_000), key_of("x"), entry(0)
    cache.put(key, {}, own)
    own["a"][:] = 0
    found = cache.get(key)[1]["a"]
    assert np.array_equal(found, entry(0)["a"])
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 1
    other = Cache(tmp_path, memory=10_000)  # from the disk into memory
    assert np.array_equal(other.get(key)[1]["a"], found)
    (tmp_path / (key + stage_cache.SUFFIX)).unlink()
    assert np.array_equal(other.get(key)[1]["a"], found) and other.holds(key) and not Cache(tmp_path).holds(key)


def test_memory_keeps_the_entry_on_disk_young(tmp_path):
    cache, key = Cache(tmp_path, memory=10_000), key_of("x")
    cache.put(key, {}, entry(0))
    path = tmp_path / (key + stage_cache.SUFFIX)
    os.utime(path, (1000, 1000))
    assert cache.get(key) is not None and path.stat().st_mtime > 1000


def test_the_least_recently_used_goes_first(tmp_path):
    cache = Cache(tmp_path, limit=5000)
    keys = [key_of("x", n=n) for n in range(4)]
    for age, key in enumerate(keys[:3]):
        cache.put(key, {}, entry(age))
        os.utime(tmp_path / (key + stage_cache.SUFFIX), (1000 + age, 1000 + age))
    assert cache.get(keys[0]) is not None  # used: now the youngest
    cache.limit = 4200
    cache.put(keys[3], {}, entry(3))
    assert [cache.get(key) is not None for key in keys] == [True, False, True, True]


def test_damaged_and_foreign_files_are_misses(tmp_path):
    cache, key, other = Cache(tmp_path), key_of("x"), key_of("y")
    cache.put(key, {}, entry(0))
    path = tmp_path / (key + stage_cache.SUFFIX)
    whole = path.read_bytes()
    for broken in (b"", whole[:7], whole[:100], whole[:-1], b"x" * 500):
        path.write_bytes(broken)
        assert cache.get(key) is None and not path.exists()
    (tmp_path / (other + stage_cache.SUFFIX)).write_bytes(whole)  # another entry under this name
    assert cache.get(other) is None


def test_limits(tmp_path, monkeypatch):
    nothing = Cache(tmp_path / "none", limit=0)
    nothing.put(key_of("x"), {}, entry(0))
    assert nothing.get(key_of("x")) is None
    (tmp_path / "file").write_text("in the way")
    Cache(tmp_path / "file").put(key_of("x"), {}, entry(0))  # no error
    assert Cache(tmp_path / "file").get(key_of("x")) is None
    monkeypatch.setenv("SAM3D_CACHE", str(tmp_path / "named"))
    monkeypatch.setenv("SAM3D_CACHE_BYTES", "77")
    assert (stage_cache.open_cache().folder, stage_cache.open_cache().limit) == (tmp_path / "named", 77)
    monkeypatch.setenv("SAM3D_CACHE_MEMORY", "88")
    assert stage_cache.open_cache()._memory.limit == 88
    monkeypatch.setenv("SAM3D_CACHE_BYTES", "much")
    with pytest.raises(OptionError, match="no number"):
        stage_cache.open_cache()


WRITER = """
import sys, numpy as np
from pathlib import Path
from comfyui_sam3d.worker.cache import LEAST, Cache, key_of
cache, seed = Cache(Path(sys.argv[1]), limit=3_000_000), int(sys.argv[2])
print("ready", flush=True)
n = 0
while True:
    n += 1
    key = key_of("x", n=n % 7)
    cache.put(key, {"n": n % 7}, {"a": np.full(300_000, n % 7, np.uint8)})
    found = cache.get(key_of("x", n=(n + 3) % 7))
    assert found is None or (found[0]["n"] == (n + 3) % 7 and (found[1]["a"] == (n + 3) % 7).all() and len(found[1]["a"]) == 300_000)
"""


def test_two_processes_and_kills_leave_whole_entries(tmp_path):
    """Writers over the same keys, killed at random moments: no reader ever sees a half, nor does one after them."""
    for seed in range(4):
        writers = [
            subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), str(seed)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            for _ in range(2)
        ]
        for writer in writers:
            assert writer.stdout.readline() == b"ready\n"
        time.sleep(0.2 + 0.03 * seed)
        for writer in writers:
            assert writer.poll() is None, writer.stderr.read().decode()
            writer.send_signal(signal.SIGKILL)
            writer.wait()
            writer.stdout.close(), writer.stderr.close()
    cache = Cache(tmp_path)
    found = [cache.get(key_of("x", n=n)) for n in range(7)]
    assert any(found) and all((item[1]["a"] == item[0]["n"]).all() for item in found if item)
    old = time.time() - 2 * stage_cache.STALE
    for path in tmp_path.glob("*.tmp"):
        os.utime(path, (old, old))
    cache.put(key_of("y"), {}, entry(0))
    assert not list(tmp_path.glob("*.tmp"))
