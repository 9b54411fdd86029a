"""One exception tree. Each error has a code, a sentence that says what happened, and one that says what to do.

    Sam3dError
    |-- InputError               refused before a worker is touched
    |   |-- ImageError           E_IMAGE         a picture can't be read, or isn't one
    |   |-- MaskError            E_MASK          a mask can't be read
    |   |   |-- MaskKindError    E_MASK_KIND     the form is unknown, or could be read in two ways
    |   |   |-- MaskSizeError    E_MASK_SIZE     it isn't the picture's size
    |   |   |-- EmptyMaskError   E_MASK_EMPTY    nothing is selected
    |   |   `-- FullMaskError    E_MASK_FULL     everything is selected
    |   |-- OptionError          E_OPTION        a parameter is out of range, or unknown
    |   `-- PairingError         E_PAIRING       a batch can't tell which mask belongs to which picture
    |-- SetupError               E_SETUP         the environment, an engine or its weights aren't ready
    |-- WorkerError              E_WORKER        the worker process failed, not the job
    |   |-- WorkerStartError     E_WORKER_START  it didn't come up
    |   |-- WorkerCrashed        E_WORKER_CRASH  it died in the middle of a job
    |   |-- WorkerHung           E_WORKER_HUNG   it stopped answering and was killed
    |   |-- WorkerStateError     E_WORKER_STATE  a call that its state doesn't allow
    |   `-- ProtocolError        E_PROTOCOL      bytes that are no message
    |-- EngineError              E_ENGINE        the engine raised
    |   `-- OutOfMemoryError     E_MEMORY        not enough memory for this job
    |-- JobCancelled             E_CANCELLED     somebody asked for it
    |-- OutputError              E_OUTPUT        a result can't be written
    `-- ServiceError             E_SERVICE       a job server can't do what it was asked for
        |-- UnreachableError     E_UNREACHABLE   it doesn't answer, or isn't one of ours
        |-- DeniedError          E_DENIED        it doesn't know the caller, or the call comes from a page of somebody else
        |-- NotFoundError        E_NOT_FOUND     there is no such thing
        |-- ConflictError        E_CONFLICT      the thing's state doesn't allow it
        |-- TooLargeError        E_TOO_LARGE     the message is beyond a limit
        |-- BusyError            E_BUSY          too much at once: try again later
        |-- StorageError         E_STORAGE       its disk, or its share of it, is full
        `-- TimeLimitError       E_TIME_LIMIT    the job, or the caller, took too long

An error crosses the wire as `to_json()` and comes back as the same class (`from_json`), with the worker's traceback in
`detail`. Command-line exit codes and HTTP statuses are derived from the classes by the skins, never stored here.
"""

from __future__ import annotations

from typing import Any, ClassVar


class Sam3dError(Exception):
    """Base of everything that this project raises on purpose.

    message: what happened, one sentence. hint: what to do, one sentence (a class may carry a usual one).
    detail: anything longer for a log or a bug report (a traceback, the last lines of stderr); never needed to understand.
    """

    code: ClassVar[str] = "E_SAM3D"
    usual_hint: ClassVar[str] = ""

    def __init__(self, message: str, hint: str = "", *, detail: str = "") -> None:
        super().__init__(message, hint, detail)
        self.message = message
        self.hint = hint or self.usual_hint
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.hint, self.detail)

    def to_json(self) -> dict[str, str]:
        return {"code": self.code, "message": self.message, "hint": self.hint, "detail": self.detail}

    @staticmethod
    def from_json(data: dict[str, Any]) -> Sam3dError:
        """The same class by its code; a code from a newer peer becomes an EngineError that keeps the text."""
        kind = _BY_CODE.get(str(data.get("code")), EngineError)
        return kind(str(data.get("message", "")), str(data.get("hint", "")), detail=str(data.get("detail", "")))


def _rebuild(kind: type[Sam3dError], message: str, hint: str, detail: str) -> Sam3dError:
    return kind(message, hint, detail=detail)


class InputError(Sam3dError):
    code = "E_INPUT"


class ImageError(InputError):
    code = "E_IMAGE"


class MaskError(InputError):
    code = "E_MASK"


class MaskKindError(MaskError):
    code = "E_MASK_KIND"


class MaskSizeError(MaskError):
    code = "E_MASK_SIZE"


class EmptyMaskError(MaskError):
    code = "E_MASK_EMPTY"
    usual_hint = "Select the object in the mask, or invert it if it selects the background."


class FullMaskError(MaskError):
    code = "E_MASK_FULL"
    usual_hint = "Give a mask that leaves the background out, or allow full masks if the object fills the picture."


class OptionError(InputError):
    code = "E_OPTION"


class PairingError(InputError):
    code = "E_PAIRING"


class SetupError(Sam3dError):
    code = "E_SETUP"
    usual_hint = "Run: python install.py"


class WorkerError(Sam3dError):
    code = "E_WORKER"


class WorkerStartError(WorkerError):
    code = "E_WORKER_START"
    usual_hint = "Run: python sam3d.py doctor"


class WorkerCrashed(WorkerError):
    code = "E_WORKER_CRASH"
    usual_hint = "The next call starts a fresh worker."


class WorkerHung(WorkerError):
    code = "E_WORKER_HUNG"
    usual_hint = "The next call starts a fresh worker."


class WorkerStateError(WorkerError):
    code = "E_WORKER_STATE"


class ProtocolError(WorkerError):
    code = "E_PROTOCOL"
    usual_hint = "Both sides must come from the same version of the pack: run python install.py again."


class EngineError(Sam3dError):
    code = "E_ENGINE"


class OutOfMemoryError(EngineError):
    code = "E_MEMORY"
    usual_hint = "Choose a lower quality, fewer masks at once or a smaller picture."


class JobCancelled(Sam3dError):
    code = "E_CANCELLED"


class OutputError(Sam3dError):
    code = "E_OUTPUT"
    usual_hint = "Check the folder's permissions and the free disk space."


class ServiceError(Sam3dError):
    code = "E_SERVICE"


class UnreachableError(ServiceError):
    code = "E_UNREACHABLE"
    usual_hint = "Check the address, and that the server runs."


class DeniedError(ServiceError):
    code = "E_DENIED"


class NotFoundError(ServiceError):
    code = "E_NOT_FOUND"


class ConflictError(ServiceError):
    code = "E_CONFLICT"


class TooLargeError(ServiceError):
    code = "E_TOO_LARGE"


class BusyError(ServiceError):
    code = "E_BUSY"
    usual_hint = "Try again in a moment."


class StorageError(ServiceError):
    code = "E_STORAGE"


class TimeLimitError(ServiceError):
    code = "E_TIME_LIMIT"


def _tree(kind: type[Sam3dError]) -> dict[str, type[Sam3dError]]:
    found = {kind.code: kind}
    for child in kind.__subclasses__():
        found |= _tree(child)
    return found


_BY_CODE = _tree(Sam3dError)
