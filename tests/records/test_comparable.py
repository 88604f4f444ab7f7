"""What keeps two records from being compared, and what ``--across`` allows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from harness.records.comparable import (
    ACROSS,
    boards_differ,
    machines_differ,
    parse_across,
    timed_differently,
    unchanged,
    version_differs,
)
from harness.records.environment import Device
from harness.records.record import ImplInfo

if TYPE_CHECKING:
    from harness.records.environment import Environment
    from tests.records.conftest import Maker

GPU = Device(
    name="H100",
    kind="cuda",
    memory_bytes=80 << 30,
    cache_bytes=50 << 20,
    capability="9.0",
    driver="570",
    power_limit_watts=700.0,
    mig=False,
    uuid="GPU-1",
)


def gpu(make: Maker, versions: dict[str, str] | None = None, **fields: Any) -> Environment:
    devices = {"cuda:0": msgspec.structs.replace(GPU, **fields)}
    return make.environment(devices=devices, versions={"torch": "2.13.0"} | (versions or {}))


def differs(make: Maker, base: Environment, new: Environment, across: str = "") -> str:
    record = make.record(case=make.case(device="cuda:0"))
    return machines_differ((record, base), (record, new), parse_across(across))


def test_across_names_what_may_differ() -> None:
    assert parse_across("") == frozenset()
    assert parse_across("device, torch") == {"device", "torch"}
    assert parse_across(",".join(ACROSS)) == set(ACROSS)
    for wrong in ("gpu", "device,", "device;torch", ",", "Device"):
        with pytest.raises(ValueError, match="--across"):
            parse_across(wrong)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"name": "A100"}, "device H100 / A100"),
        ({"capability": "8.0"}, "device capability 9.0 / 8.0"),
        ({"cores": 132}, "device cores none / 132"),
        ({"threads": 4}, "device threads none / 4"),
        ({"memory_bytes": 40 << 30}, "device memory in bytes 85899345920 / 42949672960"),
        ({"cache_bytes": 1}, "device cache in bytes 52428800 / 1"),
        ({"power_limit_watts": 350.0}, "device power limit in watts 700.0 / 350.0"),
        ({"mig": True}, "device MIG False / True"),
    ],
)
def test_another_device_is_said_and_allowed_on_request(make: Maker, fields: dict[str, Any], said: str) -> None:
    base, new = gpu(make), gpu(make, **fields)
    assert differs(make, base, new) == said
    assert differs(make, base, new, "torch,driver,software,version") == said
    assert differs(make, base, new, "device") == ""


def test_the_same_machine_differs_in_nothing(make: Maker) -> None:
    assert differs(make, gpu(make), gpu(make)) == ""
    assert differs(make, gpu(make), gpu(make, memory_bytes=(80 << 30) - (1 << 28))) == "", "a kernel kept more"
    assert differs(make, gpu(make), gpu(make, uuid="GPU-2", datasheet="H100 SXM")) == ""


def test_a_driver_belongs_to_its_device(make: Maker) -> None:
    assert differs(make, gpu(make), gpu(make, driver="580")) == "driver 570 / 580"
    assert differs(make, gpu(make), gpu(make, driver="580"), "driver") == ""
    assert differs(make, gpu(make), gpu(make, driver="580"), "device") == "driver 570 / 580"
    assert differs(make, gpu(make), gpu(make, name="A100", driver="580"), "device") == ""


def test_software_is_compared_too(make: Maker) -> None:
    assert differs(make, gpu(make), gpu(make, {"torch": "2.12.0"})) == "torch 2.13.0 / 2.12.0"
    assert differs(make, gpu(make), gpu(make, {"torch": "2.12.0"}), "torch") == ""
    assert differs(make, gpu(make), gpu(make, {"triton": "3.6"})) == "triton none / 3.6"
    assert differs(make, gpu(make), gpu(make, {"triton": "3.6"}), "software") == ""
    assert differs(make, gpu(make), gpu(make, {"moebench": "0.2"})) == "", "it measures, and is not measured"


def test_python_counts_by_its_minor_version_and_variables_by_their_value(make: Maker) -> None:
    def cpu(**fields: Any) -> Environment:
        return make.environment(**fields)

    def said(base: Environment, new: Environment) -> str:
        return machines_differ((make.record(), base), (make.record(), new))

    assert said(cpu(python="3.11.1"), cpu(python="3.11.9")) == ""
    assert said(cpu(python="3.11.1"), cpu(python="3.12.1")) == "Python 3.11 / 3.12"
    threads = {"OMP_NUM_THREADS": "1"}
    assert said(cpu(variables=threads), cpu()) == "OMP_NUM_THREADS 1 / none"
    assert said(cpu(hostname="a", load_average=9.0, git_sha="b"), cpu()) == ""


def test_several_differences_are_one_line(make: Maker) -> None:
    said = differs(make, gpu(make), gpu(make, {"torch": "2.12.0"}, name="A100", capability="8.0"))
    assert said == "device H100 / A100; device capability 9.0 / 8.0; torch 2.13.0 / 2.12.0"


def test_a_machine_of_which_nothing_is_known_is_another(make: Maker) -> None:
    assert differs(make, gpu(make), make.environment()).startswith("no description of cuda:0 was kept")


def info(**fields: Any) -> ImplInfo:
    return ImplInfo(**({"name": "loop", "family": "loop", "source_hash": "aaa"} | fields))


def test_a_raised_version_is_said_and_another_implementation_has_its_own(make: Maker) -> None:
    base, new, other = make.record(), make.record(), make.record()
    base.impl, new.impl, other.impl = info(), info(version="2"), info(name="einsum", version="3")
    assert version_differs(base, base) == version_differs(base, other) == ""
    assert version_differs(base, new) == "version 1 / 2: its speed was meant to change"


@pytest.mark.parametrize(
    "fields", [{"name": "einsum"}, {"source_hash": "bbb"}, {"version": "2"}, {"source_hash": "unknown"}]
)
def test_unchanged_code_is_known_to_be_the_same(make: Maker, fields: dict[str, Any]) -> None:
    base, new = make.record(), make.record()
    base.impl, new.impl = info(), info(**fields)
    assert unchanged(base, base)
    assert not unchanged(base, new)
    if fields == {"source_hash": "unknown"}:
        assert not unchanged(new, new)


def test_two_boards_of_a_model_are_told_apart_where_they_say_who_they_are(make: Maker) -> None:
    assert boards_differ(gpu(make), gpu(make, uuid="GPU-2"), "cuda:0") == "board GPU-1 / GPU-2"
    assert boards_differ(gpu(make), gpu(make), "cuda:0") == ""
    assert boards_differ(gpu(make), gpu(make, uuid=None), "cuda:0") == ""
    assert boards_differ(gpu(make), make.environment(), "cuda:0") == ""


def test_hot_and_cold_or_two_clocks_are_two_kinds_of_time(make: Maker) -> None:
    base = make.timing([1.0])
    assert timed_differently(base, base) == ""
    assert timed_differently(base, make.timing([1.0], cache="hot")) == "cache cold / hot"
    assert timed_differently(base, make.timing([1.0], clock="cuda_graph", cache="hot")) == (
        "clock wall / cuda_graph; cache cold / hot"
    )
