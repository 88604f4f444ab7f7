from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import msgspec
import pytest

from harness.records.environment import Device, Environment
from harness.running import environment
from harness.running.environment import (
    allowed_variables,
    assemble,
    container,
    container_cpus,
    container_memory_bytes,
    cpu_device,
    cpu_model,
    git_state,
    parent_facts,
)

if TYPE_CHECKING:
    from pathlib import Path


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=nobody", "-c", "user.email=nobody@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    git(tmp_path, "init")
    (tmp_path / "code.py").write_text("x = 1\n")
    (tmp_path / ".gitignore").write_text("results\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    return tmp_path


def test_the_parent_never_imports_torch() -> None:
    code = (
        "import sys; from harness.running.environment import parent_facts; from harness.running.doctor import diagnose;"
        "diagnose(parent_facts(), {}); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=environment.CHECKOUT).returncode == 0


def test_facts_survive_being_written_down() -> None:
    facts = parent_facts()
    assert msgspec.json.decode(msgspec.json.encode(facts), type=Environment) == facts
    assert facts.versions["torch"]
    assert facts.devices["cpu"].memory_bytes > 0
    assert facts.environment_id == parent_facts().environment_id


def test_devices_of_the_child_replace_those_of_the_parent() -> None:
    parent = parent_facts()
    gpu = Device(name="GPU", kind="cuda", memory_bytes=1, cache_bytes=1)
    joined = assemble(parent, {"cpu": cpu_device(threads=7), "cuda:0": gpu})
    assert joined.devices["cpu"].threads == 7
    assert joined.devices["cuda:0"] is gpu
    assert parent.devices["cpu"].threads is None


def test_only_listed_variables_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(allowed_variables()):
        monkeypatch.delenv(name)
    kept = (
        "OMP_NUM_THREADS",
        "CUDA_VISIBLE_DEVICES",
        "MKL_NUM_THREADS",
        "TORCH_LOGS",
        "PYTORCH_ALLOC_CONF",
        "TRITON_CACHE_DIR",
    )
    for name in (*kept, "AWS_SECRET_ACCESS_KEY", "MY_TORCH_TOKEN", "TORCHX", "HOME_TRITON_X"):
        monkeypatch.setenv(name, "1")
    assert set(allowed_variables()) == set(kept)


def test_a_clean_checkout_has_a_commit_and_no_hash(checkout: Path) -> None:
    sha, dirty = git_state(checkout)
    assert sha is not None
    assert len(sha) == 40
    assert dirty is None
    (checkout / "results").write_text("ignored files are no change")
    assert git_state(checkout) == (sha, None)


def test_every_uncommitted_change_has_its_own_hash(checkout: Path) -> None:
    seen = {git_state(checkout)[1]}
    for name, text in (("code.py", "x = 2\n"), ("code.py", "x = 3\n"), ("new.py", ""), ("new.py", "y = 1\n")):
        (checkout / name).write_text(text)
        seen.add(git_state(checkout)[1])
    assert len(seen) == 5
    (checkout / "code.py").write_text("x = 1\n")
    (checkout / "new.py").unlink()
    assert git_state(checkout)[1] is None


def test_a_folder_inside_somebody_elses_repository_is_no_checkout(checkout: Path) -> None:
    inside = checkout / "site-packages"
    inside.mkdir()
    assert git_state(inside) == (None, None)


def test_without_a_commit_or_without_git_there_is_no_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git(tmp_path, "init")
    assert git_state(tmp_path) == (None, None)
    monkeypatch.setenv("PATH", "")
    assert git_state(tmp_path) == (None, None)


@pytest.mark.parametrize(("mark", "kind"), [(".dockerenv", "docker"), ("run/.containerenv", "podman")])
def test_containers_are_known_by_their_marks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mark: str, kind: str
) -> None:
    for name in ("KUBERNETES_SERVICE_HOST", "SINGULARITY_NAME", "APPTAINER_NAME", "container"):
        monkeypatch.delenv(name, raising=False)
    assert container(tmp_path) is None
    (tmp_path / "run").mkdir()
    (tmp_path / mark).touch()
    assert container(tmp_path) == kind
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert container(tmp_path) == "kubernetes"


def test_limits_of_a_control_group(tmp_path: Path) -> None:
    assert container_memory_bytes(tmp_path) is None
    assert container_cpus(tmp_path) is None
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert container_memory_bytes(tmp_path) is None
    assert container_cpus(tmp_path) is None
    (tmp_path / "memory.max").write_text("1048576\n")
    (tmp_path / "cpu.max").write_text("250000 100000\n")
    assert container_memory_bytes(tmp_path) == 1 << 20
    assert container_cpus(tmp_path) == 2.5


def test_the_container_limits_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "container_memory_bytes", lambda: 4096)
    assert cpu_device().memory_bytes == 4096


def test_the_model_of_the_cpu(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Fast Chip 9000\nmodel\t\t: 2\n")
    assert cpu_model(tmp_path / "cpuinfo") == "Fast Chip 9000"
    assert cpu_model(tmp_path / "nowhere")
