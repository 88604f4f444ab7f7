"""Looking around: whatever a module does on import, the rest of the machine is found."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.running import machine
from harness.running.child import Limits
from harness.running.machine import MachineError, look_around, measure_ceilings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PROBE = """
    from harness.records.environment import Device
    with open({log!r}, 'a') as log: print(sorted(job.skip), file=log)
    for module in ('impls', 'theirs', 'others'):
        if module in job.skip: continue
        self.note('', module, 'import')
        {on_import}
    self.note('', '', 'setup')
    {after}
    listed = [jobs.Listed(name=name, family='loop') for name in ('a', 'b')]
    listed += [jobs.Listed(name='far', missing='pip install far')]
    listed += [jobs.Listed(name=name, broken=reason) for name, reason in job.skip.items()]
    cuda = Device(name='GPU', kind='cuda', memory_bytes=1, cache_bytes=1)
    self.answer(jobs.ProbeOutcome(implementations=listed, devices={{'cuda:0': cuda}}, facts={{'torch': '2.13'}}))
    self.answer(jobs.DoneOutcome())
"""


@pytest.fixture
def probe(worker_does: Callable[[str], None], tmp_path: Path) -> Callable[..., Path]:
    """Have the probe do something while it imports, or after; returns a log with a line for each probe."""

    def replace(on_import: str = "pass", after: str = "pass") -> Path:
        worker_does(PROBE.format(log=str(tmp_path / "probes"), on_import=on_import, after=after))
        return tmp_path / "probes"

    return replace


def test_what_is_there_is_found(probe: Callable[..., Path]) -> None:
    probe()
    found = look_around()
    assert list(found.usable) == ["a", "b"]
    assert found.missing == {"far": "pip install far"}
    assert found.skip == {}
    assert found.facts == {"torch": "2.13"}
    assert list(found.environment.devices) == ["cpu", "cuda:0"]
    assert found.best_device == "cuda:0"


def test_without_a_gpu_the_cpu_is_best(probe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    probe()
    monkeypatch.setattr(machine, "assemble", lambda parent, _devices: parent)
    assert look_around().best_device == "cpu"


def test_modules_that_end_the_process_are_left_out(probe: Callable[..., Path]) -> None:
    log = probe("if module == 'theirs': os.abort()\n        if module == 'others': time.sleep(600)")
    found = look_around(Limits(stage_s=1.5))
    assert list(found.usable) == ["a", "b"]
    assert found.skip == {
        "theirs": "the process died of SIGABRT during 'import'",
        "others": "no sign of life for 1.5 s during 'import'; raise --timeout if it is only slow",
    }
    assert found.listed["theirs"].broken == found.skip["theirs"]
    assert log.read_text().splitlines() == ["[]", "['theirs']", "['others', 'theirs']"]


def test_a_kill_from_outside_is_not_held_against_a_module(probe: Callable[..., Path], tmp_path: Path) -> None:
    probes = f"len(open({str(tmp_path / 'probes')!r}).readlines())"
    log = probe(f"if module == 'theirs' and {probes} < 3: os.kill(os.getpid(), 9)")
    assert look_around().skip == {}
    assert log.read_text().splitlines() == ["[]"] * 3


def test_a_module_that_kills_every_time_is_left_out(probe: Callable[..., Path]) -> None:
    probe("if module == 'theirs': os.kill(os.getpid(), 9)")
    assert list(look_around().skip) == ["theirs"]


@pytest.mark.parametrize(
    ("after", "message"),
    [
        (
            "print('no driver'); sys.exit(1)",
            r"(?s)the worker died while looking for .*code 1 during 'setup'.*no driver",
        ),
        ("self.answer(jobs.DoneOutcome()); return", "the worker ended without an answer while looking for devices"),
    ],
)
def test_when_nothing_can_be_found_out(probe: Callable[..., Path], after: str, message: str) -> None:
    probe(after=after)
    with pytest.raises(MachineError, match=message):
        look_around()


def test_ceilings_come_back(worker_does: Callable[[str], None]) -> None:
    worker_does("""
        from harness.records.environment import Ceilings
        assert (job.device, job.dtypes) == ('cpu', ('fp32',))
        fields = ('copy_bytes_per_second', 'read_bytes_per_second', 'cached_read_bytes_per_second', 'launch_ns')
        ceilings = Ceilings(**{name: 1.0 for name in fields}, gemm_flops_per_second={'fp32': 2.0}, cache_bytes=3)
        self.answer(jobs.CeilingsOutcome(ceilings=ceilings))
        self.answer(jobs.DoneOutcome())
    """)
    assert measure_ceilings("cpu", ("fp32",), Limits()).gemm_flops_per_second == {"fp32": 2.0}


def test_ceilings_that_cannot_be_measured(worker_does: Callable[[str], None]) -> None:
    worker_does("raise RuntimeError('the device is gone')")
    with pytest.raises(MachineError, match=r"(?s)measuring the ceilings of cuda:0: .*the device is gone"):
        measure_ceilings("cuda:0", ("fp32",), Limits())
