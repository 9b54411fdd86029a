"""The draft engine: each mask's outline inflated to a textured solid. CPU, no weights, about a second (docs/draft.md)."""

from __future__ import annotations

from ...contract.request import ReconstructRequest
from ...contract.scene import Camera, Pose, Scene, SceneObject
from ..draft.inflate import STAGES, Inflated, inflate
from ..job import Job

HONESTY = "Made by the draft engine: the front is the picture; thickness and back are guesses."


def reconstruct(request: ReconstructRequest, job: Job) -> Scene:
    """One object for each mask, in one scene.

    A single mask stands at the scene's origin, its longest side `size` metres. Several are placed where they stand in the picture,
    whose longest side is then `size`: the picture is the plane z = 0, the scene's origin the middle of its lower edge. Each
    object keeps its own mesh of `size` metres; its pose scales and moves it. The recorded orthographic camera maps the scene back to the
    picture's pixels. The seed changes nothing. Raises InputErrors, and JobCancelled from `job`.
    """
    count = len(request.masks)
    job.step("inflate", 0, count * len(STAGES))
    made = [inflate(request, index, job) for index in range(count)]
    poses, camera = _place(request, made)
    objects = tuple(
        SceneObject(name=name, mesh=item.mesh, splats=item.splats, pose=pose, info=item.info)
        for name, item, pose in zip(request.names, made, poses)
    )
    notes = [note if count == 1 else f"{name}: {note}" for name, item in zip(request.names, made) for note in item.notes]
    return Scene(
        objects=objects,
        engine="draft",
        seed=request.seed,
        camera=camera,
        timings=dict(job.timings),
        warnings=(HONESTY, *(note[0].upper() + note[1:] + "." if count == 1 else note + "." for note in notes)),
        parameters=request.parameters(),
    )


def _place(request: ReconstructRequest, made: list[Inflated]) -> tuple[list[Pose], Camera]:
    """Where each object stands, and the camera that sees the picture's pixels."""
    height, width = request.image.shape[:2]
    if len(made) == 1:
        metres, origin = made[0].metres, made[0].anchor
    else:
        metres, origin = request.size / max(height, width), (width / 2, float(height))
    poses = [
        Pose(translation=((m.anchor[0] - origin[0]) * metres, (origin[1] - m.anchor[1]) * metres, 0.0), scale=metres / m.metres)
        for m in made
    ]
    far = 2 * max(request.size, metres * max(height, width))
    camera = Camera(
        kind="orthographic",
        width=width,
        height=height,
        pose=Pose(translation=((width / 2 - origin[0]) * metres, (origin[1] - height / 2) * metres, far)),
        xmag=width / 2 * metres,
        ymag=height / 2 * metres,
        znear=far / 100,
        zfar=2 * far,
    )
    return poses, camera
