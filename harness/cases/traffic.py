"""What arrives at a layer, as a one-line specification such as ``gaussian:0.15``."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from harness.cases.shape import require


class TrafficKind(NamedTuple):
    """One way tokens spread over experts: its parameter's name, default and range, and what it is for."""

    parameter: str
    default: float | None
    lowest: float
    highest: float
    summary: str


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
        "rows", 128, 1, 65536, "each expert gets one token past a tile of that many rows: most padding"
    ),
    "temporal": TrafficKind(
        "rho", 0.3, 0.0, 0.999, "logits correlated from token to token (0.3 is Mixtral's layer 15), sigma 0.15"
    ),
}


class Traffic(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """T tokens, how they spread over the experts, and the seed of everything random in the case.

    ``spread`` is ``kind`` or ``kind:parameter``, see ``TRAFFIC_KINDS``; it is stored with its parameter written out, so
    that ``gaussian`` and ``gaussian:0.15`` are the same case.
    """

    tokens: int
    spread: str = "gaussian"
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.tokens >= 0, "tokens", self.tokens, "a whole number of at least 0")
        require(self.seed >= 0, "seed", self.seed, "a whole number of at least 0")
        kind, parameter = parse_spread(self.spread)
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


def parse_spread(text: str) -> tuple[str, float | None]:
    """Split ``kind[:parameter]`` and check it.

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
    spec = TRAFFIC_KINDS[kind]
    if spec.default is None:
        require(not given, "traffic", text, f"{kind!r} takes no parameter")
        return kind, None
    try:
        value = float(given) if given else spec.default
    except ValueError:
        value = float("nan")
    in_range = f"{kind}:{spec.parameter} with {spec.parameter} from {spec.lowest:g} to {spec.highest:g}"
    require(spec.lowest <= value <= spec.highest, "traffic", text, in_range)
    return kind, value
