"""Hugging Face transformers: the three ways its MoE models can compute their experts.

A model's own experts class is built around the layer's weights, and its ``experts_implementation`` is set, as a user
would: what runs is transformers' code from the class's ``forward`` on. Which class follows from the shape: Mixtral's
for gated experts (the layout of ``Layer``, nothing is copied), GptOss's for clamped_swiglu with biases (copied in
prepare: gate and up interleaved, transposed; in training their gradients are laid back inside the time), NemotronH's
for plain ones.

What is timed: ids and weights in, combined output out, with sorting, gathering and summing, which transformers pays
every call. Only routers that may drop slots make it mask them, the way it does under expert parallelism.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any, NamedTuple

import torch
from torch import Tensor

from harness import Case, Forward, Layer, Routing, Shape
from impls.peers._layout import interleave, put
from impls.peers._limits import DROPPING_ROUTERS
from impls.peers._package import Package, peer

PACKAGE = Package("transformers", "pip install transformers", oldest="5.10", below="6")
VERSION = PACKAGE.version
VERIFIED = "5.10.1, 5.16.0 and 5.23.0 on CPU, 2026-11"
PASSES = ("forward", "training")
ALIGNMENT_BYTES = 16
"""``torch.nn.functional.grouped_mm`` wants every matrix row to start on a multiple of this."""

MAX_CUDA_EXPERTS = 1023
"""Its CUDA kernel takes fewer than 1024 groups."""


class Model(NamedTuple):
    """One of transformers' models with an experts class: its module, the word in its classes' names, its sizes."""

    module: str
    word: str
    sizes: dict[str, object]


def model_for(shape: Shape) -> Model | str:
    """Return the model whose experts compute what a shape asks for, or say why none does."""
    H, I, E = shape.hidden, shape.expert_hidden, shape.experts
    if shape.activation == "clamped_swiglu":
        if not shape.bias:
            return "transformers' experts with clamped_swiglu (GptOssExperts) have biases, this layer has none"
        return Model("gpt_oss", "GptOss", {"hidden_size": H, "intermediate_size": I, "num_local_experts": E})
    if shape.bias:
        return "the only experts of transformers with biases are GptOssExperts, whose activation is clamped_swiglu"
    if not shape.gated:
        sizes = {"hidden_size": H, "moe_intermediate_size": I, "n_routed_experts": E}
        return Model("nemotron_h", "NemotronH", {**sizes, "mlp_hidden_act": shape.activation})
    sizes = {"hidden_size": H, "intermediate_size": I, "num_local_experts": E}
    return Model("mixtral", "Mixtral", {**sizes, "hidden_act": shape.activation})


def _ready(shape: Shape) -> Model | str:
    """Do as ``model_for``, and import the model: it takes seconds, and what prepare takes is recorded."""
    model = model_for(shape)
    if isinstance(model, Model):
        _classes(model)
    return model


def _classes(model: Model) -> tuple[Any, Any]:
    """Return a model's configuration and experts classes."""
    package = f"transformers.models.{model.module}"
    configuration = importlib.import_module(f"{package}.configuration_{model.module}")
    modeling = importlib.import_module(f"{package}.modeling_{model.module}")
    return getattr(configuration, f"{model.word}Config"), getattr(modeling, f"{model.word}Experts")


def refuses_eager(case: Case) -> str | None:
    """Say why transformers' loop over experts cannot do a case, or None."""
    if isinstance(model := _ready(case.shape), str):
        return model
    if case.execution == "graph":
        return "a CUDA graph cannot hold it: it reads back to the host which experts were hit"
    if case.shape.router.kind in DROPPING_ROUTERS and not _loop_skips_dropped_slots(_tiny(case.shape)):
        return f"the loop of {model.word}Experts in transformers {VERSION} does not take slots without an expert (id E)"
    return None


def refuses_batched_mm(case: Case) -> str | None:
    """Say why transformers' ``batched_mm`` cannot do a case, or None."""
    model = _ready(case.shape)
    return model if isinstance(model, str) else _refuses_dropping(case)


def refuses_grouped_mm(case: Case) -> str | None:
    """Say why transformers' ``grouped_mm`` cannot do a case, or None."""
    model = _ready(case.shape)
    return model if isinstance(model, str) else _refuses_dropping(case) or _refuses_grouping(case)


def _refuses_dropping(case: Case) -> str | None:
    may_drop = case.shape.router.kind in DROPPING_ROUTERS
    if may_drop and not hasattr(_on_no_device(_tiny(case.shape)), "_is_expert_parallel"):
        return f"transformers {VERSION} has no path for slots without an expert (id E) whose gradients are right"
    return None


def _refuses_grouping(case: Case) -> str | None:
    """Limits of torch's grouped_mm; where transformers does without it, it loops over the experts on the host."""
    on_cuda = case.device.startswith("cuda")
    capability = torch.cuda.get_device_capability(case.device) if on_cuda else (0, 0)
    looping = on_cuda and (case.dtype != "bf16" or capability < (9, 0))
    if looping and case.execution == "graph":
        return f"a CUDA graph cannot hold it: in {case.dtype} on this device its grouped_mm is a loop on the host"
    if (case.execution == "compile" and case.dtype != "bf16") or (on_cuda and capability < (8, 0)):
        return None  # a loop of transformers' own, which takes any size
    shape = case.shape
    width = (2 if shape.gated else 1) * shape.expert_hidden
    for name, size in (("H", shape.hidden), ("2I" if shape.gated else "I", width), ("I", shape.expert_hidden)):
        if size * case.dtype_bytes % ALIGNMENT_BYTES:
            multiple = ALIGNMENT_BYTES // case.dtype_bytes
            return f"torch's grouped_mm needs {name} = {size} to be a multiple of {multiple} in {case.dtype} (16 bytes)"
    if on_cuda and not looping and shape.experts > MAX_CUDA_EXPERTS:
        return f"torch's grouped_mm takes at most {MAX_CUDA_EXPERTS} experts on CUDA, not {shape.experts}"
    return None


@peer("transformers.eager", PACKAGE, passes=PASSES, unsupported=refuses_eager, verified=VERIFIED)
def eager(layer: Layer) -> Forward:
    """Loop as transformers' models do: expert by expert its tokens, linear, activation, linear, weigh, ``index_add_``.

    Marks the chosen experts in a mask (E + 1, K, T) int64 and searches it once for every expert that was hit. Holds one
    expert's share of the hidden layer at a time. Weighs in float32, as the weights come, and adds in x's dtype.

    Waits for a CUDA device several times an expert; at home where experts are few and large.
    """
    return _forward_of(layer, "eager")


@peer("transformers.batched_mm", PACKAGE, passes=PASSES, unsupported=refuses_batched_mm, verified=VERIFIED)
def batched_mm(layer: Layer) -> Forward:
    """Run transformers' ``batched_mm``: copy every slot's expert weights, one batched product of vectors with them.

    Writes ``T*K * 3*H*I * s`` bytes of copied weights for gated experts, s bytes an element, and holds all of them at
    once: the memory it asks for grows with tokens times the size of an expert, whatever the number of experts. Meant
    for decoding: no sort, no wait for the device, shapes that do not follow from data.
    """
    return _forward_of(layer, "batched_mm")


@peer("transformers.grouped_mm", PACKAGE, passes=PASSES, unsupported=refuses_grouped_mm, verified=VERIFIED)
def grouped_mm(layer: Layer) -> Forward:
    """Run transformers' ``grouped_mm``: slots sorted by expert, torch's ``grouped_mm`` over the ragged runs.

    Writes ``T*K * (3H + 4I) * s`` bytes for gated experts, s bytes an element, and 8 bytes more for each of ``T*K*H``
    weighed outputs, which are float32 as the weights come. Gradients of gathered tokens are added up by index.

    On the CPU, and on CUDA below compute capability 9.0 or in another dtype than bf16, grouped_mm is a loop over the
    experts. transformers 5.10 copies all weights in every call, 5.16 does not.
    """
    return _forward_of(layer, "grouped_mm")


def _forward_of(layer: Layer, way: str) -> Forward:
    model = model_for(layer.shape)
    assert isinstance(model, Model), "unsupported() has refused it"
    experts = _experts(model, way)
    put(experts, **_in_their_layout(layer, model.module))
    if layer.shape.router.kind in DROPPING_ROUTERS:
        experts._is_expert_parallel = True  # noqa: SLF001 (its word for: there may be slots without an expert)

    def forward(x: Tensor, routing: Routing) -> Tensor:
        y: Tensor = experts(x, routing.expert_ids, routing.weights)
        if x.requires_grad and torch.is_grad_enabled() and not y.requires_grad:
            y.requires_grad_()  # without a slot to compute the loop returns a constant
        return y

    return forward


def _experts(model: Model, way: str) -> Any:  # noqa: ANN401 (a class of transformers, which has no types here)
    """Build a model's experts module without memory, set to one of transformers' implementations."""
    config_class, experts_class = _classes(model)
    # One head: a model's configuration wants H to be a multiple of its heads.
    config = config_class(num_attention_heads=1, num_key_value_heads=1, **model.sizes)
    config._experts_implementation = way  # noqa: SLF001 (what from_pretrained sets; it has no public name)
    with torch.device("meta"):
        return experts_class(config)


def _in_their_layout(layer: Layer, module: str) -> dict[str, Tensor]:
    """Return the layer's weights by the names of an experts class; copied for GptOss only."""
    named = layer.parameters()
    if module == "mixtral":
        return {"gate_up_proj": named["gate_up"], "down_proj": named["down"]}
    if module == "nemotron_h":
        return {"up_proj": named["up"], "down_proj": named["down"]}
    return {
        "gate_up_proj": interleave(named["gate_up"]).mT.contiguous(),
        "gate_up_proj_bias": interleave(named["gate_up_bias"]),
        "down_proj": named["down"].mT.contiguous(),
        "down_proj_bias": named["down_bias"],
    }


@functools.cache
def _on_no_device(shape: Shape) -> Any:  # noqa: ANN401 (as _experts)
    """Build the experts of a shape to look at them."""
    model = model_for(shape)
    assert isinstance(model, Model)
    return _experts(model, "eager")


@functools.cache
def _loop_skips_dropped_slots(tiny: Shape) -> bool:
    """Try the loop on a token without an expert: transformers' classes and versions differ."""
    experts = _on_no_device(tiny).to_empty(device="cpu")
    x, ids, weights = torch.zeros(1, tiny.hidden), torch.full((1, 1), tiny.experts), torch.zeros(1, 1)
    try:
        with torch.no_grad():
            return not experts(x, ids, weights).any()
    except (IndexError, RuntimeError):
        return False


def _tiny(shape: Shape) -> Shape:
    """One small expert of a shape's kind."""
    activation, gated, bias = shape.activation, shape.gated, shape.bias
    return Shape(hidden=8, expert_hidden=8, experts=1, top_k=1, activation=activation, gated=gated, bias=bias)
