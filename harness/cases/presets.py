"""Real models' MoE layers by name. The data is ``presets.toml``: a new model is a new table there."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib import resources

import msgspec

from harness.cases.hints import did_you_mean
from harness.cases.shape import Shape

ABOUT = ("source", "verified", "note")


class Preset(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A named Shape and where its figures come from.

    ``verified`` is false when any figure is remembered or second-hand; ``note`` says where the shape is not quite the
    model's own layer.
    """

    shape: Shape
    source: str
    verified: bool
    note: str = ""


def presets() -> dict[str, Preset]:
    """All presets by name, in the order of the file."""
    return dict(_load())


def preset(name: str) -> Shape:
    """Return the Shape of a preset; ``shape.name`` is the preset's name.

    Raises
    ------
    ValueError
        for an unknown name, with the names close to it, or all of them.
    """
    known = _load()
    if name not in known:
        raise ValueError(f"preset = {name!r}: {did_you_mean(name, known)} (`moebench list presets` shows them)")
    return known[name].shape


@cache
def _load() -> dict[str, Preset]:
    text = resources.files("harness.cases").joinpath("presets.toml").read_text(encoding="utf-8")
    return {name: _preset({"name": name, **row}) for name, row in tomllib.loads(text).items()}


def _preset(row: dict[str, object]) -> Preset:
    about = {key: row.pop(key) for key in ABOUT if key in row}
    return msgspec.convert({"shape": row, **about}, Preset)
