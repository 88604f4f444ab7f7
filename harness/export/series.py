"""Series: what a history shows. One for each case and metric, with the implementations side by side in it.

Works on records as plain JSON and needs the standard library alone: asv's benchmarks (``suites/asv``) load this file by
its path, beside whatever version of the harness the commit under test brings.

Lower is better in every metric. There is none for tokens/s: asv takes a rise for a regression and a fall for progress.
"""

from __future__ import annotations

import re
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

JSON = dict[str, Any]

VERSION = "2"
"""Of the metrics' definitions. A higher one hides every result so far: history then starts anew."""
CRITERIA = (("rel_error", "rel_tolerance"), ("worst_row", "row_tolerance"), ("worst_column", "row_tolerance"))
"""Which errors of a tensor are held against which tolerances (``TensorError.nearest``)."""
BASELINE = "dense"
"""The family whose time in the same bout the others' time is divided by."""
ORDINARY: dict[str, JSON] = {
    "shape": {
        "activation": "silu",
        "gated": True,
        "bias": False,
        "shared_experts": 0,
        "shared_hidden": 0,
        "shared_gated": False,
    },
    "router": {
        "kind": "softmax",
        "renormalise": False,
        "groups": 1,
        "top_groups": 1,
        "scale": 1.0,
        "selection_bias": False,
        "capacity_factor": 1.25,
    },
    "case": {"pass": "forward", "scope": "experts", "execution": "eager"},
}
"""What a name leaves out, so that a new field of the case, with its default, leaves all names as they are."""
SIZES = {"hidden": "H", "expert_hidden": "I", "experts": "E", "top_k": "k"}


class Outcome(NamedTuple):
    """What came of one implementation in one series: values, or why there are none (failed) or cannot be (skipped)."""

    values: list[float]
    skipped: str = ""
    failed: str = ""


class Metric(NamedTuple):
    """A quantity to follow. ``read(record, baseline)`` gives its values, or the reason why there are none.

    ``sampled`` metrics keep all their values, one a worker process or a call; of others the largest stands.
    """

    name: str
    title: str
    unit: str
    read: Callable[[JSON, JSON | None], list[float] | str]
    sampled: bool = True

    @property
    def kind(self) -> str:
        """Type of benchmark, in asv's word."""
        return "time" if self.unit == "seconds" else "track"


def case_name(case: JSON) -> str:
    """Name a case, equal for equal cases and different for any other difference; letters, digits, '_' and one '.'."""
    shape, traffic = case["shape"], case["traffic"]
    layer = [f"{letter}{shape[key]}" for key, letter in SIZES.items()]
    layer += _unusual(shape, ORDINARY["shape"], {*SIZES, "router", "name"})
    layer += [f"router_{words}" for words in _unusual(shape.get("router", {}), ORDINARY["router"])]
    rest = [f"T{traffic['tokens']}", _word(_plain_spread(traffic["spread"]))]
    rest += _unusual(traffic, {"seed": 0}, {"tokens", "spread"})
    rest += [case["dtype"], *_unusual(case, ORDINARY["case"], {"shape", "traffic", "dtype", "device"})]
    return f"{'_'.join(layer)}.{'_'.join(rest)}_{_word(case['device'])}"


def series_name(case: JSON, metric: Metric) -> str:
    """Name asv knows a series by. The last part tells asv what it is; it allows no '-', which it splits names at."""
    return f"{case_name(case)}.track_{metric.name}"


def series_title(case: JSON, metric: Metric) -> str:
    """One line for people above a graph."""
    layer, _, rest = case_name(case).partition(".")
    named = case["shape"].get("name")
    return f"{metric.title}: {named + ' ' if named else ''}{layer.replace('_', ' ')}, {rest.replace('_', ' ')}"


def parameter(name: str, version: str = "1") -> str:
    """Say which implementation; one whose version was raised starts a series of its own."""
    return name if version == "1" else f"{name}@{version}"


def outcomes(repeats: Iterable[Sequence[JSON]]) -> dict[str, dict[str, Outcome]]:
    """Read every series off records: series name, parameter, outcome.

    ``repeats`` are the records of measurements of the same commit on the same machine. Whoever failed in one of them
    has failed.
    """
    found: dict[str, dict[str, Outcome]] = {}
    for records in repeats:
        baselines = {r["bout"]: r for r in records if r["impl"]["family"] == BASELINE and r["bout"] and r["timing"]}
        for record in records:
            for metric, outcome in _read(record, baselines.get(record["bout"])):
                series = found.setdefault(series_name(record["case"], metric), {})
                who = parameter(record["impl"]["name"], record["impl"]["version"])
                series[who] = _pooled(metric, series[who], outcome) if who in series else outcome
    return found


def _read(record: JSON, baseline: JSON | None) -> Iterator[tuple[Metric, Outcome]]:
    status, reason = record["status"], record["reason"]
    for metric in METRICS:
        if metric is RELATIVE_TIME and record["impl"]["family"] == BASELINE:
            continue
        if status == "unsupported":
            yield metric, Outcome([], skipped=reason)
        elif status != "ok":
            yield metric, Outcome([], failed=f"{status}: {reason}")
        else:
            values = metric.read(record, baseline)
            yield metric, Outcome([], skipped=values) if isinstance(values, str) else Outcome(values)


def _pooled(metric: Metric, first: Outcome, second: Outcome) -> Outcome:
    failed = first.failed or second.failed
    values = [] if failed else first.values + second.values
    if values and not metric.sampled:
        values = [max(values)]
    return Outcome(values, skipped="" if values or failed else first.skipped or second.skipped, failed=failed)


def _time(record: JSON, baseline: JSON | None) -> list[float] | str:  # noqa: ARG001 (a metric's signature)
    return [ns / 1e9 for ns in record["timing"]["samples_ns"]]


def _relative_time(record: JSON, baseline: JSON | None) -> list[float] | str:
    """Median over rounds of time / the baseline's time in the same round, one a worker process."""
    if baseline is None:
        return "no dense baseline was timed in the same bout"
    own, others = _by_round(record["timing"]), _by_round(baseline["timing"])
    ratios: dict[int, list[float]] = {}
    for process, number in sorted(own.keys() & others.keys()):
        ratios.setdefault(process, []).append(own[process, number] / others[process, number])
    return [median(values) for values in ratios.values()] or "not timed in the same rounds as the dense baseline"


def _by_round(timing: JSON) -> dict[tuple[int, int], float]:
    processes = timing.get("processes") or [0] * len(timing["rounds"])
    return dict(zip(zip(processes, timing["rounds"], strict=True), timing["samples_ns"], strict=True))


def _peak_bytes(record: JSON, baseline: JSON | None) -> list[float] | str:  # noqa: ARG001 (a metric's signature)
    memory = record["memory"] or {}
    peak = memory.get("peak_bytes")
    if peak is None:
        return memory.get("reason") or "memory was not metered"
    return [float(peak + (memory.get("prepared_bytes") or 0))]


def _joules_per_token(record: JSON, baseline: JSON | None) -> list[float] | str:  # noqa: ARG001 (a metric's signature)
    energy = record["energy"] or {}
    joules = energy.get("joules_per_token") if energy.get("status") == "ok" else None
    return energy.get("reason") or "energy was not metered" if joules is None else [joules]


def _error(record: JSON, baseline: JSON | None) -> list[float] | str:  # noqa: ARG001 (a metric's signature)
    tensors = (record["agreement"] or {}).get("tensors") or {}
    shares = [
        one[error] / one[tolerance]
        for one in tensors.values()
        for error, tolerance in CRITERIA
        if one[tolerance] and one.get(error) is not None
    ]
    return [max(shares)] if shares else "no errors were recorded"


TIME = Metric("time", "time of a call", "seconds", _time)
RELATIVE_TIME = Metric("relative_time", "time relative to dense", "times dense", _relative_time)
PEAK_BYTES = Metric("peak_bytes", "peak memory of a call and what was prepared", "bytes", _peak_bytes, sampled=False)
JOULES_PER_TOKEN = Metric("joules_per_token", "energy of a token", "J", _joules_per_token)
ERROR = Metric("error", "worst error as a share of the tolerance", "tolerances", _error, sampled=False)
METRICS = (TIME, RELATIVE_TIME, PEAK_BYTES, JOULES_PER_TOKEN, ERROR)


def _unusual(given: Mapping[str, Any], ordinary: Mapping[str, Any], named: Iterable[str] = ()) -> list[str]:
    """Words for the fields that a name does not hold already and that are not as usual."""
    rest = {key: value for key, value in given.items() if key not in named}
    return [f"{key}_{_word(value)}" for key, value in rest.items() if key not in ordinary or ordinary[key] != value]


def _plain_spread(spread: str) -> str:
    kind, _, number = spread.partition(":")
    if kind == "trace":  # wherever it lies: the digest at the end says which
        return f"{kind}?{number.partition('?')[2]}"
    return f"{kind}:{float(number):g}" if number else kind


def _word(value: object) -> str:
    text = repr(value).removesuffix(".0") if isinstance(value, float) else str(value)
    return re.sub(r"[^A-Za-z0-9]", "_", text.replace("e-", "em").lower())
