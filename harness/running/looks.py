"""Looking at routing from the parent: workers draw and fit, since that takes torch; nothing is measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cases.axes import look_up, make_case, parse_override
from harness.cases.replay import KIND, parse_replay, replayed
from harness.cases.shape import require
from harness.cases.shipped import shipped_traces
from harness.fitting.fit import LEAST_TOKENS
from harness.running import jobs
from harness.running.child import Child, Limits
from harness.running.machine import MachineError
from harness.traces.reading import read_trace

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.cases.axes import Value
    from harness.cases.case import Case
    from harness.fitting.results import Fit, Shown
    from harness.running.child import Death

LIMITS = Limits()
USUAL_LAYER, USUAL_TOKENS = "olmoe-1b-7b", 4096


def named_by_file(spec: str) -> str:
    """Return ``trace:FILE?layer=N`` for ``FILE``, a trace's, with its first layer; other traffic stays as it is.

    Options may stand behind the file, ``FILE?layer=3&phase=decode``.

    Raises
    ------
    ValueError
        when the file is no trace.
    """
    file = spec.partition("?")[0]
    there = file in shipped_traces() or (file.endswith(".npz") and Path(file).is_file())
    if not there or spec.startswith(f"{KIND}:"):
        return spec
    asked = parse_replay(f"{KIND}:{spec}")
    return str(asked if asked.layer is not None else replace(asked, layer=_layers(file)[0]))


def _layers(file: str) -> list[int]:
    return read_trace(shipped_traces().get(file, Path(file))).layers


def _check_layer(spec: str) -> None:
    """Say how one layer of a trace is asked for; of several none is taken unasked."""
    asked = parse_replay(spec)
    if asked.layer is None and (asked.file in shipped_traces() or Path(asked.file).is_file()):
        layers = _layers(asked.file)
        spelling = replace(asked, layer=layers[0])
        require(len(layers) == 1, "traffic", spec, f"layer= one of {', '.join(map(str, layers))}, as in {spelling}")


def what_to_show(spec: str, preset: str, overrides: tuple[str, ...], tokens: int | None) -> Case:
    """Make the case whose routing is looked at.

    Without a preset it is OLMoE's layer, or for a trace one with its E and k; without tokens 4096, or all of a trace.

    Raises
    ------
    ValueError
        naming the key and what is allowed.
    """
    if spec.startswith(f"{KIND}:"):
        _check_layer(spec)
    choice: dict[str, Value] = {"preset": preset or USUAL_LAYER, "tokens": USUAL_TOKENS, "traffic": look_up(spec)}
    if spec.startswith(f"{KIND}:"):
        info, rows = replayed(str(choice["traffic"])).info, parse_replay(str(choice["traffic"])).rows or 0
        require(tokens is None or tokens <= rows, "--tokens", tokens, f"at most the {rows} rows that are chosen")
        choice["tokens"] = rows
        if not preset:
            del choice["preset"]
            choice |= {"hidden": info.experts, "expert_hidden": 1, "experts": info.experts, "top_k": info.top_k}
    for key, values in map(parse_override, overrides):
        require(len(values) == 1, "--set", f"{key}={','.join(map(str, values))}", "one value: one traffic is shown")
        choice[key] = values[0]
    if tokens is not None:
        choice["tokens"] = tokens
    require(int(choice["tokens"]) > 0, "--tokens", choice["tokens"], "a whole number above 0")
    return make_case(choice, "cpu")


def shown(case: Case) -> Shown:
    """Route a case's tokens and say what they look like.

    Raises
    ------
    MachineError
        when the worker dies.
    """
    found: list[Shown] = []

    def heard(outcome: jobs.Outcome) -> None:
        if isinstance(outcome, jobs.ShownOutcome):
            found.append(outcome.shown)

    _end_well(Child(jobs.ShowJob(shape=case.shape, traffic=case.traffic), LIMITS).run(heard, lambda _: None))
    return found[0]


def what_to_fit(path: Path, layers: str, phase: str, tokens: int) -> jobs.FitJob:
    """Say which layers of a trace are fitted: those named, ``3`` or ``0,3``, or all.

    Raises
    ------
    ValueError
        when the file is no trace, or has no such layer, phase or tokens.
    """
    path = shipped_traces().get(str(path), path)
    trace = read_trace(path)
    there = trace.layers
    words = [word.strip() for word in layers.split(",")] if layers else [str(layer) for layer in there]
    for word in words:
        require(word in map(str, there), "--layer", word, f"one of {', '.join(map(str, there))}")
    require(phase in {"", *trace.phases}, "--phase", phase, f"one of {', '.join(trace.phases)}")
    require(tokens >= LEAST_TOKENS, "--tokens", tokens, f"a whole number of at least {LEAST_TOKENS}")
    for word in words:
        rows = len(trace.select(layer=int(word), phase=phase or None))
        if rows < LEAST_TOKENS:
            of_phase = f" of phase {phase}" if phase else ""
            raise ValueError(f"{path}: layer {word} has {rows} tokens{of_phase}; a fit needs at least {LEAST_TOKENS}")
    return jobs.FitJob(path=str(path), layers=tuple(map(int, words)), phase=phase, tokens=tokens)


def fits(job: jobs.FitJob, doing: Callable[[str], None]) -> list[Fit]:
    """Fit generators to layers of a trace; ``doing`` hears what is being done.

    Raises
    ------
    MachineError
        when the worker dies.
    """
    found: list[Fit] = []

    def heard(outcome: jobs.Outcome) -> None:
        if isinstance(outcome, jobs.FitOutcome):
            found.append(outcome.fit)

    _end_well(Child(job, LIMITS).run(heard, lambda entry: doing(entry.stage)))
    return found


def _end_well(death: Death | None) -> None:
    if death:
        raise MachineError(f"the worker died while looking at routing: {death.reason(LIMITS)}\n{death.log_tail}")
