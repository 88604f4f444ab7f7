"""Datasheets: look-alikes are told apart, and nothing is guessed."""

from __future__ import annotations

import pytest

from harness.cases.datasheet import Datasheet, datasheet_for, datasheets

GIB = 2**30


@pytest.mark.parametrize(
    ("device", "gib", "name"),
    [
        ("NVIDIA H100 80GB HBM3", 79.2, "H100 SXM"),
        ("NVIDIA H100 PCIe", 79.1, "H100 PCIe"),
        ("NVIDIA H200", 139.8, "H200 SXM"),
        ("NVIDIA A100-SXM4-80GB", 79.3, "A100 SXM 80GB"),
        ("NVIDIA A100-SXM4-40GB", 39.4, "A100 SXM 40GB"),
        ("NVIDIA A100 80GB PCIe", 79.3, "A100 PCIe 80GB"),
        ("NVIDIA A100-PCIE-40GB", 39.4, "A100 PCIe 40GB"),
        ("NVIDIA B200", 178.4, "B200 SXM"),
        ("NVIDIA L40S", 44.4, "L40S"),
        ("NVIDIA GeForce RTX 4090", 23.6, "RTX 4090"),
        ("AMD Instinct MI300X", 192.0, "MI300X"),
    ],
)
def test_known_gpus(device: str, gib: float, name: str) -> None:
    sheet = datasheet_for(device, int(gib * GIB))
    assert sheet is not None
    assert sheet.name == name


@pytest.mark.parametrize(
    ("device", "gib"),
    [
        ("NVIDIA H100 NVL", 93.0),
        ("NVIDIA H200 NVL", 139.8),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", 9.5),
        ("NVIDIA H100 80GB HBM3", 39.0),
        ("NVIDIA GH200 480GB", 94.5),
        ("NVIDIA GeForce RTX 4090 D", 23.6),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", 15.7),
        ("AMD Instinct MI250X", 64.0),
        ("cpu", 80.0),
        ("", 80.0),
    ],
)
def test_what_is_not_known_has_no_datasheet(device: str, gib: float) -> None:
    assert datasheet_for(device, int(gib * GIB)) is None


def test_h100_figures() -> None:
    sheet = datasheet_for("NVIDIA H100 80GB HBM3", 79 * GIB)
    assert sheet is not None
    assert sheet.flops_per_second("bf16") == 989.5e12
    assert sheet.flops_per_second("fp32") == 67e12
    assert sheet.flops_per_second("fp4") is None
    assert sheet.bytes_per_second == 3.35e12
    assert sheet.tdp_watts == 700
    assert sheet.verified


def test_a100_has_no_fp8() -> None:
    assert all(s.flops_per_second("fp8") is None for s in datasheets() if s.name.startswith("A100"))


@pytest.mark.parametrize("sheet", datasheets(), ids=lambda sheet: sheet.name)
def test_rows_are_sound(sheet: Datasheet) -> None:
    assert sheet.source
    assert sheet.match
    assert sheet.tflops["bf16"] == sheet.tflops["fp16"], "no GPU here has another rate for fp16 with fp32 accumulation"
    assert sheet.tflops["fp32"] < sheet.tflops["bf16"]
    for figure in sheet.unverified:
        part, _, dtype = figure.partition(".")
        assert hasattr(sheet, part)
        assert not dtype or dtype in sheet.tflops, "only figures that are given can be unverified"


def test_every_gpu_matches_at_most_one_row() -> None:
    for sheet in datasheets():
        for pattern in sheet.match:
            hits = [other.name for other in datasheets() if other.describes(pattern, int(sheet.memory_gib * GIB))]
            assert hits == [sheet.name]


@pytest.mark.parametrize(("device", "gib", "ratio"), [("NVIDIA A100-SXM4-80GB", 79, 153), ("NVIDIA H200", 140, 206)])
def test_published_flops_per_byte(device: str, gib: int, ratio: float) -> None:
    sheet = datasheet_for(device, gib * GIB)
    assert sheet is not None
    peak = sheet.flops_per_second("bf16")
    assert peak is not None
    assert peak / sheet.bytes_per_second == pytest.approx(ratio, abs=0.5)
