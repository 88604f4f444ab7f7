"""What is metered beside time: the memory of one call alone, and the energy of a sustained window of calls."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.measure.failures import is_out_of_memory
from harness.measure.meters.energy import SHORTEST_WINDOW_S, measure_energy
from harness.measure.meters.memory import kept_bytes, measure_memory
from harness.records.record import Energy

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from harness.layer.inputs import Inputs
    from harness.measure.contestant import Contestant
    from harness.measure.surroundings import Surroundings
    from harness.records.record import Memory

MEMORY_CALLS = 3
"""How often ``measure_memory`` makes a call at most."""
ENERGY_SHARE = 0.4
"""Of a bout's budget, for all contestants' windows and the warming up before each, which is as long."""


def meter_memory(contestant: Contestant, inputs: Inputs, around: Surroundings) -> Memory:
    """Bytes of one call. A graph's replay allocates nothing, so there the work is run eagerly."""
    case = contestant.case
    call = contestant.call(inputs, plain=case.execution == "graph")
    training = case.pass_ == "training"

    def forward() -> Tensor:
        start = around.clock.now_ns()
        y = call.forward_only() if training else call()[0]
        around.measuring_ns += around.clock.now_ns() - start
        return y

    def backward(y: Tensor) -> object:
        start = around.clock.now_ns()
        gradients = call.backward(y)
        around.measuring_ns += around.clock.now_ns() - start
        return gradients

    return measure_memory(
        case.device,
        forward,
        backward if training else None,
        weights_bytes=contestant.weights_bytes,
        prepared_bytes=prepared_bytes(contestant),
    )


def prepared_bytes(contestant: Contestant) -> int | None:
    """Bytes of what an implementation prepares and keeps, seen by preparing once more.

    None where there is no room for a second one, and for the dense baseline, whose copies stand for the weights.
    """
    if contestant.is_baseline:
        return None
    try:
        return kept_bytes(contestant.case.device, contestant.prepare_again)
    except Exception as error:
        if is_out_of_memory(error):
            return None
        raise


def meter_energy(call: Callable[[], object], around: Surroundings, estimate_s: float, window_s: float) -> Energy:
    """Energy of a window of calls on the same inputs; or why there is none."""
    if around.board is not None and not can_meter_energy(around, window_s):
        reason = (
            f"the budget leaves a window of {window_s:.2g} s, and the counter needs {SHORTEST_WINDOW_S:g} s;"
            " give a larger --budget, or fewer cases or implementations"
        )
        return Energy(status="unavailable", reason=reason)
    start = around.clock.now_ns()
    energy = measure_energy(
        call,
        around.clock.synchronise,
        around.board,
        window_s=window_s,
        idle_watts=around.idle_watts,
        estimate_s=estimate_s,
        why_not=around.why_no_board,
    )
    around.measuring_ns += around.clock.now_ns() - start
    return energy


def energy_window_s(around: Surroundings, budget_ns: float, contestants: int) -> float:
    """Seconds each contestant's window may take: what is asked for, or what the budget has room for."""
    room_s = ENERGY_SHARE * budget_ns / 1e9 / (2 * max(1, contestants))
    return min(around.energy_window_s, room_s)


def can_meter_energy(around: Surroundings, window_s: float) -> bool:
    """Whether there is a counter, and a window long enough for it; if not, the rounds get the time."""
    return around.board is not None and window_s >= SHORTEST_WINDOW_S
