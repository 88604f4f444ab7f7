"""What is kept once for a whole process: who changes it changes everybody else's time, and maybe answers."""

from __future__ import annotations

import contextlib
import gc
import os
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

AUTOCAST_DEVICES = ("cpu", "cuda")
MATMUL = torch.backends.cuda.matmul


class Setting(NamedTuple):
    """How a setting is read and written."""

    read: Callable[[], Any]
    write: Callable[[Any], object]


def _of(owner: Any, name: str) -> Setting:  # noqa: ANN401 (torch's backends are modules with properties)
    return Setting(lambda: getattr(owner, name), lambda value: setattr(owner, name, value))


def _read_autocast() -> dict[str, tuple[bool, torch.dtype]]:
    return {kind: (torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in AUTOCAST_DEVICES}


def _write_autocast(values: Mapping[str, tuple[bool, torch.dtype]]) -> None:
    for kind, (enabled, dtype) in values.items():
        torch.set_autocast_enabled(kind, enabled)
        torch.set_autocast_dtype(kind, dtype)


SETTINGS: Mapping[str, Setting] = {
    "torch.set_num_threads": Setting(torch.get_num_threads, torch.set_num_threads),
    "torch.set_default_dtype": Setting(torch.get_default_dtype, torch.set_default_dtype),
    "torch.set_default_device": Setting(torch.get_default_device, torch.set_default_device),
    "torch.set_grad_enabled": Setting(torch.is_grad_enabled, torch.set_grad_enabled),
    "torch.set_autocast_enabled": Setting(_read_autocast, _write_autocast),
    "torch.autograd.set_detect_anomaly": Setting(torch.is_anomaly_enabled, torch.set_anomaly_enabled),
    "torch.set_float32_matmul_precision": Setting(
        torch.get_float32_matmul_precision, torch.set_float32_matmul_precision
    ),
    "torch.use_deterministic_algorithms": Setting(
        torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms
    ),
    "torch.backends.mkldnn.enabled": _of(torch.backends.mkldnn, "enabled"),
    **{
        f"torch.backends.cuda.matmul.{name}": _of(MATMUL, name)
        for name in (
            "allow_fp16_accumulation",
            "allow_fp16_reduced_precision_reduction",
            "allow_bf16_reduced_precision_reduction",
        )
    },
    "gc.enable": Setting(gc.isenabled, lambda enabled: gc.enable() if enabled else gc.disable()),
}
"""By what sets them."""
if hasattr(os, "sched_setaffinity"):
    SETTINGS = {
        **SETTINGS,
        "os.sched_setaffinity": Setting(lambda: os.sched_getaffinity(0), lambda cores: os.sched_setaffinity(0, cores)),
    }

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


@contextlib.contextmanager
def kept_settings() -> Iterator[None]:
    """Put all of them back after something that no one is blamed for: packages set what suits them when imported."""
    before = read_settings()
    try:
        yield
    finally:
        restore_settings(before)
