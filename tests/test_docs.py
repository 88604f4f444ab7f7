"""What README and CONTRIBUTING say can be done."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.main import get_command

from harness.cases.suite import load_suite
from harness.cli import app

ROOT = Path(__file__).resolve().parents[1]
README, CONTRIBUTING = (ROOT / "README.md").read_text(), (ROOT / "CONTRIBUTING.md").read_text()
DOCUMENTS = README + CONTRIBUTING


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.mark.parametrize("line", re.findall(r"^moebench .*", DOCUMENTS, re.MULTILINE))
def test_moebench_commands_in_the_documents_exist(line: str) -> None:
    words = line.partition("#")[0].split()
    command = get_command(app)
    for word in words[1:]:
        if not hasattr(command, "commands"):
            break
        assert word in command.commands
        command = command.commands[word]
    options = {name for parameter in command.params for name in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= options


@pytest.mark.parametrize("target", re.findall(r"\]\((?!http)([^)#]+)\)", DOCUMENTS))
def test_links_lead_somewhere(target: str) -> None:
    assert (ROOT / target).exists()


def test_nox_sessions_in_the_documents_exist() -> None:
    defined = set(re.findall(r"^def (\w+)\(session", (ROOT / "noxfile.py").read_text(), re.MULTILINE))
    for words in re.findall(r"nox -s ([a-z_ ]+)", DOCUMENTS + (ROOT / ".ci" / "run").read_text()):
        assert set(words.split()) <= defined


def test_the_suite_in_the_readme_is_one(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(blocks(README, "toml")[0])
    assert len(load_suite(path).cases("cpu")) == 8


def test_the_package_in_contributing_is_found_and_agrees(tmp_path: Path) -> None:
    """Lay the package out as an installer would; ``validate`` finds and checks it, beside the one-file example."""
    project, package = blocks(CONTRIBUTING, "toml")[0], blocks(CONTRIBUTING, "python")[1]
    (tmp_path / "mine.py").write_text(blocks(CONTRIBUTING, "python")[0])
    assert len((project + package).strip().splitlines()) < 40
    points = tomllib.loads(project)["project"]["entry-points"]["moebench.impls"]
    (tmp_path / "fast_moe_kernels.py").write_text(package)
    info = tmp_path / "fast_moe_kernels-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fast-moe-kernels\nVersion: 1.0\n")
    lines = [f"{name} = {module}" for name, module in {**points, "mine": "mine"}.items()]
    (info / "entry_points.txt").write_text("\n".join(["[moebench.impls]", *lines]) + "\n")
    command = [sys.executable, "-m", "harness", "validate", "--impl", "fast.everywhere,mine", "--device", "cpu"]
    done = subprocess.run(
        command, cwd=ROOT, env=_environment(tmp_path), capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "fast.everywhere" in done.stdout
    assert "failed" in done.stdout


def _environment(path: Path) -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(path), "COLUMNS": "200"}
