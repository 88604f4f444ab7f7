"""A revision laid out beside the working tree, in real git repositories."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.running import discovery
from harness.running.versus import revision
from harness.running.versus.revision import Sources, commit_of, find_sources, laid_out

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def declared(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Say which modules declare implementations."""

    def declare(*names: str) -> None:
        for module in (discovery, revision):
            monkeypatch.setattr(module, "declared_modules", lambda: list(names))

    return declare


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, declared: Any, git_in: Any) -> Path:
    """A repository with a package of implementations, committed twice; ``src`` is on the path."""
    path = tmp_path / "repo"
    (path / "src" / "mine").mkdir(parents=True)
    git = git_in(path)
    git("init", "--quiet", "--initial-branch=main")
    write(path, "VALUE = 1")
    git("add", "-A")
    git("commit", "--quiet", "-m", "one")
    git("tag", "v1")
    write(path, "VALUE = 2")
    (path / "src" / "late.py").write_text("LATE = 1\n")
    git("add", "-A")
    git("commit", "--quiet", "-m", "two")
    write(path, "VALUE = 3")
    monkeypatch.syspath_prepend(str(path / "src"))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    declared("mine.fast", "mine")
    return path.resolve()


def write(repository: Path, source: str) -> None:
    (repository / "src" / "mine" / "__init__.py").write_text(source + "\n")


def worktrees(repository: Path) -> int:
    """Every further one has a folder there."""
    folder = repository / ".git" / "worktrees"
    return 1 + (len(list(folder.iterdir())) if folder.exists() else 0)


def test_the_repository_is_that_of_the_declared_modules(repository: Path) -> None:
    sources = find_sources()
    assert sources == Sources(repository, {"mine": repository / "src" / "mine"})
    assert "mine" not in sys.modules, "nothing is imported"


def test_the_revision_is_laid_out_and_taken_away(repository: Path, git_in: Any) -> None:
    sources = find_sources()
    sha = commit_of(repository, "v1")
    assert sha == git_in(repository)("rev-parse", "v1")
    with laid_out(sources, sha) as found:
        assert (found.path / "mine" / "__init__.py").read_text() == "VALUE = 1\n"
        assert [entry.name for entry in found.path.iterdir()] == ["mine"]
        assert Path(found.homes["mine"]) == (found.path / "mine").resolve()
        assert (found.sha, found.missing) == (sha, {})
        assert worktrees(repository) == 2
    assert not found.path.exists()
    assert worktrees(repository) == 1
    assert (repository / "src" / "mine" / "__init__.py").read_text() == "VALUE = 3\n"


def test_modules_that_the_revision_lacks_are_named(repository: Path, declared: Any) -> None:
    declared("mine", "late", "late.more")
    sources = find_sources()
    with laid_out(sources, commit_of(repository, "v1")) as found:
        assert set(found.homes) == {"mine"}
        assert set(found.missing) == {"late", "late.more"}
        assert found.missing["late"].endswith("has no module late")
    with laid_out(sources, commit_of(repository, "HEAD")) as found:
        assert set(found.homes) == {"mine", "late"}
        assert (found.path / "late.py").read_text() == "LATE = 1\n"
        assert not found.missing


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_it_is_taken_away_whatever_happens(repository: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), laid_out(find_sources(), commit_of(repository, "HEAD")) as found:  # noqa: PT012
        (Path(found.homes["mine"]) / "new.py").write_text("left behind")
        raise error
    assert not found.path.exists()
    assert worktrees(repository) == 1


def test_hooks_do_not_run(repository: Path) -> None:
    hook = repository / ".git" / "hooks" / "post-checkout"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch {repository}/hooked\nexit 1\n")
    hook.chmod(0o755)
    with laid_out(find_sources(), commit_of(repository, "v1")):
        pass
    assert not (repository / "hooked").exists()


def test_git_hooks_own_variables_are_not_heard(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    monkeypatch.setenv("GIT_INDEX_FILE", "/nowhere/index")
    assert find_sources().repository == repository


@pytest.mark.parametrize("rev", ["no-such-thing", "", "--help", "v1:src", "HEAD~99"])
def test_unknown_revisions_are_refused(repository: Path, rev: str) -> None:
    with pytest.raises(ValueError, match=r"--rev = .*a commit, branch or tag"):
        commit_of(repository, rev)


def test_a_commit_that_git_cannot_check_out(repository: Path) -> None:
    with pytest.raises(ValueError, match=r"git .*worktree"), laid_out(find_sources(), "0" * 40):
        pass
    assert worktrees(repository) == 1


def test_ignored_modules_belong_to_no_repository(repository: Path, declared: Any, git_in: Any) -> None:
    """As in a virtual environment inside somebody's checkout."""
    (repository / ".gitignore").write_text("late.py\n")
    git = git_in(repository)
    git("rm", "--cached", "--quiet", "src/late.py")
    declared("late")
    with pytest.raises(ValueError, match="no implementation lies in a git repository"):
        find_sources()
    declared("late", "mine", "harness", "no_such_module_anywhere")
    assert set(find_sources().modules) == {"mine"}


def test_of_several_repositories_it_is_the_one_around(
    repository: Path, declared: Any, git_in: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "theirs.py").write_text("")
    git_in(other)("init", "--quiet")
    monkeypatch.syspath_prepend(str(other))
    declared("mine", "theirs")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="several git repositories"):
        find_sources()
    monkeypatch.chdir(other)
    assert find_sources() == Sources(other.resolve(), {"theirs": (other / "theirs.py").resolve()})


def test_outside_of_any_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, declared: Any) -> None:
    (tmp_path / "lonely.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    declared("lonely")
    with pytest.raises(ValueError, match="no implementation lies in a git repository"):
        find_sources()


def test_without_git(repository: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="git is not installed"):
        find_sources()


def test_strays_are_modules_from_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
    (here / "__init__.py").write_text("")
    (there / "odd.py").write_text("")
    (tmp_path / "link").symlink_to(here)
    monkeypatch.syspath_prepend(str(tmp_path))
    __import__("link")
    assert discovery.strays({"link": str(here.resolve())}) == {}
    sys.modules["link"].__path__.append(str(there))
    __import__("link.odd")
    assert discovery.strays({"link": str(here.resolve())}) == {"link.odd": str(there / "odd.py")}
    assert discovery.strays({"other": "/"}) == {}
