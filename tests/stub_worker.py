"""A real worker process - the real loop, the real encoders - around a stub engine that needs numpy alone. For the nodes' tests.

    SAM3D_WORKER_COMMAND="python tests/stub_worker.py"

Each mask becomes one lopsided pyramid with a texture, as large as the mask's bounding box, and one splat for each of its corners. The seed
decides what goes wrong:

    1000 + n   takes n seconds, in steps of 0.05 s; sends a preview first
    666        dies by SIGKILL in the middle
    667        raises
    668        prints into stdout, from Python and from C
    669        is silent for 3 seconds
"""

from __future__ import annotations

import os
import signal
import sys
import time

import numpy as np
from comfyui_sam3d.contract.errors import OutOfMemoryError
from comfyui_sam3d.contract.request import ReconstructRequest
from comfyui_sam3d.contract.scene import SH_C0, Camera, Mesh, Pose, Scene, SceneObject, Splats
from comfyui_sam3d.worker.job import Job

CORNERS = np.array([[-0.5, 0, 0.5], [0.5, 0, 0.5], [0.5, 0, -0.5], [-0.5, 0, -0.5], [-0.3, 1, 0.2]], np.float32)
FACES = np.array([[0, 3, 2], [0, 2, 1], [0, 1, 4], [1, 2, 4], [2, 3, 4], [3, 0, 4]], np.uint32)


def misbehave(seed: int, job: Job) -> None:
    job.step("sampling", 0, 10)
    if seed == 666:
        os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
    if seed == 667:
        raise OutOfMemoryError("The stub has no memory left.")
    if seed == 668:
        print("noise")
        os.write(1, b"more noise\n")
    if seed == 669:
        time.sleep(3)
    if 1000 <= seed < 2000:
        steps = (seed - 1000) * 20
        job.preview(np.full((300, 900, 3), (40, 120, 110), np.uint8))
        for i in range(steps):
            job.step("sampling", i, steps)
            time.sleep(0.05)


def pyramid(request: ReconstructRequest, index: int) -> SceneObject:
    height, width = request.masks.shape[1:]
    rows, columns = np.nonzero(request.masks[index])
    x0, x1, y0, y1 = columns.min(), columns.max() + 1, rows.min(), rows.max() + 1
    unit = request.size / max(height, width)
    scale = float(y1 - y0) * unit
    step = -(-max(y1 - y0, x1 - x0) // 1024)  # as large as an engine's, whatever the picture's size
    texture = np.ascontiguousarray(request.image[y0:y1:step, x0:x1:step])
    color = request.image[request.masks[index]].mean(axis=0) / 255
    return SceneObject(
        name=request.names[index],
        mesh=Mesh(
            vertices=CORNERS, faces=FACES, uvs=np.clip(CORNERS[:, :2] * [1, -1] + [0.5, 1], 0, 1).astype(np.float32), texture=texture
        ),
        splats=Splats(
            positions=CORNERS,
            scales=np.full((5, 3), 0.05, np.float32),
            rotations=np.tile(np.array([1, 0, 0, 0], np.float32), (5, 1)),
            opacities=np.full(5, 0.9, np.float32),
            sh=np.tile(((color - 0.5) / SH_C0).astype(np.float32), (5, 1))[:, None],
        ),
        pose=Pose(translation=(float(x0 + x1 - width) / 2 * unit, float(height - y1) * unit, 0.0), scale=scale),
    )


def reconstruct(request: ReconstructRequest, job: Job) -> Scene:
    misbehave(request.seed, job)
    objects = []
    for index in range(len(request.masks)):
        job.step("pyramids", index, len(request.masks))
        job.preview(request.image)
        objects.append(pyramid(request, index))
    job.step("pyramids", len(objects), len(objects))
    return Scene(
        objects=tuple(objects),
        engine="draft",
        seed=request.seed,
        camera=Camera("orthographic", request.image.shape[1], request.image.shape[0], xmag=0.5, ymag=0.5),
        warnings=("This is a stub.",),
        parameters=request.parameters(),
    )


if __name__ == "__main__":
    from comfyui_sam3d.worker.channel import claim_stdio

    channel = claim_stdio()
    from comfyui_sam3d.worker.geometry import encode
    from comfyui_sam3d.worker.loop import serve

    sys.exit(serve(channel, {"draft": lambda: reconstruct}, encode))
