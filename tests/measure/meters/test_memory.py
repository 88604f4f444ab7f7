from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import silu

from harness.measure.meters import memory
from harness.measure.meters.memory import Event, measure_memory, replay, resident_peak_bytes

if TYPE_CHECKING:
    from pathlib import Path

    from harness.records.record import Memory

MIB = 1 << 20


def measure_cpu(forward: object, backward: object = None) -> Memory:
    return measure_memory("cpu", forward, backward, weights_bytes=123, prepared_bytes=45)  # type: ignore[arg-type]


def test_two_products_byte_by_byte() -> None:
    tokens, hidden, inner, out = 256, 512, 1024, 128
    x, w1, w2 = torch.randn(tokens, hidden), torch.randn(hidden, inner), torch.randn(inner, out)
    measured = measure_cpu(lambda: silu(x @ w1) @ w2)
    before_silu = after_silu = 4 * tokens * inner
    output = 4 * tokens * out
    assert measured.status == "ok"
    assert measured.output_bytes == output
    assert measured.peak_bytes == max(before_silu + after_silu, after_silu + output)
    assert measured.workspace_bytes == measured.peak_bytes - output
    assert measured.saved_bytes is None
    assert (measured.weights_bytes, measured.prepared_bytes) == (123, 45)


@pytest.mark.parametrize(
    ("tokens", "hidden", "inner", "out"), [(64, 32, 128, 96), (8, 256, 64, 512), (128, 16, 16, 16)]
)
def test_training_byte_by_byte(tokens: int, hidden: int, inner: int, out: int) -> None:
    x = torch.randn(tokens, hidden)
    w1 = torch.randn(hidden, inner, requires_grad=True)
    w2 = torch.randn(inner, out, requires_grad=True)
    dy = torch.randn(tokens, out)
    measured = measure_cpu(lambda: silu(x @ w1) @ w2, lambda y: torch.autograd.grad(y, (w1, w2), dy))
    activation, output, grad1, grad2 = 4 * tokens * inner, 4 * tokens * out, 4 * hidden * inner, 4 * inner * out
    assert measured.output_bytes == output
    assert measured.saved_bytes == 2 * activation
    stages = (
        2 * activation + output + grad2 + activation,  # both gradients of the second product
        activation + output + grad2 + 2 * activation,  # silu's, whose output is no longer needed
        output + grad2 + activation + grad1,  # the first weight's
    )
    assert measured.peak_bytes == max(stages)


def test_a_lone_product_has_no_workspace() -> None:
    x, w = torch.randn(64, 32), torch.randn(32, 48)
    measured = measure_cpu(lambda: x @ w)
    assert measured.peak_bytes == measured.output_bytes == 64 * 48 * 4
    assert measured.workspace_bytes == 0


def test_a_temporary_is_workspace() -> None:
    x = torch.randn(1000)

    def forward() -> Tensor:
        _temporary = torch.empty(5000)
        return x + x

    assert measure_cpu(forward).workspace_bytes == 4 * 5000


def test_what_is_prepared_counts_as_long_as_it_is_held() -> None:
    def prepare() -> object:
        thrown_away = torch.empty(1000)
        return thrown_away.new_empty(500), lambda: None

    assert memory.kept_bytes("cpu", prepare) == 500 * 4
    assert memory.kept_bytes("cpu", lambda: None) == 0
    assert memory.kept_bytes("meta", prepare) is None


def test_an_output_allocated_beforehand_costs_nothing() -> None:
    x, y = torch.randn(1000), torch.empty(1000)
    measured = measure_cpu(lambda: torch.add(x, x, out=y))
    assert (measured.status, measured.peak_bytes, measured.workspace_bytes) == ("ok", 0, 0)


def test_releasing_what_was_there_before_is_not_negative() -> None:
    held = [torch.empty(10_000) for _ in range(3)]

    def forward() -> Tensor:
        held.pop()
        return torch.ones(10)

    measured = measure_cpu(forward)
    assert measured.peak_bytes is not None
    assert 0 <= measured.peak_bytes <= 40
    assert measured.workspace_bytes == 0


def test_gradients_are_off_without_a_backward() -> None:
    w = torch.randn(8, 8, requires_grad=True)
    seen: list[bool] = []

    def forward() -> Tensor:
        seen.append(torch.is_grad_enabled())
        return w @ w

    measure_cpu(forward)
    assert set(seen) == {False}
    with torch.no_grad():
        measured = measure_cpu(forward, lambda y: torch.autograd.grad(y.sum(), w))
    assert measured.status == "ok"
    assert seen[-1] is True


def test_what_forward_raises_is_passed_on() -> None:
    with pytest.raises(ZeroDivisionError):
        measure_cpu(lambda: 1 / 0)


def test_a_profiler_that_sees_nothing_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_events_of", lambda _profiler: ([], {}))
    measured = measure_cpu(lambda: torch.ones(3))
    assert measured.status == "unavailable"
    assert "profiler" in measured.reason
    assert measured.peak_bytes is None
    assert not memory.allocations_are_reported()


def test_other_devices_have_a_reason() -> None:
    measured = measure_memory("xpu:0", lambda: torch.ones(1), weights_bytes=5)
    assert measured.status == "unavailable"
    assert measured.weights_bytes == 5
    assert "xpu" in measured.reason


def test_this_torch_reports_allocations() -> None:
    assert memory.allocations_are_reported()


@given(st.lists(st.integers(1, 1 << 40), max_size=30), st.randoms(use_true_random=False))
def test_what_is_allocated_and_released_leaves_nothing(sizes: list[int], random: object) -> None:
    events = [Event(2 * i, size) for i, size in enumerate(sizes)]
    events += [Event(2 * i + 1, -size) for i, size in enumerate(sizes)]
    random.shuffle(events)  # type: ignore[attr-defined]
    assert replay(events, 0, 2 * len(sizes)) == (0, max(sizes, default=0))


@given(st.lists(st.integers(-1000, 1000)), st.integers(0, 50))
def test_only_events_inside_the_span_count(deltas: list[int], begin: int) -> None:
    events = [Event(moment, delta) for moment, delta in enumerate(deltas)]
    live, peak = replay(events, begin, len(deltas))
    inside = deltas[begin:]
    assert live == sum(inside)
    assert peak == max([0, *(sum(inside[: i + 1]) for i in range(len(inside)))])


def test_the_kernel_sees_pages_that_are_written() -> None:
    rose = resident_peak_bytes(lambda: torch.ones(64 * MIB // 4))
    if rose is None:
        pytest.skip("this kernel does not let the high-water mark be reset")
    assert 60 * MIB < rose < 80 * MIB
    again = resident_peak_bytes(lambda: torch.ones(8 * MIB // 4))
    assert again is not None
    assert again < 24 * MIB


def test_without_the_right_to_reset_nothing_runs(tmp_path: Path) -> None:
    assert resident_peak_bytes(lambda: 1 / 0, tmp_path / "nowhere") is None


def test_a_status_without_figures_is_none(tmp_path: Path) -> None:
    (tmp_path / "status").write_text("Name:\tpython\n")
    assert resident_peak_bytes(lambda: None, tmp_path) is None


def test_the_rise_is_read_from_status(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text("VmHWM:\t     900 kB\nVmRSS:\t     100 kB\n")
    rose = resident_peak_bytes(lambda: status.write_text("VmHWM:\t350 kB\nVmRSS:\t100 kB\n"), tmp_path)
    assert rose == 250 * 1024
    assert (tmp_path / "clear_refs").read_text() == "5"


@pytest.mark.cuda
def test_cuda_allocations() -> None:
    x, w1 = torch.randn(256, 512, device="cuda"), torch.randn(512, 1024, device="cuda")
    measured = measure_memory("cuda:0", lambda: silu(x @ w1), weights_bytes=w1.nbytes)
    assert measured.peak_bytes == 2 * MIB
    assert measured.workspace_bytes == MIB
    assert measured.os_peak_bytes is not None
    w = torch.randn(512, 512, device="cuda", requires_grad=True)
    training = measure_memory(
        "cuda:0", lambda: silu(x @ w), lambda y: torch.autograd.grad(y.sum(), w), weights_bytes=w.nbytes
    )
    assert training.saved_bytes == 256 * 512 * 4


@pytest.mark.cuda
def test_what_is_prepared_on_a_gpu() -> None:
    def prepare() -> object:
        thrown_away = torch.empty(1000, device="cuda")
        return thrown_away.new_empty(512)

    assert memory.kept_bytes("cuda:0", prepare) == 512 * 4
