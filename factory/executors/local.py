"""The executor of this machine: one worker process for each slot."""

from __future__ import annotations

import string

from ...client import open_backend
from ...client.gpus import VISIBLE, visible_gpus
from ...contract.errors import OptionError
from . import Slot

_LETTERS = set(string.ascii_letters + string.digits + "-_:/")


class LocalExecutor:
    """See `environments` for the arguments. A worker starts with its slot's first job."""

    def __init__(self, workers: int | None = None, gpus: str | None = None) -> None:
        self._environments = environments(workers, gpus)

    @property
    def slots(self) -> int:
        return len(self._environments)

    def lease(self, number: int) -> Slot:
        return open_backend(environment=self._environments[number])

    def close(self) -> None:
        pass  # each slot closes its own worker


def environments(workers: int | None, gpus: str | None) -> list[dict[str, str]]:
    """The extra variables of each worker. Raises OptionError, or SetupError where GPUs can't be counted.

    gpus None: `workers` workers (default 1) that see what this process sees. `all`, or a number: one for each GPU, or for each of the first N.
    A list, `0,2`: one for each of these; one alone is written with its comma, `2,`, or by its UUID.
    """
    if gpus is None:
        return [{} for _ in range(workers or 1)]
    names = _chosen(gpus.strip())
    if workers not in (None, len(names)):
        raise OptionError("--gpus starts one worker for each GPU.", "Leave --workers out.")
    return [{VISIBLE: name} for name in names]


def _chosen(text: str) -> list[str]:
    if text == "all" or (text.isascii() and text.isdigit()):
        wanted = None if text == "all" else int(text)
        if wanted == 0:
            raise OptionError("--gpus 0 asks for no GPU.", "--gpus 1 takes the first one, and so does its name with a comma: --gpus 0,")
        found = visible_gpus()
        if wanted is not None and wanted > len(found):
            raise OptionError(f"--gpus {wanted}: there are {len(found)} GPUs here.", "Ask for fewer; --gpus all takes what is there.")
        return found[:wanted]
    names = [name.strip() for name in text.removesuffix(",").split(",")]
    if not all(names) or len(set(names)) != len(names) or any(set(name) - _LETTERS for name in names):
        raise OptionError(
            f"--gpus {text} is no list of GPUs.", "Write e.g. --gpus all, --gpus 2 (the first two) or --gpus 0,2 (these two)."
        )
    return names
