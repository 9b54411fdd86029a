"""A worker whose only engine misbehaves: `request.names[0]` names the animal, `request.seed` is its number.

    python worker.py [HABIT]      a HABIT spoils the start (see `spoil`)

The process, its loop and its channel are the real ones.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from comfyui_sam3d.contract.errors import OptionError, Sam3dError
from comfyui_sam3d.contract.messages import JobDone
from comfyui_sam3d.contract.request import ExportOptions, ReconstructRequest
from comfyui_sam3d.contract.scene import Mesh, Scene, SceneObject
from comfyui_sam3d.contract.version import PROTOCOL
from comfyui_sam3d.worker import channel as channel_module
from comfyui_sam3d.worker.channel import claim_stdio
from comfyui_sam3d.worker.job import Job
from comfyui_sam3d.worker.loop import serve

Animal = Callable[[ReconstructRequest, Job], Any]
ZOO: dict[str, Animal] = {}
STREAM = [-1]  # the descriptor of the stream, for those who write garbage


def animal(run: Animal) -> Animal:
    ZOO[run.__name__] = run
    return run


def scene(request: ReconstructRequest, **parameters: Any) -> Scene:
    mesh = Mesh(vertices=np.eye(3, dtype=np.float32), faces=np.array([[0, 1, 2]], np.uint32))
    objects = tuple(SceneObject(name, mesh=mesh) for name in request.names)
    return Scene(objects=objects, engine="draft", seed=request.seed, parameters=parameters)


# -- the tame ones


@animal
def tame(request: ReconstructRequest, job: Job) -> Scene:
    return scene(request, pid=os.getpid())


@animal
def echo(request: ReconstructRequest, job: Job) -> Scene:
    """Sends the request's arrays back."""
    return scene(request, image=request.image, masks=request.masks, alpha=request.alpha)


@animal
def steps(request: ReconstructRequest, job: Job) -> Scene:
    """`seed` steps of 10 ms, in three stages of which one wasn't planned, with everything that a job can say."""
    job.plan({"first": 1, "second": 3})
    for stage in ("first", "surprise", "second"):
        for i in range(request.seed + 1):
            job.step(stage, i, request.seed)
            time.sleep(0.01)
    job.step("second", request.seed + 5, request.seed)  # beyond the end
    job.plan({})
    job.log("a line")
    job.log("a warning", "warning")
    job.preview(request.image[::-1])
    job.timings["thinking"] = 1.5
    return scene(request)


@animal
def chatters(request: ReconstructRequest, job: Job) -> Scene:
    for i in range(request.seed):
        job.log(f"line {i}")
    return scene(request)


@animal
def answers(request: ReconstructRequest, job: Job) -> Scene:
    """An answer of `seed` bytes."""
    job.step("answer", 0, 1)
    return scene(request, big=np.full(request.seed, 7, np.uint8))


@animal
def answers_late(request: ReconstructRequest, job: Job) -> Scene:
    """The same, after half a second."""
    job.step("late", 0, 1)
    time.sleep(0.5)
    return answers(request, job)


@animal
def odd_arrays(request: ReconstructRequest, job: Job) -> Scene:
    return scene(request, **odd())


def odd() -> dict[str, np.ndarray]:
    """Arrays that a careless writer gets wrong."""
    base = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    return {
        "transposed": base.T,
        "reversed": base[::-1, :, ::-2],
        "strided": np.arange(100, dtype=np.int16)[3:90:7],
        "fortran": np.asfortranarray(np.arange(3_000_000, dtype=np.int32).reshape(1_000_000, 3)),
        "wide": np.arange(6_000_000, dtype=np.float64).reshape(3, 2_000_000)[:, ::2],
        "broadcast": np.broadcast_to(np.arange(5, dtype=np.uint8), (4, 5)),
        "empty": np.zeros((0, 3), np.float64),
        "hollow": np.zeros((4, 0, 2), np.float16),
        "scalar": np.array(42, np.int64),
        "flags": np.array([[True, False], [False, True]]).T,
        "masked": np.ma.masked_equal(np.arange(6.0).reshape(2, 3), 2.0),
        "small": np.float16([1, 2, 3]),
    }


@animal
def measures(request: ReconstructRequest, job: Job) -> Scene:
    """How much memory this process has had at most, and the request's checksum."""
    total = int(request.image.sum(dtype=np.uint64)) + int(np.count_nonzero(request.masks))
    return scene(request, peak=peak(), total=total, rss=rss())


@animal
def counts(request: ReconstructRequest, job: Job) -> Scene:
    """What this process holds."""
    job.step("count", 0, 1)
    return scene(request, rss=rss(), fds=len(os.listdir("/proc/self/fd")), threads=threading.active_count())


def peak() -> int:
    """As in heavy.py."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))


def rss() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


@animal
def cwd_and_path(request: ReconstructRequest, job: Job) -> Scene:
    return scene(
        request, path=list(sys.path), variables=[name for name in os.environ if name.startswith("PYTHON")], utf8=sys.flags.utf8_mode
    )


# -- the loud ones


@animal
def prints(request: ReconstructRequest, job: Job) -> Scene:
    libc = ctypes.CDLL(None)
    for i in range(50):
        print("python says", i)
        libc.printf(b"printf says %d\n", i)
        libc.write(1, b"write says\n", 11)
        os.write(1, b"\x00\x01\x02\x03\x04\x05\x06\x07" * 4)
        job.step("noise", i, 50)
    libc.fflush(None)
    subprocess.run([sys.executable, "-c", "print('a child says')"], check=True)
    swallowed = subprocess.run([sys.executable, "-c", "import sys; print(len(sys.stdin.read()))"], capture_output=True, check=True)
    return scene(request, stdin=int(swallowed.stdout), line=sys.stdin.readline())


@animal
def floods_stderr(request: ReconstructRequest, job: Job) -> Scene:
    """`seed` megabytes without a line break, then death."""
    for _ in range(request.seed):
        os.write(2, b"x" * (1 << 20))
    os.abort()


# -- those that raise


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even this")


@animal
def raises(request: ReconstructRequest, job: Job) -> Scene:
    kinds: list[Callable[[], BaseException]] = [
        lambda: ValueError("a number"),
        lambda: OptionError("Ours.", "Do this."),
        lambda: MemoryError(),
        lambda: KeyboardInterrupt(),
        lambda: GeneratorExit(),
        lambda: Unspeakable(),
        lambda: ValueError("\ud800 lone"),
        lambda: type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory"),
        lambda: RecursionError(),
        lambda: Sam3dError("x" * 100_000),
    ]
    raise kinds[request.seed]()


@animal
def exits(request: ReconstructRequest, job: Job) -> Scene:
    sys.exit(request.seed)


@animal
def wants_memory(request: ReconstructRequest, job: Job) -> Scene:
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + (256 << 20), hard))
    try:
        np.ones(1 << 30, np.uint8)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    return scene(request)


@animal
def unsendable(request: ReconstructRequest, job: Job) -> Any:
    loop: list[Any] = []
    loop.append(loop)
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    if request.seed == 4:
        return {"no": "scene"}
    if request.seed == 5:
        return None
    things: list[Any] = [np.array([object()]), object(), loop, deep]
    return scene(request, thing=things[request.seed])


@animal
def numpy_scalars(request: ReconstructRequest, job: Job) -> Scene:
    return scene(request, score=np.float32(0.5), count=np.int64(3), flag=np.bool_(True), nan=float("nan"))


# -- the mortal ones


@animal
def quits(request: ReconstructRequest, job: Job) -> Scene:
    print("about to leave")
    os._exit(request.seed)


@animal
def kills_itself(request: ReconstructRequest, job: Job) -> Scene:
    """By signal `seed`."""
    job.step("last", 0, 1)
    print("my last words", flush=True)
    os.kill(os.getpid(), request.seed)
    time.sleep(60)
    return scene(request)


@animal
def segfaults(request: ReconstructRequest, job: Job) -> Scene:
    ctypes.string_at(8)
    return scene(request)


@animal
def aborts(request: ReconstructRequest, job: Job) -> Scene:
    os.abort()


# -- those that don't come back


@animal
def sleeps(request: ReconstructRequest, job: Job) -> Scene:
    """Says that it has begun, then does nothing for `seed` seconds."""
    job.step("sleep", 0, 1)
    time.sleep(request.seed)
    return scene(request)


@animal
def holds_the_lock(request: ReconstructRequest, job: Job) -> Scene:
    """`seed` seconds in C code with the interpreter lock held."""
    job.step("hold", 0, 1)
    ctypes.PyDLL(None).sleep(request.seed)
    return scene(request)


@animal
def ignores_cancel(request: ReconstructRequest, job: Job) -> Scene:
    """`seed` steps of 10 ms, whatever job.step raises."""
    for i in range(request.seed):
        try:
            job.step("deaf", i, request.seed)
        except Sam3dError:
            pass
        time.sleep(0.01)
    return scene(request)


@animal
def stops_itself(request: ReconstructRequest, job: Job) -> Scene:
    """Every thread stands still, and no timer runs."""
    job.step("stop", 0, 1)
    os.kill(os.getpid(), signal.SIGSTOP)
    return scene(request)


# -- those with children, and those that play with descriptors


def child(*, session: bool) -> int:
    """A grandchild of the client that sleeps for ten minutes."""
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=session).pid


@animal
def leaves_a_child(request: ReconstructRequest, job: Job) -> Scene:
    """0: it holds our standard streams. 1: the same in a session of its own. 2, 3: and then we die."""
    pid = child(session=request.seed % 2 == 1)
    job.log(f"child {pid}")
    if request.seed >= 2:
        time.sleep(0.2)
        os.abort()
    return scene(request, child=pid)


@animal
def forks(request: ReconstructRequest, job: Job) -> Scene:
    """A forked copy, in a session of its own, keeps the stream open; then we die."""
    pid = os.fork()
    if pid == 0:
        os.setsid()
        time.sleep(60)
        os._exit(0)
    job.log(f"child {pid}")
    os.abort()


@animal
def closes_stdout(request: ReconstructRequest, job: Job) -> Scene:
    os.close(STREAM[0])
    job.timings["nothing"] = 0.0
    time.sleep(60)
    return scene(request)


@animal
def closes_stdin(request: ReconstructRequest, job: Job) -> Scene:
    """The reader thread's descriptor becomes the null device: it reads the end, and the process ends."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), STREAM[0] - 1)
    time.sleep(60)
    return scene(request)


@animal
def writes_garbage(request: ReconstructRequest, job: Job) -> Scene:
    rubbish = {
        0: b"Welcome to the machine\n",
        1: struct.pack("<QQ", 1 << 62, 5),
        2: struct.pack("<QQ", 100, 5000),
        3: struct.pack("<QQ", 10, 2) + b"[]",
        4: struct.pack("<QQ", 38, 30) + b'{"__metadata__":{"sam3d":"7"}}',
        5: frame('{"type": "Dance"}'),
        6: frame('{"type": "JobProgress", "job": 1}'),
        7: frame('{"type": "JobProgress", "job": 1e999, "progress": []}'),
        8: frame('{"type": "JobDone", "job": 1, "scene": {"$": [1]}}'),
        9: frame('{"type": "JobDone", "job": 1, "scene": {"$": "/a"}}', '"/a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]},', b"abcd"),
    }
    os.write(STREAM[0], rubbish[request.seed])
    time.sleep(60)
    return scene(request)


def frame(message: str, entries: str = "", body: bytes = b"") -> bytes:
    text = ("{" + entries + '"__metadata__":{"sam3d":"' + message.replace('"', '\\"') + '"}}').encode()
    return struct.pack("<QQ", 8 + len(text) + len(body), len(text)) + text + body


@animal
def dies_in_a_frame(request: ReconstructRequest, job: Job) -> Scene:
    os.write(STREAM[0], struct.pack("<QQ", 1000, 900) + b"{" * 100)
    os.kill(os.getpid(), signal.SIGKILL)
    return scene(request)


@animal
def answers_and_dies(request: ReconstructRequest, job: Job) -> Scene:
    """An answer of `seed` bytes; death as soon as its last byte is in the pipe."""
    real = channel_module.Channel.send

    def send(self: channel_module.Channel, message: Any) -> None:
        real(self, message)
        if isinstance(message, JobDone):
            os.kill(os.getpid(), signal.SIGKILL)

    channel_module.Channel.send = send  # type: ignore[method-assign]
    return answers(request, job)


@animal
def breaks_off(request: ReconstructRequest, job: Job) -> Scene:
    """Runs out of memory in the middle of its answer's frame."""

    def half(*_: object) -> Iterator[memoryview]:
        yield memoryview(struct.pack("<QQ", 1000, 900))
        raise MemoryError("no room for a copy")

    channel_module.encode_frame = half
    return scene(request)


def spoil(habit: str) -> None:
    """Before the loop starts."""
    if habit == "silent":  # never says Hello
        time.sleep(60)
    elif habit == "slow":
        time.sleep(1.0)
    elif habit == "dies":
        print("no module named nonsense", file=sys.stderr)
        sys.exit(7)
    elif habit == "old":
        os.write(1, frame(f'{{"type": "Hello", "protocol": {PROTOCOL + 1}, "colour": "red"}}'))
        time.sleep(60)
    elif habit == "rude":
        os.write(1, frame('{"type": "Beat"}'))
        time.sleep(60)
    elif habit == "banner":
        os.write(1, b"Last login: Monday\n")
        time.sleep(60)
    elif habit == "deaf":  # says Hello, closes its stdin and lives on, heart and all
        os.write(1, frame(f'{{"type": "Hello", "protocol": {PROTOCOL}, "version": "0", "pid": 1, "python": "3"}}'))
        os.close(0)
        while True:
            os.write(1, frame('{"type": "Beat"}'))
            time.sleep(0.1)
    elif habit == "reads-half":  # dies while a request is being received
        os.write(1, frame(f'{{"type": "Hello", "protocol": {PROTOCOL}, "version": "0", "pid": 1, "python": "3"}}'))
        os.read(0, 100_000)
        print("I have read enough", file=sys.stderr, flush=True)
        os._exit(9)


def encode(scene: Scene, formats: Iterable[str], options: ExportOptions | None, job: Job | None, photo: object) -> Mapping[str, bytes]:
    if scene.engine == "raise":
        raise ValueError("the encoder's own")
    files = {name: name.encode() * 3 for name in formats}
    for i, _ in enumerate(files):
        if job is not None:
            job.step("encode", i + 1, len(files))
    return files


def load() -> Animal:
    return lambda request, job: ZOO[request.names[0]](request, job)


def missing() -> Animal:
    import nonsense_that_nobody_has  # noqa: F401

    return tame


if __name__ == "__main__":
    for habit in sys.argv[1:]:
        spoil(habit)
    channel = claim_stdio()
    STREAM[0] = channel._out.fileno()
    serve(channel, {"sam3d": missing, "draft": load}, encode)
