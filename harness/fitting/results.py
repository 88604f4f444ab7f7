"""What looking at routing gives: plain data, for a terminal, a picture or JSON."""

from __future__ import annotations

import msgspec


class Range(msgspec.Struct, frozen=True, kw_only=True):
    """A figure over seeds: its mean, its lowest and its highest value.

    A new draw of the same generator lies between the lowest and the highest of n with probability (n - 1) / (n + 1).
    """

    mean: float
    low: float
    high: float

    def holds(self, value: float) -> bool:
        """Whether a value lies within."""
        return self.low <= value <= self.high


class Shown(msgspec.Struct, kw_only=True):
    """What a traffic looks like: tokens of each expert, every figure, and both for uniform traffic of as many tokens.

    ``chance_curve`` is the mean tokens of the busiest expert, of the second, ... under uniform traffic.
    """

    tokens: int
    experts: int
    top_k: int
    histogram: list[int]
    figures: dict[str, float | None]
    chance: dict[str, Range]
    chance_curve: list[float]
    seeds: int


class Candidate(msgspec.Struct, kw_only=True):
    """A generator at its best parameter (None where it takes none), and how far the trace is from it in load.

    ``low`` and ``high`` are where 95 % of such fits fall when the trace is the generator's own. ``miss`` is the share
    of the slots that would have to go to another expert for the load to be the generator's, the mean over its seeds;
    ``own_miss`` is how far its own seeds are from one another. ``score`` is the energy score, by which candidates rank.
    """

    kind: str
    spread: str
    parameter: float | None
    low: float | None
    high: float | None
    score: float
    miss: float
    own_miss: Range
    at_the_end: bool = False

    @property
    def reproduces(self) -> bool:
        """Whether the trace is no further away than the generator's own seeds are."""
        return self.miss <= self.own_miss.high


class Repeats(msgspec.Struct, kw_only=True):
    """The rho of ``temporal`` whose tokens share as many experts with the next as the trace's do, beyond load.

    ``excess`` is that sharing over what load alone brings about. ``low`` and ``high`` are where 95 % of such fits fall
    when the trace is the generator's own. ``at_the_end`` says that no rho gets as far.
    """

    spread: str
    rho: float
    low: float
    high: float
    excess: float
    at_the_end: bool


class Compared(msgspec.Struct, kw_only=True):
    """One figure of the trace, and of generators over seeds. None where it is not defined."""

    figure: str
    trace: float | None
    chance: Range | None = None
    load: Range | None = None
    repeats: Range | None = None


class Fit(msgspec.Struct, kw_only=True):
    """Which generator one layer of a trace resembles.

    ``candidates`` are those without a parameter that reproduce the load, then all others, each in order of their score.
    ``by_load`` and ``by_repeats`` say by property whether the best in load, and the best in repeats, has it: false
    where the trace is further from the generator's mean than each of its seeds is.
    """

    layer: int
    tokens: int
    experts: int
    top_k: int
    stretches: int
    seeds: int
    candidates: list[Candidate]
    repeats: Repeats | None
    figures: list[Compared]
    by_load: dict[str, bool]
    by_repeats: dict[str, bool]
