"""What disturbed a record is said, each with what to do, and a quiet one has nothing to say."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from harness.records.instability import instability
from harness.records.record import Neighbours

if TYPE_CHECKING:
    from tests.records.conftest import Maker

QUIET = (100 + np.random.default_rng(0).normal(0, 0.5, 60)).tolist()


def test_a_quiet_record_has_nothing_to_say(make: Maker) -> None:
    quiet = Neighbours(others_share=0.01, steal_share=0.0, gpu_processes=0)
    assert instability(make.record(timing=make.timing(QUIET), neighbours=quiet, flags=["drift"])) == []
    assert instability(make.record()) == instability(make.record(neighbours=Neighbours())) == []


@pytest.mark.parametrize(
    ("samples", "said"),
    [
        (QUIET[:4], "only 4 samples"),
        ([100.0] * 20 + [110.0] * 20, "speed drifted"),
        ([100.0, 100.1, 99.9, 120.0, 120.1] * 12, "two speeds, 40% of the samples at the slower"),
        ((100 * np.exp(np.random.default_rng(2).normal(0, 0.4, 30))).tolist(), "an unsteady median"),
        ([0.0, *QUIET], "samples that are no times"),
        ([float("nan")] * 9, "samples that are no times"),
    ],
)
def test_samples_tell(make: Maker, samples: list[float], said: str) -> None:
    assert_said(instability(make.record(timing=make.timing(samples))), said)


@pytest.mark.parametrize(
    ("flag", "said"),
    [("throttled", "the GPU throttled"), ("warm-up did not settle", "still getting faster after warm-up")],
)
def test_flags_tell(make: Maker, flag: str, said: str) -> None:
    assert_said(instability(make.record(flags=[flag])), said)


@pytest.mark.parametrize(
    ("neighbours", "said"),
    [
        (Neighbours(others_share=0.4), "other processes took 40% of the CPUs"),
        (Neighbours(steal_share=0.1), "the hypervisor took 10% of the CPUs"),
        (Neighbours(gpu_processes=2), "2 other processes on the GPU"),
    ],
)
def test_neighbours_tell(make: Maker, neighbours: Neighbours, said: str) -> None:
    assert_said(instability(make.record(neighbours=neighbours)), said)


@pytest.mark.parametrize(("share", "lines"), [(0.05, 0), (0.051, 1)])
def test_less_than_a_twentieth_of_the_cpus_is_not_worth_a_word(make: Maker, share: float, lines: int) -> None:
    for neighbours in (Neighbours(others_share=share), Neighbours(steal_share=share)):
        assert len(instability(make.record(timing=make.timing(QUIET), neighbours=neighbours))) == lines


@pytest.mark.parametrize(("reach", "lines"), [(4.9, 0), (5.1, 1)])
def test_a_median_is_unsteady_from_a_half_interval_of_a_twentieth_on(make: Maker, reach: float, lines: int) -> None:
    """Of six samples, the fewest that reach 95 %, the interval is the range."""
    samples = [100 - reach, 99.0, 100.0, 100.0, 101.0, 100 + reach]
    assert len(instability(make.record(timing=make.timing(samples)))) == lines


def assert_said(found: list[str], said: str) -> None:
    """One of the lines begins so, and all of them say what to do after a colon."""
    assert any(line.startswith(said) for line in found)
    assert all(len(line.split(": ", 1)[1].split()) >= 2 for line in found)


def test_several_things_at_once_are_all_said_and_the_side_is_named(make: Maker) -> None:
    record = make.record(
        timing=make.timing([100.0] * 20 + [110.0] * 20), neighbours=Neighbours(others_share=0.5), flags=["throttled"]
    )
    found = instability(record, "base")
    assert len(found) == 4, "drift, two speeds, throttled, neighbours"
    assert all(line.startswith("base: ") for line in found)
