"""The environment's id changes with what can move a number, and with nothing else."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest


def test_ceilings_load_and_revision_leave_it_alone(make: Any) -> None:
    plain = make.environment()
    busy = make.environment(
        ceilings={"cpu": make.ceilings()}, load_average=3.5, git_sha="a" * 40, git_dirty="0123456789ab"
    )
    assert busy.environment_id == plain.environment_id


def test_it_survives_the_disk_and_the_order_of_keys(make: Any) -> None:
    plain = make.environment(versions={"torch": "2.13.0", "triton": "3.7"})
    turned = make.environment(versions={"triton": "3.7", "torch": "2.13.0"})
    again = msgspec.json.decode(msgspec.json.encode(plain), type=type(plain))
    assert plain.environment_id == turned.environment_id == again.environment_id


def test_it_is_the_same_in_every_version_of_this_code(make: Any) -> None:
    """Runs on disk are compared by it: a change of the hash needs a change of the schema."""
    assert make.environment().environment_id == "58cbe8c05d7e"


@pytest.mark.parametrize(
    "change",
    [
        {"hostname": "there"},
        {"kernel": "6.2"},
        {"python": "3.12.0"},
        {"versions": {"torch": "2.11.0", "triton": None}},
        {"container": "docker"},
        {"governor": "powersave"},
        {"variables": {"OMP_NUM_THREADS": "1"}},
        {"devices": {}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_moves_a_number_changes_it(make: Any, change: dict[str, Any]) -> None:
    assert make.environment(**change).environment_id != make.environment().environment_id


def test_a_device_changes_it(make: Any) -> None:
    plain = make.environment()
    other = msgspec.structs.replace(plain.devices["cpu"], threads=1)
    assert make.environment(devices={"cpu": other}).environment_id != plain.environment_id
