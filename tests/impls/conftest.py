"""What the tests of implementations share: problems, answers, and the rule by which an answer agrees."""

from __future__ import annotations

import contextlib
import functools
import importlib
import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from harness.cases.case import Case
from harness.cases.shape import Router, Shape
from harness.cases.traffic import Traffic
from harness.layer.contract import Forward, Implementation, Routing
from harness.layer.inputs import Inputs, dense_routing, make_inputs
from harness.layer.oracle import solve
from harness.layer.weights import TORCH_DTYPES, Weights, make_weights
from harness.running.registry import registered
from impls.fused.configuration import Configuration, valid

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

MOE = ("loop", "einsum", "batched", "grouped", "soft")
UNIT_ROUNDOFF = {"fp32": 2.0**-24, "bf16": 2.0**-8, "fp16": 2.0**-11}
GRADIENT_SLACK = 2.0
FP32_FLOOR = 16 * UNIT_ROUNDOFF["fp32"]
"""The largest seen here: y 6 u, gradients 8 u, gradients of a few routing weights, which may cancel, 14 u."""
ROUTING_WEIGHT_FLOOR = 2e-2
RELU_SLACK = 4.0
"""A hidden unit rounded before its bias is added may change sign, and relu's gradient then jumps from 0 to 1."""

for _name in (*MOE, "dense", "fused"):
    importlib.import_module(f"impls.{_name}")


@dataclass(frozen=True)
class Problem:
    """A case with its weights and one draw of inputs."""

    case: Case
    weights: Weights
    inputs: Inputs

    def routed(self, ids: Any, weights: Any = None) -> Problem:
        """The same tokens under a routing given by hand; weights are random where none are given."""
        ids = torch.as_tensor(ids, device=self.case.device)
        if weights is None:
            weights = torch.rand(ids.shape, generator=torch.Generator().manual_seed(1)).to(ids.device) + 0.1
        weights = torch.where(ids < self.case.shape.experts, torch.as_tensor(weights), 0.0)
        return replace(self, inputs=replace(self.inputs, routing=Routing(ids, weights)))

    def with_x(self, x: Tensor) -> Problem:
        return replace(self, inputs=replace(self.inputs, x=x))

    def seen_by(self, name: str) -> Problem:
        """What an implementation is judged by: the baseline has a routing of its own."""
        if name != "dense":
            return self
        own = dense_routing(len(self.inputs.x), self.case.shape, self.case.device)
        return replace(self, inputs=replace(self.inputs, routing=own))


class Lab:
    """Builds problems, asks implementations, and judges what they answer."""

    moe = MOE

    def implementation(self, name: str) -> Implementation:
        return registered()[name]

    @functools.lru_cache(maxsize=256)  # noqa: B019 (one Lab a session)
    def problem(
        self,
        tokens: int = 33,
        *,
        dtype: Any = "fp32",
        pass_: Any = "training",
        seed: int = 3,
        device: str = "cpu",
        hidden: int = 64,
        expert_hidden: int = 32,
        experts: int = 8,
        top_k: int = 2,
        router: Any = "softmax",
        **shape: Any,
    ) -> Problem:
        sizes: dict[str, Any] = {"hidden": hidden, "expert_hidden": expert_hidden, "experts": experts, "top_k": top_k}
        made = Shape(**sizes, router=Router(kind=router), **shape)
        traffic = Traffic(tokens=tokens, seed=seed)
        case = Case(shape=made, traffic=traffic, dtype=dtype, pass_=pass_, device=device)
        weights = make_weights(case)
        for parameter in weights.layer.parameters().values():
            parameter.requires_grad_(pass_ == "training")
        return Problem(case, weights, make_inputs(case, weights, 0))

    def ask(self, name: str, problem: Problem, prepared: Forward | None = None) -> dict[str, Tensor]:
        """y, and in training the gradients, of one call, of a layer ``prepared`` in another way than usual."""
        layer, inputs = problem.weights.layer, problem.seen_by(name).inputs
        forward = prepared or self.implementation(name).prepare(layer)
        if problem.case.pass_ == "forward":
            with torch.no_grad():
                return {"y": forward(inputs.x, inputs.routing)}
        assert inputs.dy is not None
        x, weights = inputs.x.detach().requires_grad_(), inputs.routing.weights.detach().requires_grad_()
        leaves = {"x": x, "weights": weights, **layer.parameters()}
        y = forward(x, Routing(inputs.routing.expert_ids, weights))
        found = torch.autograd.grad(y, list(leaves.values()), inputs.dy, allow_unused=True)
        pairs = zip(leaves.items(), found, strict=True)
        named = {key: torch.zeros_like(leaf) if gradient is None else gradient for (key, leaf), gradient in pairs}
        if name == "dense":
            del named["weights"]
        return {"y": y.detach(), **named}

    def truth(self, name: str, problem: Problem, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
        return solve(problem.weights, problem.case, problem.seen_by(name).inputs, dtype).tensors

    def assert_agrees(self, name: str, problem: Problem, got: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Ask, and hold every tensor against the float64 oracle by ``max(2 * e0, 3u)``, its worst row by twice that."""
        got = self.ask(name, problem) if got is None else got
        oracle = self.truth(name, problem)
        reference = self.truth(name, problem, TORCH_DTYPES[problem.case.dtype])
        for key, mine in got.items():
            assert torch.isfinite(mine).all(), f"{name}: {key} is not finite"
            assert mine.shape == oracle[key].shape, f"{name}: {key} has shape {tuple(mine.shape)}"
            slack, floor = _limits(problem.case, key)
            least = float(oracle["y"].norm()) if key == "weights" else 0.0  # products with dy, which may cancel
            for what, error in (("error", _relative), ("worst row", _worst_row)):
                rows = 1 if what == "error" else 2
                allowed = rows * slack * max(2 * error(reference[key], oracle[key], least), rows * floor)
                found = error(mine, oracle[key], least)
                assert found <= allowed, f"{name}: {key}: {what} {found:.3g} above {allowed:.3g}"
        return got

    @contextlib.contextmanager
    def poison(self) -> Iterator[None]:
        """Fill what ``torch.empty`` returns with NaN, so that rows never written show."""
        settings: Any = torch.utils.deterministic
        torch.use_deterministic_algorithms(True, warn_only=True)
        settings.fill_uninitialized_memory = True
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", ".*does not have a deterministic implementation")
                yield
        finally:
            torch.use_deterministic_algorithms(False)


def _limits(case: Case, key: str) -> tuple[float, float]:
    u = UNIT_ROUNDOFF[case.dtype]
    if key == "y":
        return 1.0, FP32_FLOOR if case.dtype == "fp32" else 3 * u  # 2.2 u was seen at T = 1, with torch 2.11
    if case.dtype == "fp32":
        return GRADIENT_SLACK, FP32_FLOOR
    if key == "weights":
        return GRADIENT_SLACK, ROUTING_WEIGHT_FLOOR
    return RELU_SLACK if case.shape.activation == "relu" else GRADIENT_SLACK, 2 * u


def _relative(got: Tensor, truth: Tensor, least: float) -> float:
    distance, size = float((got.double() - truth.double()).norm()), max(float(truth.double().norm()), least)
    return distance / size if size else distance


def _worst_row(got: Tensor, truth: Tensor, least: float) -> float:
    """Largest error of one row against the rows' root mean square, so that rows that cancel do not decide."""
    if not truth.numel():
        return 0.0
    errors = (got.double() - truth.double()).flatten(1).norm(dim=1)
    sizes = truth.double().flatten(1).norm(dim=1)
    scale = torch.maximum(sizes, sizes.square().mean().sqrt()).clamp(min=least / len(truth) ** 0.5)
    return float(torch.where(errors == 0, 0.0, errors / scale).max())


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """One laboratory a session. On one thread: the tensors are tiny, and threads that wait for each other are slow."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Lab()
    torch.set_num_threads(threads)


def through_tma(
    configuration: Configuration, case: Case, persistent: Collection[str] = (), capability: tuple[int, int] = (9, 0)
) -> Configuration:
    """The same tiles, fetched by TMA where a kernel can, some kernels ``persistent``.

    A stage less where shared memory is short.
    """
    for name, tiles in configuration.tiles().items():
        for stages in (tiles.stages, tiles.stages - 1):
            changed = replace(tiles, tma=True, persistent=name in persistent, stages=stages)
            copied = configuration.changed({name: changed})
            if valid(copied, case.shape, case.traffic.tokens, case.dtype, case.pass_, capability):
                configuration = copied
                break
    return configuration


@pytest.fixture(scope="session", name="through_tma")
def _through_tma() -> Any:
    return through_tma


@pytest.fixture(params=[*MOE, "dense"])
def name(request: pytest.FixtureRequest) -> str:
    """Every implementation that computes something, the dense baseline included."""
    return str(request.param)


@pytest.fixture(params=MOE)
def moe(request: pytest.FixtureRequest) -> str:
    """Every implementation that follows the routing."""
    return str(request.param)
