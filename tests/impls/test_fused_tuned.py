"""Which configuration fused runs with: written and read in few words, tuned ones before the default. No kernel runs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import msgspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.cases.case import Case
from harness.cases.shape import Shape
from harness.cases.traffic import Traffic
from harness.records.tuned import Key, Tuned, file_name, keep_tuned, own_path, read_tuned
from impls.fused import tuned
from impls.fused.candidates import candidates
from impls.fused.defaults import default

if TYPE_CHECKING:
    from collections.abc import Iterator

    from impls.fused.configuration import Configuration

SHAPE = Shape(hidden=256, expert_hidden=128, experts=16, top_k=2)
DEVICE = "NVIDIA H100 80GB HBM3"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A GPU as far as its name and capability go; returns the file of a person's own configurations for it."""
    monkeypatch.setenv("MOEBENCH_TUNED", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(name=DEVICE))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    tuned.choose.cache_clear()
    yield own_path("fused", DEVICE)
    tuned.choose.cache_clear()


def keep(path: Path, values: dict[str, int | str], tokens: int = 64, pass_: str = "forward") -> None:
    keep_tuned(path, "fused", DEVICE, Tuned(key=Key.of(SHAPE, "bf16", pass_), tokens=tokens, values=values))


def other_than_default(tokens: int = 64, pass_: str = "forward") -> Configuration:
    return candidates(SHAPE, tokens, "bf16", pass_)[-1]


@settings(deadline=None)
@given(st.integers(1, 4096), st.sampled_from(["bf16", "fp32"]), st.sampled_from(["forward", "training"]), st.data())
def test_few_words_say_it_all(tokens: int, dtype: str, pass_: str, data: st.DataObject) -> None:
    one = data.draw(st.sampled_from(candidates(SHAPE, tokens, dtype, pass_)))
    assert tuned.from_values(tuned.as_values(one)) == one


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"regime": "both"}, "regime = 'both': decode or prefill"),
        ({"first": "128x64"}, "first = '128x64': such as '128x256x64 8w 4s'"),
        ({"third": "16x16x16 4w 2s"}, "third = '16x16x16 4w 2s': not a kernel"),
        ({"second": 3}, "second = 3: such as"),
    ],
)
def test_anything_else_is_refused(changed: dict[str, int | str], says: str) -> None:
    values = tuned.as_values(default(SHAPE, 64, "bf16", "forward")) | changed
    with pytest.raises(ValueError, match=says):
        tuned.from_values(values)
    with pytest.raises(ValueError, match="second is missing"):
        tuned.from_values({"regime": "decode", "first": "16x16x16 4w 2s"})


def test_the_default_where_nothing_was_tuned(gpu: Path) -> None:
    assert not gpu.exists()
    chosen = tuned.choose(SHAPE, 64, "bf16", "forward", "cuda:0")
    assert chosen == (default(SHAPE, 64, "bf16", "forward"), False, "default")
    assert tuned.choose(SHAPE, 64, "bf16", "forward", "cpu").configuration == chosen.configuration


def test_what_was_tuned_is_taken_and_told(gpu: Path) -> None:
    best = other_than_default()
    keep(gpu, tuned.as_values(best))
    chosen = tuned.choose(SHAPE, 100, "bf16", "forward", "cuda:0")
    assert chosen == (best, True, "own nvidia-h100-80gb-hbm3.json, at 64 tokens")
    assert chosen.told().values == tuned.as_values(best)
    assert chosen.told().tuned
    assert not tuned.choose(SHAPE, 4096, "bf16", "forward", "cuda:0").tuned


def test_what_cannot_be_read_is_said_and_not_taken(gpu: Path) -> None:
    keep(gpu, {"regime": "decode"})
    with pytest.warns(RuntimeWarning, match="fused, own .*first is missing; the default is taken"):
        chosen = tuned.choose(SHAPE, 64, "bf16", "forward", "cuda:0")
    assert (chosen.tuned, chosen.configuration) == (False, default(SHAPE, 64, "bf16", "forward"))


def test_what_does_not_fit_the_tokens_is_not_taken(gpu: Path) -> None:
    keep(gpu, tuned.as_values(default(SHAPE, 8, "bf16", "forward")), tokens=8)
    assert tuned.choose(SHAPE, 8, "bf16", "forward", "cuda:0").tuned
    chosen = tuned.choose(SHAPE, 32, "bf16", "forward", "cuda:0")
    assert not chosen.tuned
    assert chosen.source == "default, own nvidia-h100-80gb-hbm3.json, at 8 tokens does not fit here"


def test_a_tuner_starts_from_what_it_is_given() -> None:
    case = Case(shape=SHAPE, traffic=Traffic(tokens=64))
    first, *others = tuned.neighbours(case, None)
    assert tuned.from_values(first) == default(SHAPE, 64, "bf16", "forward")
    assert tuned.neighbours(case, others[0])[0] == others[0]


def test_shipped_files_are_sound() -> None:
    for path in (Path(tuned.__file__).parent / "tuned").glob("*.json"):
        device = msgspec.json.decode(path.read_bytes())["device"]
        assert path.name == file_name(device)
        for entry in read_tuned(path, "fused", device).entries:
            tuned.from_values(entry.values)
            assert entry.evidence, "what is shipped was measured"
