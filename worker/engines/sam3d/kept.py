"""Results of stages as entries of the stage cache (cache.py), and back: a JSON value and arrays on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ....contract.pointmaps import PointMap
from ....contract.record import Record, pack, unpack
from ...cache import Entry
from ...sam3d.pose import DecodedPose
from ...sam3d.structure import Structure

R = TypeVar("R", bound=Record)


def of_tensor(value: Tensor) -> Entry:
    return {}, {"value": value.cpu().numpy()}


def tensor_of(entry: Entry) -> Tensor:
    return _tensor(entry[1]["value"])


def of_points(points: PointMap) -> Entry:
    arrays = {"points": points.points, "intrinsics": points.intrinsics}
    return {"source": points.source, "metric": points.metric}, {k: v for k, v in arrays.items() if v is not None}


def points_of(entry: Entry) -> PointMap:
    return PointMap(entry[1]["points"], entry[1].get("intrinsics"), entry[0]["source"], entry[0]["metric"])


def of_structure(item: Structure) -> Entry:
    pose = {f"pose.{name}": value.numpy() for name, value in vars(item.pose).items()}
    return {"downsample": item.downsample}, {"coords": item.coords.numpy(), "original": item.original.numpy(), **pose}


def structure_of(entry: Entry) -> Structure:
    arrays = {name: _tensor(value) for name, value in entry[1].items()}
    pose = DecodedPose(**{name.removeprefix("pose."): value for name, value in arrays.items() if name.startswith("pose.")})
    return Structure(arrays["coords"], arrays["original"], entry[0]["downsample"], pose)


def of_record(record: Record, facts: Mapping[str, Any]) -> Entry:
    """A record of the contract, and JSON values that belong to it."""
    plain, arrays = pack(record)
    return {"record": plain, "facts": pack(facts)[0]}, arrays


def record_of(kind: type[R], entry: Entry) -> tuple[R, dict[str, Any]]:
    return unpack(kind, entry[0]["record"], entry[1]), entry[0]["facts"]


def _tensor(value: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(value))  # a copy: what is kept can't be written to, and torch would warn of that
