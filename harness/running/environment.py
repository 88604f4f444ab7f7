"""The environment as the parent sees it: everything that can be learnt without torch. The child adds its devices."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path

import msgspec
import psutil

from harness.measure.caches import cpu_cache
from harness.records.environment import Device, Environment

PACKAGES = ("moebench", "torch", "triton", "transformers", "numpy", "nvidia-ml-py")
"""Distributions whose version can move a number."""
VARIABLES = re.compile(r"OMP_NUM_THREADS|CUDA_VISIBLE_DEVICES|(MKL|PYTORCH|TORCH|TRITON)_[A-Z0-9_]+")
"""Environment variables worth keeping; no others are ever read."""

CHECKOUT = Path(__file__).resolve().parents[2]
CPUINFO = Path("/proc/cpuinfo")
GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
GIT_TIMEOUT_S = 10


def parent_facts() -> Environment:
    """Describe machine, software and checkout. ``devices`` holds the CPU alone until ``assemble`` adds torch's."""
    sha, dirty = git_state(CHECKOUT)
    return Environment(
        hostname=platform.node(),
        system=platform.system(),
        kernel=platform.release(),
        python=platform.python_version(),
        versions=package_versions(),
        devices={"cpu": cpu_device()},
        container=container(),
        governor=_read(GOVERNOR),
        load_average=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        git_sha=sha,
        git_dirty=dirty,
        variables=allowed_variables(),
    )


def assemble(parent: Environment, devices: dict[str, Device]) -> Environment:
    """Join the parent's view and the child's devices; what the child says about a device replaces the parent's."""
    return msgspec.structs.replace(parent, devices={**parent.devices, **devices})


def cpu_device(threads: int | None = None) -> Device:
    """Describe the CPU: physical cores, memory within the container's limit, and the threads torch uses, if known."""
    return Device(
        name=cpu_model(),
        kind="cpu",
        memory_bytes=min(psutil.virtual_memory().total, container_memory_bytes() or 1 << 62),
        cache_bytes=cpu_cache().bytes,
        cores=psutil.cpu_count(logical=False),
        threads=threads,
    )


def cpu_model(cpuinfo: Path = CPUINFO) -> str:
    """Return the CPU's model name."""
    found = re.search(r"^model name\s*:\s*(.+)$", _read(cpuinfo) or "", re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()


def package_versions() -> dict[str, str | None]:
    """Version of each of ``PACKAGES``, None where it is not installed. Nothing is imported."""
    versions: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def allowed_variables() -> dict[str, str]:
    """Return the environment variables that steer threads, torch, triton and the choice of GPU."""
    return {name: os.environ[name] for name in sorted(os.environ) if VARIABLES.fullmatch(name)}


def container(root: Path = Path("/")) -> str | None:
    """Name the kind of container this runs in, or None. Well-known marks only; a container can hide."""
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        return "kubernetes"
    if (root / ".dockerenv").exists():
        return "docker"
    if (root / "run/.containerenv").exists():
        return "podman"
    if "SINGULARITY_NAME" in os.environ or "APPTAINER_NAME" in os.environ:
        return "apptainer"
    return os.environ.get("container") or None  # noqa: SIM112 (systemd spells it in small letters)


def container_memory_bytes(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes the control group may use, or None without a limit."""
    limit = _read(root / "memory.max") or ""
    return int(limit) if limit.isdigit() else None


def container_used_bytes(root: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes the control group uses and could not simply drop, as its idle file cache could; 0 where it is not told."""
    used = _read(root / "memory.current") or ""
    idle = re.search(r"^inactive_file (\d+)$", _read(root / "memory.stat") or "", re.MULTILINE)
    return max(0, int(used) - (int(idle[1]) if idle else 0)) if used.isdigit() else 0


def container_cpus(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """CPUs' worth of time the control group may use, or None without a limit."""
    quota, _, period = (_read(root / "cpu.max") or "").partition(" ")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else None


def git_state(checkout: Path) -> tuple[str | None, str | None]:
    """Return the checkout's commit, and a hash of everything uncommitted (None when clean); twice None without git.

    An installed copy inside somebody else's repository is no checkout: the repository must be rooted at ``checkout``.
    """
    top = _git(checkout, "rev-parse", "--show-toplevel")
    sha = _git(checkout, "rev-parse", "HEAD")
    if top is None or sha is None or Path(os.fsdecode(top).strip()).resolve() != checkout.resolve():
        return None, None
    digest = hashlib.sha256(difference := _git(checkout, "diff", "HEAD", "--binary") or b"")
    untracked = (_git(checkout, "ls-files", "--others", "--exclude-standard", "-z") or b"").split(b"\0")
    for name in filter(None, untracked):
        path = checkout / os.fsdecode(name)
        digest.update(name + b"\0" + (path.read_bytes() if path.is_file() else b""))
    dirty = bool(difference or any(untracked))
    return sha.decode().strip(), digest.hexdigest()[:12] if dirty else None


def _git(checkout: Path, *arguments: str) -> bytes | None:
    """Output of a git command that takes no locks, or None when it fails."""
    command = ["git", "--no-optional-locks", "-C", str(checkout), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=GIT_TIMEOUT_S)  # noqa: S603 (fixed words)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
