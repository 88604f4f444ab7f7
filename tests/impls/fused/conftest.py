"""The fused kernels under Triton's interpreter, on the CPU.

A kernel is interpreted or compiled for good from the moment its module is imported, and so are Triton's own functions.
These tests therefore need a process of their own, with TRITON_INTERPRET=1 from its start. Asked for alone
(``pytest tests/impls/fused``), they get it here; within the whole suite tests/impls/test_fused.py starts one.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from impls._interpreter import interpreted

if TYPE_CHECKING:
    import pytest

HERE = Path(__file__).parent


def pytest_configure(config: pytest.Config) -> None:
    asked = [Path(argument.partition("::")[0]).resolve() for argument in config.args]
    alone = all(path == HERE or HERE in path.parents for path in asked)
    if alone and "triton" not in sys.modules:
        os.environ["TRITON_INTERPRET"] = "1"


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    has_triton = importlib.util.find_spec("triton") is not None
    ours = collection_path.parent == HERE and collection_path.name.startswith("test_")
    return True if ours and not (interpreted() and has_triton) else None
