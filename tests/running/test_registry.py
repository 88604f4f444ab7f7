"""What may be registered, under which words, and what a record says of its source."""

from __future__ import annotations

import functools
import importlib
from typing import TYPE_CHECKING, Any

import pytest

from harness.cases.case import Case
from harness.cases.shape import Shape
from harness.cases.traffic import Traffic
from harness.running.registry import (
    forget,
    implementation,
    missing,
    missing_here,
    offers,
    registered,
    source_hash,
)

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("empty_registry")


def prepare(layer: Any) -> Any:
    """The first line.

    The second is not shown.
    """


def other(layer: Any) -> Any: ...


def test_what_is_registered_is_found() -> None:
    assert implementation("b", family="loop")(prepare) is prepare
    implementation("a", family="peer", devices=["cuda"], passes=["training"], dtypes=["bf16"], version="7")(other)
    assert list(registered()) == ["a", "b"]
    a, b = registered().values()
    assert (b.summary, b.version, b.origin) == ("The first line.", "1", __name__)
    assert (b.devices, b.passes, b.dtypes) == (("cpu", "cuda"), ("forward",), ("fp32", "bf16", "fp16"))
    assert (a.devices, a.passes, a.dtypes, a.version, a.summary) == (("cuda",), ("training",), ("bf16",), "7", "")
    assert a.prepare is other


def test_what_it_says_of_a_case_is_asked_case_by_case() -> None:
    made: dict[str, Any] = {
        "unsupported": lambda case: f"not {case.dtype}",
        "untimed": lambda case: f"no clock for {case.dtype}",
    }
    implementation("a", family="loop", **made)(prepare)
    implementation("b", family="loop")(other)
    case = Case(shape=Shape(hidden=8, expert_hidden=8, experts=2, top_k=1), traffic=Traffic(tokens=1))
    a, b = registered().values()
    assert (a.unsupported(case), a.untimed(case)) == ("not bf16", "no clock for bf16")
    assert (b.unsupported(case), b.untimed(case)) == (None, None)


@pytest.mark.parametrize("name", ["", "Loop", "a b", "a,b", "-a", "_a", "größe", "a/b", "a\n", "(A/A control)"])
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="small letters, digits"):
        implementation(name, family="loop")


def test_a_name_that_no_table_has_room_for_is_refused() -> None:
    implementation("a" * 80, family="loop")
    with pytest.raises(
        ValueError, match=r"^implementation name 'aaaaaaaaaaaaaaaaaaaa'…: at most 80 characters, not 81$"
    ):
        implementation("a" * 81, family="loop")


@pytest.mark.parametrize("name", ["a", "7", "sonic-moe", "vllm.fused_moe", "a1_b-c.d"])
def test_good_names_are_taken(name: str) -> None:
    implementation(name, family="loop")(prepare)
    assert list(registered()) == [name]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"family": "magic"}, "family = 'magic': one of loop, "),
        ({"devices": ["tpu"]}, "devices = 'tpu': one of cpu, cuda"),
        ({"devices": ["cuda:0"]}, "devices = 'cuda:0'"),
        ({"passes": ["backward"]}, "passes = 'backward': one of forward, training"),
        ({"dtypes": ["fp8"]}, "dtypes = 'fp8': one of fp32, bf16, fp16"),
        ({"version": 2}, "version = 2: a text"),
    ],
    ids=str,
)
def test_unknown_words_are_refused(words: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"implementation 'a': {message}"):
        implementation("a", **({"family": "loop"} | words))
    assert registered() == {}


def test_two_functions_cannot_share_a_name() -> None:
    implementation("a", family="loop")(prepare)
    with pytest.raises(ValueError, match=r"two implementations are called 'a': .*\.prepare, .*\.other"):
        implementation("a", family="loop")(other)
    assert registered()["a"].prepare is prepare


@pytest.mark.parametrize("key", ["passes", "devices", "dtypes"])
def test_one_word_is_no_tuple_of_words(key: str) -> None:
    given: dict[str, Any] = {key: "forward"}
    with pytest.raises(ValueError, match=f"implementation 'a': {key} = 'forward': a tuple of .*, even for one"):
        implementation("a", family="loop", **given)


def test_running_a_module_again_replaces_its_own() -> None:
    implementation("a", family="loop")(prepare)
    implementation("a", family="loop", version="2")(prepare)
    assert registered()["a"].version == "2"


def test_what_a_broken_module_registered_can_be_taken_back() -> None:
    implementation("a", family="loop")(prepare)
    forget("somebody.else")
    assert list(registered()) == ["a"]
    forget(__name__)
    assert registered() == {}


def test_a_summary_without_utf8_is_written_out() -> None:
    def strange(layer: Any) -> Any: ...

    strange.__doc__ = "half a pair \udc80"
    implementation("a", family="loop")(strange)
    assert registered()["a"].summary == "half a pair \\udc80"


SOURCE = """
    from harness import implementation

    @implementation("{name}", family="peer")
    def {name}(layer):
        return {value}
"""


def hash_of(module: str, name: str) -> str:
    importlib.invalidate_caches()
    return source_hash(getattr(importlib.import_module(module), name))


def test_the_hash_of_a_file_is_the_files_own(site: Any) -> None:
    site.module("one", SOURCE.format(name="one", value=1))
    site.module("two", SOURCE.format(name="two", value=2))
    site.module("copy_of_one", SOURCE.format(name="one", value=1).replace('"one"', '"one"'))
    assert hash_of("one", "one") != hash_of("two", "two")
    assert len(hash_of("one", "one")) == 12
    site.module("two", SOURCE.format(name="two", value=3))
    first = hash_of("one", "one")
    site.module("one", SOURCE.format(name="one", value=1) + "# a comment counts\n")
    assert hash_of("one", "one") != first


def test_the_hash_of_a_package_covers_its_folder(site: Any, tmp_path: Path) -> None:
    site.package("pack", SOURCE.format(name="pack", value=1), kernels="BLOCK = 64\n")
    first = hash_of("pack", "pack")
    site.module("pack.kernels", "BLOCK = 128\n")
    second = hash_of("pack", "pack")
    site.module("pack.deeper.more", "x = 1\n")
    assert len({first, second, hash_of("pack", "pack")}) == 3


def test_without_a_file_the_source_is_unknown() -> None:
    assert source_hash(functools.partial(prepare)) == "unknown"
    assert source_hash(len) == "unknown"  # type: ignore[arg-type]
    space: dict[str, Any] = {}
    exec("def made_up(layer): ...", space)
    assert source_hash(space["made_up"]) == "unknown"


def test_a_shared_underscore_module_is_part_of_the_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "pack"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "_shared.py").write_text("A = 1\n")
    (package / "other.py").write_text("B = 1\n")
    (package / "one.py").write_text("def prepare(layer):\n    return None\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    prepare = importlib.import_module("pack.one").prepare
    before = source_hash(prepare)
    (package / "other.py").write_text("B = 2\n")
    assert source_hash(prepare) == before
    (package / "_shared.py").write_text("A = 2\n")
    assert source_hash(prepare) != before


def test_what_is_missing_is_known_with_what_it_needs() -> None:
    missing("b", needs=" pip install b ")
    missing("a", family="fused", needs="a GPU", origin="theirs.a")
    found = missing_here()
    assert list(found) == ["a", "b"]
    assert (found["b"].family, found["b"].needs, found["b"].origin) == ("peer", "pip install b", __name__)
    assert (found["a"].family, found["a"].origin) == ("fused", "theirs.a")
    assert registered() == {}


def test_what_somebody_offers_is_not_missing() -> None:
    missing("a", needs="x")
    implementation("a", family="peer")(prepare)
    assert missing_here() == {}


@pytest.mark.parametrize("needs", ["", "  ", None, 3])
def test_a_need_is_a_text(needs: Any) -> None:
    with pytest.raises(ValueError, match="needs = "):
        missing("a", needs=needs)
    with pytest.raises(ValueError, match="small letters, digits"):
        missing("A", needs="x")
    with pytest.raises(ValueError, match="family = 'magic'"):
        missing("a", family="magic", needs="x")


def test_what_is_missing_is_forgotten_with_its_module() -> None:
    missing("a", needs="x", origin="theirs.a")
    missing("b", needs="x", origin="theirs.b")
    assert offers("theirs.a")
    assert offers("theirs")
    assert not offers("their")
    forget("theirs.a")
    assert list(missing_here()) == ["b"]
    assert not offers("theirs.a")


def test_what_must_be_said_about_one_is_kept_whether_it_is_here_or_not() -> None:
    implementation("a", family="peer")(prepare)
    implementation("b", family="peer", note="never verified")(prepare)
    missing("c", needs="x")
    missing("d", needs="x", note="never verified")
    notes = {name: one.note for name, one in (registered() | missing_here()).items()}
    assert notes == {"a": "", "b": "never verified", "c": "", "d": "never verified"}
