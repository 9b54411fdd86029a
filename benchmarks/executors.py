"""What an executor adds to a batch, and what more slots bring: `python benchmarks/executors.py [--items N] [--only local ray map]`.

    wait      the engine sleeps 0.25 s and answers with 10 MB, as an engine on a GPU would look from here: slots can't be in each other's way
    draft     the real draft engine, which wants a CPU core for itself: at most as many times faster as there are cores

    start     from the command to the first finished item
    an item   wall time from the first to the last finished item, times the slots, over the items between them: what a slot spends on one
    overhead  of `wait`: an item, less the 0.25 s that the engine sleeps
    speed-up  items a second, against one local slot of the same kind

`map` is the Modal executor over a map in this process, two containers' worth: its bookkeeping and frames without Modal's network. Ray is started by the executor, on this machine.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shlex
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from _pack import mount, table

mount()
from comfyui_sam3d.factory.batch import BatchOptions  # noqa: E402
from comfyui_sam3d.factory.batch.run import run  # noqa: E402
from comfyui_sam3d.factory.executors import Executor, open_executor  # noqa: E402
from comfyui_sam3d.factory.executors.modal import ModalExecutor  # noqa: E402
from comfyui_sam3d.factory.executors.relay import Relay  # noqa: E402
from comfyui_sam3d.factory.jobs import Interrupts  # noqa: E402

SLEEP, ANSWER = 0.25, 10 << 20


def worker() -> int:
    """A worker that sleeps instead of working."""
    from comfyui_sam3d.worker.channel import claim_stdio

    channel = claim_stdio()
    from comfyui_sam3d.contract import Mesh, Scene, SceneObject
    from comfyui_sam3d.worker.loop import serve

    def engine(request: Any, job: Any) -> Scene:
        time.sleep(SLEEP)
        mesh = Mesh(vertices=np.zeros((3, 3), np.float32), faces=np.array([[0, 1, 2]], np.uint32))
        return Scene(objects=(SceneObject(request.names[0], mesh=mesh),), engine="draft", seed=request.seed)

    def encode(*_: Any, **__: Any) -> dict[str, bytes]:
        return {"model.glb": bytes(ANSWER)}

    return int(serve(channel, {"draft": lambda: engine}, encode) or 0)


async def ours(frames: AsyncIterator[bytes]) -> AsyncGenerator[bytes | BaseException, None]:
    """A map over two relays, as Modal's over two containers."""
    relays: asyncio.Queue[Relay] = asyncio.Queue()
    made = [Relay(), Relay()]
    for relay in made:
        relays.put_nowait(relay)
    answers: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def work(frame: bytes) -> None:
        relay = await relays.get()
        answers.put_nowait(await asyncio.to_thread(relay.answer, frame))
        relays.put_nowait(relay)

    async def feed() -> None:
        tasks = [asyncio.create_task(work(frame)) async for frame in frames]
        await asyncio.gather(*tasks)
        answers.put_nowait(None)

    feeding = asyncio.create_task(feed())
    try:
        while (answer := await answers.get()) is not None:
            yield answer
    finally:
        feeding.cancel()
        for relay in made:
            relay.close()


def measured(folder: Path, executor: Executor, items: int) -> tuple[float, float]:
    """A batch of `items` -> (seconds to the first finished item, items a second from there on)."""
    ends: list[float] = []

    def emit(kind: str, /, **fields: Any) -> None:
        if kind == "done":
            ends.append(time.perf_counter())
        if kind == "failed":
            raise SystemExit(f"an item failed: {fields}")

    with tempfile.TemporaryDirectory() as out:
        options = BatchOptions(folder, Path(out), settings={"engine": "draft", "quality": "fast", "outputs": "glb"}, limit=items)
        began = time.perf_counter()
        code = run(options, emit, Interrupts(), executor)
    if code or len(ends) != items:
        raise SystemExit(f"the batch ended with {code} after {len(ends)} of {items} items")
    return ends[0] - began, (items - 1) / (ends[-1] - ends[0])


def pictures(folder: Path, count: int) -> None:
    from PIL import Image

    rows, columns = np.mgrid[:256, :256] - 127.5
    disc = rows**2 + columns**2 < 100**2
    for number in range(count):
        pixels = np.dstack([*[np.full((256, 256), (number * step) % 256, np.uint8) for step in (3, 5, 7)], (disc * 255).astype(np.uint8)])
        Image.fromarray(pixels).save(folder / f"{number:04}.png")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--items", type=int, default=40)
    parser.add_argument("--only", nargs="+", default=["local", "ray", "map"], choices=["local", "ray", "map"])
    options = parser.parse_args()
    kinds: list[tuple[str, int]] = [("local", 1), ("local", 2), ("local", 4), ("ray", 2), ("ray", 4), ("map", 2)]
    rows = []
    with tempfile.TemporaryDirectory() as source:
        pictures(Path(source), options.items)
        for engine in ("wait", "draft"):
            for name in ("SAM3D_WORKER_COMMAND", "SAM3D_WORKER_PYTHON"):
                os.environ.pop(name, None)
            if engine == "wait":
                os.environ["SAM3D_WORKER_COMMAND"] = shlex.join([sys.executable, str(Path(__file__).resolve()), "--worker"])
            else:
                os.environ["SAM3D_WORKER_PYTHON"] = sys.executable
            alone = None
            for name, slots in kinds:
                if name not in options.only or (engine == "draft" and slots > 2):
                    continue
                executor = ModalExecutor(slots, ours) if name == "map" else open_executor(name, workers=slots, on_cpu=True)
                start, rate = measured(Path(source), executor, options.items)
                alone = alone or rate
                each = slots / rate
                overhead = f", overhead {1000 * (each - SLEEP):.0f} ms" if engine == "wait" else ""
                rows.append(
                    (
                        f"{engine}: {name}, {slots} slots",
                        f"start {start:.1f} s, an item {each:.3f} s{overhead}, speed-up {rate / alone:.2f}",
                        "",
                    )
                )
                print(*rows[-1][:2], sep=": ", flush=True)
    table(rows, f"Executors, {options.items} items of 256 x 256, {os.cpu_count()} CPU cores, load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    sys.exit(worker() if sys.argv[1:] == ["--worker"] else main())
