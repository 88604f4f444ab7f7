from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.measure import caches
from harness.measure.caches import ASSUMED_BYTES, cache_bytes, cpu_cache

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(caches, "_usable_cores", lambda: [0, 1, 2, 3])
    return tmp_path


def write(root: Path, core: int, index: int, *, level: str, kind: str, size: str, shared: str) -> None:
    folder = root / f"cpu{core}/cache/index{index}"
    folder.mkdir(parents=True)
    for name, text in {"level": level, "type": kind, "size": size, "shared_cpu_list": shared}.items():
        (folder / name).write_text(text + "\n")


def test_one_shared_cache_counts_once(root: Path) -> None:
    for core in range(4):
        write(root, core, 0, level="1", kind="Data", size="48K", shared=str(core))
        write(root, core, 1, level="1", kind="Instruction", size="999M", shared=str(core))
        write(root, core, 3, level="3", kind="Unified", size="32768K", shared="0-3")
    assert cpu_cache(root) == (32 << 20, True)


def test_separate_pieces_are_summed(root: Path) -> None:
    for core in range(4):
        write(root, core, 2, level="2", kind="Unified", size="1M", shared=str(core))
        write(root, core, 3, level="3", kind="Unified", size="16M", shared="0-1" if core < 2 else "2-3")
    assert cpu_cache(root) == (32 << 20, True)


def test_only_cores_the_process_may_use_count(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caches, "_usable_cores", lambda: [1])
    write(root, 0, 3, level="3", kind="Unified", size="1G", shared="0")
    write(root, 1, 3, level="3", kind="Unified", size="12345", shared="1")
    assert cpu_cache(root) == (12345, True)


@pytest.mark.parametrize("size", ["", "many", "0K"])
def test_an_unreadable_size_is_assumed_and_flagged(root: Path, size: str) -> None:
    write(root, 0, 3, level="3", kind="Unified", size=size, shared="0")
    assert cpu_cache(root) == (ASSUMED_BYTES, False)


def test_a_machine_that_says_nothing(root: Path) -> None:
    assert cpu_cache(root / "nowhere") == (ASSUMED_BYTES, False)


def test_the_cpu_of_this_machine() -> None:
    assert cache_bytes("cpu") == cpu_cache().bytes >= 1 << 18


@pytest.mark.cuda
def test_the_l2_of_a_gpu() -> None:
    assert cache_bytes("cuda:0") >= 1 << 20
