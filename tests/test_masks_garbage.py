"""Whatever is given to parse_masks, it returns masks or raises a MaskError of ours."""

from __future__ import annotations

import base64
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
from comfyui_sam3d.contract import parse_masks
from comfyui_sam3d.contract.errors import InputError, MaskError
from comfyui_sam3d.contract.masks import KINDS
from hypothesis import HealthCheck, given, settings
from PIL import Image

from mask_samples import Hostile, png

SMALL = (3, 4)
numbers = st.one_of(st.integers(-3, 300), st.floats(), st.booleans(), st.integers(), st.sampled_from([0, 1, 255, 0.5]))
dtypes = st.one_of(
    hnp.boolean_dtypes(), hnp.integer_dtypes(), hnp.floating_dtypes(), hnp.complex_number_dtypes(), hnp.unsigned_integer_dtypes(),
    hnp.datetime64_dtypes(), hnp.byte_string_dtypes(), hnp.unicode_string_dtypes(),
)  # fmt: skip
shapes = st.one_of(hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=5), st.sampled_from([SMALL, (2, *SMALL), (*SMALL, 4)]))
arrays = dtypes.flatmap(lambda dtype: hnp.arrays(dtype, shapes))
pixels = hnp.arrays(np.uint8, st.sampled_from([SMALL, (*SMALL, 4), (*SMALL, 3), (2, 2)]))
texts = st.one_of(
    st.text(), st.text(alphabet="0123456789PQRSabcdo="), pixels.map(lambda a: base64.b64encode(png(a)).decode()), st.just("data:,")
)
leaves = st.one_of(
    st.none(), numbers, texts, st.binary(), arrays, pixels.map(png), pixels.map(Image.fromarray), st.just(Path("x")), st.just(Hostile())
)
keys = st.sampled_from(
    ["size", "counts", "images", "annotations", "segmentation", "image_id", "id", "height", "width", "shapes", "points", "x"]
)
sizes = st.one_of(st.just([3, 4]), st.lists(st.integers(-1, 20000), max_size=3))
garbage = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.lists(st.lists(numbers, min_size=4, max_size=8), max_size=4),
        st.lists(numbers, max_size=10),
        st.tuples(inner, inner),
        st.dictionaries(keys, inner, max_size=4),
        st.fixed_dictionaries({"size": sizes, "counts": st.one_of(texts, st.lists(st.integers(), max_size=5), inner)}),
        st.fixed_dictionaries(
            {
                "images": st.just([{"id": 1}]),
                "annotations": st.lists(st.fixed_dictionaries({"image_id": st.just(1), "segmentation": inner})),
            }
        ),
        st.fixed_dictionaries(
            {"shapes": st.lists(st.dictionaries(st.sampled_from(["points", "shape_type", "group_id"]), inner), max_size=3)}
        ),
        inner.map(lambda value: SimpleNamespace(mask=value)),
    ),
    max_leaves=12,
)
kinds = st.one_of(st.none(), st.sampled_from(KINDS))


def check_garbage(value: Any, kind: str | None, resize: bool, size: tuple[int, int]) -> None:
    try:
        found = parse_masks(value, size, kind=kind, resize=resize, allow_full=resize)
    except MaskError as problem:
        assert problem.message and problem.hint
        assert isinstance(problem, InputError)
    else:
        assert found.dtype == bool and found.ndim == 3 and found.shape[1:] == size and len(found) >= 1
        assert found.any(axis=(1, 2)).all()


garbage_test = given(garbage, kinds, st.booleans(), st.sampled_from([SMALL, (1, 1), (6, 2)]))


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@garbage_test
def test_garbage_is_refused_in_our_words(value: Any, kind: str | None, resize: bool, size: tuple[int, int]) -> None:
    check_garbage(value, kind, resize, size)


@pytest.mark.full
@settings(max_examples=5_000, deadline=None, suppress_health_check=list(HealthCheck))
@garbage_test
def test_garbage_is_refused_in_our_words_many_times(value: Any, kind: str | None, resize: bool, size: tuple[int, int]) -> None:
    check_garbage(value, kind, resize, size)
