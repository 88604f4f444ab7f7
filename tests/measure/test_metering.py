"""Memory and energy of a contestant, as a bout asks for them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import torch

from harness.layer.inputs import make_inputs
from harness.layer.weights import make_weights
from harness.measure import metering
from harness.measure.contestant import Contestant
from harness.measure.metering import ENERGY_SHARE, can_meter_energy, energy_window_s, meter_energy, meter_memory
from harness.records.record import Energy

MS = 1e6


def contestant(kit: Any, case: Any) -> Any:
    one = Contestant(kit.implementation(kit.costing(MS)), make_weights(case), case)
    return one, make_inputs(case, one.weights, 0)


@pytest.mark.parametrize("pass_", ["forward", "training"])
def test_memory_is_that_of_one_call_and_its_calls_are_tallied(kit: Any, pass_: str) -> None:
    case, around = kit.case(64, pass_=pass_), kit.around()
    one, inputs = contestant(kit, case)
    start = kit.clock.now
    memory = meter_memory(one, inputs, around)
    assert memory.status == "ok"
    assert memory.output_bytes == 64 * 32 * 4
    assert memory.weights_bytes == one.weights.nbytes
    assert around.measuring_ns == kit.clock.now - start == metering.MEMORY_CALLS * MS
    gradients = sum(parameter.nbytes for parameter in one.weights.layer.parameters().values())
    assert (memory.peak_bytes > gradients) == (pass_ == "training")


def test_memory_of_a_graph_is_that_of_the_work_it_holds(kit: Any) -> None:
    case = kit.case(64)
    one, inputs = contestant(kit, case)
    plain = meter_memory(one, inputs, kit.around())
    replay = make_inputs(case, one.weights, 1).x
    one._executed = lambda _inputs: replay
    assert meter_memory(one, inputs, kit.around()).workspace_bytes == 0
    one.case = msgspec.structs.replace(case, execution="graph")
    assert meter_memory(one, inputs, kit.around()).peak_bytes == plain.peak_bytes


@pytest.mark.parametrize("pass_", ["forward", "training"])
def test_what_an_implementation_prepares_and_keeps_counts_beside_the_call(kit: Any, pass_: str) -> None:
    case = kit.case(pass_=pass_)

    def copying(layer: Any) -> Any:
        thrown_away = layer.proj_in.clone()
        kept, forward = layer.down.detach().clone(), kit.correct(layer)
        del thrown_away
        return lambda x, routing: forward(x, routing) + 0 * kept.sum()

    def metered(prepare: Any, family: str = "loop") -> Any:
        one = Contestant(kit.implementation(prepare, family=family), make_weights(case), case)
        return meter_memory(one, make_inputs(case, one.weights, 0), kit.around())

    memory = metered(copying)
    assert memory.prepared_bytes == 4 * 32 * 24 * 4
    assert memory.beside_weights_bytes == memory.peak_bytes + memory.prepared_bytes
    assert metered(kit.correct).prepared_bytes == 0
    assert metered(copying, "dense").prepared_bytes is None


def test_without_room_for_a_second_copy_the_call_is_metered_all_the_same(kit: Any) -> None:
    case = kit.case()
    one, inputs = contestant(kit, case)

    def no_room() -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    one.prepare_again = no_room
    memory = meter_memory(one, inputs, kit.around())
    assert (memory.status, memory.prepared_bytes) == ("ok", None)
    assert memory.beside_weights_bytes == memory.peak_bytes

    def broken() -> Any:
        raise RuntimeError("only once")

    one.prepare_again = broken
    with pytest.raises(RuntimeError, match="only once"):
        meter_memory(one, inputs, kit.around())


def test_energy_is_asked_of_the_board_for_the_window_there_is_room_for(
    kit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def measure(call: Any, synchronise: Any, board: Any, **given: Any) -> Energy:
        asked.update(given, board=board)
        synchronise()
        call()
        return Energy(status="ok")

    monkeypatch.setattr(metering, "measure_energy", measure)
    around = kit.around(board="board", idle_watts=70.0)
    assert meter_energy(lambda: kit.clock.advance(5), around, 0.25, 1.5).status == "ok"
    assert asked == {
        "board": "board",
        "window_s": 1.5,
        "idle_watts": 70.0,
        "estimate_s": 0.25,
        "why_not": "no board in a test",
    }
    assert around.measuring_ns == 5


def test_a_window_the_counter_cannot_read_is_not_begun(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metering, "measure_energy", lambda *_, **__: pytest.fail("too short"))
    around = kit.around(board="board")
    energy = meter_energy(lambda: None, around, 0.25, 0.125)
    assert (energy.status, around.measuring_ns) == ("unavailable", 0)
    assert energy.reason.startswith("the budget leaves a window of 0.12 s, and the counter needs 1 s; give a larger")
    assert not can_meter_energy(around, 0.125)
    assert can_meter_energy(around, 1.0)
    assert not can_meter_energy(kit.around(), 5.0)


@pytest.mark.parametrize(("budget_s", "contestants", "window_s"), [(1000, 6, 5.0), (30, 6, 1.0), (30, 0, 5.0)])
def test_the_windows_and_their_warming_up_fit_their_share(
    kit: Any, budget_s: float, contestants: int, window_s: float
) -> None:
    window = energy_window_s(kit.around(), budget_s * 1e9, contestants)
    assert window == pytest.approx(window_s)
    assert 2 * contestants * window <= ENERGY_SHARE * budget_s * (1 + 1e-9)
