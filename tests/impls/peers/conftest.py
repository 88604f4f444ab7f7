"""Stand-ins for packages that cannot be installed here: modules with the published signatures, in plain torch.

They are strict where the real thing is: names of arguments, dtypes, layouts. What they compute is the definition, slot
by slot, so that an adapter that hands over the wrong thing disagrees with the oracle.
"""

from __future__ import annotations

import importlib
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from harness.running import registry

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Bench:
    """Puts stand-ins into place, and loads adapters anew so that they see them."""

    def __init__(self, patch: pytest.MonkeyPatch, folder: Path) -> None:
        self._patch = patch
        self._folder = folder
        patch.setattr(registry, "_registered", dict(registry._registered))
        patch.setattr(registry, "_missing", dict(registry._missing))

    def module(self, name: str, **contents: Any) -> ModuleType:
        """Make a module importable, with the packages above it; a package has a folder, with a file for each part."""
        parent, _, last = name.rpartition(".")
        folder = self._folder.joinpath(*name.split("."))
        folder.mkdir(parents=True, exist_ok=True)
        (folder.parent / f"{last}.py").touch()
        made = sys.modules.get(name)
        if made is None:
            made = ModuleType(name)
            made.__spec__ = ModuleSpec(name, None, is_package=True)
            made.__spec__.submodule_search_locations = [str(folder)]
            made.__path__ = [str(folder)]
            self._patch.setitem(sys.modules, name, made)
        for key, value in contents.items():
            setattr(made, key, value)
        if parent:
            setattr(self.module(parent), last, made)
        return made

    def load(self, adapter: str) -> ModuleType:
        """Import an adapter, or import it again."""
        return importlib.reload(importlib.import_module(f"impls.peers.{adapter}"))


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Bench:
    return Bench(monkeypatch, tmp_path)


def slots(x: Tensor, ids: Tensor, proj_in: Tensor, activate: Any, down: Tensor, biases: Any = (None, None)) -> Tensor:
    """Each slot's answer, not weighed: (T, K, H). Products in float32, rounded to x's dtype where kernels write."""
    first, second = biases
    hidden = torch.einsum("th,tkfh->tkf", x.float(), proj_in.float()[ids.long()])
    hidden = (hidden if first is None else hidden + first.float()[ids.long()]).to(x.dtype)
    out = torch.einsum("tki,tkhi->tkh", activate(hidden).float(), down.float()[ids.long()])
    return (out if second is None else out + second.float()[ids.long()]).to(x.dtype)


def glu(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """[gate; up] -> function(gate) * up."""

    def activate(hidden: Tensor) -> Tensor:
        gate, up = hidden.chunk(2, dim=-1)
        return function(gate) * up

    return activate


def oai_swiglu(gate: Tensor, up: Tensor, alpha: float, limit: float) -> Tensor:
    """gpt-oss's activation."""
    gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
    return gate * torch.sigmoid(alpha * gate) * (up + 1)


class Tools:
    """What the stand-ins share."""

    slots = staticmethod(slots)
    glu = staticmethod(glu)
    oai_swiglu = staticmethod(oai_swiglu)
    silu_glu = staticmethod(glu(F.silu))
    gelu_glu = staticmethod(glu(F.gelu))

    @staticmethod
    def weigh(out: Tensor, weights: Tensor) -> Tensor:
        """(T, K, H), (T, K) -> (T, H), summed in float32."""
        return (out.float() * weights.float()[..., None]).sum(1).to(out.dtype)


@pytest.fixture(scope="session")
def tools() -> Tools:
    return Tools()
