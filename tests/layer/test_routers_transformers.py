"""Our routers against the router classes of transformers, fed with our logits through an identity weight.

Where HF ranks probabilities that are equal in float32, ``torch.topk`` leaves the order open: logits are distinct here,
and huge ones are compared where no chosen probability underflows.
"""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from harness.cases.shape import Router, Shape
from harness.layer.contract import Routing
from harness.layer.routers import route, switch


class Model(NamedTuple):
    """Where HF keeps a router, how its config spells our fields, and the same router in our words."""

    module: str
    config: str
    router: str
    settings: dict[str, Any]
    ours: Router
    experts: int
    top_k: int


SIGMOID: dict[str, Any] = {"kind": "sigmoid", "renormalise": True, "scale": 2.5, "selection_bias": True}
V3 = {"n_routed_experts": 32, "num_experts_per_tok": 8, "norm_topk_prob": True, "routed_scaling_factor": 2.5}
V2 = {"num_attention_heads": 4, "n_routed_experts": 20, "num_experts_per_tok": 6, "routed_scaling_factor": 16.0}
LIMITED = {"topk_method": "group_limited_greedy", "n_group": 5, "topk_group": 3}
QWEN = {"num_experts": 16, "num_experts_per_tok": 4}

MODELS = {
    "mixtral": Model(
        "mixtral",
        "MixtralConfig",
        "MixtralTopKRouter",
        {"num_local_experts": 8, "num_experts_per_tok": 2},
        Router(renormalise=True),
        8,
        2,
    ),
    "qwen3": Model(
        "qwen3_moe",
        "Qwen3MoeConfig",
        "Qwen3MoeTopKRouter",
        {**QWEN, "norm_topk_prob": True},
        Router(renormalise=True),
        16,
        4,
    ),
    "olmoe": Model("olmoe", "OlmoeConfig", "OlmoeTopKRouter", {**QWEN, "norm_topk_prob": False}, Router(), 16, 4),
    "gpt-oss": Model(
        "gpt_oss",
        "GptOssConfig",
        "GptOssTopKRouter",
        {"num_local_experts": 16, "num_experts_per_tok": 4},
        Router(kind="topk_softmax"),
        16,
        4,
    ),
    "deepseek-v2": Model(
        "deepseek_v2",
        "DeepseekV2Config",
        "DeepseekV2TopkRouter",
        {**V2, **LIMITED},
        Router(groups=5, top_groups=3, scale=16.0),
        20,
        6,
    ),
    "deepseek-v2-lite": Model("deepseek_v2", "DeepseekV2Config", "DeepseekV2TopkRouter", V2, Router(scale=16.0), 20, 6),
    "deepseek-v3": Model(
        "deepseek_v3",
        "DeepseekV3Config",
        "DeepseekV3TopkRouter",
        {**V3, "n_group": 8, "topk_group": 4},
        Router(**SIGMOID, groups=8, top_groups=4),
        32,
        8,
    ),
    "one group": Model(
        "deepseek_v3",
        "DeepseekV3Config",
        "DeepseekV3TopkRouter",
        {**V3, "n_group": 1, "topk_group": 1},
        Router(**SIGMOID),
        32,
        8,
    ),
}


def hf_module(model: str, config: str, router: str, hidden: int, settings: dict[str, Any]) -> Any:
    """Build HF's router with an identity weight, or skip where this transformers has no such class."""
    modeling = importlib.import_module(f"transformers.models.{model}.modeling_{model}")
    configuration = importlib.import_module(f"transformers.models.{model}.configuration_{model}")
    if not hasattr(modeling, router):
        pytest.skip(f"this transformers has no {router}")
    size = {"d_model": hidden} if model == "switch_transformers" else {"hidden_size": hidden}
    module = getattr(modeling, router)(getattr(configuration, config)(**size, **settings))
    linear = getattr(module, "classifier", module)
    linear.weight.data = torch.eye(hidden)
    if getattr(linear, "bias", None) is not None:
        linear.bias.data.zero_()
    return module.eval()


def hf_route(model: Model, logits: Tensor, bias: Tensor | None = None) -> Routing:
    """Ids and weights as HF's router returns them."""
    module = hf_module(model.module, model.config, model.router, model.experts, model.settings)
    if bias is not None:
        module.e_score_correction_bias.copy_(bias)
    with torch.no_grad():
        returned, weights, ids = module(logits)
    torch.testing.assert_close(returned, logits, rtol=0, atol=0)
    return Routing(ids, weights)


def our_route(model: Model, logits: Tensor, bias: Tensor | None = None) -> Routing:
    shape = Shape(hidden=4, expert_hidden=4, experts=model.experts, top_k=model.top_k, router=model.ours)
    return route(logits, shape, selection_bias=bias)


def assert_same_routing(found: Routing, expected: Routing) -> None:
    """Equal sets of experts, and equal weights expert by expert."""
    found_ids, found_order = found.expert_ids.sort(1)
    expected_ids, expected_order = expected.expert_ids.sort(1)
    assert torch.equal(found_ids, expected_ids)
    torch.testing.assert_close(found.weights.gather(1, found_order), expected.weights.gather(1, expected_order))


def distinct_logits(tokens: int, experts: int, spread: float) -> Tensor:
    """Each token's logits are evenly spaced from -spread to spread, shuffled: no two are close."""
    torch.manual_seed(0)
    order = torch.rand(tokens, experts).argsort(1)
    return torch.linspace(-spread, spread, experts)[order]


@pytest.mark.parametrize("name", MODELS)
def test_random_logits(name: str) -> None:
    model = MODELS[name]
    torch.manual_seed(1)
    logits = torch.randn(500, model.experts)
    assert_same_routing(our_route(model, logits), hf_route(model, logits))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("spread", [3.0, 12.0])
def test_spread_out_logits(name: str, spread: float) -> None:
    model = MODELS[name]
    logits = distinct_logits(100, model.experts, spread)
    assert_same_routing(our_route(model, logits), hf_route(model, logits))


@pytest.mark.parametrize(
    ("name", "sign"),
    [(name, sign) for name, model in MODELS.items() for sign in (1, -1) if (model.ours.kind, sign) != ("sigmoid", 1)],
)
def test_logits_beyond_80(name: str, sign: int) -> None:
    """All near +80 or all near -80. Not +80 with a sigmoid: it is 1 for every expert, and HF leaves ties open."""
    model = MODELS[name]
    logits = sign * 80 + distinct_logits(100, model.experts, 2.0)
    assert_same_routing(our_route(model, logits), hf_route(model, logits))


@pytest.mark.parametrize("name", ["mixtral", "qwen3", "olmoe", "gpt-oss"])
def test_one_logit_at_80_and_the_others_at_minus_80(name: str) -> None:
    """The others' probabilities are 0 in float32: which of them fill the choice may differ, their weight may not."""
    model = MODELS[name]
    logits = -80 + distinct_logits(50, model.experts, 1.0)
    logits[:, 3] = 80
    ours, theirs = our_route(model, logits), hf_route(model, logits)
    assert (ours.expert_ids[:, 0] == 3).all()
    assert (theirs.expert_ids[:, 0] == 3).all()
    torch.testing.assert_close(ours.weights, theirs.weights)
    assert (ours.weights[:, 1:] == 0).all()


@pytest.mark.parametrize("name", ["deepseek-v3", "one group"])
def test_selection_bias_chooses_but_does_not_weigh(name: str) -> None:
    model = MODELS[name]
    torch.manual_seed(2)
    logits, bias = torch.randn(500, model.experts), 0.3 * torch.randn(model.experts)
    ours = our_route(model, logits, bias)
    assert_same_routing(ours, hf_route(model, logits, bias))
    assert not torch.equal(ours.expert_ids.sort(1)[0], our_route(model, logits).expert_ids.sort(1)[0])


def test_negative_biased_scores_with_groups() -> None:
    """Excluded groups are masked with -inf here and in transformers 5.23; a mask of 0 (older releases) fails this."""
    model = MODELS["deepseek-v3"]
    torch.manual_seed(3)
    logits, bias = torch.randn(500, model.experts), -1.5 + 0.3 * torch.randn(model.experts)
    ours = our_route(model, logits, bias)
    groups_used = [len({expert // 4 for expert in token}) for token in ours.expert_ids.tolist()]
    assert max(groups_used) <= 4
    transformers = pytest.importorskip("transformers")
    if tuple(int(part) for part in transformers.__version__.split(".")[:2]) < (5, 23):
        pytest.skip("older transformers may mask excluded groups with 0, which then wins against negative scores")
    assert_same_routing(ours, hf_route(model, logits, bias))


@pytest.mark.parametrize("capacity", [1, 7, 20, 200])
def test_switch_drops_what_hf_drops(capacity: int) -> None:
    torch.manual_seed(4)
    logits = torch.randn(200, 8)
    settings = {"num_experts": 8, "expert_capacity": capacity}
    names = ("switch_transformers", "SwitchTransformersConfig", "SwitchTransformersTop1Router")
    with torch.no_grad():
        one_hot, probabilities, _ = hf_module(*names, 8, settings)(logits[None])
    if one_hot.is_floating_point():
        pytest.skip("transformers before 5.20 counts an expert's tokens one by one, and drops none")
    ours = switch(logits, capacity)
    served = ours.expert_ids.squeeze(1) < 8
    assert torch.equal(served, one_hot[0].any(-1))
    assert torch.equal(ours.expert_ids[served, 0], one_hot[0].argmax(-1)[served])
    torch.testing.assert_close(ours.weights[served], probabilities[0][served])
    assert (ours.weights[~served] == 0).all()


def test_softmax_with_a_selection_bias_is_ernie() -> None:
    settings = {"moe_num_experts": 16, "moe_k": 4}
    names = ("ernie4_5_moe", "Ernie4_5_MoeConfig", "Ernie4_5_MoeTopKRouter")
    module = hf_module(*names, 16, settings)
    torch.manual_seed(5)
    logits, bias = torch.randn(300, 16), 0.02 * torch.randn(16)
    module.moe_statics.e_score_correction_bias.data.copy_(bias.view(1, 16))
    with torch.no_grad():
        _, weights, ids = module(logits)
    router = Router(renormalise=True, selection_bias=True)
    shape = Shape(hidden=4, expert_hidden=4, experts=16, top_k=4, router=router)
    assert_same_routing(route(logits, shape, selection_bias=bias), Routing(ids, weights))


def test_sigmoid_of_one_expert_is_llama4() -> None:
    module = hf_module("llama4", "Llama4TextConfig", "Llama4Router", 16, {"num_local_experts": 16})
    torch.manual_seed(6)
    logits = torch.randn(300, 16)
    with torch.no_grad():
        scores, _ = module(logits)
    shape = Shape(hidden=4, expert_hidden=4, experts=16, top_k=1, router=Router(kind="sigmoid"))
    ours = route(logits, shape)
    assert torch.equal(ours.expert_ids.squeeze(1), scores.argmax(-1))
    torch.testing.assert_close(ours.weights, scores.gather(1, ours.expert_ids))
