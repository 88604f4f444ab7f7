"""moebench inside transformers' models: logits and gradients as by its own loop, and weights that change meanwhile."""

from __future__ import annotations

import gc
import weakref
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from harness.integrations import transformers as moebench_transformers
from harness.integrations.experts import as_layer, read_layout, weights_of
from harness.layer.activations import clamped_swiglu
from harness.layer.contract import Implementation, Layer
from harness.running.registry import registered

if TYPE_CHECKING:
    from harness.cases.case import Case

COMMON = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 50,
    "max_position_embeddings": 32,
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "mixtral": ("Mixtral", {"intermediate_size": 16, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen3_moe": (
        "Qwen3Moe",
        {"intermediate_size": 16, "moe_intermediate_size": 16, "num_experts": 8, "num_experts_per_tok": 3},
    ),
    "olmoe": ("Olmoe", {"intermediate_size": 16, "num_experts": 8, "num_experts_per_tok": 2}),
    "gpt_oss": ("GptOss", {"intermediate_size": 16, "num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8}),
    "deepseek_v3": (
        "DeepseekV3",
        {
            "intermediate_size": 16,
            "moe_intermediate_size": 16,
            "n_routed_experts": 8,
            "num_experts_per_tok": 2,
            "n_group": 2,
            "topk_group": 1,
            "first_k_dense_replace": 1,
            "q_lora_rank": 16,
            "kv_lora_rank": 8,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 8,
            "v_head_dim": 8,
            "num_key_value_heads": 4,
        },
    ),
}
OWN = ("loop", "einsum", "batched", "grouped", "soft")
TOKENS = torch.arange(12).view(2, 6) % 50


@pytest.fixture(scope="module", autouse=True)
def offered() -> tuple[str, ...]:
    torch.set_num_threads(1)
    return moebench_transformers.register()


def make_model(name: str, dtype: torch.dtype = torch.float32) -> Any:
    import transformers

    word, sizes = MODELS[name]
    config = getattr(transformers, f"{word}Config")(**{**COMMON, **sizes})
    torch.manual_seed(0)
    model = getattr(transformers, f"{word}ForCausalLM")(config).to(dtype).eval()
    for parameter in model.parameters():  # biases are born zero, and so small a layer hardly shows in the logits
        nn.init.normal_(parameter, std=0.2)
    return model


def logits(model: Any, way: str) -> Tensor:
    model.set_experts_implementation(way)
    answer: Tensor = model(TOKENS).logits
    return answer


def gradients(model: Any, way: str) -> dict[str, Tensor]:
    model.zero_grad(set_to_none=True)
    logits(model, way).square().sum().backward()
    return {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}


def all_experts_of(model: Any) -> list[Any]:
    return [module for module in model.modules() if isinstance(getattr(module, "down_proj", None), nn.Parameter)]


def experts_of(model: Any) -> Any:
    return all_experts_of(model)[0]


def assert_near(got: Tensor, expected: Tensor, tolerance: float = 1e-4) -> None:
    """Within a share of the largest element: transformers and we round in another order."""
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance * float(expected.abs().max()))


def test_what_is_offered(offered: tuple[str, ...]) -> None:
    assert {f"moebench_{name}" for name in (*OWN, "fused")} <= set(offered)
    assert "moebench_dense" not in offered, "another function"
    assert moebench_transformers.register("grouped", "loop") == ("moebench_grouped", "moebench_loop")
    with pytest.raises(ValueError, match=r"implementation = 'nothing': one of .*grouped"):
        moebench_transformers.register("nothing")


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("own", OWN)
def test_logits_and_gradients_are_the_models_own(name: str, own: str) -> None:
    model = make_model(name)
    with torch.no_grad():
        assert_near(logits(model, f"moebench_{own}"), logits(model, "eager"))
    expected, got = gradients(model, "eager"), gradients(model, f"moebench_{own}")
    assert expected.keys() == got.keys()
    assert any("experts" in key for key in got)
    for key, gradient in got.items():
        assert_near(gradient, expected[key])


@pytest.mark.parametrize("name", MODELS)
def test_it_is_we_who_compute(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without experts the logits are others, so equal logits mean something."""
    model = make_model(name)
    with torch.no_grad():
        expected = logits(model, "eager")
        monkeypatch.setattr(type(experts_of(model)), "forward", lambda self, x, *rest: torch.zeros_like(x))
        assert (model(TOKENS).logits - expected).abs().max() > 0.01 * expected.abs().max()


@pytest.mark.parametrize("name", ["mixtral", "gpt_oss"])
@pytest.mark.parametrize("slot_dtype", [torch.float32, torch.bfloat16])
def test_bfloat16(name: str, slot_dtype: torch.dtype) -> None:
    """By experts alone: in a whole model a rounding may change a choice. Routers weigh in either dtype."""
    model = make_model(name, torch.bfloat16)
    model.set_experts_implementation("moebench_grouped")
    module, x = experts_of(model), torch.randn(40, 32).bfloat16()
    ids, weights = torch.arange(80).view(40, 2) % 4, torch.rand(40, 2).to(slot_dtype)
    with torch.no_grad():
        got = module(x, ids, weights)
        model.set_experts_implementation("eager")
        assert got.dtype == torch.bfloat16
        assert_near(got, module(x, ids, weights), 2e-2)


@pytest.mark.parametrize("name", ["mixtral", "gpt_oss"])
def test_training_follows_the_optimiser(name: str) -> None:
    """After a step the weights have changed in place: what was prepared from the old ones must not be used."""
    trained = {}
    for way in ("eager", "moebench_grouped"):
        model = make_model(name)
        optimiser = torch.optim.SGD(model.parameters(), lr=1e-3)
        for _ in range(3):
            optimiser.zero_grad()
            logits(model, way).square().mean().backward()
            optimiser.step()
        with torch.no_grad():
            trained[way] = logits(model, way)
    assert_near(trained["moebench_grouped"], trained["eager"], 1e-3)


@pytest.mark.parametrize("name", ["mixtral", "gpt_oss"])
def test_weights_that_are_replaced_are_noticed(name: str) -> None:
    model = make_model(name)
    with torch.no_grad():
        logits(model, "moebench_batched")
        for module in all_experts_of(model):
            module.down_proj = nn.Parameter(module.down_proj * 2)
            module.gate_up_proj.mul_(0.5)
        assert_near(logits(model, "moebench_batched"), logits(model, "eager"))


def test_evaluation_first_does_not_cut_off_training() -> None:
    """Copies made without gradients are not used with them; nor those of inference mode."""
    model = make_model("gpt_oss")
    expected = gradients(model, "eager")
    with torch.inference_mode():
        logits(model, "moebench_grouped")
    with torch.no_grad():
        logits(model, "moebench_grouped")
    for key, gradient in gradients(model, "moebench_grouped").items():
        assert_near(gradient, expected[key])


def recording(prepared: list[Layer]) -> Any:
    """Return an experts function that keeps the layers it was given, and otherwise does as grouped."""
    grouped = registered()["grouped"]

    def prepare(layer: Layer) -> Any:
        prepared.append(layer)
        return grouped.prepare(layer)

    words = {key: getattr(grouped, key) for key in Implementation.__dataclass_fields__}
    return moebench_transformers.experts_function(Implementation(**{**words, "prepare": prepare}))


def ask(function: Any, module: Any, tokens: int = 5) -> Tensor:
    ids, weights = torch.arange(2 * tokens).view(tokens, 2) % 4, torch.full((tokens, 2), 0.5)
    answer: Tensor = function(module, torch.ones(tokens, 32), ids, weights)
    return answer


def test_weights_are_taken_where_they_lie_and_prepared_once() -> None:
    module = experts_of(make_model("mixtral"))
    prepared: list[Layer] = []
    function = recording(prepared)
    with torch.no_grad():
        ask(function, module, 5)
        ask(function, module, 7)
    assert len(prepared) == 1
    assert prepared[0].gate_up is module.gate_up_proj
    with torch.no_grad():
        module.down_proj.zero_()
        assert not ask(function, module).any()
    assert len(prepared) == 2


def test_a_module_that_goes_takes_what_was_prepared_with_it() -> None:
    module = experts_of(make_model("gpt_oss"))
    prepared: list[Layer] = []
    function = recording(prepared)
    with torch.no_grad():
        ask(function, module)
    copied = prepared.pop().gate_up
    assert copied is not None
    gone = weakref.ref(copied)
    del module, copied
    gc.collect()
    assert gone() is None


def test_gpt_oss_is_read_with_gate_before_up() -> None:
    module = experts_of(make_model("gpt_oss"))
    layout = read_layout(module)
    assert (layout.activation, layout.bias, layout.gated) == ("clamped_swiglu", True, True)
    layer = as_layer(weights_of(module), layout, 2)
    x = torch.randn(3, 32)
    expected = module._apply_gate(x @ module.gate_up_proj[1] + module.gate_up_proj_bias[1])
    assert layer.gate_up is not None
    assert layer.gate_up_bias is not None
    gate, up = (x @ layer.gate_up[1].mT + layer.gate_up_bias[1]).chunk(2, dim=-1)
    torch.testing.assert_close(clamped_swiglu(gate, up), expected)


def test_plain_experts() -> None:
    """Nemotron-H's: its relu squared is not among a shape's activations, silu is."""
    from transformers.activations import ACT2FN

    experts = Plain()
    layout = read_layout(experts)
    assert (layout.activation, layout.gated) == ("silu", False)
    assert as_layer(weights_of(experts), layout, 1).up is experts.up_proj
    experts.act_fn = ACT2FN["relu2"]
    with pytest.raises(NotImplementedError, match="Plain cannot be computed by moebench: its activation is none of"):
        read_layout(experts)


class Plain(nn.Module):
    """As transformers' decorator leaves a class without a gate."""

    has_gate, has_bias, is_transposed, is_concatenated = False, False, False, True

    def __init__(self) -> None:
        super().__init__()
        self.up_proj = nn.Parameter(torch.randn(4, 16, 32))
        self.down_proj = nn.Parameter(torch.randn(4, 32, 16))
        self.act_fn: Any = nn.SiLU()


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"has_post_expert_norm": True}, "normalises"),
        ({"_is_expert_parallel": True}, "expert parallel"),
        ({"has_gate": True}, "it keeps no gate_up_proj of 3 dimensions"),
        ({"has_bias": True}, "it keeps no up_proj_bias of 2 dimensions"),
        ({"up_proj": nn.Parameter(torch.zeros(4, 24, 32))}, "its projections are (4, 24, 32) in and (4, 32, 16) out"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_cannot_be_expressed_says_why_in_one_line(changes: dict[str, Any], word: str) -> None:
    experts = Plain()
    for key, value in changes.items():
        setattr(experts, key, value)
    with pytest.raises(NotImplementedError) as caught:
        ask(recording([]), experts)
    assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_dtype_no_case_has() -> None:
    with pytest.raises(NotImplementedError, match="its weights are float64; all must be one of fp32, bf16, fp16"):
        read_layout(Plain().double())


def test_tokens_in_three_dimensions() -> None:
    with pytest.raises(ValueError, match=r"hidden_states = \(1, 2, 32\): tokens x hidden"):
        recording([])(Plain(), torch.ones(1, 2, 32), torch.zeros(2, 1, dtype=torch.int64), torch.ones(2, 1))


def test_what_an_implementation_refuses_is_said_when_the_model_runs() -> None:
    asked: list[Case] = []

    def refuses(case: Case) -> str:
        asked.append(case)
        return "not today"

    words = {key: getattr(registered()["grouped"], key) for key in Implementation.__dataclass_fields__}
    function = moebench_transformers.experts_function(Implementation(**{**words, "unsupported_by": refuses}))
    module = experts_of(make_model("mixtral"))
    with pytest.raises(NotImplementedError, match="moebench_grouped: not today"):
        ask(function, module, 5)
    (case,) = asked
    assert (case.traffic.tokens, case.pass_, case.dtype, case.device) == (5, "training", "fp32", "cpu")
    assert (case.shape.hidden, case.shape.expert_hidden, case.shape.experts, case.shape.top_k) == (32, 16, 4, 2)
