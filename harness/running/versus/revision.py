"""An older revision of the implementations, laid out beside the working tree: a git worktree, and a folder of links.

Only modules that declare implementations come from the revision. The harness that measures them is this one, so that
both sides are held against the same instrument, however old the revision's own harness is. Nothing is imported here.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cases.shape import require
from harness.running.discovery import declared_modules

if TYPE_CHECKING:
    from collections.abc import Iterator

GIT_TIMEOUT_S = 600.0
AMBIENT = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX")
"""Variables that git sets for its hooks, and that would turn its own commands to another repository."""
OURS = "harness"


@dataclass(frozen=True)
class Sources:
    """The repository that implementations lie in, and where: top-level module to its file or package folder."""

    repository: Path
    modules: dict[str, Path]


@dataclass(frozen=True)
class Revision:
    """A revision laid out. ``path`` goes first on a worker's path.

    ``homes`` are the top-level modules that come from the revision, with the file or folder each must lie in.
    ``missing`` are declared modules of the working tree that the revision does not have, with words that say so.
    """

    sha: str
    path: Path
    homes: dict[str, str]
    missing: dict[str, str]


def find_sources() -> Sources:
    """Find the repository of the declared implementations.

    Where several repositories hold some, it is the one that the current directory lies in.

    Raises
    ------
    ValueError
        without git or a repository, or when it is not clear which.
    """
    found: dict[Path, dict[str, Path]] = {}
    for top in dict.fromkeys(name.partition(".")[0] for name in declared_modules()):
        place = _place(top)
        repository = _repository_of(place) if place and top != OURS else None
        if place and repository:
            found.setdefault(repository, {})[top] = place
    if len(found) > 1:
        here = Path.cwd().resolve()
        found = {path: modules for path, modules in found.items() if here.is_relative_to(path)}
        if len(found) != 1:
            raise ValueError("--rev: implementations lie in several git repositories; run this inside the one it names")
    if not found:
        raise ValueError(
            "--rev: no implementation lies in a git repository; run this in a checkout, as `python -m harness …`"
        )
    return Sources(*found.popitem())


def commit_of(repository: Path, rev: str) -> str:
    """Return the full id of a revision's commit.

    Raises
    ------
    ValueError
        when there is none of that name.
    """
    wanted = "a commit, branch or tag that `git log` knows here"
    require(bool(rev) and not rev.startswith("-"), "--rev", rev, wanted)
    try:
        return _git(repository, "rev-parse", "--verify", "--quiet", f"{rev}^{{commit}}").strip()
    except ValueError:
        require(False, "--rev", rev, wanted)
        raise


@contextlib.contextmanager
def laid_out(sources: Sources, sha: str) -> Iterator[Revision]:
    """Check a commit out into a temporary worktree, which is gone afterwards, whatever happens.

    Raises
    ------
    ValueError
        when git cannot do it, saying why.
    """
    with tempfile.TemporaryDirectory(prefix="moebench-rev-", ignore_cleanup_errors=True) as name:
        folder = Path(name).resolve()
        tree, path = folder / "tree", folder / "path"
        path.mkdir()
        try:
            _git(sources.repository, *_NO_HOOKS, "worktree", "add", "--detach", "--quiet", str(tree), sha)
            yield _link(sources, sha, tree, path)
        finally:
            for words in (("remove", "--force", str(tree)), ("prune",)):
                with contextlib.suppress(ValueError):
                    _git(sources.repository, "worktree", *words)


_NO_HOOKS = ("-c", f"core.hooksPath={os.devnull}")


def _link(sources: Sources, sha: str, tree: Path, path: Path) -> Revision:
    """Fill the folder of links."""
    homes, missing = {}, {}
    for top, place in sources.modules.items():
        there = tree / place.relative_to(sources.repository)
        if there.exists():
            (path / there.name).symlink_to(there)
            homes[top] = str(there.resolve())
    for name in declared_modules():
        top = name.partition(".")[0]
        if top in sources.modules and top not in homes:
            missing[name] = f"{sha[:12]} has no module {top}"
    return Revision(sha, path, homes, missing)


def _place(top: str) -> Path | None:
    """Return the file or package folder of a top-level module, without importing it."""
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    folders = list(spec.submodule_search_locations or ())
    place = folders[0] if folders else spec.origin
    return Path(place).resolve() if place and Path(place).exists() else None


def _repository_of(place: Path) -> Path | None:
    """Return the top of the repository a module belongs to; ignored files, as in a virtual environment, belong to none.

    Raises
    ------
    ValueError
        without git.
    """
    folder = place if place.is_dir() else place.parent
    try:
        top = _git(folder, "rev-parse", "--show-toplevel").rstrip("\n")
        files = _git(folder, "ls-files", "--cached", "--others", "--exclude-standard", "--", str(place))
    except _GitSaidNoError:
        return None
    return Path(top).resolve() if files else None


class _GitSaidNoError(ValueError):
    """Git ran and failed."""


def _git(folder: Path, *arguments: str) -> str:
    """Run git in a folder and return what it printed. It is no part of the terminal's group: Ctrl-C must not halve it.

    Raises
    ------
    ValueError
        with what git said.
    """
    environment = {name: value for name, value in os.environ.items() if name not in AMBIENT}
    try:
        done = subprocess.run(  # noqa: S603 (fixed words, and a commit id)
            ["git", "-C", str(folder), *arguments],  # noqa: S607 (the user's own git)
            capture_output=True,
            check=False,
            timeout=GIT_TIMEOUT_S,
            env=environment,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    except FileNotFoundError:
        raise ValueError("--rev: git is not installed") from None
    except subprocess.TimeoutExpired:
        raise _GitSaidNoError(f"git {arguments[0]}: no answer within {GIT_TIMEOUT_S:g} s") from None
    if done.returncode:
        said = " ".join(os.fsdecode(done.stderr).split()) or f"exit code {done.returncode}"
        raise _GitSaidNoError(f"git {' '.join(arguments[:4])}: {said}")
    return os.fsdecode(done.stdout)
