"""The axes of a sweep: values checked against what their keys hold, and made into cases."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from harness.cases.case import Case
from harness.cases.hints import did_you_mean
from harness.cases.huggingface import shape_from_config
from harness.cases.keys import (
    AUTO,
    CASE_KEYS,
    FIELDS,
    KEYS,
    LAYER_KEYS,
    NAMED_LAYERS,
    ROUTER_KEYS,
    SHAPE_KEYS,
    SHAPE_SIZES,
    TRAFFIC_KEYS,
    TYPE_WORDS,
)
from harness.cases.labels import CHANGED
from harness.cases.presets import preset
from harness.cases.replay import KIND, check_replay, resolve_replay
from harness.cases.shape import Router, Shape, require
from harness.cases.traffic import Traffic

if TYPE_CHECKING:
    from pathlib import Path

Value = str | int | float | bool
Axes = Mapping[str, Sequence[Value]]
"""The values of each key."""


def parse_values(key: str, given: object) -> tuple[Value, ...]:
    """Check what a key holds, one value or a list of them, and return each value once.

    Raises
    ------
    ValueError
        for an unknown key, an empty list, or a value of the wrong type.
    """
    require(key in KEYS, key, given, f"not a key of a sweep, {did_you_mean(key, KEYS)}")
    values = given if isinstance(given, list) else [given]
    require(len(values) > 0, key, given, "at least one value")
    return tuple(dict.fromkeys(_typed(key, value) for value in values))


def parse_override(text: str) -> tuple[str, list[Value]]:
    """Read ``key=value[,value]`` of the command line's ``--set``.

    Raises
    ------
    ValueError
        naming ``--set``, the key and what is allowed.
    """
    key, equals, given = text.partition("=")
    key = key.strip()
    try:
        require(equals == "=" and key != "", "--set", text, "key=value, or key=value,value")
        require(key in KEYS, key, given, f"not a key of a sweep, {did_you_mean(key, KEYS)}")
        return key, [_from_text(key, word.strip()) for word in given.split(",")]
    except ValueError as error:
        message = str(error)
        raise ValueError(message if message.startswith("--set") else f"--set: {message}") from error


def make_case(choice: Mapping[str, Value], device: str) -> Case:
    """Make the case of one point of a sweep: a value for each key; ``device`` where it names none.

    Raises
    ------
    ValueError
        when a key is missing or the values do not go together.
    """
    if "tokens" not in choice:
        raise ValueError("tokens is missing: how many tokens arrive at the layer")
    about: dict[str, Any] = _fields(choice, CASE_KEYS)
    if about.get("device", AUTO) == AUTO:
        about["device"] = device
    case = Case(shape=_make_shape(choice), traffic=_make_traffic(choice), **about)
    if case.traffic.replay:
        check_replay(case.traffic.spread, case.shape, case.scope)
    return case


def _make_traffic(choice: Mapping[str, Value]) -> Traffic:
    fields = _fields(choice, TRAFFIC_KEYS)
    return Traffic(**fields | {"spread": look_up(str(fields["spread"]))} if "spread" in fields else fields)


def look_up(spread: str, folder: Path | None = None) -> str:
    """Find the trace that a traffic names, see ``resolve_replay``; other traffic stays as it is."""
    return resolve_replay(spread, folder) if spread.startswith(f"{KIND}:") else spread


def _make_shape(choice: Mapping[str, Value]) -> Shape:
    sizes, routing = _fields(choice, SHAPE_KEYS), _fields(choice, ROUTER_KEYS)
    if "preset" not in choice and "model" not in choice:
        missing = [key for key in SHAPE_SIZES if key not in sizes]
        if missing:
            raise ValueError(f"{', '.join(missing)} missing: give preset, model, or all of {', '.join(SHAPE_SIZES)}")
        return Shape(**sizes, router=Router(**routing))
    named = preset(str(choice["preset"])) if "preset" in choice else shape_from_config(str(choice["model"]))
    changed = msgspec.structs.replace(named, **sizes, router=msgspec.structs.replace(named.router, **routing))
    return named if changed == named else msgspec.structs.replace(changed, name=named.name + CHANGED)


def _fields(choice: Mapping[str, Value], keys: Mapping[str, type]) -> dict[str, Any]:
    return {FIELDS.get(key, key): choice[key] for key in keys if key in choice}


def _typed(key: str, value: object) -> Value:
    """Return a value if it has its key's type; a whole number passes for a number, a truth value for neither."""
    kind = KEYS[key]
    fits = isinstance(value, (int, float) if kind is float else kind) and isinstance(value, bool) == (kind is bool)
    require(fits, key, value, TYPE_WORDS[kind])
    assert isinstance(value, str | int | float)
    require(value != "", key, value, TYPE_WORDS[kind])
    if kind is float:
        require(math.isfinite(float(value)), key, value, TYPE_WORDS[kind])
        return float(value)
    return value


def _from_text(key: str, word: str) -> Value:
    kind = KEYS[key]
    truths = {"true": True, "false": False}
    try:
        return _typed(key, truths[word] if kind is bool else kind(word))
    except (KeyError, ValueError):
        raise ValueError(f"{key} = {word!r}: {TYPE_WORDS[kind]}") from None


def combine_axes(axes: Axes, overrides: Axes) -> dict[str, tuple[Value, ...]]:
    """Lay the command line's axes over a sweep's: each replaces its own, a preset or a model replaces the whole layer.

    Raises
    ------
    ValueError
        when an override is malformed, or both preset and model are named.
    """
    named = any(key in overrides for key in NAMED_LAYERS)
    kept = {key: tuple(values) for key, values in axes.items() if not (named and key in LAYER_KEYS)}
    merged = kept | {key: parse_values(key, list(values)) for key, values in overrides.items()}
    if "preset" in merged and "model" in merged:
        raise ValueError(f"model = {merged['model'][0]!r}: not together with preset")
    return merged
