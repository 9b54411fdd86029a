"""What the calls of /api/v1 take and give. Bodies that come in are strict: an unknown name is an error, and nothing is converted."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from .ids import SHA, ULID
from .limits import Limits
from .params import Parameters, whole

Sha = Annotated[str, Field(pattern=SHA)]
JobId = Annotated[str, Field(pattern=ULID)]
Whole = Annotated[int, BeforeValidator(whole)]
Name = Annotated[str, Field(min_length=1, max_length=80)]
Status = Literal["queued", "starting", "running", "succeeded", "failed", "canceled"]


class In(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Out(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ErrorText(Out):
    code: str = Field(description="One of docs/api.md, e.g. E_MASK_EMPTY.")
    message: str = Field(description="What happened.")
    hint: str = Field(description="What to do; may be empty.")


class ErrorBody(Out):
    """Every answer from 400 on."""

    error: ErrorText


class SessionIn(In):
    token: str = Field(max_length=500)


class ImageOut(Out):
    """A picture as it is kept: EXIF turns applied, sRGB, without metadata. id: the sha256 of its pixels."""

    id: Sha
    width: int
    height: int
    has_alpha: bool
    url: str


class MaskOut(Out):
    """bounds: x0, y0, x1, y1 in pixels, the ends exclusive. area: pixels selected."""

    id: Sha
    image_id: Sha
    width: int
    height: int
    area: int
    bounds: list[int] = Field(min_length=4, max_length=4)
    url: str


class JobIn(In):
    """A picture and its masks, one object each; without masks the picture's transparency is the mask."""

    image_id: Sha
    mask_ids: list[Sha] = Field(default=[], max_length=Limits.max_masks)
    names: list[Name] = Field(default=[], max_length=Limits.max_masks, description="One for each mask, or none.")
    name: Name = Field(default="object", description="What the job is called.")
    params: Parameters | None = None  # type: ignore[valid-type]
    priority: Whole = Field(default=0, ge=-100, le=100, description="Higher ones are worked off first.")
    no_cache: bool = Field(default=False, description="Make it even where the same result is there.")


class FileOut(Out):
    name: str
    bytes: int
    sha256: Sha
    url: str


class JobOut(Out):
    """A job. progress: 0 to 1, of the whole job. queue_position: jobs before it, while it waits. result: engine, seed, objects with their poses, camera, timings, warnings, and the seconds that it took when it was made."""

    id: JobId
    kind: Literal["reconstruct", "prepare", "export"]
    status: Status
    name: str
    image_id: Sha | None
    mask_ids: list[Sha]
    names: list[str]
    params: dict[str, Any]
    priority: int
    queue_position: int | None
    stage: str | None
    progress: float
    eta_s: float | None
    attempts: int
    cancel_requested: bool
    cached: bool
    batch_id: str | None
    retry_of: str | None
    created_at: str
    started_at: str | None
    finished_at: str | None
    seconds: float | None
    outputs: list[FileOut]
    result: dict[str, Any] | None
    error: ErrorText | None
    links: dict[str, str]


class JobList(Out):
    """Newest first. next: the cursor of the following page, None at the end."""

    jobs: list[JobOut]
    next: str | None


class BatchIn(In):
    """Jobs that belong together. params: of every item that doesn't say otherwise."""

    name: Name = "batch"
    items: list[JobIn] = Field(min_length=1, description="As many as `max_batch` of GET /info says; more are several batches.")
    params: Parameters | None = None  # type: ignore[valid-type]


class BatchOut(Out):
    """counts: jobs by status. done: all have ended; a failed job is no failed batch."""

    id: JobId
    name: str
    created_at: str
    counts: dict[str, int]
    done: bool
    jobs: list[JobOut]
    links: dict[str, str]


class BatchLine(Out):
    id: JobId
    name: str
    created_at: str
    counts: dict[str, int]
    done: bool


class BatchList(Out):
    batches: list[BatchLine]


class WorkerOut(Out):
    name: str
    state: Literal["starting", "ready", "busy", "failed"]
    job_id: str | None
    engines: list[str] = Field(description="`auto` means the last one.")
    error: ErrorText | None


class HealthOut(Out):
    """status: starting (no worker has answered yet), ready, busy (all work), failed (none can: code names the first worker's error, and each worker's own says
    why). Without the token there is no queue and no worker."""

    status: Literal["starting", "ready", "busy", "failed"]
    code: str | None
    queue: int | None
    workers: list[WorkerOut]


class AliveOut(Out):
    status: Literal["ok"]


class InfoOut(Out):
    """What a client needs to know beforehand. formats: name -> its file. settings: the parameters' JSON Schema. segmenters: name -> why it is unavailable, or empty."""

    version: str
    protocol: int
    engines: list[str]
    formats: dict[str, str]
    limits: dict[str, Any]
    segmenters: dict[str, str]
    storage: dict[str, int | None]
    thumbnail_widths: list[int]


class InstantImage(In):
    """type: base64; addresses and files of the server are not followed."""

    type: Literal["base64"]
    value: str = Field(description="A PNG, JPEG or WebP in base64, or a data URL of it.")


class InstantIn(In):
    """The request of Roboflow's guide, and `params` and `mask_kind` of ours. api_key, model_id: ignored."""

    image: InstantImage
    mask_input: Any = Field(
        default=None,
        description="In any form of docs/masks.md; lists of flat polygons are one object each. None: the picture's transparency.",
    )
    mask_kind: str | None = Field(default=None, max_length=20)
    params: Parameters | None = None  # type: ignore[valid-type]
    model_id: str | None = None
    api_key: str | None = None
    output_meshes: bool = True
    output_scene: bool = True
    with_mesh_postprocess: bool = True
    with_texture_baking: bool = True
    use_distillations: bool = False


class InstantMetadata(Out):
    """In the original's convention: docs/frames.md, "The published model's convention"."""

    rotation: list[float]
    translation: list[float]
    scale: list[float]


class InstantPose(Out):
    """Ours: object to scene, glTF axes, quaternion w x y z."""

    rotation: list[float]
    translation: list[float]
    scale: float


class InstantObject(Out):
    name: str
    mesh_glb: str | None
    gaussian_ply: str | None
    metadata: InstantMetadata
    pose: InstantPose


class InstantOut(Out):
    """Files in base64. time: seconds."""

    mesh_glb: str | None
    gaussian_ply: str | None
    objects: list[InstantObject]
    time: float
    engine: str
    job_id: JobId
