"""``nox -s asv_continuous -- BASE HEAD``: is HEAD worse than BASE? asv measures both in turns, the exit code answers.

asv's own exit code cannot: it is 1 for a regression, for an error in its configuration and for nothing measured alike.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from asv.results import iter_results_for_machine

from harness.export.asv_calls import call_asv, checkout, commit_id, config, git, know_machine
from harness.export.judge import WORSE, Finding, findings, summary, undecided

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asv.results import Results

FINE, WORSE_NOW, BROKEN, NOTHING = 0, 1, 2, 3
"""Exit codes: nothing got worse; something did; bad usage, or something works no more; nothing was measured in both."""

ROUNDS = 5
"""Measurements of each commit, in turns."""
MOST_BATCHES = 3
"""That many times ``ROUNDS`` where something looks slower, but not surely."""
USAGE = "usage: nox -s asv_continuous -- BASE HEAD, two commits, branches or tags"


def main(words: Sequence[str]) -> int:
    """Compare two commits and say what was found. Returns the exit code."""
    try:
        root = checkout()
        base, new = _commits(root, words)
    except ValueError as error:
        return _say(str(error), BROKEN)
    twin = _twin(root, new) if base == new else None
    try:
        return _compare(root, base, twin or new)
    finally:
        if twin:
            for file in Path(config(root).results_dir).glob(f"*/{twin[:8]}-*.json"):
                file.unlink()


def _commits(root: Path, words: Sequence[str]) -> tuple[str, str]:
    if len(words) != 2:
        raise ValueError(USAGE)
    return commit_id(root, words[0]), commit_id(root, words[1])


def _twin(root: Path, commit: str) -> str:
    """Make a commit of the same files that no branch knows: against itself a commit shows the machine's noise."""
    who = ("-c", "user.name=moebench", "-c", "user.email=moebench@localhost")
    return git(root, *who, "commit-tree", f"{commit}^{{tree}}", "-p", commit, "-m", "The same once more")


def _compare(root: Path, base: str, new: str) -> int:
    machine, since_ms = know_machine(), int(time.time() * 1000)  # asv keeps whole milliseconds
    found: list[Finding] = []
    for batch in range(MOST_BATCHES):
        code = _measure(root, base, new, more=batch > 0)
        if code not in {0, 2}:
            return _say(f"asv could not measure: exit code {code}, see above", BROKEN)
        both = [_results(root, machine, commit, since_ms) for commit in (base, new)]
        if both[0] is None or both[1] is None:
            return _say("asv kept no results of one of the commits, see above", BROKEN)
        found = findings(both[0], both[1])
        decided = any(one.word in {"BROKEN", *WORSE} for one in found)
        if decided or not any(one.suspect for one in found):
            break
    return conclude(found)


def _measure(root: Path, base: str, new: str, *, more: bool) -> int:
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(f"{base}\n{new}\n")
        file.flush()
        words = ["run", "--interleave-rounds", "--record-samples", "--show-stderr", f"HASHFILE:{file.name}"]
        words += ["--append-samples"] if more else []
        return call_asv(root, *words, MOEBENCH_ASV_ROUNDS=str(ROUNDS))


def _results(root: Path, machine: str, commit: str, since_ms: int) -> Results | None:
    """Find what asv has just kept of a commit; whatever is older than this comparison does not count."""
    for results in iter_results_for_machine(config(root).results_dir, machine):
        fresh = any(started and started >= since_ms for started in results.started_at.values())
        if results.commit_hash == commit and fresh:
            return results
    return None


def conclude(found: Sequence[Finding]) -> int:
    """Print what was found, worst first, and return the exit code. Of what could not be told the first are named."""
    for one in found:
        if one.suspect or one.word not in {"SAME", "AMBIGUOUS"}:
            _say(str(one))
    _say(summary(found))
    if told := undecided(found):
        _say(told)
    if any(one.word == "BROKEN" for one in found):
        return BROKEN
    if any(one.word in WORSE for one in found):
        return WORSE_NOW
    return FINE if any(one.word != "GONE" for one in found) else NOTHING


def _say(text: str, code: int = FINE) -> int:
    print(text, file=sys.stderr if code else sys.stdout)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
