"""Triton compiles a kernel anew for whole numbers that are divisible by 16, and for 1: what differs from object to object must be kept from that."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

OPS = Path(__file__).resolve().parent.parent / "worker" / "ops"
# Parameters that count what an object has: rows of voxels, cubes, corners, faces, Gaussians, places in lists of them.
COUNTS = {"rows", "count", "cubes", "vertices", "corners", "first", "last", "before", "span", "tiles", "faces", "length"}


def kernels(path: Path) -> list[tuple[str, set[str], set[str]]]:
    """Each kernel that is launched: its name, the counts among its parameters, and those that it keeps from being specialised."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    launched = {
        call.func.value.id
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Subscript) and isinstance(call.func.value, ast.Name)
    }
    found = []
    for function in tree.body:
        if isinstance(function, ast.FunctionDef) and function.name in launched:
            kept = {
                name.value
                for decorator in function.decorator_list
                if isinstance(decorator, ast.Call)
                for keyword in decorator.keywords
                if keyword.arg == "do_not_specialize" and isinstance(keyword.value, ast.List)
                for name in keyword.value.elts
                if isinstance(name, ast.Constant)
            }
            plain = {item.arg for item in function.args.args if item.annotation is None}
            found.append((function.name, plain & COUNTS, kept))
    return found


@pytest.mark.parametrize("path", sorted(OPS.glob("*_triton.py")), ids=lambda path: path.stem)
def test_another_object_compiles_nothing(path: Path) -> None:
    found = kernels(path)
    assert found, "no kernel is launched here"
    assert {name: counts - kept for name, counts, kept in found if counts - kept} == {}
