"""Traffic that replays a recorded trace: ``trace:FILE?layer=3&phase=decode``.

Written out, as a case keeps it, the specification ends in the number of rows it chooses and in a digest of the trace's
content: ``trace:/data/mine.npz?layer=3&phase=decode&rows=812#0f31…``. The file is where the trace was found, and no
part of a case's identity; the digest is, and whoever opens the file again holds it against that.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cases.hints import did_you_mean
from harness.cases.shape import require
from harness.cases.shipped import shipped_traces

if TYPE_CHECKING:
    from harness.cases.shape import Shape
    from harness.traces.format import Trace

KIND = "trace"
OPTIONS = ("layer", "phase", "request", "start", "window", "rows")
CHOICES = OPTIONS[:-1]
"""Those that people give; the number of rows is written out with the digest."""
PHASES = ("prefill", "decode")
WITHOUT_CHOICE = ("expert_choice", "mixture")
"""Routers under which a token does not choose k experts of its own."""


class ReplayError(ValueError):
    """A trace is not what a case was planned with."""


@dataclass(frozen=True)
class Replay:
    """Which rows of which trace. ``rows`` and ``digest`` are known once the file has been looked at.

    ``layer`` None stands for the only one there is, ``phase`` and ``request`` None for all. Of the rows these choose,
    ``window`` (None: all) from row ``start`` on.
    """

    file: str
    layer: int | None = None
    phase: str | None = None
    request: int | None = None
    start: int | None = None
    window: int | None = None
    rows: int | None = None
    digest: str = ""

    def __str__(self) -> str:
        """Write the specification, options in their order; ``parse_replay`` reads it."""
        return f"{KIND}:{self.file}{self._options(OPTIONS)}{'#' * bool(self.digest)}{self.digest}"

    @property
    def label(self) -> str:
        """For people: the file's name instead of its path, and four digits of the digest to tell contents apart."""
        return f"{KIND}:{Path(self.file).stem}{self._options(CHOICES)}#{self.digest[:4]}"

    def _options(self, names: tuple[str, ...]) -> str:
        given = [f"{name}={getattr(self, name)}" for name in names if getattr(self, name) is not None]
        return f"?{'&'.join(given)}" if given else ""


def parse_replay(spread: str) -> Replay:
    """Read ``trace:FILE[?option=value&...][#digest]``; looks at no file.

    Raises
    ------
    ValueError
        with the key ``traffic`` and what is allowed.
    """
    rest, _, digest = spread.removeprefix(f"{KIND}:").partition("#")
    file, _, options = rest.partition("?")
    require(file != "", "traffic", spread, "trace:FILE?layer=N&phase=decode, or the name of a shipped trace for FILE")
    require(re.fullmatch(r"[0-9a-f]{16}|", digest) is not None, "traffic", spread, "nothing, or 16 hex digits behind #")
    given: dict[str, int | str] = {}
    for option in options.split("&") if options else []:
        name, _, text = option.partition("=")
        require(name in OPTIONS, "traffic", spread, f"no option {name!r}, {did_you_mean(name, CHOICES)}")
        require(name not in given, "traffic", spread, f"{name} once")
        given[name] = _value(spread, name, text)
    require(("rows" in given) == bool(digest), "traffic", spread, "rows and a digest together, or neither")
    return Replay(file=file, digest=digest, **given)  # type: ignore[arg-type]


def _value(spread: str, name: str, text: str) -> int | str:
    if name == "phase":
        require(text in PHASES, "traffic", spread, f"phase one of {', '.join(PHASES)}")
        return text
    least = 1 if name in {"window", "rows"} else 0
    number = int(text) if re.fullmatch(r"\d{1,9}", text, re.ASCII) else -1
    require(number >= least, "traffic", spread, f"{name} a whole number of at least {least}")
    return number


def resolve_replay(spread: str, folder: Path | None = None) -> str:
    """Find the trace, in ``folder`` first, and write the specification out: layer, rows and digest included.

    Raises
    ------
    ValueError
        when there is no such file, it is no trace, chooses no row, or is not the one whose digest was given.
    """
    asked = parse_replay(spread)
    found = replace(asked, file=_find(asked.file, folder))
    trace = _open(found)
    layers = trace.layers
    if found.layer is None and len(layers) == 1:
        found = replace(found, layer=layers[0])
    require(found.layer in layers, "traffic", spread, f"layer= one of {', '.join(map(str, layers))}")
    chosen = _choose(trace, found)
    require(len(chosen) > 0, "traffic", spread, "a choice that leaves rows: these options leave none")
    require(asked.rows in {None, len(chosen)}, "traffic", spread, f"rows={len(chosen)}, or no rows and no digest")
    if len(chosen.phases) == 1:
        found = replace(found, phase=chosen.phases[0])
    return str(replace(found, rows=len(chosen), digest=trace.digest))


@lru_cache(maxsize=4)
def replayed(spread: str) -> Trace:
    """Return the rows that a written-out specification chooses, in the order in which they are replayed.

    Decoding takes one token of each request a step, so rows of phase ``decode`` go by step and then by request; others
    go by request and position.

    Raises
    ------
    ReplayError
        when the file is gone, broken, or another than the case was planned with.
    """
    replay = parse_replay(spread)
    try:
        return _choose(_open(replace(replay, file=_find(replay.file, None))), replay)
    except ValueError as error:
        raise ReplayError(str(error)) from error


class MisfitError(ValueError):
    """A trace that is in order, and a layer that cannot be made to route so."""


def check_replay(spread: str, shape: Shape, scope: str) -> None:
    """See whether a layer can be made to route as a trace did.

    Raises
    ------
    MisfitError
        when E or k differ, or in scope ``layer`` the shape's router could not have chosen so.
    """
    trace = replayed(spread)
    try:
        _check_fit(trace, parse_replay(spread).label, shape, scope)
    except ValueError as error:
        raise MisfitError(str(error)) from error


def _check_fit(trace: Trace, label: str, shape: Shape, scope: str) -> None:
    router, recorded = shape.router, (trace.info.experts, trace.info.top_k)
    of_shape = f"the trace has experts = {recorded[0]}, top_k = {recorded[1]}"
    require(recorded == (shape.experts, shape.top_k), "traffic", label, f"{of_shape}, the shape {_sizes(shape)}")
    choosing = router.kind not in WITHOUT_CHOICE
    require(choosing, "traffic", label, f"a router in which tokens choose, not {router.kind!r}")
    if scope != "layer":
        return
    wide = f"hidden of at least experts = {shape.experts} in scope layer, where x must lead the router to the trace"
    require(shape.hidden >= shape.experts, "traffic", label, wide)
    most = _most_groups(trace, shape.experts // router.groups)
    kept = f"the router keeps {router.top_groups} groups of experts, the trace takes {most}; scope experts replays it"
    require(most <= router.top_groups, "traffic", label, kept)


def _most_groups(trace: Trace, size: int) -> int:
    """In how many groups of consecutive experts some token's choice lies."""
    import numpy as np

    groups = np.sort(trace.ids // size, axis=1)
    return 1 + int((groups[:, 1:] != groups[:, :-1]).sum(axis=1).max(initial=0))


def _sizes(shape: Shape) -> str:
    return f"experts = {shape.experts}, top_k = {shape.top_k}"


def _choose(trace: Trace, replay: Replay) -> Trace:
    import numpy as np

    rows = trace.select(layer=replay.layer, phase=replay.phase, request=replay.request)
    if replay.phase == "decode":
        first = np.append(np.ones(min(1, len(rows)), dtype=bool), np.diff(rows.request) != 0)
        begun = np.flatnonzero(first)
        step = np.arange(len(rows)) - np.repeat(begun, np.diff(np.append(begun, len(rows))))
        rows = rows.take(np.lexsort((rows.request, step)))
    return rows.select(start=replay.start or 0, tokens=replay.window)


def _find(file: str, folder: Path | None) -> str:
    """Return a shipped trace's name as it is, of another file the absolute path."""
    shipped = shipped_traces()
    if file in shipped:
        return file
    places = [place / file for place in (folder, Path()) if place is not None]
    for place in places:
        if place.is_file():
            return str(place.resolve())
    hint = f"; shipped: {', '.join(shipped)}" if shipped else ""
    raise ValueError(f"traffic = 'trace:{file}': no such file{hint}")


def _open(replay: Replay) -> Trace:
    path = shipped_traces().get(replay.file) or Path(replay.file)
    status = path.stat()
    trace = _read(str(path), status.st_mtime_ns, status.st_size)
    same = replay.digest in {"", trace.digest}
    require(same, "traffic", replay.label, f"{path} has changed: its digest is {trace.digest}, not {replay.digest}")
    return trace


@lru_cache(maxsize=2)
def _read(path: str, changed_ns: int, size: int) -> Trace:  # noqa: ARG001 (a changed file is read anew)
    from harness.traces.reading import read_trace

    return read_trace(path)
