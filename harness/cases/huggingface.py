"""Any Hugging Face ``config.json`` of an MoE model, read as a Shape. transformers is not imported.

``huggingface.toml`` says how each known model_type spells its layer. A model_type it does not know is read by the
common key names alone when the config has all the necessary ones, and its Shape's name then says so.
"""

from __future__ import annotations

import json
import math
import tomllib
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import msgspec

from harness.cases.shape import Activation, Router, RouterKind, Shape, require

ALIASES: dict[str, tuple[str, ...]] = {
    "hidden": ("d_model", "hidden_size"),
    "experts": ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts"),
    "top_k": ("num_experts_per_tok", "num_experts_per_token", "moe_top_k", "moe_topk", "moe_k"),
    "activation": ("hidden_act", "dense_act_fn", "feed_forward_proj", "ffn_act_fn"),
    "renormalise": ("norm_topk_prob", "moe_renormalize"),
    "groups": ("n_group", "num_expert_group"),
    "top_groups": ("topk_group",),
    "scale": ("routed_scaling_factor", "route_scale"),
    "shared_count": ("n_shared_experts", "num_shared_experts", "moe_num_shared_experts"),
    "shared_width": ("shared_expert_intermediate_size", "shared_intermediate_size"),
}
"""The keys a field may stand under, the first that is there counts."""

ACTIVATION_NAMES: dict[str, Activation] = {"silu": "silu", "swish": "silu", "gelu": "gelu", "relu": "relu"}
SCORES = ("softmax", "sigmoid")
"""What a config's scoring_func may decide."""
NESTED = ("text_config", "language_config", "llm_config")
"""Where multimodal models keep their language model."""
SEQUENCE = 512
"""Switch Transformers fix an expert's capacity in tokens of one sequence, ours is a factor: they agree at this length,
the one T5 models are trained with."""


Shared = Literal["none", "count", "width", "expert"]


class Layout(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one family of configs spells its layer.

    ``expert_hidden``, ``capacity`` and a text in ``selection_bias`` are keys. ``renormalise`` None means that the
    config decides. ``shared`` experts are a ``count`` of the routed experts' width, one of its own ``width``, or one of
    the ``expert`` width. ``inside`` is a nested object that holds some keys; ``only`` are values a key must have where
    it is present.
    """

    model_types: tuple[str, ...] = ()
    expert_hidden: str
    router: RouterKind
    renormalise: bool | None = None
    selection_bias: bool | str = False
    groups: bool = False
    scaled: bool = False
    shared: Shared = "none"
    shared_gated: bool = False
    activation: Activation | None = None
    activation_absent: Activation | None = None
    gated: bool = True
    bias: bool = False
    top_k: int | None = None
    inside: str = ""
    capacity: str = ""
    only: dict[str, float] = {}


def shape_from_config(path: str | Path) -> Shape:
    """Read a model's ``config.json``, or the one in its directory.

    The Shape is named after the file's folder, or after the file when it is not called config.json; a reading by the
    common key names alone adds ``(generic reading)``.

    Raises
    ------
    ValueError
        with one line that names the file, the key, and what is allowed.
    """
    path = Path(path)
    if path.is_dir():
        path /= "config.json"
    try:
        return _read(_load(path), path.resolve().parent.name if path.name == "config.json" else path.stem)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def known_model_types() -> tuple[str, ...]:
    """Every model_type with a layout of its own, sorted."""
    return tuple(sorted(_layouts()))


@cache
def _layouts() -> dict[str, Layout]:
    text = resources.files("harness.cases").joinpath("huggingface.toml").read_text(encoding="utf-8")
    rows = msgspec.convert(tomllib.loads(text)["layout"], list[Layout])
    return {model_type: layout for layout in rows for model_type in layout.model_types}


def _load(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from error
    require(isinstance(config, dict), "config", type(config).__name__, "a JSON object")
    return dict(config)


def _read(config: dict[str, Any], name: str) -> Shape:
    model_type = config.get("model_type")
    for key in NESTED:
        if isinstance(config.get(key), dict) and _find(config, "experts") is None:
            config = config[key]
            model_type = config.get("model_type") or model_type
    require(isinstance(model_type, str), "model_type", model_type, "a text, as in every config.json")
    layout = _layouts().get(str(model_type))
    if layout and layout.inside:
        config = {**_object(config, layout.inside), **config}
    experts = _find(config, "experts")
    is_moe = experts is not None and experts[1] not in (None, 0, 1)
    require(is_moe, "model_type", model_type, f"a Mixture of Experts, with {' or '.join(ALIASES['experts'])} above 1")
    if layout is None:
        return _shape(config, _generic_layout(config), f"{name} (generic reading)")
    return _shape(config, layout, name)


def _generic_layout(config: dict[str, Any]) -> Layout:
    """Guess from which of the common keys are there; what the keys cannot tell is the plainest kind."""
    shared: Shared = "count" if _find(config, "shared_count") else "width" if _find(config, "shared_width") else "none"
    return Layout(
        expert_hidden="moe_intermediate_size" if "moe_intermediate_size" in config else "intermediate_size",
        router="softmax",
        renormalise=None if _find(config, "renormalise") else False,
        groups=True,
        scaled=_find(config, "scale") is not None,
        shared=shared,
    )


def _shape(config: dict[str, Any], layout: Layout, name: str) -> Shape:
    for key, value in layout.only.items():
        require(config.get(key, value) == value, key, config.get(key), f"{value:g}, the only one moebench computes")
    expert_hidden = _whole(layout.expert_hidden, _value(config, layout.expert_hidden))
    count, width = _shared(config, layout, expert_hidden)
    experts = _whole(*_needed(config, "experts"))
    return Shape(
        hidden=_whole(*_needed(config, "hidden")),
        expert_hidden=expert_hidden,
        experts=experts,
        top_k=layout.top_k or _whole(*_needed(config, "top_k")),
        activation=_activation(config, layout),
        gated=layout.gated,
        bias=layout.bias,
        shared_experts=count,
        shared_hidden=width,
        shared_gated=layout.shared_gated and count > 0,
        router=_router(config, layout, experts),
        name=name,
    )


def _router(config: dict[str, Any], layout: Layout, experts: int) -> Router:
    kind = layout.router
    if kind in SCORES:
        kind = config.get("scoring_func", kind)
        require(kind in SCORES, "scoring_func", kind, "softmax or sigmoid")
    renormalise, bias = layout.renormalise, layout.selection_bias
    if renormalise is None:
        renormalise = _flag(*_needed(config, "renormalise"))
    if isinstance(bias, str):
        bias = _flag(bias, _value(config, bias))
    # DeepSeek-V2 keeps n_group in its config when topk_method says that groups are not used.
    grouped = layout.groups and config.get("topk_method") != "greedy"
    groups, top_groups = (_find(config, key) or (key, 1) for key in ("groups", "top_groups"))
    extra = {"scale": _number(*_needed(config, "scale"))} if layout.scaled else {}
    if layout.capacity:
        tokens = _whole(layout.capacity, _value(config, layout.capacity))
        extra["capacity_factor"] = tokens * experts / SEQUENCE
    return Router(
        kind=kind,
        renormalise=renormalise,
        groups=_whole(groups[0], 1 if groups[1] is None else groups[1]) if grouped else 1,
        top_groups=_whole(top_groups[0], 1 if top_groups[1] is None else top_groups[1]) if grouped else 1,
        selection_bias=bias,
        **extra,
    )


def _shared(config: dict[str, Any], layout: Layout, expert_hidden: int) -> tuple[int, int]:
    """Count and width of the shared experts, (0, 0) without any."""
    if layout.shared == "none":
        return 0, 0
    if layout.shared == "expert":
        return 1, expert_hidden
    key, value = _needed(config, "shared_count" if layout.shared == "count" else "shared_width")
    amount = 0 if value in (None, 0) else _whole(key, value)
    if amount == 0:
        return 0, 0
    return (amount, expert_hidden) if layout.shared == "count" else (1, amount)


def _activation(config: dict[str, Any], layout: Layout) -> Activation:
    found = _find(config, "activation")
    if layout.activation_absent and (found is None or found[1] is None):
        return layout.activation_absent
    if layout.activation:
        return layout.activation
    key, value = found or _needed(config, "activation")
    word = value.get("name") if isinstance(value, dict) else value
    if not isinstance(word, str) or word not in ACTIVATION_NAMES:
        raise ValueError(f"{key} = {value!r}: one of {', '.join(ACTIVATION_NAMES)}")
    return ACTIVATION_NAMES[word]


def _find(config: dict[str, Any], field: str) -> tuple[str, Any] | None:
    """Key and value of a field, None where the config has none of its keys."""
    return next(((key, config[key]) for key in ALIASES[field] if key in config), None)


def _needed(config: dict[str, Any], field: str) -> tuple[str, Any]:
    found = _find(config, field)
    if found is None:
        raise ValueError(f"{' or '.join(ALIASES[field])} is missing: {field} is needed")
    return found


def _value(config: dict[str, Any], key: str) -> object:
    if key not in config:
        raise ValueError(f"{key} is missing: this model_type needs it")
    return config[key]


def _object(config: dict[str, Any], key: str) -> dict[str, Any]:
    value = _value(config, key)
    require(isinstance(value, dict), key, value, "an object")
    assert isinstance(value, dict)
    return value


def _whole(key: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{key} = {value!r}: a whole number of at least 1")
    return value


def _number(key: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"{key} = {value!r}: a number above 0")
    return float(value)


def _flag(key: str, value: object) -> bool:
    require(isinstance(value, bool), key, value, "true or false")
    return bool(value)
