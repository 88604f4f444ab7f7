"""moebench's implementations in any MoE model of Hugging Face transformers (5.10 or newer).

>>> from harness.integrations import transformers as moebench_transformers
>>> moebench_transformers.register()  # doctest: +SKIP
('moebench_batched', 'moebench_einsum', 'moebench_fused', 'moebench_grouped', ...)

From then on the names are as good as transformers' own, in every model whose experts transformers can exchange::

    import torch
    from transformers import MixtralConfig, MixtralForCausalLM
    from harness.integrations import transformers as moebench_transformers

    moebench_transformers.register()
    config = MixtralConfig(hidden_size=64, intermediate_size=32, num_hidden_layers=2, vocab_size=100,
                           num_attention_heads=4, num_key_value_heads=2)
    model = MixtralForCausalLM(config)                      # or from_pretrained(..., experts_implementation=...)
    model.set_experts_implementation("moebench_grouped")
    model(torch.arange(8)[None]).logits

The model's weights are used where they lie when its experts keep them as ``Layer`` does (Mixtral, Qwen3-MoE, OLMoE,
DeepSeek-V3 and most others); otherwise (gpt-oss) they are copied into that layout: once for inference, after every
step in training. What was prepared is kept with the module and made anew when a weight is replaced or written in place;
writing through ``.data`` is not seen. Gradients reach the module's own parameters. A compiled model has a graph break
at its experts.

Raised when the model runs, in one line: NotImplementedError for experts that a ``Layer`` cannot express, and for what
an implementation does not support.
"""

from __future__ import annotations

import functools
import weakref
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from harness.cases.case import Case
from harness.cases.traffic import Traffic
from harness.integrations.experts import Layout, as_layer, read_layout, weights_of
from harness.layer.contract import Routing
from harness.running.discovery import load_all
from harness.running.registry import registered

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.layer.contract import Forward, Implementation

    ExpertsFunction = Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]

PREFIX = "moebench_"


def register(*names: str) -> tuple[str, ...]:
    """Offer implementations as ``experts_implementation="moebench_<name>"``: those named, or every one there is.

    The dense baseline, which is no MoE, is left out. Returns the names transformers knows them by.

    Raises
    ------
    ImportError
        when transformers is not installed, or too old to exchange experts.
    ValueError
        for a name nobody registered.
    """
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    load_all(lambda _: None, {})
    known = {name: one for name, one in registered().items() if one.family != "dense"}
    for name in names:
        if name not in known:
            raise ValueError(f"implementation = {name!r}: one of {', '.join(known)}")
    offered = {PREFIX + name: known[name] for name in names or known}
    for key, one in offered.items():
        ALL_EXPERTS_FUNCTIONS.register(key, experts_function(one))
    return tuple(offered)


def experts_function(implementation: Implementation) -> ExpertsFunction:
    """Wrap an implementation as transformers calls it: module, x (T, H), ids (T, K), weights (T, K) -> y (T, H)."""
    kept: weakref.WeakKeyDictionary[nn.Module, _Kept] = weakref.WeakKeyDictionary()

    def experts_forward(self: nn.Module, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        if hidden_states.dim() != 2:
            raise ValueError(f"hidden_states = {tuple(hidden_states.shape)}: tokens x hidden")
        if self not in kept:
            kept[self] = _Kept(implementation)
        forward, dtype = kept[self].forward(self, hidden_states, top_k_weights)
        y = forward(hidden_states.to(dtype), Routing(top_k_index.long(), top_k_weights.float()))
        return y.to(hidden_states.dtype)

    return cast("ExpertsFunction", torch.compiler.disable(experts_forward))


class _Kept:
    """What was prepared for one module, by the way it is called."""

    def __init__(self, implementation: Implementation) -> None:
        self._implementation = implementation
        self._stamp: tuple[object, ...] = ()
        self._described: tuple[object, ...] = ()
        self._weights: dict[str, Tensor] = {}
        self._layout: Layout
        self._forwards: dict[tuple[int, bool, bool], Forward] = {}

    def forward(self, module: nn.Module, x: Tensor, slot_weights: Tensor) -> tuple[Forward, torch.dtype]:
        """Return the prepared implementation for a call, and the dtype it computes in.

        Raises
        ------
        NotImplementedError
            when the module cannot be expressed, or the implementation does not do the case.
        """
        weights = weights_of(module)
        self._notice(module, weights)
        grad = torch.is_grad_enabled()
        top_k = slot_weights.shape[-1]
        training = grad and any(one.requires_grad for one in (x, slot_weights, *weights.values()))
        self._refuse(x, top_k, training=training)
        key = top_k, grad, torch.is_inference_mode_enabled()
        if key not in self._forwards:
            layer = as_layer(weights, self._layout, top_k)
            self._forwards[key] = self._implementation.prepare(layer)
        return self._forwards[key], self._weights["down"].dtype

    def _notice(self, module: nn.Module, weights: dict[str, Tensor]) -> None:
        """Forget what was prepared when a weight is another one or was written, the layout when its form changed."""
        described = tuple((one.shape, one.dtype, one.device) for one in weights.values())
        if described != self._described:
            self._layout, self._described = read_layout(module), described
        stamp = tuple(map(_stamp, weights.values()))
        if stamp != self._stamp:
            self._forwards.clear()
            # The tensors are held on to, so that no other can take their place in memory and look like them.
            self._weights, self._stamp = weights, stamp

    def _refuse(self, x: Tensor, top_k: int, *, training: bool) -> None:
        tokens, device = x.shape[0], str(x.device)
        pass_ = "training" if training else "forward"
        reason = _unsupported(self._implementation, self._layout, top_k, tokens, pass_, device)
        if reason:
            raise NotImplementedError(f"{PREFIX}{self._implementation.name}: {reason}")


def _stamp(weight: Tensor) -> tuple[int, int, int, bool]:
    """Equal as long as nobody replaces the tensor or writes it. An inference tensor counts no versions."""
    version = 0 if weight.is_inference() else weight._version  # noqa: SLF001 (it has no public name)
    return id(weight), weight.data_ptr(), version, weight.requires_grad


@functools.lru_cache(maxsize=4096)
def _unsupported(
    implementation: Implementation, layout: Layout, top_k: int, tokens: int, pass_: str, device: str
) -> str | None:
    case = Case(
        shape=layout.shape(top_k),
        traffic=Traffic(tokens=tokens),
        dtype=cast("Any", layout.dtype),
        pass_=cast("Any", pass_),
        device=device,
    )
    return implementation.unsupported(case)
