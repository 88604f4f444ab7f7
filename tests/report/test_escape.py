"""Text from records is shown as it is and never obeyed. A CommonMark parser is the judge."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from harness.report.escape import Markdown, bold, code, escape, fenced, markdown_table, one_line

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
nasty = st.text("\\`*_{}[]()#|~$<>&!\n\r\t a1-+:\x1b\x00", max_size=30)
parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])


def cell_text(markdown: str) -> str:
    """Text of the only body cell of a table, provided that the cell holds nothing but text."""
    inline = [token for token in parser.parse(markdown) if token.type == "inline"]
    assert len(inline) == 2, "one head and one cell"
    children = inline[1].children or []
    assert {child.type for child in children} <= {"text", "text_special"}
    return "".join(child.content for child in children)


@given(texts | nasty)
@example("a|b")
@example("<script>alert(1)</script>")
@example("![x](http://y) `z` **w** &amp; \\|")
def test_a_cell_shows_its_text_and_nothing_else(text: str) -> None:
    assert cell_text(markdown_table(["head"], [[text]])) == one_line(text)


def test_rows_keep_their_cells() -> None:
    table = markdown_table(["a", "b"], [["x|y", "1"], ["line\nbreak", "007"]])
    assert table.splitlines()[2].replace("\\|", "").count("|") == 3
    assert "line break" in table
    assert "007" in table
    assert len(table.splitlines()) == 4


@given(texts | nasty)
def test_code_never_ends_early(text: str) -> None:
    shown = code(text)
    assert "\n" not in shown
    assert shown.strip("`").count("`") == 0
    assert "|" not in shown.replace("\\|", "")


@given(texts | nasty | st.text("`\n", max_size=20))
def test_a_fence_holds_everything(text: str) -> None:
    tokens = parser.parse(fenced(text) + "\n\nafter")
    assert [token.type for token in tokens] == ["fence", "paragraph_open", "inline", "paragraph_close"]


def test_markdown_is_not_escaped_twice() -> None:
    assert escape(escape("a_b")) == "a\\_b"
    assert bold("a|b") == "**a\\|b**"
    assert isinstance(bold("x"), Markdown)


def test_terminal_sequences_are_dropped() -> None:
    assert one_line("\x1b[31mred\x1b[0m\nnext\x00") == "red next"
