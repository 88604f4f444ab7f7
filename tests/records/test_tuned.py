"""Tuned configurations on disk: strict reading, the nearest tokens, and whose file wins."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.cases.shape import Shape
from harness.records.tuned import (
    Key,
    Tuned,
    TunedBook,
    TunedFile,
    file_name,
    keep_tuned,
    own_folder,
    own_path,
    read_tuned,
)

if TYPE_CHECKING:
    from pathlib import Path

SHAPE = Shape(hidden=64, expert_hidden=32, experts=8, top_k=2)
KEY = Key.of(SHAPE, "bf16", "forward")
DEVICE = "NVIDIA H100 80GB HBM3"


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MOEBENCH_TUNED", str(tmp_path / "own"))
    return own_path("mine", DEVICE)


def entry(tokens: int, block: int = 64, key: Key = KEY) -> Tuned:
    return Tuned(key=key, tokens=tokens, values={"block": block, "kind": "wide"})


def put(folder: Path, *entries: Tuned) -> None:
    for one in entries:
        keep_tuned(folder / file_name(DEVICE), "mine", DEVICE, one)


def block(book: TunedBook, tokens: int) -> int | str | None:
    found = book.find(SHAPE, tokens, "bf16", "forward", DEVICE)
    return found.values["block"] if found else None


def test_a_file_is_called_like_its_device(own: Path) -> None:
    assert own.parts[-2:] == ("mine", "nvidia-h100-80gb-hbm3.json")
    assert file_name("!?") == "unknown.json"


def test_own_files_lie_where_the_variables_say(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MOEBENCH_TUNED")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert own_folder() == tmp_path / "moebench" / "tuned"
    monkeypatch.setenv("XDG_DATA_HOME", "not/absolute")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert own_folder() == tmp_path / "home" / ".local" / "share" / "moebench" / "tuned"


def test_what_is_kept_is_found_again(own: Path) -> None:
    put(own.parent, entry(64))
    found = TunedBook("mine").find(SHAPE, 64, "bf16", "forward", DEVICE)
    assert found
    assert found.values == {"block": 64, "kind": "wide"}
    assert found.tuned
    assert found.source == "own nvidia-h100-80gb-hbm3.json, at 64 tokens"


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 40_000), st.integers(1, 256)), min_size=1, max_size=6))
def test_the_last_of_each_tokens_stays_in_order(
    tmp_path_factory: pytest.TempPathFactory, given: list[tuple[int, int]]
) -> None:
    path = tmp_path_factory.mktemp("kept") / "file.json"
    for tokens, size in given:
        keep_tuned(path, "mine", DEVICE, entry(tokens, size))
    entries = read_tuned(path, "mine", DEVICE).entries
    assert [(one.tokens, one.values["block"]) for one in entries] == sorted(dict(given).items())


def test_nearest_tokens_serve_within_four_times(own: Path) -> None:
    put(own.parent, entry(16, 16), entry(1024, 128))
    book = TunedBook("mine")
    found = [block(book, tokens) for tokens in (3, 4, 16, 64, 65, 255, 256, 4096, 4097)]
    assert found == [None, 16, 16, 16, None, None, 128, 128, None]


def test_another_shape_dtype_pass_or_device_is_not_served(own: Path) -> None:
    put(own.parent, entry(64))
    book = TunedBook("mine")
    wider = msgspec.structs.replace(SHAPE, hidden=128)
    asked = itertools.product((SHAPE, wider), ("bf16", "fp16"), ("forward", "training"), (DEVICE, "other"))
    served = [one for one in asked if book.find(one[0], 64, one[1], one[2], one[3])]
    assert served == [(SHAPE, "bf16", "forward", DEVICE)]


def test_names_routers_and_activations_share_a_key() -> None:
    other = msgspec.structs.replace(SHAPE, name="else", activation="relu", bias=True)
    assert Key.of(other, "bf16", "forward") == KEY


def test_own_entries_win_over_shipped_ones(own: Path, tmp_path: Path) -> None:
    put(tmp_path / "shipped", entry(16, 1), entry(64, 2))
    put(own.parent, entry(64, 3))
    book = TunedBook("mine", tmp_path / "shipped")
    assert [block(book, tokens) for tokens in (16, 64)] == [1, 3]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "no tuned configurations of this version of moebench"),
        ('{"implementation": "mine", "device": "x", "more": 1}', "unknown field `more`"),
        ('{"implementation": "mine", "device": "x", "entries": [{"tokens": 1}]}', "missing required field `key`"),
        ('{"implementation": "other", "device": "x"}', "implementation = 'other': 'mine' was expected"),
        ('{"implementation": "mine", "device": "x"}', "device = 'x'"),
        ('{"implementation": "mine", "device": "x", "schema": 2}', "schema = 2: 1 was expected"),
    ],
)
def test_a_bad_file_is_left_out_with_one_line(own: Path, content: str, says: str) -> None:
    own.parent.mkdir(parents=True)
    own.write_text(content)
    with pytest.warns(RuntimeWarning) as warned:
        assert block(TunedBook("mine"), 64) is None
    (message,) = {str(one.message) for one in warned}
    assert says in message
    assert "\n" not in message
    with pytest.raises(ValueError, match=r"expected|no tuned"):
        keep_tuned(own, "mine", DEVICE, entry(1))
    assert own.read_text() == content


def test_a_file_holds_what_it_says(own: Path) -> None:
    put(own.parent, entry(64))
    plain = msgspec.json.decode(own.read_bytes())
    assert plain["entries"][0]["key"]["pass"] == "forward"
    assert msgspec.convert(plain, TunedFile).entries == [entry(64)]
