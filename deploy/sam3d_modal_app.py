"""SAM 3D on Modal: GPU containers that scale to zero. docs/deploy.md; run it with the `modal` of _env (python install.py --layers base,modal).

    modal secret create sam3d SAM3D_TOKEN=... HF_TOKEN=...
    modal run deploy/sam3d_modal_app.py::fetch_weights                       once: the weights into a Volume
    modal run deploy/sam3d_modal_app.py::run_demo                            one picture
    modal run deploy/sam3d_modal_app.py::run_batch --source sprites --out assets
    modal deploy deploy/sam3d_modal_app.py                                   then: the endpoint, the schedule, `batch --executor modal`

The containers are deploy/Dockerfile with a Python of Modal's own beside `_env`: what Modal needs and what the worker needs never meet, as in ComfyUI. Decided when it is deployed:
SAM3D_MODAL_GPU (a list: the first that is free), SAM3D_MODAL_CONTAINERS (at most this many: the limit of what it costs),
SAM3D_MODAL_EVERY (minutes between two looks at the folder; 0: never).
"""

# No `from __future__ import annotations`: modal.parameter reads the class's annotations as types.
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import modal

ROOT = Path(__file__).resolve().parent.parent
PACK = "/opt/comfyui_sam3d"  # in the image
WEIGHTS, FILES = "/weights", "/files"
GPU = os.environ.get("SAM3D_MODAL_GPU", "H100").split(",")
CONTAINERS = int(os.environ.get("SAM3D_MODAL_CONTAINERS", "10"))
EVERY = int(os.environ.get("SAM3D_MODAL_EVERY", "15"))

app = modal.App("sam3d")
image = (
    modal.Image.from_dockerfile(
        ROOT / "deploy" / "Dockerfile", context_dir=ROOT, build_args={"PROFILE": "cu128", "LAYERS": "model"}, add_python="3.12"
    )
    .dockerfile_commands(["USER root", "ENTRYPOINT []"])  # Modal starts its own program in it
    .uv_pip_install("numpy>=1.26", "pillow>=10.1")  # all that client, contract and the batch need
    .env(
        {
            "PYTHONPATH": "/opt",
            "SAM3D_WEIGHTS": WEIGHTS,
            "SAM3D_CACHE": "/var/cache/sam3d/stages",
            "TRITON_CACHE_DIR": "/var/cache/sam3d/triton",
            "SAM3D_MODAL_CONTAINERS": str(CONTAINERS),  # make_new reads this file in its container
        }
    )
)
weights = modal.Volume.from_name("sam3d-weights", create_if_missing=True)
files = modal.Volume.from_name("sam3d-files", create_if_missing=True)
secret = modal.Secret.from_name("sam3d", required_keys=["SAM3D_TOKEN"])
for_weights = modal.Secret.from_name("sam3d", required_keys=["HF_TOKEN"])


@app.cls(
    image=image,
    gpu=GPU,
    cpu=4,
    memory=32768,
    volumes={WEIGHTS: weights.read_only()},
    secrets=[secret],
    timeout=1800,  # of one job
    startup_timeout=1200,  # of a container: 14 GB of weights
    scaledown_window=60,  # seconds that it stays for the next job; then there is none, and nothing is paid
    max_containers=CONTAINERS,
    retries=0,  # attempts are counted in the caller's manifest alone
)
class Sam3d:
    """One container: one worker, and its engine ready before the first job."""

    engine: str = modal.parameter(default="sam3d")

    @modal.enter()
    def open(self) -> None:
        from comfyui_sam3d.client import LocalBackend
        from comfyui_sam3d.contract.errors import Sam3dError
        from comfyui_sam3d.factory.executors.relay import Relay

        self._backend = LocalBackend()
        self._relay = Relay(self._backend)
        try:
            self._relay.warm(self.engine)
        except Sam3dError as problem:  # no weights, for instance: every job says so, instead of containers that start without end
            print(f"{problem.code}: {problem}", flush=True)
            self._relay.refuse(problem)

    @modal.exit()
    def close(self) -> None:
        self._backend.close()

    @modal.method()
    def reconstruct(self, image_bytes: bytes, mask_bytes: bytes | None = None, options: dict[str, Any] | None = None) -> dict[str, Any]:
        """The bytes of a picture and of its mask (None: the picture's alpha) -> {"glb": bytes, "ply": bytes, "meta": JSON values}.

        options: settings by name, e.g. {"seed": 3, "quality": "fast"}. Raises a Sam3dError.
        """
        from comfyui_sam3d.factory.executors.endpoint import reconstruct

        self._relay.check()
        return reconstruct(self._backend, image_bytes, mask_bytes, {"engine": self.engine, **(options or {})})

    @modal.method()
    def run_sam3d(self, image_bytes: bytes, mask_bytes: bytes | None = None) -> bytes:
        """-> the splats, as the bytes of a PLY file."""
        from comfyui_sam3d.factory.executors.endpoint import reconstruct

        self._relay.check()
        ply: bytes = reconstruct(self._backend, image_bytes, mask_bytes, {"engine": self.engine, "outputs": ["ply"]})["ply"]
        return ply

    @modal.method()
    def answer(self, frame: bytes) -> bytes:
        """A request as a frame of docs/protocol.md -> the answer as one: what batches call."""
        answer: bytes = self._relay.answer(frame)
        return answer

    @modal.wsgi_app(label="sam3d")
    def web(self) -> Any:
        """POST /reconstruct, behind the token: factory/executors/endpoint.py."""
        from comfyui_sam3d.factory.executors.endpoint import wsgi

        return wsgi(self._backend, os.environ.get("SAM3D_TOKEN", ""), {"engine": self.engine}, self._relay.check)


@app.function(image=image, cpu=2, memory=16384, volumes={WEIGHTS: weights}, secrets=[for_weights], timeout=4 * 3600)
def fetch_weights() -> None:
    """Get the weights into the Volume, and convert them for a fast start. Goes on where it stopped."""
    for verb in ("fetch", "convert"):
        subprocess.run(["python3", f"{PACK}/sam3d.py", "weights", verb], check=True)
        weights.commit()


@app.function(
    image=image,
    cpu=1,
    memory=4096,
    volumes={FILES: files},
    timeout=12 * 3600,
    max_containers=1,  # a Volume has no locks
    schedule=modal.Period(minutes=EVERY) if EVERY else None,
)
def make_new() -> int:
    """Whatever is new in the Volume's in/ is made into its out/. Without anything new no GPU is touched."""
    files.reload()
    source, out = Path(FILES, "in"), Path(FILES, "out")
    if not source.is_dir():
        print("nothing to do: the Volume sam3d-files has no folder in/")
        return 0
    try:
        return batch(source, out, Sam3d().answer, CONTAINERS, engine="sam3d")
    finally:
        files.commit()


def batch(source: Path, out: Path, method: Any, workers: int, **settings: Any) -> int:
    """Our batch with its manifest on this side, and the work on Modal through one `.map`; returns its exit code."""
    from comfyui_sam3d.factory.batch import BatchOptions
    from comfyui_sam3d.factory.batch.run import run
    from comfyui_sam3d.factory.executors.modal import ModalExecutor, mapped
    from comfyui_sam3d.factory.jobs import Interrupts

    def emit(kind: str, /, **fields: Any) -> None:
        print(json.dumps({"event": kind, **fields}, ensure_ascii=False), flush=True)

    interrupts = Interrupts()
    options = BatchOptions(source, out, executor="modal", workers=workers, settings={k: v for k, v in settings.items() if v})
    executor = ModalExecutor(workers, mapped(lambda: method))
    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        return run(options, emit, interrupts, executor)
    with interrupts:
        return run(options, emit, interrupts, executor)


def demo(image: Path, mask: Path | None, out: Path, reconstruct: Any) -> Path:
    """One picture through `reconstruct` (remote or local) -> OUT/NAME/ with its files; returns the folder."""
    from comfyui_sam3d.factory.output import Place, write_result

    made = reconstruct(image.read_bytes(), None if mask is None else mask.read_bytes())
    place = Place(out, image.stem)
    write_result(place, {"model.glb": made["glb"], "splat.ply": made["ply"]}, {**made["meta"], "name": place.name})
    return place.folder


@app.local_entrypoint()
def run_demo(image: str = str(ROOT / "examples" / "steak.png"), mask: str = "", out: str = "outputs", engine: str = "sam3d") -> None:
    """One picture, there and back."""
    folder = demo(Path(image), Path(mask) if mask else None, Path(out), Sam3d(engine=engine).reconstruct.remote)
    print(f"{folder}: {', '.join(sorted(path.name for path in folder.iterdir()))}")


@app.local_entrypoint()
def run_batch(
    source: str, out: str = "outputs", workers: int = CONTAINERS, engine: str = "sam3d", quality: str = "", seed: str = ""
) -> None:
    """A folder of pictures -> a folder of results on this machine, resumable (docs/batch.md)."""
    code = batch(Path(source), Path(out), Sam3d(engine=engine).answer, workers, engine=engine, quality=quality, seed=seed)
    if code:
        sys.exit(code)
