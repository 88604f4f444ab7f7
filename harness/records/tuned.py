"""Configurations that a tuner found: data in JSON files, one for each implementation and device.

An implementation ships files for devices somebody tuned it on; a person's own lie in ``$MOEBENCH_TUNED``, or else in
``$XDG_DATA_HOME/moebench/tuned`` (``~/.local/share`` by default), as ``IMPLEMENTATION/DEVICE.json``, and win.
"""

from __future__ import annotations

import functools
import math
import os
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from filelock import FileLock

from harness.records.record import Chosen, Values
from harness.records.store import replace_file

if TYPE_CHECKING:
    from harness.cases.shape import Shape

SCHEMA = 1
DIRECTORY_VARIABLE = "MOEBENCH_TUNED"
NEAR = 4.0
"""What was tuned serves up to so many times its tokens, and down to as small a part of them."""


class Key(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"pass_": "pass"}):
    """What a configuration is tuned for, beside the number of tokens and the device."""

    hidden: int
    expert_hidden: int
    experts: int
    top_k: int
    gated: bool
    dtype: str
    pass_: str

    @classmethod
    def of(cls, shape: Shape, dtype: str, pass_: str) -> Key:
        """Return the key of a shape; its name, activation, biases, router and shared experts do not matter."""
        return cls(
            hidden=shape.hidden,
            expert_hidden=shape.expert_hidden,
            experts=shape.experts,
            top_k=shape.active_experts,
            gated=shape.gated,
            dtype=dtype,
            pass_=pass_,
        )


class Evidence(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """On what an entry stands: ``ratio`` is its time over the default's, measured side by side in so many rounds."""

    default: Values
    ratio: float
    interval: tuple[float, float]
    rounds: int
    tried: int
    taken_at: str
    versions: dict[str, str | None] = {}


class Tuned(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One configuration that beat the default."""

    key: Key
    tokens: int
    values: Values
    evidence: Evidence | None = None


class TunedFile(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Everything tuned for one implementation on one model of device."""

    implementation: str
    device: str
    schema: int = SCHEMA
    entries: list[Tuned] = []


def own_folder() -> Path:
    """Where a person's own tuned configurations are kept."""
    if given := os.environ.get(DIRECTORY_VARIABLE):
        return Path(given)
    data = Path(os.environ.get("XDG_DATA_HOME", ""))
    return (data if data.is_absolute() else Path.home() / ".local" / "share") / "moebench" / "tuned"


def file_name(device: str) -> str:
    """Turn a device's name into a file's."""
    return (re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-") or "unknown") + ".json"


def own_path(implementation: str, device: str) -> Path:
    """Return the file in which a person's own configurations for an implementation on a device are kept."""
    return own_folder() / implementation / file_name(device)


def read_tuned(path: Path, implementation: str, device: str) -> TunedFile:
    """Read a file strictly.

    Raises
    ------
    ValueError
        with one line, when it cannot be read, or is for something else.
    """
    try:
        found = msgspec.json.decode(path.read_bytes(), type=TunedFile)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{path}: no tuned configurations of this version of moebench: {error}") from None
    for word, is_for, asked in (
        ("schema", found.schema, SCHEMA),
        ("implementation", found.implementation, implementation),
        ("device", found.device, device),
    ):
        if is_for != asked:
            raise ValueError(f"{path}: {word} = {is_for!r}: {asked!r} was expected")
    return found


def keep_tuned(path: Path, implementation: str, device: str, entry: Tuned) -> None:
    """Put an entry into a file, in place of an earlier one for the same key and tokens; the file is made if need be.

    Raises
    ------
    ValueError
        when there is a file that is not for this implementation and device.
    OSError
        when it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        file = TunedFile(implementation=implementation, device=device)
        if path.exists():
            file = read_tuned(path, implementation, device)
        others = [one for one in file.entries if (one.key, one.tokens) != (entry.key, entry.tokens)]
        file.entries = sorted([*others, entry], key=_order)
        replace_file(path, file)


def _order(entry: Tuned) -> tuple[Any, ...]:
    return (*msgspec.structs.astuple(entry.key), entry.tokens)


@dataclass(frozen=True)
class TunedBook:
    """Where an implementation looks up what was tuned for it: a person's own file first, then the shipped one.

    ``shipped`` is the folder that comes with the implementation; its files are called like a person's own.
    """

    implementation: str
    shipped: Path | None = None

    def find(self, shape: Shape, tokens: int, dtype: str, pass_: str, device: str) -> Chosen | None:
        """Return what was tuned for the nearest number of tokens, within ``NEAR`` times, or None.

        ``device`` is the name torch gives a GPU, or a CPU's model name. A file that is of no use is left out with one
        line of warning. Files are read once a process.
        """
        found = self._entries(Key.of(shape, dtype, pass_), device)
        away = {have: abs(math.log(max(tokens, 1) / max(have, 1))) for have in found}
        nearest = min(away, key=lambda have: (away[have], have), default=None)
        if nearest is None or away[nearest] > math.log(NEAR):
            return None
        entry, whose = found[nearest]
        return Chosen(values=entry.values, tuned=True, source=f"{whose} {file_name(device)}, at {nearest} tokens")

    def _entries(self, key: Key, device: str) -> dict[int, tuple[Tuned, str]]:
        """Entries for a key by tokens, and whose they are; a person's own in place of shipped ones."""
        places = {"shipped": self.shipped / file_name(device)} if self.shipped else {}
        places["own"] = own_path(self.implementation, device)
        found: dict[int, tuple[Tuned, str]] = {}
        for whose, path in places.items():
            entries = _read_once(path, self.implementation, device)
            found |= {entry.tokens: (entry, whose) for entry in entries if entry.key == key}
        return found


@functools.cache
def _read_once(path: Path, implementation: str, device: str) -> tuple[Tuned, ...]:
    if not path.exists():
        return ()
    try:
        return tuple(read_tuned(path, implementation, device).entries)
    except ValueError as error:
        warnings.warn(f"{error}; left out", RuntimeWarning, stacklevel=2)
        return ()
