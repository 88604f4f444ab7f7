"""Listening to a model of transformers: what its routers hand to its experts, layer by layer and token by token."""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch

if TYPE_CHECKING:
    from types import TracebackType

    from numpy.typing import NDArray
    from torch import nn
    from torch.utils.hooks import RemovableHandle

IDS = ("top_k_index", "router_indices", "selected_experts")
WEIGHTS = ("top_k_weights", "routing_weights")
"""What expert modules of transformers v5 call the choice they are given. Routers differ more in what they return."""


class Listener:
    """Collects routing while it is entered. ``begin`` says whose tokens come next; one request at a time.

    Raises
    ------
    ValueError
        when the model has no experts of which a token chooses k, or layers differ in E or k.
    """

    def __init__(self, model: nn.Module) -> None:
        self._modules = expert_modules(model)
        counts = {count_experts(module) for module in self._modules.values()}
        if len(counts) != 1:
            raise ValueError(f"MODEL_DIR: layers of one number of experts, not of {sorted(counts)}")
        self.experts = counts.pop()
        self.top_k = 0
        self.nbytes = 0
        self._hooks: list[RemovableHandle] = []
        self._heard: list[dict[str, NDArray[Any]]] = []
        self._request = self._prompt_tokens = 0
        self._position: dict[int, int] = {}

    def __enter__(self) -> Self:
        for layer, module in self._modules.items():
            self._hooks.append(module.register_forward_pre_hook(self._listen_to(layer), with_kwargs=True))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hook in self._hooks:
            hook.remove()

    def begin(self, request: int, prompt_tokens: int) -> None:
        """Expect the tokens of a request, in order: its prompt's are ``prefill``, what follows is ``decode``."""
        self._request, self._prompt_tokens = request, prompt_tokens
        self._position = dict.fromkeys(self._modules, 0)

    def columns(self) -> dict[str, NDArray[Any]]:
        """Everything heard so far, by the names of a trace's columns."""
        names = ("ids", "weights", "layer", "request", "position", "phase")
        return {name: np.concatenate([heard[name] for heard in self._heard]) for name in names}

    def _listen_to(self, layer: int) -> Any:  # noqa: ANN401 (a hook)
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given = inspect.signature(module.forward).bind(*args, **kwargs).arguments
            ids, weights = (given[_argument(module, names)] for names in (IDS, WEIGHTS))
            self._hear(layer, ids, weights)

        return hook

    def _hear(self, layer: int, ids: torch.Tensor, weights: torch.Tensor) -> None:
        """Keep one call's routing: (n, k) each."""
        if self.top_k not in {0, ids.shape[-1]}:
            raise ValueError(f"MODEL_DIR: layers of one top_k, not of {self.top_k} and {ids.shape[-1]}")
        self.top_k = int(ids.shape[-1])
        chosen = ids.reshape(-1, self.top_k).to("cpu", torch.int32).numpy()
        position = self._position[layer] + np.arange(len(chosen), dtype=np.int32)
        self._position[layer] += len(chosen)
        heard = {
            "ids": chosen,
            "weights": weights.reshape(-1, self.top_k).to("cpu", torch.float32).numpy(),
            "layer": np.full(len(chosen), layer, dtype=np.int32),
            "request": np.full(len(chosen), self._request, dtype=np.int32),
            "position": position,
            "phase": (position >= self._prompt_tokens).astype(np.uint8),
        }
        self._heard.append(heard)
        self.nbytes += sum(column.nbytes for column in heard.values())


def expert_modules(model: nn.Module) -> dict[int, nn.Module]:
    """Find the modules that are given a choice of experts, by the model's layer.

    A module's layer is the only number in its name; where that does not tell modules apart, its place among them.

    Raises
    ------
    ValueError
        when there are none.
    """
    modules = dict(model.named_modules())
    found = {name: module for name, module in modules.items() if all(_argument(module, n) for n in (IDS, WEIGHTS))}
    if not found:
        raise ValueError(f"MODEL_DIR: a model whose experts are given each token's choice, not {type(model).__name__}")
    numbers = [re.findall(r"(?<=\.)\d+(?=\.)", name) for name in found]
    named = {int(first[0]) for first in numbers if len(first) == 1}
    layers = [int(first[0]) for first in numbers] if len(named) == len(found) else range(len(found))
    return dict(zip(layers, found.values(), strict=True))


def _argument(module: nn.Module, names: tuple[str, ...]) -> str:
    """Return the name under which a module takes one of these; empty when it does not."""
    parameters = inspect.signature(module.forward).parameters
    return next((name for name in names if name in parameters), "")


def count_experts(module: nn.Module) -> int:
    """Count the experts of a module: the length of its stacked weights.

    Raises
    ------
    ValueError
        when it has none.
    """
    stacked = [parameter.shape[0] for parameter in module.parameters(recurse=False) if parameter.ndim == 3]
    if not stacked:
        raise ValueError(f"MODEL_DIR: experts in stacked weights, which {type(module).__name__} has not")
    return int(stacked[0])
