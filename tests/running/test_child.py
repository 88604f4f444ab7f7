"""One worker seen from the parent: how it ends, by whom, what it said last, and that nothing of it is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from harness.running import child, environment, jobs
from harness.running.child import Child, Death, Limits, ask, available_memory_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.running.blackbox import Announcement

ROOT = Path(__file__).parents[2]
JOB = jobs.ProbeJob()


def run(limits: Limits | None = None) -> tuple[list[jobs.Outcome], Death | None]:
    heard: list[jobs.Outcome] = []
    death = Child(JOB, limits or Limits()).run(heard.append, lambda _: None)
    return heard, death


def died(body: str, worker_does: Callable[[str], None], limits: Limits | None = None) -> Death:
    worker_does(body)
    _, death = run(limits)
    assert death is not None
    return death


def gone(pid: int) -> bool:
    """Whether a process has ended; one that its parent has not asked after counts as ended."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def eventually(holds: Callable[[], bool], within_s: float = 10.0) -> bool:
    end = time.monotonic() + within_s
    while not holds() and time.monotonic() < end:
        time.sleep(0.02)
    return holds()


DONE = "self.answer(jobs.DoneOutcome())"


def test_a_job_that_is_done(worker_does: Callable[[str], None]) -> None:
    worker_does(f"self.answer(jobs.ReadyOutcome({{'a': 'b'}}))\n{DONE}")
    assert run() == ([jobs.ReadyOutcome({"a": "b"})], None)


def test_many_answers_arrive_in_order(worker_does: Callable[[str], None]) -> None:
    worker_does(f"for n in range(30): self.answer(jobs.ReadyOutcome({{'n': str(n)}}))\n{DONE}")
    heard, death = run()
    assert heard == [jobs.ReadyOutcome({"n": str(n)}) for n in range(30)]
    assert death is None


@pytest.mark.parametrize(
    ("body", "returncode", "reason"),
    [
        ("os._exit(0)", 0, "the process exited with code 0 during 'round 3'"),
        ("pass", 0, "the process exited with code 0 during 'round 3'"),
        ("os._exit(3)", 3, "the process exited with code 3 during 'round 3'"),
        ("sys.exit('bye')", 1, "the process exited with code 1 during 'round 3'"),
        ("raise ValueError", 1, "the process exited with code 1 during 'round 3'"),
        ("ctypes.string_at(0)", -signal.SIGSEGV, "the process died of SIGSEGV during 'round 3'"),
        ("os.abort()", -signal.SIGABRT, "the process died of SIGABRT during 'round 3'"),
        ("os.kill(os.getpid(), 50)", -50, "the process died of signal 50 during 'round 3'"),
        ("os.kill(os.getpid(), 9)", -9, "killed by SIGKILL during 'round 3'; the kernel does that"),
    ],
)
def test_ways_to_die(worker_does: Callable[[str], None], body: str, returncode: int, reason: str) -> None:
    death = died(f"self.note('case', 'loop', 'round 3')\n{body}", worker_does)
    assert (death.by, death.returncode, death.status) == ("itself", returncode, "crashed")
    assert death.reason(Limits()).startswith(reason)
    assert (death.last.case_id, death.last.impl) == ("case", "loop")
    assert death.killed_from_outside == (returncode == -9)


def test_after_done_nothing_can_go_wrong(worker_does: Callable[[str], None]) -> None:
    """Neither a crash while the interpreter shuts down nor a thread that never ends."""
    worker_does(f"{DONE}\nos.abort()")
    assert run() == ([], None)
    worker_does(f"threading.Thread(target=time.sleep, args=(600,)).start()\n{DONE}")
    assert run() == ([], None)


def test_a_hang_is_ended_and_says_where(worker_does: Callable[[str], None]) -> None:
    death = died(
        "def sleeps_forever(): time.sleep(600)\nself.note('case', 'loop', 'gate')\nsleeps_forever()",
        worker_does,
        Limits(stage_s=0.5),
    )
    assert (death.by, death.status, death.returncode) == ("timeout", "timeout", -signal.SIGKILL)
    assert not death.killed_from_outside
    assert death.reason(Limits(stage_s=0.5)) == (
        "no sign of life for 0.5 s during 'gate'; raise --timeout if it is only slow"
    )
    assert "sleeps_forever" in death.log_tail


def test_a_hang_that_ignores_signals_is_ended(worker_does: Callable[[str], None]) -> None:
    death = died(
        """
        for number in (1, 2, 10, 12, 15): signal.signal(number, signal.SIG_IGN)
        self.note('case', 'loop', 'gate')
        time.sleep(600)
        """,
        worker_does,
        Limits(stage_s=0.3),
    )
    assert death.by == "timeout"


def test_signs_of_life_prolong_it(worker_does: Callable[[str], None]) -> None:
    worker_does(f"for n in range(10): self.note('case', 'loop', f'round {{n}}'); time.sleep(0.3)\n{DONE}")
    assert run(Limits(stage_s=2.5)) == ([], None)


def test_preparations_have_a_limit_of_their_own(
    worker_does: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker_does(f"self.note('case', '', 'weights')\ntime.sleep(0.6)\n{DONE}")
    assert run(Limits(stage_s=0.1)) == ([], None)
    worker_does("self.note('case', '', 'weights')\ntime.sleep(600)")

    def shorten(last: Announcement) -> None:
        """Only once it has started: how long that takes is the machine's business."""
        if last.stage == "weights":
            monkeypatch.setattr(child, "SETUP_LIMIT_S", 0.2)

    death = Child(JOB, Limits(stage_s=0.1)).run(lambda _: None, shorten)
    assert death is not None
    assert death.by == "timeout"
    assert death.reason(Limits(stage_s=0.1)) == "no sign of life for 0.2 s during 'weights'"


FILL = "kept = bytearray(300 << 20)\nkept[::4096] = b'x' * len(kept[::4096])\ntime.sleep(600)"


def test_resident_memory_is_watched(worker_does: Callable[[str], None]) -> None:
    limits = Limits(memory_bytes=250 << 20)
    death = died(f"self.note('case', 'loop', 'gate')\n{FILL}", worker_does, limits)
    assert (death.by, death.status) == ("memory", "oom")
    assert death.reason(limits) == "used more than 0.2 GiB during 'gate'; lower tokens or experts"
    assert not death.killed_from_outside


def test_memory_of_a_workers_children_counts(
    worker_does: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "FAMILY_EVERY", 3)
    body = f"import time\n{FILL}"
    death = died(f"subprocess.run([sys.executable, '-c', {body!r}])", worker_does, Limits(memory_bytes=250 << 20))
    assert death.by == "memory"


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA covers private mappings on Linux only")
def test_private_memory_is_bounded_by_the_kernel(worker_does: Callable[[str], None]) -> None:
    """Asking for more raises in the worker, which goes on."""
    worker_does(f"""
        kept = []
        try:
            while True: kept.append(bytearray(16 << 20))
        except MemoryError:
            self.answer(jobs.ReadyOutcome({{"megabytes": str(16 * len(kept))}}))
        kept.clear()
        {DONE}
    """)
    heard, death = run(Limits(data_bytes=256 << 20))
    assert death is None
    (ready,) = heard
    assert isinstance(ready, jobs.ReadyOutcome)
    assert 64 <= int(ready.broken["megabytes"]) <= 256


def test_a_lower_bound_of_the_system_stays(worker_does: Callable[[str], None]) -> None:
    """Where ``ulimit -d`` already grants less, asking for more would fail."""
    worker_does(f"""
        import resource
        resource.setrlimit(resource.RLIMIT_DATA, (1 << 30, 1 << 30))
        os.environ[jobs.DATA_VARIABLE] = str(2 << 30)
        worker.limit_memory()
        {DONE}
    """)
    assert run() == ([], None)


def test_the_log_tail_is_what_was_said_in_the_last_stage(worker_does: Callable[[str], None]) -> None:
    death = died(
        """
        self.note('case', 'loop', 'gate')
        print('somebody else')
        self.note('case', 'grouped', 'gate')
        print('its last word')
        os.write(2, b'and \\xff bytes')
        os._exit(1)
        """,
        worker_does,
    )
    assert death.log_tail == "its last word\nand \ufffd bytes"


def test_silence_is_not_filled_with_what_others_said(worker_does: Callable[[str], None]) -> None:
    death = died("print('somebody else')\nself.note('case', 'loop', 'gate')\nos._exit(1)", worker_does)
    assert death.log_tail == ""


def test_a_long_log_is_cut_to_its_end(worker_does: Callable[[str], None]) -> None:
    death = died("self.note('case', 'loop', 'gate')\nfor n in range(100_000): print(n)\nos._exit(1)", worker_does)
    assert len(death.log_tail) == jobs.LOG_TAIL_BYTES
    assert death.log_tail.endswith("99998\n99999\n")


def test_a_fault_leaves_its_stack(worker_does: Callable[[str], None]) -> None:
    death = died("def falls(): ctypes.string_at(0)\nself.note('case', 'loop', 'gate')\nfalls()", worker_does)
    assert "Segmentation fault" in death.log_tail
    assert "in falls" in death.log_tail


def test_what_the_worker_started_goes_with_it(worker_does: Callable[[str], None], tmp_path: Path) -> None:
    body = f"""
        sleeper = subprocess.Popen(['sleep', '600'])
        open({str(tmp_path / "pid")!r}, 'w').write(str(sleeper.pid))
        {{}}
    """
    worker_does(body.format("os._exit(1)"))
    run()
    assert eventually(lambda: gone(int((tmp_path / "pid").read_text())))
    worker_does(body.format(DONE))
    run()
    assert eventually(lambda: gone(int((tmp_path / "pid").read_text())))


def test_an_interruption_ends_the_worker_and_keeps_its_answers(worker_does: Callable[[str], None]) -> None:
    worker_does("self.answer(jobs.ReadyOutcome())\nself.note('case', 'loop', 'gate')\ntime.sleep(600)")
    heard: list[jobs.Outcome] = []

    def interrupt(last: Announcement) -> None:
        if last.stage == "gate":
            raise KeyboardInterrupt

    process = Child(JOB, Limits())
    with pytest.raises(KeyboardInterrupt):
        process.run(heard.append, interrupt)
    assert heard == [jobs.ReadyOutcome()]
    assert eventually(lambda: gone(process.pid))
    assert not process.folder.exists()


def test_its_folder_is_cleared_away(worker_does: Callable[[str], None]) -> None:
    for body in (DONE, "os._exit(1)"):
        worker_does(body)
        process = Child(JOB, Limits())
        assert process.folder.exists()
        process.run(lambda _: None, lambda _: None)
        assert not process.folder.exists()


PARENT = """
import sys
sys.path.insert(0, sys.argv[1])
sys.executable = sys.argv[2]
from harness.running import jobs
from harness.running.child import Child, Limits
child = Child(jobs.ProbeJob(), Limits())
child.run(lambda _: print(child.pid, flush=True), lambda _: None)
"""


def test_a_worker_does_not_outlive_its_parent(worker_does: Callable[[str], None]) -> None:
    python = sys.executable
    worker_does("self.answer(jobs.ReadyOutcome())\ntime.sleep(600)")
    parent = subprocess.Popen([python, "-c", PARENT, str(ROOT), sys.executable], stdout=subprocess.PIPE)
    assert parent.stdout
    worker = int(parent.stdout.readline())
    assert not gone(worker)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    assert eventually(lambda: gone(worker))


def test_ask_begins_anew_when_killed_from_outside(worker_does: Callable[[str], None], tmp_path: Path) -> None:
    worker_does(f"""
        with open({str(tmp_path / "tries")!r}, 'a') as file: file.write('x')
        self.answer(jobs.ReadyOutcome())
        if os.path.getsize({str(tmp_path / "tries")!r}) < 3: os.kill(os.getpid(), signal.SIGKILL)
        {DONE}
    """)
    assert ask(JOB, Limits()) == ([jobs.ReadyOutcome()], None)
    assert (tmp_path / "tries").read_text() == "xxx"


@pytest.mark.parametrize(("body", "tries"), [("os.kill(os.getpid(), signal.SIGKILL)", 3), ("os._exit(1)", 1)])
def test_ask_gives_up(worker_does: Callable[[str], None], tmp_path: Path, body: str, tries: int) -> None:
    worker_does(f"with open({str(tmp_path / 'tries')!r}, 'a') as file: file.write('x')\n{body}")
    heard, death = ask(JOB, Limits())
    assert heard == []
    assert death is not None
    assert len((tmp_path / "tries").read_text()) == tries


def test_the_worker_finds_a_checkout_and_nothing_of_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "harness").mkdir()
    (tmp_path / "harness" / "__init__.py").write_text("raise RuntimeError('not this one')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    assert child._environment(Limits())["PYTHONPATH"] == os.pathsep.join([str(ROOT), "/somewhere"])
    probe = Child(jobs.CeilingsJob(device="nowhere", dtypes=()), Limits())
    death = probe.run(lambda _: None, lambda _: None)
    assert death is not None
    assert "not this one" not in death.log_tail
    assert death.last.stage == "setup"


def test_memory_that_others_in_the_container_use_is_not_available(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free: Any = type("Free", (), {"available": 1000 << 20})
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    monkeypatch.setattr(child, "container_memory_bytes", lambda: None)
    assert available_memory_bytes() == 900 << 20
    (tmp_path / "memory.current").write_text(f"{300 << 20}\n")
    (tmp_path / "memory.stat").write_text(f"anon 1\ninactive_file {100 << 20}\nactive_file 7\n")
    monkeypatch.setattr(child, "container_memory_bytes", lambda: 400 << 20)
    monkeypatch.setattr(child, "container_used_bytes", lambda: environment.container_used_bytes(tmp_path))
    assert available_memory_bytes() == 180 << 20
    monkeypatch.setattr(child, "container_memory_bytes", lambda: 100 << 20)
    assert available_memory_bytes() == 0


def test_use_that_is_not_told_counts_as_none(tmp_path: Path) -> None:
    assert environment.container_used_bytes(tmp_path) == 0
    (tmp_path / "memory.current").write_text("300\n")
    assert environment.container_used_bytes(tmp_path) == 300
