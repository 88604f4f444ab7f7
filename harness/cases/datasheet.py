"""What a GPU's maker promises. The data is ``datasheet.toml``; a GPU that is not in it has no datasheet."""

from __future__ import annotations

import tomllib
from fnmatch import fnmatchcase
from functools import cache
from importlib import resources

import msgspec

MEMORY_SHORT = 0.90
"""A driver reports a little less than the nominal memory: ECC and its own tables are taken off."""
MEMORY_OVER = 1.05


class Datasheet(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The dense peaks of one GPU: TFLOP/s by dtype, TB/s (10^12), board power.

    ``match`` are shell patterns of device names, ``memory_gib`` the nominal memory. ``unverified`` names the figures
    that are remembered or second-hand, as ``tdp_watts`` or ``tflops.fp8``.
    """

    name: str
    match: tuple[str, ...]
    memory_gib: float
    tflops: dict[str, float]
    tbytes_per_second: float
    tdp_watts: float
    source: str
    unverified: tuple[str, ...] = ()

    @property
    def verified(self) -> bool:
        """Whether every figure was read in its source."""
        return not self.unverified

    @property
    def bytes_per_second(self) -> float:
        """Peak memory bandwidth."""
        return self.tbytes_per_second * 1e12

    def flops_per_second(self, dtype: str) -> float | None:
        """Peak FLOP/s of a dtype (fp32, tf32, bf16, fp16, fp8, fp4), None where there is none."""
        peak = self.tflops.get(dtype)
        return None if peak is None else peak * 1e12

    def describes(self, name: str, memory_bytes: int) -> bool:
        """Whether a device of this name and memory is this GPU."""
        fill = memory_bytes / 2**30 / self.memory_gib
        named = any(fnmatchcase(name.strip(), pattern) for pattern in self.match)
        return named and MEMORY_SHORT <= fill <= MEMORY_OVER


def datasheet_for(name: str, memory_bytes: int) -> Datasheet | None:
    """Find a GPU's datasheet by the name torch gives it and its total memory, or None when it is not known.

    A MIG slice carries its profile in its name and has a slice's memory, so it is not mistaken for the whole GPU.
    """
    return next((sheet for sheet in datasheets() if sheet.describes(name, memory_bytes)), None)


@cache
def datasheets() -> tuple[Datasheet, ...]:
    """All datasheets, in the order of the file."""
    text = resources.files("harness.cases").joinpath("datasheet.toml").read_text(encoding="utf-8")
    return msgspec.convert(tomllib.loads(text)["gpu"], tuple[Datasheet, ...])
