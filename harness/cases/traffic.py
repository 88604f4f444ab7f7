"""What arrives at a layer, as a one-line specification such as ``gaussian:0.15``."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import msgspec

from harness.cases.replay import KIND, Replay, parse_replay
from harness.cases.shape import MOST, require

MOST_SEED = 2**40
"""Beyond it the seeds of a case's draws, made of it, would not fit into 64 bits."""


class TrafficKind(NamedTuple):
    """One way tokens spread over experts: its parameter's name, default and range, and what it is for."""

    parameter: str
    default: float | None
    lowest: float
    highest: float
    summary: str
    whole: bool = False


TRAFFIC_KINDS: dict[str, TrafficKind] = {
    "uniform": TrafficKind("", None, 0, 0, "every expert equally likely: a model balanced without an auxiliary loss"),
    "gaussian": TrafficKind(
        "sigma", 0.15, 0.0, 10.0, "per-expert bias N(0, sigma) on N(0, 1) logits; 0.15 is like a trained model"
    ),
    "zipf": TrafficKind("s", 1.0, 0.0, 10.0, "expert popularity falls as rank^-s: stress"),
    "dirichlet": TrafficKind("a", 10.0, 1e-3, 1e6, "expert popularity drawn from Dir(a, ..., a); small a is skewed"),
    "single_hot": TrafficKind("", None, 0, 0, "one expert is in every token's choice: max/mean = E/k"),
    "k_hot": TrafficKind("", None, 0, 0, "all tokens choose the same k experts"),
    "tile": TrafficKind(
        "rows", 128, 1, 65536, "each expert gets one token past a tile of that many rows: most padding", whole=True
    ),
    "temporal": TrafficKind(
        "rho", 0.3, 0.0, 0.999, "logits correlated from token to token (0.3 is Mixtral's layer 15), sigma 0.15"
    ),
    KIND: TrafficKind(
        "FILE?layer=N&phase=decode",
        None,
        0,
        0,
        "a recorded trace, a file or a shipped one's name; also request=, and window= rows from start= on",
    ),
}


class Traffic(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """T tokens, how they spread over the experts, and the seed of everything random in the case.

    ``spread`` is ``kind`` or ``kind:parameter``, see ``TRAFFIC_KINDS``; it is stored with its parameter written out, so
    that ``gaussian`` and ``gaussian:0.15`` are the same case. A recorded trace has been looked up before: its
    specification is written out by ``harness.cases.replay.resolve_replay``.
    """

    tokens: int
    spread: str = "gaussian"
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.tokens >= 0, "tokens", self.tokens, "a whole number of at least 0")
        require(self.tokens <= MOST, "tokens", self.tokens, f"a whole number of at most {MOST}")
        require(0 <= self.seed <= MOST_SEED, "seed", self.seed, f"a whole number from 0 to {MOST_SEED}")
        kind, parameter = parse_spread(self.spread)
        replay = self.replay
        if replay is not None:
            require(replay.digest != "", "traffic", self.spread, "a trace that was looked up: rows=… and #digest")
            written = str(replay)
        else:
            written = kind if parameter is None else f"{kind}:{parameter:g}"
        msgspec.structs.force_setattr(self, "spread", written)

    @property
    def kind(self) -> str:
        """The generator's name."""
        return parse_spread(self.spread)[0]

    @property
    def parameter(self) -> float | None:
        """The generator's parameter, None where it takes none."""
        return parse_spread(self.spread)[1]

    @property
    def replay(self) -> Replay | None:
        """Which rows of which trace are replayed, None where tokens are generated."""
        return parse_replay(self.spread) if self.spread.startswith(f"{KIND}:") else None

    @property
    def label(self) -> str:
        """The spread for people: a trace by its name, without the path."""
        return self.replay.label if self.replay else self.spread

    @property
    def nameless(self) -> Traffic:
        """The same traffic without the place where a trace was found, which is no part of what is measured."""
        if self.replay is None:
            return self
        return msgspec.structs.replace(self, spread=str(replace(self.replay, file="-")))


def parse_spread(text: str) -> tuple[str, float | None]:
    """Split ``kind[:parameter]`` and check it; a trace has no parameter but a ``Replay``, see ``Traffic.replay``.

    Raises
    ------
    ValueError
        with the key ``traffic`` and what is allowed.
    """
    kind, _, given = text.partition(":")
    allowed = "one of " + ", ".join(
        f"{name}:{k.parameter}" if k.parameter else name for name, k in TRAFFIC_KINDS.items()
    )
    require(kind in TRAFFIC_KINDS, "traffic", text, allowed)
    if kind == KIND:
        parse_replay(text if given else f"{KIND}:")
        return kind, None
    spec = TRAFFIC_KINDS[kind]
    if spec.default is None:
        require(not given, "traffic", text, f"{kind!r} takes no parameter")
        return kind, None
    try:
        value = float(given) if given else spec.default
    except ValueError:
        value = float("nan")
    whole = "a whole number " if spec.whole else ""
    allowed = f"{kind}:{spec.parameter} with {spec.parameter} {whole}from {spec.lowest:g} to {spec.highest:g}"
    fits = spec.lowest <= value <= spec.highest and (not spec.whole or float(value).is_integer())
    require(fits, "traffic", text, allowed)
    return kind, value
