"""Pictures beside a page: formats, names, and what an earlier report left."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from matplotlib.figure import Figure

from harness.report.gallery import Gallery, shown
from harness.report.style import in_style

if TYPE_CHECKING:
    from pathlib import Path

STARTS = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}


def drawn() -> Figure:
    figure = Figure(figsize=(2, 1))
    figure.add_subplot().set_title("Which is fastest?")
    return figure


@pytest.mark.parametrize("also", ["", "pdf", "svg"])
def test_pictures_come_in_the_formats_asked_for(tmp_path: Path, also: str) -> None:
    with in_style():
        assert Gallery(tmp_path, also).hang(drawn(), "01 E8/k2, forward") == "01-e8-k2-forward.png"
    found = {path.suffix[1:]: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(found) == {"png", also} - {""}
    assert all(content.startswith(STARTS[ending]) for ending, content in found.items())


def test_another_format_of_an_earlier_report_shows_no_old_figures(tmp_path: Path) -> None:
    with in_style():
        Gallery(tmp_path, "pdf").hang(drawn(), "one")
        old = (tmp_path / "one.pdf").read_bytes()
        figure = drawn()
        figure.add_subplot().plot([1, 2])
        Gallery(tmp_path, "svg").hang(figure, "one")
    assert {path.suffix for path in tmp_path.iterdir()} == {".png", ".pdf", ".svg"}
    assert (tmp_path / "one.pdf").read_bytes() != old


@pytest.mark.parametrize("also", ["pdf", "svg"])
def test_equal_pictures_are_equal_files(tmp_path: Path, also: str) -> None:
    with in_style():
        gallery = Gallery(tmp_path, also)
        for name in ("one", "two"):
            gallery.hang(drawn(), name)
    assert (tmp_path / f"one.{also}").read_bytes() == (tmp_path / f"two.{also}").read_bytes()


def test_fonts_in_a_pdf_are_ones_that_journals_take(tmp_path: Path) -> None:
    with in_style():
        Gallery(tmp_path, "pdf").hang(drawn(), "one")
    content = (tmp_path / "one.pdf").read_bytes()
    assert b"/Type3" not in re.sub(rb"\s", b"", content)
    assert b"/CIDFontType2" in content


def test_another_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^--also = 'eps': one of pdf, svg$"):
        Gallery(tmp_path, "eps")


def test_only_pictures_that_the_page_showed_are_taken_down(tmp_path: Path) -> None:
    for name in ("old.png", "old.pdf", "old.svg", "kept.png", "mine.png", "old.txt"):
        (tmp_path / name).touch()
    outside = tmp_path.parent / f"{tmp_path.name}-outside.png"
    outside.touch()
    page = f"![What?](old.png)\n![What?](kept.png)\nno picture: mine.png\n![What?](../{outside.name})\n"
    Gallery(tmp_path).take_down(page, "![What?](kept.png)\n")
    assert {path.name for path in tmp_path.iterdir()} == {"kept.png", "mine.png", "old.txt"}
    assert outside.exists()


@pytest.mark.parametrize("text", ["", "![](a.png)", "![x](A.png)", "![x](a/b.png)", "see ![x](a.png)", "![x](a.png) "])
def test_what_is_no_picture_of_a_gallery(text: str) -> None:
    assert shown(text) == set()
