"""When two records may be compared: what differs between their machines, and what may differ on request."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from harness.cases.shape import require

if TYPE_CHECKING:
    from harness.records.environment import Environment
    from harness.records.record import Record, Timing

ACROSS = ("device", "driver", "torch", "software", "version")
"""What ``--across`` may name. ``device`` takes its own settings along: cores, threads, power limit, driver."""

_DEVICE = {
    "name": "device",
    "capability": "device capability",
    "cores": "device cores",
    "threads": "device threads",
    "memory_bytes": "device memory in bytes",
    "cache_bytes": "device cache in bytes",
    "power_limit_watts": "device power limit in watts",
    "mig": "device MIG",
}
_SAME_MEMORY = 0.02
"""Share by which memory may differ: a kernel keeps a little more or less for itself after every start."""
_SOFTWARE = ("triton", "numpy", "transformers")


def parse_across(words: str) -> frozenset[str]:
    """Read ``--across device,torch``.

    Raises
    ------
    ValueError
        for a word it does not know.
    """
    asked = [word.strip() for word in words.split(",")] if words else []
    for word in asked:
        require(word in ACROSS, "--across", word, "one or more of " + ", ".join(ACROSS))
    return frozenset(asked)


def machines_differ(
    base: tuple[Record, Environment], new: tuple[Record, Environment], across: frozenset[str] = frozenset()
) -> str:
    """Say in one line what differs between two machines; empty when nothing does, or only what ``across`` allows."""
    differences = machine_differences(base[1], new[1], base[0].case.device, new[0].case.device)
    return "; ".join(dict.fromkeys(text for kind, text in differences if kind not in across))


def version_differs(base: Record, new: Record) -> str:
    """Say that an implementation's version was raised, which its author does when its speed is meant to change."""
    if base.impl.name != new.impl.name or base.impl.version == new.impl.version:
        return ""
    return f"version {base.impl.version} / {new.impl.version}: its speed was meant to change"


def machine_differences(base: Environment, new: Environment, device: str, new_device: str) -> list[tuple[str, str]]:
    """List what differs between two machines that can move a number, as (what ``--across`` calls it, words)."""
    found = []
    one, other = base.devices.get(device), new.devices.get(new_device)
    if one is None or other is None:
        found.append(("device", f"no description of {device if one is None else new_device} was kept"))
    else:
        found += [
            ("device", _differs(words, getattr(one, name), getattr(other, name)))
            for name, words in _DEVICE.items()
            if name != "memory_bytes" or not math.isclose(one.memory_bytes, other.memory_bytes, rel_tol=_SAME_MEMORY)
        ]
        taken_along = "driver" if one.name == other.name else "device"
        found.append((taken_along, _differs("driver", one.driver, other.driver)))
    found.append(("torch", _differs("torch", base.versions.get("torch"), new.versions.get("torch"))))
    found += [("software", _differs(name, base.versions.get(name), new.versions.get(name))) for name in _SOFTWARE]
    found.append(("software", _differs("Python", _minor(base.python), _minor(new.python))))
    for name in sorted(base.variables.keys() | new.variables.keys()):
        found.append(("software", _differs(name, base.variables.get(name), new.variables.get(name))))
    return [(kind, text) for kind, text in found if text]


def boards_differ(base: Environment, new: Environment, device: str) -> str:
    """Say that two GPUs are of one model but not the same one: times compare through a yardstick, joules do not."""
    uuids = [one.devices[device].uuid if device in one.devices else None for one in (base, new)]
    return _differs("board", *uuids) if all(uuids) else ""


def timed_differently(base: Timing, new: Timing) -> str:
    """Say what differs in how two times were taken, which no yardstick makes up for."""
    words = [_differs(name, getattr(base, name), getattr(new, name)) for name in ("clock", "cache")]
    return "; ".join(text for text in words if text)


def unchanged(base: Record, new: Record) -> bool:
    """Whether two records ran the very same code of an implementation, as far as its source shows."""
    same = base.impl.name == new.impl.name and base.impl.source_hash == new.impl.source_hash != "unknown"
    return same and base.impl.version == new.impl.version


def _differs(what: str, base: object, new: object) -> str:
    return "" if base == new else f"{what} {_word(base)} / {_word(new)}"


def _word(value: object) -> str:
    return "none" if value is None else str(value)


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])
