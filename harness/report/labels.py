"""What runs, machines and groups of cases are called in a report."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec

from harness.cases.labels import peculiarities, router_words, sizes_label
from harness.report.units import large

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.cases.case import Case
    from harness.cases.shape import Shape
    from harness.records.store import Run


def group_id(case: Case, *without: str) -> str:
    """Equal for cases that differ in nothing but their traffic, and in the shape's fields named in ``without``."""
    fields: dict[str, Any] = msgspec.to_builtins(case)
    del fields["traffic"]
    for name in ("name", *without):
        del fields["shape"][name]
    return hashlib.sha256(msgspec.json.encode(fields, order="sorted")).hexdigest()[:12]


def group_label(case: Case, *, execution: bool = True) -> str:
    """One line for people: the shape and how it was run, without the traffic, and on request without the execution."""
    how = [f"{case.dtype} {case.pass_}", case.scope, *([case.execution] * execution), case.device]
    return ", ".join([sizes_label(case.shape), *peculiarities(case.shape), *how])


def describe(case: Case) -> str:
    """Two plain sentences on what one call computes."""
    shape = case.shape
    kind = "gated" if shape.gated else "plain"
    bias = " with biases" if shape.bias else ""
    per_token = f"{shape.active_experts} of {shape.experts}"
    computed = {
        "experts": "The time covers the routed experts alone, the routing is given",
        "layer": "The time covers the router, the routed and the shared experts",
    }[case.scope]
    router = ", ".join([shape.router.kind, *router_words(shape.router)])
    backward = {"forward": ", forward only", "training": ", forward and backward"}[case.pass_]
    return (
        f"Each token passes through {per_token} experts, {kind} {shape.activation} networks{bias} of "
        f"{shape.hidden} → {shape.expert_hidden} → {shape.hidden}; router {router}{_shared(shape)}. "
        f"{large(shape.active_params)} of {large(shape.total_params)} weights are active. {computed}{backward}."
    )


def _shared(shape: Shape) -> str:
    if not shape.shared_experts:
        return ""
    gate = ", behind a sigmoid gate" if shape.shared_gated else ""
    return f"; shared experts: {shape.shared_experts} of width {shape.shared_hidden}{gate}"


def unique(labels: Sequence[str]) -> list[str]:
    """Tell equal labels apart by a number: ``a``, ``a (2)``."""
    seen: Counter[str] = Counter()
    told_apart = []
    for label in labels:
        seen[label] += 1
        told_apart.append(label if seen[label] == 1 else f"{label} ({seen[label]})")
    return told_apart


def run_labels(runs: Sequence[Run]) -> list[str]:
    """Host and devices of each run; where that does not tell runs apart, their directory too, and then a number."""
    plain = [", ".join([run.environment.hostname, *used_devices(run).values()]) for run in runs]
    repeated = {label for label, count in Counter(plain).items() if count > 1}
    named = [
        f"{label}, {run.path.name}" if label in repeated else label for label, run in zip(plain, runs, strict=True)
    ]
    return unique(named)


def used_devices(run: Run) -> dict[str, str]:
    """Short name of every device that the run's cases ask for, or of all there are when it has no records."""
    devices = run.environment.devices
    asked = dict.fromkeys(record.case.device for record in run.records) or devices
    return {word: short_name(devices[word].name) if word in devices else word for word in asked}


def short_name(device: str) -> str:
    """Shorten a device's name: no trade marks, clock rates and filling words."""
    bare = re.sub(r"\((?:R|TM|C)\)|@.*|\bCPU\b|\bProcessor\b|\d+-Core", " ", device, flags=re.IGNORECASE)
    return " ".join(bare.split()) or device


def slug(text: str) -> str:
    """Turn a label into a file name."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
