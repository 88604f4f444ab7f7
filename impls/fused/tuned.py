"""Which configuration a call runs with: one that was tuned for its device, shape and tokens, or the default.

What was tuned is data: JSON files in ``tuned/`` beside this file, named by device, and a person's own, which win
(``moebench tune fused``). Both keep a configuration in few words: ``{"regime": "prefill", "first": "128x256x64 8w 4s",
...}``, block_m x block_n x block_k, warps and stages of each kernel, then ``tma`` and ``persistent`` where they hold.
"""

from __future__ import annotations

import functools
import re
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from harness import Chosen, TunedBook
from impls.fused.candidates import candidates
from impls.fused.configuration import KERNELS, Configuration, Tiles, valid
from impls.fused.defaults import default

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harness import Case, Shape

BOOK = TunedBook("fused", Path(__file__).parent / "tuned")
ON_CPU = (9, 0)
"""The compute capability that Triton's interpreter is taken to have."""


class Selection(NamedTuple):
    """A configuration, whether somebody tuned it, and where it comes from."""

    configuration: Configuration
    tuned: bool
    source: str

    def told(self) -> Chosen:
        """Return it as records keep it."""
        return Chosen(values=as_values(self.configuration), tuned=self.tuned, source=self.source)


@functools.lru_cache(maxsize=4096)
def choose(shape: Shape, tokens: int, dtype: str, pass_: str, device: str) -> Selection:
    """Choose for one call on a device, ``cpu`` or ``cuda:0``; asked again, it answers from memory.

    What was tuned at up to four times more or fewer tokens serves too, as far as the kernels can run it here. Where it
    cannot be read or run, one line of warning says so, and the default is taken.
    """
    capability = capability_of(device)
    fallback = default(shape, tokens, dtype, pass_, capability)
    if not device.startswith("cuda"):
        return Selection(fallback, tuned=False, source="default")
    found = BOOK.find(shape, tokens, dtype, pass_, torch.cuda.get_device_properties(device).name)
    if found is None:
        return Selection(fallback, tuned=False, source="default")
    try:
        configuration = from_values(found.values)
    except ValueError as error:
        warnings.warn(f"fused, {found.source}: {error}; the default is taken", RuntimeWarning, stacklevel=2)
        return Selection(fallback, tuned=False, source=f"default, {found.source} cannot be read")
    if not valid(configuration, shape, tokens, dtype, pass_, capability):
        return Selection(fallback, tuned=False, source=f"default, {found.source} does not fit here")
    return Selection(configuration, tuned=True, source=found.source)


def capability_of(device: str) -> tuple[int, int]:
    """Return a device's compute capability; the interpreter's for the CPU."""
    return torch.cuda.get_device_capability(device) if device.startswith("cuda") else ON_CPU


def neighbours(case: Case, base: Mapping[str, int | str] | None) -> list[dict[str, int | str]]:
    """Return a base, by default what runs untuned, and what a tuner may try from there (``Tunable.candidates``)."""
    about = case.shape, case.traffic.tokens, case.dtype, case.pass_
    capability = capability_of(case.device)
    start = None if base is None else from_values(base)
    return [as_values(one) for one in candidates(*about, base=start, capability=capability)]


def as_values(configuration: Configuration) -> dict[str, int | str]:
    """Write a configuration in a few words."""
    tiles = {name: _in_words(one) for name, one in configuration.tiles().items()}
    return {"regime": configuration.regime, **tiles}


def from_values(values: Mapping[str, int | str]) -> Configuration:
    """Read what ``as_values`` wrote.

    Raises
    ------
    ValueError
        with one line: what is missing, unknown or malformed.
    """
    regime = values.get("regime")
    if regime not in {"decode", "prefill"}:
        raise ValueError(f"regime = {regime!r}: decode or prefill")
    if unknown := values.keys() - {"regime", *KERNELS}:
        raise ValueError(f"{min(unknown)} = {values[min(unknown)]!r}: not a kernel, one of {', '.join(KERNELS)}")
    if missing := {"first", "second"} - values.keys():
        raise ValueError(f"{min(missing)} is missing")
    tiles = {name: _from_words(name, values[name]) for name in KERNELS if name in values}
    return Configuration(regime, **tiles)  # type: ignore[arg-type]  # one of two words, as said above


def _in_words(tiles: Tiles) -> str:
    size = "{block_m}x{block_n}x{block_k} {warps}w {stages}s".format(**asdict(tiles))
    return " ".join([size, *(word for word in ("tma", "persistent") if getattr(tiles, word))])


def _from_words(name: str, words: int | str) -> Tiles:
    found = re.fullmatch(r"(\d+)x(\d+)x(\d+) (\d+)w (\d+)s( tma)?( persistent)?", str(words))
    if not found:
        raise ValueError(f"{name} = {words!r}: such as '128x256x64 8w 4s' or '128x256x64 8w 4s tma persistent'")
    *numbers, tma, persistent = found.groups()
    m, n, k, warps, stages = map(int, numbers)
    return Tiles(m, n, k, warps, stages, tma=bool(tma), persistent=bool(persistent))
