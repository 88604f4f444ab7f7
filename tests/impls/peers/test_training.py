"""Peers that train: MegaBlocks, ScatterMoE, SonicMoE and torchtitan as published, forward and backward."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from impls._interpreter import interpreted

if TYPE_CHECKING:
    from collections.abc import Callable

ANY: dict[str, dict[str, Any]] = {"silu": {}, "top-1": {"top_k": 1}, "one-token": {"tokens": 1}}
OTHERS: dict[str, dict[str, Any]] = {
    "gelu": {"activation": "gelu"},
    "plain-relu": {"gated": False, "activation": "relu"},
    "mixture": {"router": "mixture"},
}
WITH_BIAS: dict[str, dict[str, Any]] = {"bias": {"bias": True}}
PASSES = ("forward", "training")


def agrees(lab: Any, name: str, pass_: str, changes: dict[str, Any], dtype: str = "bf16") -> None:
    """Agreement with the oracle, twice from one prepare: nothing that a call needs is used up by another."""
    problem = lab.problem(**{"dtype": dtype, "pass_": pass_} | changes)
    assert lab.implementation(name).unsupported_by(problem.case) is None
    forward = lab.implementation(name).prepare(problem.weights.layer)
    y = forward(problem.inputs.x, problem.inputs.routing)
    if y.requires_grad:
        torch.autograd.grad(y.sum(), [problem.weights.layer.down])
        torch.autograd.grad(forward(problem.inputs.x, problem.inputs.routing).sum(), [problem.weights.layer.down])
    lab.assert_agrees(name, problem)


def sort_by_expert(ids: Tensor, experts: int) -> tuple[Tensor, Tensor, Tensor]:
    """Experts ascending, the slots in that order, and the rows of each expert."""
    ordered, order = ids.flatten().sort(stable=True)
    return ordered, order, torch.bincount(ordered, minlength=experts)


@dataclass
class Arguments:
    """Of MegaBlocks 0.10, as far as it is read; its defaults, and no others may be given."""

    hidden_size: int = 1024
    ffn_hidden_size: int = 4096
    bias: bool = True
    return_bias: bool = True
    activation_fn: Callable[[Tensor], Tensor] = F.gelu
    moe_num_experts: int = 1
    moe_top_k: int = 1
    moe_loss_weight: float = 0.1
    memory_optimized_mlp: bool = False
    mlp_type: str = "mlp"
    mlp_impl: str = "sparse"
    fp16: bool = True
    bf16: bool = False
    device: Any = 0


class GroupedMLP(nn.Module):
    """Rows sorted by expert, counts on the host; weights (E*I, H)."""

    def __init__(self, args: Arguments) -> None:
        super().__init__()
        self.args = args
        size = args.moe_num_experts * args.ffn_hidden_size, args.hidden_size
        for name in ("w1", "w2", *(["v1"] if args.mlp_type == "glu" else [])):
            setattr(self, name, nn.Parameter(torch.empty(size, dtype=torch.bfloat16, device=args.device)))

    def forward(self, x: Tensor, counts: Tensor) -> Tensor:
        args, rows = self.args, []
        stacked = {}
        for name in ("w1", "w2", *(["v1"] if args.mlp_type == "glu" else [])):
            tensor = getattr(self, name)
            assert tensor.dtype == torch.bfloat16
            assert tensor.is_contiguous()
            stacked[name] = tensor.view(args.moe_num_experts, args.ffn_hidden_size, args.hidden_size)
        for expert, part in enumerate(x.split(counts.cpu().tolist())):
            hidden = args.activation_fn(part @ stacked["w1"][expert].T)
            hidden = hidden * (part @ stacked["v1"][expert].T) if "v1" in stacked else hidden
            rows.append(hidden @ stacked["w2"][expert])
        return torch.cat(rows)


class ParallelDroplessMLP(nn.Module):
    """What MegaBlocks' dMoE calls: x (length, batch, H), chosen weights and experts (T, K)."""

    def __init__(self, args: Arguments) -> None:
        super().__init__()
        assert args.mlp_impl == "grouped", "Sparse MLP is not supported with triton >=3.2.0"
        assert (args.bf16, args.fp16, args.bias) == (True, False, False)
        assert args.moe_loss_weight == 0.0, "it would keep the scores of every call"
        self.args = args
        self.mlp = GroupedMLP(args)

    def forward(self, x: Tensor, scores: Tensor, expert_weights: Tensor, top_experts: Tensor) -> Tensor:
        length, batch, hidden = x.shape
        assert expert_weights.dtype == x.dtype
        assert expert_weights.shape == top_experts.shape == (length * batch, self.args.moe_top_k)
        _, order, counts = sort_by_expert(top_experts, self.args.moe_num_experts)
        k = self.args.moe_top_k
        out = self.mlp(x.reshape(-1, hidden)[order // k], counts)
        weighed = out.float() * expert_weights.flatten()[order][:, None].float()
        slots = torch.zeros_like(weighed).index_copy(0, order, weighed).to(x.dtype)
        return slots.view(-1, k, hidden).sum(1).view(x.shape)


@pytest.fixture
def megablocks(bench: Any) -> str:
    """MegaBlocks 0.10 and what it needs beside it."""
    for name in ("grouped_gemm", "stk", "megablocks_ops"):
        bench.module(name)
    bench.module("megablocks.layers.arguments", Arguments=Arguments)
    bench.module("megablocks.layers.dmoe", ParallelDroplessMLP=ParallelDroplessMLP)
    bench.load("megablocks")
    return "megablocks"


@pytest.mark.parametrize("pass_", PASSES)
@pytest.mark.parametrize("kind", ANY | OTHERS)
def test_megablocks_is_called_as_it_asks(lab: Any, megablocks: str, kind: str, pass_: str) -> None:
    agrees(lab, megablocks, pass_, (ANY | OTHERS)[kind])


def test_megablocks_without_its_extension_is_missing(bench: Any) -> None:
    bench.module("megablocks")
    lacking = bench.load("megablocks").PACKAGE.lacking
    assert lacking.endswith("megablocks is here, grouped_gemm and stk and megablocks_ops not")


@pytest.fixture
def scattermoe(bench: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """ScatterMoE 0.3's two functions."""

    def flatten_sort_count(expert_idxs: Tensor, num_experts: int) -> tuple[Tensor, Tensor, Tensor]:
        ordered, order, counts = sort_by_expert(expert_idxs, num_experts)
        return ordered, order, counts.cumsum(-1)

    def parallel_linear(
        inputs: Tensor,
        expert_weights: Tensor,
        k: int,
        sorted_expert_idxs: Tensor,
        sorted_scattered_idxs: Tensor,
        expert_offsets: Tensor,
        expert_biases: Tensor | None = None,
        gates: Tensor | None = None,
        grouped_in: bool = False,
        grouped_out: bool = False,
    ) -> Tensor:
        assert len(sorted_scattered_idxs) == len(inputs) * k
        assert len(expert_offsets) == len(expert_weights)
        assert expert_weights.shape[1] == inputs.shape[1]
        rows = inputs if grouped_in else inputs[sorted_scattered_idxs // k]
        counts = expert_offsets.diff(prepend=expert_offsets.new_zeros(1)).tolist()
        parts = [part @ expert_weights[expert] for expert, part in enumerate(rows.split(counts))]
        out = torch.cat(parts)
        if expert_biases is not None:
            out = out + expert_biases[sorted_expert_idxs]
        if not grouped_out:
            out = torch.zeros_like(out).index_copy(0, sorted_scattered_idxs, out)
        if gates is None:
            return out
        assert gates.dtype == out.dtype
        return (gates[:, None] @ out.view(*gates.shape, -1)).squeeze(1)

    monkeypatch.setenv("TRITON_INTERPRET", "1")
    bench.module("scattermoe", flatten_sort_count=flatten_sort_count, parallel_linear=parallel_linear)
    bench.load("scattermoe")
    return "scattermoe"


@pytest.mark.parametrize("pass_", PASSES)
@pytest.mark.parametrize("kind", ANY | OTHERS | WITH_BIAS)
def test_scattermoe_is_called_as_it_asks(lab: Any, scattermoe: str, kind: str, pass_: str) -> None:
    agrees(lab, scattermoe, pass_, (ANY | OTHERS | WITH_BIAS)[kind], "fp16")


class ActivationEnum(Enum):
    """SonicMoE's ``ActivationType``, as far as it is used."""

    SWIGLU = "swiglu"


@pytest.fixture
def sonicmoe(bench: Any) -> str:
    """SonicMoE 0.1.2's entry for a routing that comes from outside."""

    def moe_general_routing_inputs(
        x: Tensor,
        router_scores: Tensor,
        token_indices: Tensor,
        expert_indices: Tensor,
        w1: Tensor,
        b1: Tensor | None,
        w2: Tensor,
        b2: Tensor | None,
        E: int,
        stream_id: int,
        activation_type: ActivationEnum,
        is_inference_mode_enabled: bool = False,
        concat_layout: bool = False,
    ) -> tuple[Tensor, Tensor]:
        assert (b1 is None) == (b2 is None)
        assert router_scores.shape == token_indices.shape == expert_indices.shape
        assert (router_scores.dtype, token_indices.dtype) == (torch.float32, torch.int32)
        assert expert_indices.dtype == torch.int32
        assert bool((token_indices.diff() >= 0).all()), "tokens ascend"
        assert w1.shape[1:] == (x.shape[1], E)
        assert w2.shape == (x.shape[1], w1.shape[0] // 2, E)
        assert w1.permute(2, 0, 1).is_contiguous()
        assert w2.permute(2, 0, 1).is_contiguous()
        assert concat_layout
        assert activation_type is ActivationEnum.SWIGLU
        assert is_inference_mode_enabled != torch.is_grad_enabled()
        tokens, experts = token_indices.long(), expert_indices.long()
        hidden = torch.einsum("sh,fhs->sf", x[tokens], w1[:, :, experts])
        hidden = hidden if b1 is None else hidden + b1[experts]
        gate, up = hidden.chunk(2, dim=-1)
        out = torch.einsum("si,his->sh", F.silu(gate) * up, w2[:, :, experts])
        out = out if b2 is None else out + b2[experts]
        summed = torch.zeros(x.shape, dtype=torch.float32).index_add(0, tokens, out * router_scores[:, None])
        return summed.to(x.dtype), torch.bincount(experts, minlength=E)

    for name in ("quack", "cutlass"):
        bench.module(name)
    bench.module("sonicmoe", moe_general_routing_inputs=moe_general_routing_inputs)
    bench.module("sonicmoe.enums", ActivationType=ActivationEnum)
    bench.load("sonicmoe")
    return "sonicmoe"


@pytest.mark.parametrize("pass_", PASSES)
@pytest.mark.parametrize("kind", ANY | WITH_BIAS)
def test_sonicmoe_is_called_as_it_asks(lab: Any, sonicmoe: str, kind: str, pass_: str) -> None:
    problem = lab.problem(**{"dtype": "bf16", "pass_": pass_} | (ANY | WITH_BIAS)[kind])
    lab.assert_agrees(sonicmoe, problem)


def test_sonicmoe_refuses(lab: Any, sonicmoe: str) -> None:
    refuses = lab.implementation(sonicmoe).unsupported_by
    assert "silu only, not gelu" in refuses(lab.problem(activation="gelu").case)
    assert "for plain experts" in refuses(lab.problem(gated=False).case)


@dataclass(kw_only=True)
class ExpertsConfig:
    """torchtitan's ``GroupedExperts.Config``."""

    dim: int
    hidden_dim: int
    num_experts: int


@dataclass(kw_only=True)
class DispatcherConfig:
    """torchtitan's ``LocalTokenDispatcher.Config``."""

    num_experts: int
    top_k: int


class GroupedExperts(nn.Module):
    """torchtitan 0.3's experts: three stacks of weights, bf16 whatever comes."""

    Config = ExpertsConfig

    def __init__(self, config: ExpertsConfig) -> None:
        super().__init__()
        E, F_, D = config.num_experts, config.hidden_dim, config.dim
        self.w1_EFD = nn.Parameter(torch.empty(E, F_, D))
        self.w2_EDF = nn.Parameter(torch.empty(E, D, F_))
        self.w3_EFD = nn.Parameter(torch.empty(E, F_, D))

    def forward(self, x_RD: Tensor, num_tokens_per_expert_E: Tensor) -> Tensor:
        rows = []
        for expert, part in enumerate(x_RD.bfloat16().split(num_tokens_per_expert_E.tolist())):
            hidden = F.silu(part @ self.w1_EFD[expert].T) * (part @ self.w3_EFD[expert].T)
            rows.append(hidden @ self.w2_EDF[expert].T)
        return torch.cat(rows).type_as(x_RD)


class RoutedExperts(nn.Module):
    """torchtitan 0.3's dispatch, experts and combine."""

    @dataclass(kw_only=True)
    class Config:
        """Of both its parts."""

        inner_experts: ExpertsConfig
        token_dispatcher: DispatcherConfig

        def build(self) -> RoutedExperts:
            return RoutedExperts(self)

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.inner_experts = GroupedExperts(config.inner_experts)
        self.k, self.experts = config.token_dispatcher.top_k, config.token_dispatcher.num_experts

    def forward(self, x_BLD: Tensor, scores: Tensor, ids: Tensor, counts: Tensor) -> Tensor:
        assert scores.shape == ids.shape == (*x_BLD.shape[:2], self.k)
        assert scores.dtype == torch.float32
        _, order, right = sort_by_expert(ids, self.experts)
        assert torch.equal(counts, right)
        x = x_BLD.flatten(0, 1)
        out = self.inner_experts(x[order // self.k], counts)
        out = (out.float() * scores.flatten()[order][:, None]).to(out.dtype)
        return torch.zeros_like(x).index_add(0, order // self.k, out).view(x_BLD.shape)


@pytest.fixture
def torchtitan(bench: Any) -> str:
    """torchtitan 0.3."""
    common = "torchtitan.models.common"
    bench.module(f"{common}.moe", GroupedExperts=GroupedExperts, RoutedExperts=RoutedExperts)
    bench.module(f"{common}.token_dispatcher", LocalTokenDispatcher=type("_", (), {"Config": DispatcherConfig}))
    bench.load("torchtitan")
    return "torchtitan"


@pytest.mark.parametrize("pass_", PASSES)
@pytest.mark.parametrize("kind", [*ANY, "mixture"])
def test_torchtitan_is_called_as_it_asks(lab: Any, torchtitan: str, kind: str, pass_: str) -> None:
    agrees(lab, torchtitan, pass_, (ANY | OTHERS)[kind])


@pytest.mark.skipif(find_spec("torchtitan") is None, reason="torchtitan is not installed")
@pytest.mark.parametrize("pass_", PASSES)
@pytest.mark.parametrize("kind", [*ANY, "mixture"])
def test_torchtitan_itself_agrees(lab: Any, bench: Any, kind: str, pass_: str) -> None:
    bench.load("torchtitan")
    agrees(lab, "torchtitan", pass_, (ANY | OTHERS)[kind])


@pytest.mark.skipif(
    find_spec("scattermoe") is None or not interpreted(),
    reason="needs scattermoe and TRITON_INTERPRET=1 from the start",
)
@pytest.mark.parametrize("pass_", PASSES)
@pytest.mark.parametrize("kind", ANY | OTHERS | WITH_BIAS)
def test_scattermoe_itself_agrees_under_the_interpreter(lab: Any, bench: Any, kind: str, pass_: str) -> None:
    bench.load("scattermoe")
    agrees(lab, "scattermoe", pass_, (ANY | OTHERS | WITH_BIAS)[kind], "fp16")
