"""``nox -s asv``: measure commits for the history and write asv's pages, or only write them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from harness.export.asv_calls import call_asv, checkout, config, know_machine

if TYPE_CHECKING:
    from collections.abc import Sequence

PUBLISH = "publish"


def main(words: Sequence[str]) -> int:
    """Run asv over ``words``, its own range of commits and options, HEAD by default; ``publish`` measures nothing.

    Returns asv's exit code: 2 when something could not be measured.
    """
    try:
        root = checkout()
    except ValueError as error:
        print(error, file=sys.stderr)  # noqa: T201 (a command's answer)
        return 2
    know_machine()
    measured = 0 if list(words) == [PUBLISH] else call_asv(root, "run", "--show-stderr", *(words or ["HEAD^!"]))
    if measured not in {0, 2}:  # a failed benchmark is a gap in the graph, and belongs there
        return measured
    published = call_asv(root, PUBLISH, "--no-pull")
    if not published:
        pages = config(root).html_dir
        print(f"Look at them with: python -m http.server --bind 127.0.0.1 --directory {pages}")  # noqa: T201 (same)
    return measured or published


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
