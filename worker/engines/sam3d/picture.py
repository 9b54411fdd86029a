"""What depends on a picture alone: its point map, and the tokens of the whole picture for both stages. Looked up first, made where it isn't kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ....contract.request import PrepareRequest, ReconstructRequest
from ...cache import key_of
from ...job import Job, Planned, timed
from ...pointmap import PointMap, from_picture, from_request
from ...sam3d.pipeline import EMBEDDERS
from . import kept

if TYPE_CHECKING:
    from .engine import Engine

POINTS, TOKENS = "point map", "picture"  # the stages, as progress names them


class Picture:
    """One request's. key: of the picture. points_key: of its point map, known before that is made."""

    def __init__(self, engine: Engine, request: ReconstructRequest | PrepareRequest, job: Job) -> None:
        """Raises OptionError for a point map that doesn't fit."""
        self.engine, self.job = engine, job
        self.image = torch.from_numpy(np.array(request.image))
        self.key = key_of("picture", image=request.image)
        self._given = from_request(request)
        self.points_key = engine.key("points", picture=self.key) if self._given is None else key_of("points", points=self._given.points)

    def missing(self) -> list[Planned]:
        """The stages that `prepare` would run now."""
        tokens = [name for name in EMBEDDERS if not self.holds(name)]
        lacks_points = self._given is None and not self.engine.cache.holds(self.points_key)
        found = [(POINTS, 1.0, float(lacks_points)), (TOKENS, 0.1, float(len(tokens)))]
        return [Planned(name, share, size) for name, share, size in found if size]

    def prepare(self) -> None:
        self.points()
        with timed(self.job, TOKENS):
            for name in EMBEDDERS:
                if not self.holds(name):
                    self.keep(name, lambda name=name: self.engine.pipeline.picture(name, self.image))  # type: ignore[misc]

    def points(self) -> PointMap:
        """The map that came with the request, or MoGe's."""
        if self._given is not None:
            return self._given
        with timed(self.job, POINTS):
            if (found := self.engine.cache.get(self.points_key)) is not None:
                return kept.points_of(found)
            self.job.step(POINTS, 0, 1)
            points = self.engine.pipeline.insisting(POINTS, self._moge)
            self.engine.cache.put(self.points_key, *kept.of_points(points))
            self.job.step(POINTS, 1, 1)
            return points

    def holds(self, name: str) -> bool:
        return self.engine.cache.holds(self._tokens_key(name))

    def keep(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """The picture's tokens by the embedder `name`, (1, T, C), of any device."""
        key = self._tokens_key(name)
        if (found := self.engine.cache.get(key)) is not None:
            return kept.tensor_of(found)
        number = EMBEDDERS.index(name)
        self.job.step(TOKENS, number, len(EMBEDDERS))
        tokens = make()
        self.engine.cache.put(key, *kept.of_tensor(tokens))
        self.job.step(TOKENS, number + 1, len(EMBEDDERS))
        return tokens

    def _tokens_key(self, name: str) -> str:
        return self.engine.key("tokens", picture=self.key, network=name)

    def _moge(self) -> PointMap:
        with self.engine.networks.use("moge") as moge:
            return from_picture(moge, self.image.numpy())
