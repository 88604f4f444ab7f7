"""The flight recorder is readable whatever happened to the process that wrote it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.running.blackbox import MOST_CHARACTERS, SLOT_BYTES, Announcement, BlackBox, read

ROOT = Path(__file__).parents[2]


def test_nothing_written_yet(tmp_path: Path) -> None:
    assert read(tmp_path / "box") == Announcement()
    (tmp_path / "box").write_bytes(b"")
    assert read(tmp_path / "box") == Announcement()
    BlackBox(tmp_path / "box")
    assert read(tmp_path / "box") == Announcement("", "", "starting", 0, 0)


def test_the_last_announcement_counts(tmp_path: Path) -> None:
    box = BlackBox(tmp_path / "box")
    for number in range(5):
        before = time.monotonic_ns()
        box.write("case", "loop", f"round {number}", 10 * number)
        entry = read(tmp_path / "box")
        assert (entry.case_id, entry.impl, entry.stage) == ("case", "loop", f"round {number}")
        assert entry.log_offset == 10 * number
        assert before <= entry.beat_ns <= time.monotonic_ns()


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=3 * MOST_CHARACTERS)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text, text, st.integers(0, 2**62))
def test_long_and_strange_text_is_cut_and_stays_readable(
    tmp_path: Path, impl: str, stage: str, log_offset: int
) -> None:
    box = BlackBox(tmp_path / "box")
    box.write("0123456789ab", impl, stage, log_offset)
    entry = read(tmp_path / "box")
    assert (entry.case_id, entry.log_offset) == ("0123456789ab", log_offset)
    assert (entry.impl, entry.stage) == (impl[:MOST_CHARACTERS], stage[:MOST_CHARACTERS])
    assert (tmp_path / "box").stat().st_size == 2 * SLOT_BYTES


@pytest.mark.parametrize("character", ["\x00", '"', "ß", "漢", "😀"])
def test_the_longest_text_fits(tmp_path: Path, character: str) -> None:
    box = BlackBox(tmp_path / "box")
    for _ in range(2):
        box.write("0123456789ab", 9999 * character, 9999 * character, 2**62)
        assert read(tmp_path / "box").stage == MOST_CHARACTERS * character


def test_a_write_cut_short_anywhere_leaves_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "box"
    box = BlackBox(path)
    box.write("case", "loop", "an earlier stage")
    earlier = path.read_bytes()
    box.write("case", "grouped", "round 3")
    before, now = read_bytes_of(tmp_path, earlier), path.read_bytes()
    box.write("case", "einsum", "round 4")
    later = path.read_bytes()
    changed = [n for n in range(2 * SLOT_BYTES) if now[n] != later[n]]
    for cut in range(changed[0] + 1, changed[-1] + 1):
        path.write_bytes(later[:cut] + now[cut:])
        assert read(path).impl == "grouped"
    assert before.impl == "loop"
    path.write_bytes(later)
    assert read(path).impl == "einsum"


def read_bytes_of(folder: Path, content: bytes) -> Announcement:
    (folder / "copy").write_bytes(content)
    return read(folder / "copy")


WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from harness.running.blackbox import BlackBox
box = BlackBox(Path(sys.argv[1]))
number = 0
while True:
    box.write("case", "loop" * (number % 30), f"round {number}", number)
    number += 1
    if number == 100:
        print("going", flush=True)
"""


def test_reading_while_it_is_written_and_after_a_kill(tmp_path: Path) -> None:
    """Announcements only ever go forward, none is mixed of two, and SIGKILL leaves the last one readable."""
    path = tmp_path / "box"
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(ROOT)], stdout=subprocess.PIPE)
    assert writer.stdout
    assert writer.stdout.readline() == b"going\n"
    last = read(path)
    for _ in range(2000):
        entry = read(path)
        assert entry.stage == f"round {entry.log_offset}"
        assert entry.impl == "loop" * (entry.log_offset % 30)
        assert entry.log_offset >= last.log_offset
        assert entry.beat_ns >= last.beat_ns
        last = entry
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    writer.stdout.close()
    assert read(path).log_offset >= last.log_offset >= 100
    assert read(path).stage == f"round {read(path).log_offset}"
