"""Serving engines: the adapters hand over what vLLM, SGLang and FlashInfer publish, and agree with the oracle."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Iterator

KINDS: dict[str, dict[str, Any]] = {
    "silu": {},
    "gelu": {"activation": "gelu"},
    "bias": {"bias": True},
    "gpt-oss": {"activation": "clamped_swiglu", "bias": True},
    "clamped": {"activation": "clamped_swiglu"},
    "plain": {"gated": False},
    "plain-gelu": {"gated": False, "activation": "gelu", "bias": True},
    "top-1": {"top_k": 1},
    "mixture": {"router": "mixture"},
}
PROBLEMS: dict[str, dict[str, Any]] = {"tokens": {}, "one-token": {"tokens": 1}, "fp16": {"dtype": "fp16"}}


def ask(lab: Any, name: str, kind: str, **problem: Any) -> None:
    """Agreement with the oracle on ordinary tokens, one token, and another dtype; nothing given is changed."""
    for changes in PROBLEMS.values():
        made = lab.problem(**{"dtype": "bf16", "pass_": "forward"} | KINDS[kind] | changes | problem)
        before = made.inputs.x.clone()
        lab.assert_agrees(name, made)
        assert torch.equal(made.inputs.x, before)


def refuses(lab: Any, name: str, word: str, **problem: Any) -> None:
    case = lab.problem(**{"dtype": "bf16", "pass_": "forward"} | problem).case
    assert word in (lab.implementation(name).unsupported_by(case) or "")


class MoEActivation(Enum):
    """Of vLLM 0.33, as far as it is used."""

    SILU = "silu"
    GELU = "gelu"
    SWIGLUOAI = "swigluoai"
    SILU_NO_MUL = "silu_no_mul"
    GELU_NO_MUL = "gelu_no_mul"


@pytest.fixture
def vllm(bench: Any, tools: Any) -> str:
    """vLLM 0.33's ``fused_experts``."""

    def interleaved(hidden: Tensor) -> Tensor:
        return tools.oai_swiglu(hidden[..., 0::2], hidden[..., 1::2], 1.702, 7.0)  # type: ignore[no-any-return]

    computes = {
        "silu": tools.silu_glu,
        "gelu": tools.gelu_glu,
        "swigluoai": interleaved,
        "silu_no_mul": F.silu,
        "gelu_no_mul": F.gelu,
    }

    def fused_experts(
        hidden_states: Tensor,
        w1: Tensor,
        w2: Tensor,
        topk_weights: Tensor,
        topk_ids: Tensor,
        activation: MoEActivation = MoEActivation.SILU,
        apply_router_weight_on_input: bool = False,
        global_num_experts: int = -1,
        expert_map: Tensor | None = None,
        quant_config: Any = None,
    ) -> Tensor:
        assert hidden_states.is_contiguous()
        assert w1.stride(-1) == w2.stride(-1) == 1
        assert w1.shape[2] == hidden_states.shape[1] == w2.shape[1]
        assert (topk_weights.dtype, topk_ids.dtype) == (torch.float32, torch.int32)
        assert topk_weights.shape == topk_ids.shape
        assert global_num_experts == len(w1)
        assert not apply_router_weight_on_input
        assert expert_map is None
        biases = quant_config or (None, None)
        out = tools.slots(hidden_states, topk_ids, w1, computes[activation.value], w2, biases)
        return tools.weigh(out, topk_weights)  # type: ignore[no-any-return]

    layers = "vllm.model_executor.layers.fused_moe"
    bench.module(layers, fused_experts=fused_experts)
    bench.module(f"{layers}.activation", MoEActivation=MoEActivation)
    bench.module(f"{layers}.config", biased_moe_quant_config=lambda w1_bias, w2_bias: (w1_bias, w2_bias))
    bench.load("vllm")
    return "vllm.fused_experts"


@pytest.mark.parametrize("kind", KINDS)
def test_vllm_is_called_as_it_asks(lab: Any, vllm: str, kind: str) -> None:
    ask(lab, vllm, kind)


def test_vllm_refuses(lab: Any, vllm: str) -> None:
    refuses(lab, vllm, "silu and gelu and clamped_swiglu only, not relu", activation="relu")
    refuses(lab, vllm, "for plain experts", gated=False, activation="relu")
    refuses(lab, vllm, "no slots without an expert", router="switch", top_k=1)
    refuses(lab, vllm, "no slots without an expert", router="expert_choice")


@dataclass(kw_only=True)
class MoeRunnerConfig:
    """Of SGLang 0.5.23, as far as the kernel reads it."""

    num_experts: int | None = None
    num_local_experts: int | None = None
    hidden_size: int | None = None
    intermediate_size_per_partition: int | None = None
    layer_id: int | None = None
    top_k: int | None = None
    activation: str = "silu"
    is_gated: bool = True
    apply_router_weight_on_input: bool = False
    inplace: bool = True
    no_combine: bool = False
    gemm1_alpha: float | None = None
    gemm1_clamp_limit: float | None = None
    gate_up_interleaved: bool = True


class StandardTopKOutput(NamedTuple):
    """Of SGLang 0.5.23."""

    topk_weights: Tensor
    topk_ids: Tensor
    router_logits: Tensor | None


@pytest.fixture
def sglang(bench: Any, tools: Any) -> str:
    """SGLang 0.5.23's ``fused_experts``, which needs a server's settings and works in place."""
    published: list[Any] = []

    def activate(config: MoeRunnerConfig) -> Any:
        if config.gemm1_alpha is None:
            found = {"silu": F.silu, "gelu": F.gelu}[config.activation]
            return tools.glu(found) if config.is_gated else found
        assert (config.activation, config.is_gated, config.gate_up_interleaved) == ("silu", True, False)
        limits = config.gemm1_alpha, config.gemm1_clamp_limit
        return lambda hidden: tools.oai_swiglu(*hidden.chunk(2, dim=-1), *limits)

    def fused_experts(
        hidden_states: Tensor,
        w1: Tensor,
        w2: Tensor,
        topk_output: StandardTopKOutput,
        moe_runner_config: MoeRunnerConfig,
        b1: Tensor | None = None,
        b2: Tensor | None = None,
    ) -> Tensor:
        assert published, "config namespace 'exec' not published"
        assert moe_runner_config.num_experts == moe_runner_config.num_local_experts == len(w1)
        assert moe_runner_config.inplace, "the other way asks for a tensor-parallel group"
        assert all(tensor.is_contiguous() for tensor in (hidden_states, w1, w2))
        assert hidden_states.dtype in {torch.bfloat16, torch.float16}
        weights, ids, _ = topk_output
        assert (weights.dtype, ids.dtype) == (torch.float32, torch.int32)
        out = tools.slots(hidden_states, ids, w1, activate(moe_runner_config), w2, (b1, b2))
        return hidden_states.copy_(tools.weigh(out, weights))

    moe = "sglang.srt.layers.moe"
    bench.module(f"{moe}.moe_runner", MoeRunnerConfig=MoeRunnerConfig)
    bench.module(f"{moe}.moe_runner.triton_utils", fused_experts=fused_experts)
    bench.module(f"{moe}.topk", StandardTopKOutput=StandardTopKOutput)
    bench.module(
        "sglang.srt.server_args",
        ServerArgs=lambda model_path: model_path,
        set_global_server_args_for_scheduler=published.append,
    )
    bench.load("sglang")
    return "sglang.fused_experts"


@pytest.mark.parametrize("kind", KINDS)
def test_sglang_is_called_as_it_asks(lab: Any, sglang: str, kind: str) -> None:
    ask(lab, sglang, kind)


def test_sglang_refuses(lab: Any, sglang: str) -> None:
    refuses(lab, sglang, "not relu", activation="relu")
    refuses(lab, sglang, "no slots without an expert", router="expert_choice")


def test_fp32_is_left_to_others(lab: Any, vllm: str, sglang: str, flashinfer: str) -> None:
    for name in (vllm, sglang, flashinfer):
        assert lab.implementation(name).dtypes == ("bf16", "fp16")
        assert lab.implementation(name).devices == ("cuda",)


class ActivationType(IntEnum):
    """Of FlashInfer 0.7.2, as far as it is used."""

    Swiglu = 3


@pytest.fixture
def tuning() -> list[bool]:
    """Whether FlashInfer was tuning, call by call."""
    return []


@pytest.fixture
def flashinfer(bench: Any, tools: Any, tuning: list[bool]) -> str:
    """FlashInfer 0.7.2's ``cutlass_fused_moe``: up before gate."""
    state = {"tunes": False}

    @contextlib.contextmanager
    def autotune(tune_mode: bool = True) -> Iterator[None]:
        state["tunes"] = tune_mode
        yield
        state["tunes"] = False

    def up_first(hidden: Tensor) -> Tensor:
        up, gate = hidden.chunk(2, dim=-1)
        return F.silu(gate) * up

    def cutlass_fused_moe(
        input: Tensor,  # noqa: A002 (its name)
        token_selected_experts: Tensor,
        token_final_scales: Tensor,
        fc1_expert_weights: Tensor,
        fc2_expert_weights: Tensor,
        output_dtype: torch.dtype,
        quant_scales: list[Tensor] | None,
        *,
        output: Tensor,
        activation_type: ActivationType,
    ) -> Tensor:
        assert (token_selected_experts.dtype, token_final_scales.dtype) == (torch.int32, torch.float32)
        assert input.is_contiguous()
        assert fc1_expert_weights.is_contiguous()
        assert fc2_expert_weights.is_contiguous()
        assert (output.shape, output.dtype, output_dtype) == (input.shape, input.dtype, input.dtype)
        assert (quant_scales, activation_type) == (None, ActivationType.Swiglu)
        tuning.append(state["tunes"])
        out = tools.slots(input, token_selected_experts, fc1_expert_weights, up_first, fc2_expert_weights)
        return output.copy_(tools.weigh(out, token_final_scales))

    bench.module("flashinfer.autotuner", autotune=autotune)
    bench.module("flashinfer.fused_moe", ActivationType=ActivationType, cutlass_fused_moe=cutlass_fused_moe)
    bench.load("flashinfer")
    return "flashinfer.cutlass"


@pytest.mark.parametrize("kind", ["silu", "top-1", "mixture"])
def test_flashinfer_is_called_as_it_asks(lab: Any, flashinfer: str, kind: str) -> None:
    ask(lab, flashinfer, kind)


def test_flashinfer_tunes_once_for_each_number_of_tokens(lab: Any, flashinfer: str, tuning: list[bool]) -> None:
    problem = lab.problem(dtype="bf16", pass_="forward")
    forward = lab.implementation(flashinfer).prepare(problem.weights.layer)
    few = problem.inputs.routing.__class__(*(part[:3] for part in vars(problem.inputs.routing).values()))
    for x, routing in [(problem.inputs.x, problem.inputs.routing)] * 2 + [(problem.inputs.x[:3], few)] * 2:
        forward(x, routing)
    assert tuning == [True, False, True, False]


def test_flashinfer_refuses(lab: Any, flashinfer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    refuses(lab, flashinfer, "silu only, not gelu", activation="gelu")
    refuses(lab, flashinfer, "none for plain experts", gated=False)
    refuses(lab, flashinfer, "adds no biases", bias=True)
    refuses(lab, flashinfer, "I = 36 to be a multiple of 8", expert_hidden=36)
