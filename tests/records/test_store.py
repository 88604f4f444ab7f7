"""A run on disk: nothing torn, nothing double, nothing misread, whoever is killed while writing."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import inspect

from harness.cases.case import Case, PlannedCase
from harness.cases.shape import Shape
from harness.cases.traffic import Traffic
from harness.records.locking import in_progress, locked
from harness.records.record import SCHEMA, Record
from harness.records.store import RECORDS, RunInfo, RunStore, about, load_run, read_records, replace_file

if TYPE_CHECKING:
    from collections.abc import Callable

CASES = [
    Case(
        shape=Shape(hidden=h, expert_hidden=16, experts=4, top_k=2, name=name), traffic=Traffic(tokens=t), dtype="bf16"
    )
    for h, name, t in ((32, "", 0), (64, "größer", 17), (8, "x\ny", 1))
]
TYPES: dict[type, Callable[[Any], st.SearchStrategy[Any]]] = {
    inspect.IntType: lambda _: st.integers(-(2**63), 2**63 - 1),
    inspect.FloatType: lambda kind: st.floats(kind.ge, kind.le, allow_nan=False, allow_infinity=False),
    inspect.BoolType: lambda _: st.booleans(),
    inspect.NoneType: lambda _: st.none(),
    inspect.StrType: lambda _: st.text(max_size=20),
    inspect.LiteralType: lambda kind: st.sampled_from(kind.values),
    inspect.UnionType: lambda kind: st.one_of([of_type(one) for one in kind.types]),
    inspect.ListType: lambda kind: st.lists(of_type(kind.item_type), max_size=4),
    inspect.TupleType: lambda kind: st.tuples(*(of_type(one) for one in kind.item_types)),
    inspect.DictType: lambda kind: st.dictionaries(of_type(kind.key_type), of_type(kind.value_type), max_size=2),
    inspect.StructType: lambda kind: (
        st.sampled_from(CASES) if kind.cls is Case else st.builds(kind.cls, **fields(kind))
    ),
}


def of_type(kind: inspect.Type) -> st.SearchStrategy[Any]:
    """Values of any type a record is made of, so that a new field is tested the day it is added."""
    return TYPES[type(kind)](kind)


def fields(kind: inspect.Type) -> dict[str, st.SearchStrategy[Any]]:
    assert isinstance(kind, inspect.StructType)
    return {field.name: of_type(field.type) for field in kind.fields}


@st.composite
def records(draw: st.DrawFn) -> Record:
    given = {name: draw(strategy) for name, strategy in fields(inspect.type_info(Record)).items()}
    given |= {"schema": SCHEMA, "reason": given["reason"] or "why not", "case_id": given["case"].case_id}
    if given["status"] == "disagrees":
        given["timing"] = None
    return Record(**given)


@settings(max_examples=30, deadline=None)
@given(st.lists(records(), min_size=1, max_size=6))
def test_what_goes_in_comes_out(given: list[Record]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        store = RunStore(path)
        written = [record for one in given for record in store.append([one])]
        assert read_records(path) == (written, 0)
        assert (path / RECORDS).read_bytes().count(b"\n") == len(written)
        assert {record.key for record in written} == {record.key for record in given}
        assert store.append(given) == []
        assert read_records(path) == (written, 0)


def test_the_first_record_of_a_key_stays(make: Any, tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    assert store.append([make.record("loop"), make.record("loop", flags=["second"])]) == [make.record("loop")]
    assert store.append([make.record("loop", flags=["third"]), make.record("einsum")]) == [make.record("einsum")]
    assert [record.flags for record in read_records(tmp_path)[0]] == [[], []]


def test_every_cut_of_the_last_line_is_survived(make: Any, tmp_path: Path) -> None:
    """Wherever the last line ends, the lines before it are read and the next append is whole."""
    store = RunStore(tmp_path)
    store.append([make.record("loop")])
    first = (tmp_path / RECORDS).read_bytes()
    store.append([make.record("einsum")])
    whole = (tmp_path / RECORDS).read_bytes()
    for size in range(len(first), len(whole)):
        (tmp_path / RECORDS).write_bytes(whole[:size])
        found, torn = read_records(tmp_path)
        assert [record.impl.name for record in found] == ["loop"]
        assert torn == (size > len(first))
        store.append([make.record("grouped")])
        assert read_records(tmp_path) == ([make.record("loop"), make.record("grouped")], 0)


def test_a_torn_only_line_and_a_long_one_are_cut(make: Any, tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    (tmp_path / RECORDS).write_bytes(b'{"case":' * 30_000)  # longer than what is searched at once
    assert read_records(tmp_path) == ([], 1)
    store.append([])
    assert (tmp_path / RECORDS).read_bytes() == b""
    store.append([make.record()])
    with (tmp_path / RECORDS).open("ab") as file:
        file.write(b"x" * 200_000)
    store.append([make.record("einsum")])
    assert read_records(tmp_path) == ([make.record(), make.record("einsum")], 0)


NO_RECORD, NO_JSON = r"not a record of this version of moebench \(", r"not JSON \("


@pytest.mark.parametrize(
    ("line", "what"),
    [(b"", NO_JSON), (b"{}", NO_RECORD), (b"garbage line", NO_JSON), (b'{"schema": 2}', NO_RECORD), (b"\xff", NO_JSON)],
)
def test_a_whole_line_that_cannot_be_read_says_what_to_do(make: Any, tmp_path: Path, line: bytes, what: str) -> None:
    RunStore(tmp_path).append([make.record()])
    with (tmp_path / RECORDS).open("ab") as file:
        file.write(line + b"\n")
    with pytest.raises(ValueError, match=rf"{RECORDS}: line 2: {what}.*delete that line; .* run --resume$"):
        read_records(tmp_path)
    with pytest.raises(ValueError, match="line 2"):
        RunStore(tmp_path).append([make.record("einsum")])


@pytest.mark.parametrize(
    ("place", "value", "what"),
    [
        (("timing", "samples_ns", 0), 1e308, r"1e\+18"),
        (("timing", "samples_ns", 0), -1.0, "0"),
        (("timing", "median_ns"), 1e-308, "0.001"),
        (("timing", "noise_floor"), 1e18, "100"),
        (("work", "floor_ns"), 1e308, r"1e\+18"),
        (("work", "useful_flops"), 1e308, r"1e\+30"),
    ],
)
def test_a_figure_that_cannot_be_is_refused(
    make: Any, tmp_path: Path, place: tuple[Any, ...], value: float, what: str
) -> None:
    line = json.loads(msgspec.json.encode(make.timed("loop", 1e6)))
    *outer, last = place
    inner = line
    for step in outer:
        inner = inner[step]
    inner[last] = value
    (tmp_path / RECORDS).write_text(json.dumps(line) + "\n")
    where = r"\$\." + r"\.".join(part for part in place if isinstance(part, str))
    with pytest.raises(ValueError, match=rf"line 1: {NO_RECORD}Expected `float` .= {what}(\.0)? - at `{where}"):
        read_records(tmp_path)


def test_a_second_record_of_a_key_is_refused_not_chosen(make: Any, tmp_path: Path) -> None:
    """``cat a b > c``: nobody knows which of the two was meant."""
    RunStore(tmp_path).append([make.record("loop"), make.record("einsum")])
    lines = (tmp_path / RECORDS).read_bytes()
    (tmp_path / RECORDS).write_bytes(lines + lines)
    with pytest.raises(ValueError, match=rf"{RECORDS}: line 3: loop on case .* which line 1 holds already.*delete one"):
        read_records(tmp_path)


def test_a_record_filed_under_another_case_is_refused(make: Any, tmp_path: Path) -> None:
    RunStore(tmp_path).append([make.record("loop")])
    lines = (tmp_path / RECORDS).read_bytes()
    (tmp_path / RECORDS).write_bytes(lines.replace(b'"tokens":8', b'"tokens":9'))
    mine, other = make.case(8).case_id, make.case(9).case_id
    with pytest.raises(ValueError, match=rf"line 1: its case is {other}, not {mine} under which .*; delete that line"):
        read_records(tmp_path)


def test_a_folder_of_runs_names_them(make: Any, tmp_path: Path) -> None:
    for name in ("base", "new"):
        RunStore(tmp_path / "both" / name).write_info(RunInfo(name=name, command="c", started_at="t"))
    with pytest.raises(ValueError, match=r"run\.json: No such file.*; runs lie in .*both/base, .*both/new$"):
        load_run(tmp_path / "both")


HOLDER = """
import sys, time
from pathlib import Path
from harness.records.locking import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_process_that_is_killed_leaves_no_run_in_progress(tmp_path: Path) -> None:
    assert not in_progress(tmp_path)
    assert list(tmp_path.iterdir()) == []
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == b"held\n"
        assert in_progress(tmp_path)
        with pytest.raises(ValueError, match="is being measured just now, by another process"), locked(tmp_path):
            pass
        holder.kill()
    assert not in_progress(tmp_path)
    with locked(tmp_path):
        assert in_progress(tmp_path)


def test_an_error_of_the_system_names_what_it_is_about(make: Any, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left") as caught, about(tmp_path / "x"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.filename == str(tmp_path / "x")
    (tmp_path / RECORDS).mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        read_records(tmp_path)
    assert caught.value.filename == str(tmp_path / RECORDS)


def test_a_run_without_records_is_empty(tmp_path: Path) -> None:
    assert read_records(tmp_path) == ([], 0)


def test_a_run_is_read_whole(make: Any, tmp_path: Path) -> None:
    store = RunStore(tmp_path / "deep" / "run")
    planned = PlannedCase(case=make.case(), implementations=("loop",))
    info = RunInfo(name="r", command="c", started_at="t", plan=[planned])
    store.write_info(info)
    store.write_environment(make.environment())
    store.append([make.record()])
    run = load_run(tmp_path / "deep" / "run")
    assert (run.info, run.environment, run.records, run.torn_lines) == (info, make.environment(), [make.record()], 0)


@pytest.mark.parametrize("missing", ["run.json", "environment.json"])
def test_what_is_missing_is_named(make: Any, tmp_path: Path, missing: str) -> None:
    store = RunStore(tmp_path)
    store.write_info(RunInfo(name="r", command="c", started_at="t"))
    store.write_environment(make.environment())
    (tmp_path / missing).unlink()
    with pytest.raises(ValueError, match=rf"{missing}: No such file or directory; a run directory holds"):
        load_run(tmp_path)
    (tmp_path / missing).write_text("{}")
    with pytest.raises(ValueError, match=rf"{missing}: not written by this version"):
        load_run(tmp_path)


def test_a_file_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"run\.json: Not a directory"):
        load_run(tmp_path / "file")
    with pytest.raises(ValueError, match="file: cannot hold a run"):
        RunStore(tmp_path / "file")


def test_the_share_spent_measuring() -> None:
    info = RunInfo(name="r", command="c", started_at="t")
    assert info.share_measuring is None
    info.measuring_s, info.wall_s = 3.0, 4.0
    assert info.share_measuring == 0.75


WRITER = """
import sys
from pathlib import Path
import msgspec
from harness.records.record import SCHEMA, Record
from harness.records.store import RunInfo, RunStore
folder, first, last, sign = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
record = msgspec.json.decode((folder / "record.json").read_bytes(), type=Record)
store = RunStore(folder)
for number in range(first, last):
    impl = msgspec.structs.replace(record.impl, name=f"impl{number}")
    store.append([msgspec.structs.replace(record, impl=impl, flags=[sign])])
    store.write_info(RunInfo(name=sign, command="x" * 5000, started_at="t"))
    print(number, flush=True)
"""


def start_writer(folder: Path, first: int, last: int, sign: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", WRITER, str(folder), str(first), str(last), sign]
    root = Path(__file__).parents[2]
    return subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(root)})


@pytest.fixture
def folder(make: Any, tmp_path: Path) -> Path:
    """A run directory, and in it the record that writers write under many names."""
    replace_file(tmp_path / "record.json", make.record(timing=make.timing([float(n) for n in range(300)])))
    return tmp_path


def test_two_writers_at_once(folder: Path) -> None:
    writers = [start_writer(folder, 0, 40, sign) for sign in "ab"]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    for writer in writers:
        assert writer.stdout
        writer.stdout.close()
    found, torn = read_records(folder)
    assert torn == 0
    assert sorted(record.impl.name for record in found) == sorted(f"impl{n}" for n in range(40))
    info = msgspec.json.decode((folder / "run.json").read_bytes(), type=RunInfo)
    assert info.command == "x" * 5000
    assert {path.name for path in folder.iterdir()} == {"record.json", RECORDS, "run.json", ".lock"}


def test_killing_a_writer_never_harms_what_comes_after(make: Any, folder: Path) -> None:
    """SIGKILL at random moments; the next append is whole, what was reported written is there, nothing is double."""
    generator = random.Random(11)
    reported: set[str] = set()
    first = 0
    for _ in range(8):
        writer = start_writer(folder, first, first + 1000, "k")
        assert writer.stdout
        reported.add(f"impl{int(writer.stdout.readline())}")
        time.sleep(generator.uniform(0.0, 0.1))
        writer.send_signal(signal.SIGKILL)
        reported |= {f"impl{int(line)}" for line in writer.stdout.read().splitlines()}
        writer.stdout.close()
        assert writer.wait() == -signal.SIGKILL
        RunStore(folder).append([make.record(f"after{first}")])
        names = [record.impl.name for record in read_records(folder)[0]]
        assert read_records(folder)[1] == 0
        assert len(names) == len(set(names))
        assert reported <= set(names)
        first = 1 + max(int(name[4:]) for name in names if name.startswith("impl"))
