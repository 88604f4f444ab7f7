from __future__ import annotations

import json
import os
from types import SimpleNamespace

import msgspec
import pytest
import torch

from harness.measure.meters.nvml import NvmlUnavailable
from harness.running.facts import Facts
from harness.running.worker import devices

GPU = SimpleNamespace(
    name="NVIDIA H100 80GB HBM3",
    total_memory=85_000_000_000,
    multi_processor_count=132,
    major=9,
    minor=0,
    L2_cache_size=50 << 20,
    uuid="1b8e9a52-0000-1111-2222-333344445555",
)


class FakeBoard:
    driver, power_limit_watts, mig, max_sm_clock_mhz = "580.1", 700.0, False, 1980

    def total_energy_mj(self) -> int:
        raise NvmlUnavailable("no counter before Volta")

    def process_ids(self) -> list[int]:
        return [os.getpid(), 999_999]

    def sm_clock_mhz(self) -> int:
        return 1200

    def temperature_c(self) -> int:
        return 33

    def event_reasons(self) -> list[str]:
        return ["gpu_idle"]


@pytest.fixture
def one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _name: GPU)
    monkeypatch.setattr(devices, "open_board", lambda _uuid: FakeBoard())
    monkeypatch.setattr(devices, "grouped_mm_refuses", lambda _name: "")


def test_without_a_gpu_there_is_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = devices.torch_devices()
    assert list(found) == ["cpu"]
    assert found["cpu"].threads == torch.get_num_threads()


@pytest.mark.usefixtures("one_gpu")
def test_a_gpu_is_described() -> None:
    device = devices.torch_devices()["cuda:0"]
    assert (device.kind, device.name, device.capability, device.cores) == ("cuda", GPU.name, "9.0", 132)
    assert (device.cache_bytes, device.uuid, device.driver) == (50 << 20, GPU.uuid, "580.1")
    assert (device.power_limit_watts, device.mig) == (700.0, False)
    assert device.datasheet == "H100 SXM"


@pytest.mark.usefixtures("one_gpu")
def test_without_nvml_the_rest_of_a_gpu_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_uuid: str) -> None:
        raise NvmlUnavailable("no driver library")

    monkeypatch.setattr(devices, "open_board", refuse)
    device = devices.torch_devices()["cuda:0"]
    assert [device.driver, device.power_limit_watts, device.mig] == [None] * 3
    assert device.cores == 132
    assert devices.board_of("cuda:0") == (None, "no driver library")
    assert msgspec.convert(devices.probe_facts(), Facts).boards["cuda:0"].why_not == "no driver library"


@pytest.mark.usefixtures("one_gpu")
def test_without_a_uuid_there_is_no_board(monkeypatch: pytest.MonkeyPatch) -> None:
    nameless = SimpleNamespace(**{key: value for key, value in vars(GPU).items() if key != "uuid"})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _name: nameless)
    board, why_not = devices.board_of("cuda:0")
    assert board is None
    assert "UUID" in why_not


def test_the_cpu_has_no_board() -> None:
    board, why_not = devices.board_of("cpu")
    assert board is None
    assert "NVIDIA" in why_not


@pytest.mark.usefixtures("one_gpu")
def test_facts_of_a_gpu_are_plain_data_without_this_process() -> None:
    facts = msgspec.convert(json.loads(json.dumps(devices.probe_facts())), Facts)
    board = facts.boards["cuda:0"]
    assert board.processes == [999_999]
    assert board.no_energy == "no counter before Volta"
    assert (board.sm_clock_mhz, board.max_sm_clock_mhz, board.temperature_c) == (1200, 1980, 33)
    assert facts.gpus == 1


def test_facts_of_this_machine() -> None:
    facts = msgspec.convert(json.loads(json.dumps(devices.probe_facts())), Facts)
    assert facts.torch == str(torch.__version__)
    assert facts.memory_events
    assert facts.threads == torch.get_num_threads()
    assert "cpu" in facts.grouped_mm


@pytest.mark.parametrize("kind", [RuntimeError, NotImplementedError, TypeError, ValueError])
def test_grouped_products_that_do_not_run_have_a_reason(monkeypatch: pytest.MonkeyPatch, kind: type[Exception]) -> None:
    def refuse(*_args: object, **_kwargs: object) -> None:
        raise kind("needs capability 9.0\nand more")

    monkeypatch.setattr(torch.nn.functional, "grouped_mm", refuse, raising=False)
    assert devices.grouped_mm_refuses("cpu") == "needs capability 9.0"
    monkeypatch.setattr(torch.nn.functional, "grouped_mm", None, raising=False)
    assert "has no grouped_mm" in devices.grouped_mm_refuses("cpu")


@pytest.mark.cuda
def test_a_real_gpu_has_a_uuid_and_an_l2() -> None:
    device = devices.torch_devices()["cuda:0"]
    assert device.uuid
    assert device.cache_bytes > 0
