"""The rules of the house, read off the imports themselves."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOORS = ["traces", "cases", "records", "layer", "fitting", "measure", "running"]
"""Each room may import what stands before it, and itself. The registry alone is used by the library's face."""
TORCH_FREE = [
    *sorted((ROOT / "harness" / "traces").glob("*.py")),
    ROOT / "harness" / "integrations" / "recorder.py",
    *sorted((ROOT / "harness" / "cases").glob("*.py")),
    *sorted((ROOT / "harness" / "records").glob("*.py")),
    *sorted((ROOT / "harness" / "report").rglob("*.py")),
    *sorted((ROOT / "harness").glob("*.py")),
    *sorted((ROOT / "harness" / "cli").glob("*.py")),
    *sorted((ROOT / "harness" / "export").glob("*.py")),
    *(path for path in sorted((ROOT / "harness" / "fitting").glob("*.py")) if path.stem != "draw"),
    *(path for path in sorted((ROOT / "harness" / "running").rglob("*.py")) if path.parent.name != "worker"),
]


def imports(path: Path, *, at_run_time: bool) -> set[str]:
    """Modules a file imports, in functions too; those under TYPE_CHECKING left out on request."""
    tree = ast.parse(path.read_text())
    if at_run_time:
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("floor", range(len(FLOORS)), ids=FLOORS)
def test_imports_point_one_way(floor: int) -> None:
    above = {f"harness.{room}" for room in [*FLOORS[floor + 1 :], "report", "export", "cli", "terminal", "listing"]}
    for path in (ROOT / "harness" / FLOORS[floor]).rglob("*.py"):
        wrong = {name for name in imports(path, at_run_time=False) if name.startswith(tuple(above))}
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


@pytest.mark.parametrize("path", sorted((ROOT / "harness").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_the_harness_knows_no_implementation_by_name(path: Path) -> None:
    assert not {name for name in imports(path, at_run_time=False) if name.split(".")[0] == "impls"}


@pytest.mark.parametrize("path", sorted((ROOT / "impls").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_implementations_use_the_public_face_only(path: Path) -> None:
    assert not {
        name for name in imports(path, at_run_time=False) if name.startswith("harness.") and name.count(".") > 1
    }


@pytest.mark.parametrize("path", TORCH_FREE, ids=lambda p: str(p.relative_to(ROOT)))
def test_the_parent_process_never_imports_torch(path: Path) -> None:
    assert not {name for name in imports(path, at_run_time=True) if name.split(".")[0] == "torch"}
