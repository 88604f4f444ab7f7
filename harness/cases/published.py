"""Figures that others published for a layer, to stand beside ours: ``[[published]]`` in a suite."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal, get_args

import msgspec

from harness.cases.axes import make_case, parse_values
from harness.cases.case import Case
from harness.cases.hints import did_you_mean
from harness.cases.keys import KEYS
from harness.cases.shape import require

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harness.cases.axes import Value

Unit = Literal["TFLOP/s", "ms"]
UNITS: tuple[str, ...] = get_args(Unit)
TEXTS = ("source", "implementation", "device", "ours", "note")
NEEDED = ("source", "implementation", "figure", "unit")
ANY_DEVICE = "cpu"
"""Stands in the case of a published figure, whose device is a text: names on datasheets are no devices of ours."""


class Published(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What somebody published about a layer.

    ``implementation`` and ``device`` are theirs, in their words; an empty ``device`` was not stated. ``ours`` names the
    implementation of ours that does what theirs does, if any. ``case`` is what they measured, as far as they say: its
    device, execution and seed mean nothing. ``verified`` says that the figure was reproduced with their own code.
    """

    source: str
    implementation: str
    figure: float
    unit: Unit
    case: Case
    device: str = ""
    ours: str = ""
    note: str = ""
    verified: bool = False

    def same_work(self, case: Case) -> bool:
        """Whether a case of ours asks for the same: layer, tokens, traffic, dtype, pass and scope."""
        return _work(case) == _work(self.case)

    def same_device(self, name: str) -> bool:
        """Whether a device of ours, by its full name, is the one they name."""
        return self.device != "" and re.search(rf"\b{re.escape(self.device)}\b", name, re.IGNORECASE) is not None


def parse_published(table: Mapping[str, object]) -> Published:
    """Read one table: its own keys, and those of a ``[[case]]`` but device and seed.

    Raises
    ------
    ValueError
        naming the key and what is allowed.
    """
    about: dict[str, Any] = {}
    choice: dict[str, Value] = {}
    keys = (*TEXTS, "figure", "unit", "verified", *(key for key in KEYS if key not in {*TEXTS, "seed"}))
    for key, given in table.items():
        require(key in keys, key, given, f"not a key of [[published]], {did_you_mean(key, keys)}")
        if key in TEXTS:
            require(isinstance(given, str) and given != "", key, given, "a text")
            about[key] = given
        elif key in {"figure", "unit", "verified"}:
            about[key] = given
        else:
            require(not isinstance(given, list), key, given, "one value")
            choice[key] = parse_values(key, given)[0]
    missing = [key for key in NEEDED if key not in about]
    if missing:
        raise ValueError(f"{', '.join(missing)} missing: who published which figure of what")
    figure, verified = about["figure"], about.get("verified", False)
    number = isinstance(figure, int | float) and not isinstance(figure, bool) and 0 < figure < float("inf")
    require(number, "figure", figure, "a number above 0")
    require(about["unit"] in UNITS, "unit", about["unit"], f"one of {', '.join(UNITS)}")
    require(isinstance(verified, bool), "verified", verified, "true or false")
    return Published(**about | {"figure": float(figure)}, case=make_case(choice, ANY_DEVICE))


def _work(case: Case) -> Case:
    """Leave out of a case what is no part of the work: names, the device, how calls are launched, the seed."""
    shape = msgspec.structs.replace(case.shape, name="")
    traffic = msgspec.structs.replace(case.traffic, seed=0)
    return msgspec.structs.replace(case, shape=shape, traffic=traffic, device=ANY_DEVICE, execution="eager")
