"""The devices as the child sees them: what only torch and NVML can tell. Imports torch, so the parent must not."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec
import torch

from harness.cases.datasheet import datasheet_for
from harness.measure.caches import cache_bytes
from harness.measure.meters.memory import allocations_are_reported, resident_peak_bytes
from harness.measure.meters.nvml import NvmlUnavailable, open_board
from harness.records.environment import Device
from harness.running.environment import cpu_device, cpu_model
from harness.running.facts import BoardFacts, Facts

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from harness.measure.meters.nvml import Board


def torch_devices() -> dict[str, Device]:
    """Describe every device a case can run on, by the name cases use: ``cpu``, ``cuda:0``, ..."""
    devices = {"cpu": cpu_device(torch.get_num_threads())}
    return devices | {name: cuda_device(name) for name in cuda_names()}


def device_name(device: str) -> str:
    """Return the model of a device a case names, as tuned configurations are kept under."""
    return str(torch.cuda.get_device_properties(device).name) if device.startswith("cuda") else cpu_model()


def cuda_names() -> list[str]:
    """Names of the GPUs torch can use."""
    return [f"cuda:{index}" for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []


def cuda_device(name: str) -> Device:
    """Describe one GPU. ``cores`` are its multiprocessors; what NVML withholds is None."""
    properties = torch.cuda.get_device_properties(name)
    sheet = datasheet_for(properties.name, properties.total_memory)
    board, _ = board_of(name)
    return Device(
        name=properties.name,
        kind="cuda",
        memory_bytes=properties.total_memory,
        cache_bytes=cache_bytes(name),
        cores=properties.multi_processor_count,
        capability=f"{properties.major}.{properties.minor}",
        uuid=uuid_of(name),
        driver=board.driver if board else None,
        power_limit_watts=board.power_limit_watts if board else None,
        mig=board.mig if board else None,
        datasheet=sheet.name if sheet else None,
    )


def uuid_of(name: str) -> str | None:
    """Return the UUID of a GPU or MIG instance, without a prefix; None where this torch does not tell."""
    uuid = getattr(torch.cuda.get_device_properties(name), "uuid", None)
    return None if uuid is None else str(uuid)


def board_of(name: str) -> tuple[Board | None, str]:
    """Open a device's board, or say why there is none."""
    if not name.startswith("cuda"):
        return None, "energy is read from NVIDIA boards through NVML, and this device is none"
    uuid = uuid_of(name)
    if uuid is None:
        return None, "this build of torch does not tell the GPU's UUID, so its board cannot be found"
    try:
        return open_board(uuid), ""
    except NvmlUnavailable as error:
        return None, error.reason


def probe_facts() -> dict[str, object]:
    """Try what ``doctor`` judges, and return it as plain data (``harness.running.facts.Facts``)."""
    names = cuda_names()
    facts = Facts(
        torch=str(torch.__version__),
        cuda_build=torch.version.cuda,
        gpus=len(names),
        threads=torch.get_num_threads(),
        memory_events=allocations_are_reported(),
        resident_peak=resident_peak_bytes(lambda: None) is not None,
        boards={name: _board_facts(name) for name in names},  # before this process runs anything on a GPU
        grouped_mm={name: grouped_mm_refuses(name) for name in ["cpu", *names]},
    )
    plain: dict[str, object] = msgspec.to_builtins(facts)
    return plain


def grouped_mm_refuses(device: str) -> str:
    """Why grouped matrix products do not run here in bf16, or an empty string when a small one did."""
    product: Callable[..., Tensor] | None = getattr(
        torch.nn.functional, "grouped_mm", getattr(torch, "_grouped_mm", None)
    )
    if product is None:
        return f"torch {torch.__version__} has no grouped_mm"
    try:
        x = torch.ones(16, 16, dtype=torch.bfloat16, device=device)
        weights = torch.ones(2, 16, 16, dtype=torch.bfloat16, device=device)
        product(x, weights, offs=torch.tensor([8, 16], dtype=torch.int32, device=device)).sum().item()
    except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
        return (str(error).strip().splitlines() or [type(error).__name__])[0]
    return ""


def _board_facts(name: str) -> BoardFacts:
    board, why_not = board_of(name)
    if board is None:
        return BoardFacts(why_not=why_not)
    try:
        board.total_energy_mj()
        no_energy = ""
    except NvmlUnavailable as error:
        no_energy = error.reason
    processes = board.process_ids()
    return BoardFacts(
        no_energy=no_energy,
        mig=board.mig,
        sm_clock_mhz=board.sm_clock_mhz(),
        max_sm_clock_mhz=board.max_sm_clock_mhz,
        temperature_c=board.temperature_c(),
        reasons=board.event_reasons(),
        processes=None if processes is None else [pid for pid in processes if pid != os.getpid()],
    )
