"""What a bout takes from outside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.cases.datasheet import Datasheet
    from harness.measure.clocks import Clock
    from harness.measure.meters.nvml import Board
    from harness.measure.rounds import Stopped
    from harness.measure.timing import TimedSection
    from harness.records.environment import Ceilings

    Conduct = Callable[[TimedSection, float, int], Stopped]


NOBODY = ""
"""Is announced where an implementation's name would stand, before work that is nobody's."""


@dataclass
class Surroundings:
    """What a bout takes from the worker: the device's clock, ceilings and power meter, and how to say what comes next.

    ``note(implementation, stage)`` is called before anything an implementation could die in. ``timed`` is False when
    only agreement is asked for. ``measure_again`` gives ceilings for a second opinion. ``energy_window_s`` is the
    longest window; ``measuring_ns`` counts what was spent inside measured calls. ``metered`` is False when time is all
    that is wanted. ``conduct`` takes the timed part through warm-up and rounds, given its budget in nanoseconds and how
    many calls of each come after; None where the bout does it by itself.
    """

    clock: Clock
    note: Callable[[str, str], None]
    environment_id: str
    ceilings: Ceilings | None = None
    datasheet: Datasheet | None = None
    cache_bytes: int = 0
    board: Board | None = None
    why_no_board: str = ""
    idle_watts: float | None = None
    energy_window_s: float = 5.0
    timed: bool = True
    metered: bool = True
    conduct: Conduct | None = None
    measure_again: Callable[[], Ceilings] | None = None
    measuring_ns: float = 0.0
