"""What torch keeps once for a whole process: who changes it changes everybody else's time, and maybe answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class Setting(NamedTuple):
    """How a setting is read and written."""

    read: Callable[[], Any]
    write: Callable[[Any], object]


SETTINGS: Mapping[str, Setting] = {
    "torch.set_num_threads": Setting(torch.get_num_threads, torch.set_num_threads),
    "torch.set_default_dtype": Setting(torch.get_default_dtype, torch.set_default_dtype),
    "torch.set_default_device": Setting(torch.get_default_device, torch.set_default_device),
    "torch.set_grad_enabled": Setting(torch.is_grad_enabled, torch.set_grad_enabled),
    "torch.autograd.set_detect_anomaly": Setting(torch.is_anomaly_enabled, torch.set_anomaly_enabled),
    "torch.set_float32_matmul_precision": Setting(
        torch.get_float32_matmul_precision, torch.set_float32_matmul_precision
    ),
    "torch.use_deterministic_algorithms": Setting(
        torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms
    ),
}
"""By the function that sets them."""

Settings = dict[str, Any]


def read_settings() -> Settings:
    """Read all of them."""
    return {name: setting.read() for name, setting in SETTINGS.items()}


def restore_settings(before: Settings) -> list[str]:
    """Put back what was read ``before``, and say what had been changed: ``torch.set_num_threads from 1 to 4``."""
    changed = []
    for name, now in read_settings().items():
        if now != before[name]:
            changed.append(f"{name} from {before[name]} to {now}")
            SETTINGS[name].write(before[name])
    return changed
