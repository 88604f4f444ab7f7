"""The keys of a sweep, as data: what each holds, and what it says."""

from __future__ import annotations

from typing import get_args

from harness.cases.case import DType
from harness.cases.shape import ACTIVATIONS, ROUTER_KINDS

NAMED_LAYERS: dict[str, type] = {"preset": str, "model": str}
SHAPE_SIZES = ("hidden", "expert_hidden", "experts", "top_k")
SHAPE_KEYS: dict[str, type] = {
    **dict.fromkeys(SHAPE_SIZES, int),
    "activation": str,
    "gated": bool,
    "bias": bool,
    "shared_experts": int,
    "shared_hidden": int,
    "shared_gated": bool,
}
ROUTER_KEYS: dict[str, type] = {
    "router": str,
    "renormalise": bool,
    "groups": int,
    "top_groups": int,
    "routed_scale": float,
    "selection_bias": bool,
    "capacity_factor": float,
}
TRAFFIC_KEYS: dict[str, type] = {"tokens": int, "traffic": str, "seed": int}
CASE_KEYS: dict[str, type] = {"dtype": str, "pass": str, "scope": str, "execution": str, "device": str}
LAYER_KEYS: dict[str, type] = {**NAMED_LAYERS, **SHAPE_KEYS, **ROUTER_KEYS}
"""What makes a layer; a layer given by name on the command line replaces them all."""
IMPLEMENTATION = "implementation"
"""The one key that is no axis: it says which implementations a sweep is for."""
KEYS: dict[str, type] = {**LAYER_KEYS, **TRAFFIC_KEYS, **CASE_KEYS, IMPLEMENTATION: str}
MEANINGS = {
    "preset": "a model's layer, see `moebench list presets`; other keys of the layer change it",
    "model": "the layer of a Hugging Face config.json, by the suite's folder",
    "hidden": "H, the size of a token",
    "expert_hidden": "I, the width of an expert",
    "experts": "E, routed experts",
    "top_k": "k, experts a token goes to",
    "activation": "one of " + ", ".join(ACTIVATIONS),
    "gated": "whether experts have a gate beside up and down; true by default",
    "bias": "whether experts have biases",
    "shared_experts": "experts that every token goes to",
    "shared_hidden": "width of each of them",
    "shared_gated": "whether a sigmoid gate weighs them",
    "router": "one of " + ", ".join(ROUTER_KINDS) + ", see `moebench list routers`",
    "renormalise": "whether the weights of the chosen are divided by their sum",
    "groups": "groups of experts that are chosen from first",
    "top_groups": "of them so many are left",
    "routed_scale": "what the weights are multiplied with at last",
    "selection_bias": "whether a bias chooses experts without weighing them",
    "capacity_factor": "of router switch: most tokens of an expert, over the mean",
    "tokens": "T, in one call",
    "traffic": "how tokens spread over the experts, see `moebench list traffic`, or trace:FILE",
    "seed": "of everything random",
    "dtype": "one of " + ", ".join(get_args(DType)),
    "pass": "forward, or training: forward and backward",
    "scope": "experts: the routed experts alone; layer: with the router and the shared experts",
    "execution": "eager; compile: under torch.compile; graph: as a CUDA graph",
    "device": "auto, cpu, cuda or cuda:N",
    IMPLEMENTATION: "no axis: which implementations the sweep is for, see `moebench list`; all by default",
}
"""What each key says, in a few words."""

AUTO = "auto"
"""The device of a sweep that names none: the caller decides."""
FIELDS = {"router": "kind", "routed_scale": "scale", "traffic": "spread", "pass": "pass_"}
"""Keys whose field in Router, Traffic or Case is called otherwise."""
TYPE_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
