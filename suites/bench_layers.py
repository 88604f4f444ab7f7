"""A suite's cases by its implementations, in pytest-benchmark's table: ``pytest suites/ --benchmark-only``.

The harness measures, side by side in a worker process; pytest-benchmark is shown its samples and times nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import pytest

from suites.bouts import BOUTS, details, readable_id

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from suites.bouts import Bouts


class Benchmark(Protocol):
    """What is used of pytest-benchmark's fixture."""

    enabled: bool
    name: str
    extra_info: dict[str, Any]

    def pedantic(self, target: Callable[[], None], *, setup: Callable[[], None], rounds: int) -> None:
        """Call ``setup`` and ``target`` ``rounds`` times and read the timer on both sides of ``target``."""
        ...


class Replay:
    """A clock that shows measured times: 0 before a call, that call's sample after it. So no digit is lost."""

    def __init__(self) -> None:
        self._shown_s = 0.0

    def measured_seconds(self) -> float:
        """Read the clock."""
        return self._shown_s

    def into(self, benchmark: Benchmark, samples_ns: Sequence[float]) -> None:
        """Have the fixture time calls that take as long as the samples, in their order."""
        samples = iter(samples_ns)

        def reset() -> None:
            self._shown_s = 0.0

        def call() -> None:
            self._shown_s = next(samples, 0.0) / 1e9  # 0 for the extra call of --benchmark-cprofile

        benchmark.pedantic(call, setup=reset, rounds=len(samples_ns))


replay = Replay()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each case and implementation, a group in the table for each case; the dense baseline apart."""
    bouts = metafunc.config.stash[BOUTS]
    tests = []
    for one in bouts.plan.planned:
        for name in one.implementations or ():
            apart = " (dense baseline, not ranked)" if bouts.is_baseline(name) else ""
            group = pytest.mark.benchmark(timer=replay.measured_seconds, group=one.case.label() + apart)
            tests.append(pytest.param(one.case.case_id, name, id=readable_id(one, name), marks=group))
    metafunc.parametrize(("case_id", "implementation"), tests)


@pytest.mark.timeout(0)  # a bout keeps its own limits
def test_layer(benchmark: Benchmark, bouts: Bouts, case_id: str, implementation: str) -> None:
    """Pass what agrees and is measured, skip what is unsupported, fail the rest, each with its record's reason."""
    record = bouts.record(case_id, implementation, timed=benchmark.enabled)
    if record.status == "unsupported":
        pytest.skip(record.reason)
    if record.status != "ok":
        pytest.fail(f"{implementation} {record.status}: {record.reason}\n{record.log_tail}".rstrip(), pytrace=False)
    if record.timing:
        benchmark.name = implementation  # short in the table, whose title is the case; ``fullname`` stays unique
        benchmark.extra_info.update(details(record))
        replay.into(benchmark, record.timing.samples_ns)
