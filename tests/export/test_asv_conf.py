"""``asv.conf.json``, the plugin it names, and the nox sessions: asv checks none of it itself."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from asv.config import Config
from asv.machine import MachineCollection
from asv.util import interpolate_command, load_json

from harness.export import asv_calls, asv_plugin, track

if TYPE_CHECKING:
    from tests.export.conftest import History

ROOT = Path(__file__).resolve().parents[2]
CONF = load_json(str(ROOT / "asv.conf.json"), Config.api_version, js_comments=True)


def test_every_key_is_one_that_asv_reads() -> None:
    assert CONF.keys() <= {*vars(Config()), "build_cache_size"}


def test_what_must_be_so() -> None:
    assert CONF["branches"] == ["HEAD"]  # a detached checkout works
    assert CONF["launch_method"] == "spawn"  # CUDA does not survive a fork
    assert (ROOT / CONF["benchmark_dir"] / "__init__.py").is_file()


def test_what_asv_writes_is_not_committed() -> None:
    folders = [CONF[key] for key in ("env_dir", "html_dir", "results_dir")]
    done = subprocess.run(
        ["git", "-C", str(ROOT), "check-ignore", *folders], capture_output=True, text=True, check=False
    )
    if done.returncode == 128:
        pytest.skip("not a git checkout")
    assert done.stdout.split() == folders


def test_the_path_file_lends_the_commit_and_the_hosts_packages(tmp_path: Path) -> None:
    """What the install command writes: the commit's checkout first, then what the variable names."""
    [written] = CONF["install_command"]
    command, _, _, folder = interpolate_command(written, {"env_dir": str(tmp_path), "build_dir": "/checkout of it"})
    assert folder == str(tmp_path)
    code = command[2].replace("site.getsitepackages()[0]", repr(str(tmp_path)))
    subprocess.run([sys.executable, "-c", code], check=True)
    lines = (tmp_path / "zz_moebench.pth").read_text().splitlines()
    assert lines[0] == "/checkout of it"
    show = f"import sys; sys.path.clear(); exec({lines[1]!r}); print(sys.path)"
    for given, expected in (("/a:/b".replace(":", os.pathsep), "['/a', '/b']"), ("", "[]")):
        environment = {**os.environ, asv_plugin.HOST_PATH: given}
        done = subprocess.run([sys.executable, "-c", show], env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == expected


def test_the_host_lends_its_packages_and_its_torch() -> None:
    import importlib.util

    folders = asv_plugin.host_path().split(os.pathsep)
    for name in ("msgspec", "torch"):
        spec = importlib.util.find_spec(name)
        assert spec
        assert spec.origin
        assert str(Path(spec.origin).resolve().parents[1]) in folders


def test_nothing_asv_loads_imports_torch() -> None:
    show = (
        "import sys, harness.export.asv_plugin, harness.export.track, harness.export.asv; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", show], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_nox_sessions_exist() -> None:
    functions = [
        node for node in ast.parse((ROOT / "noxfile.py").read_text()).body if isinstance(node, ast.FunctionDef)
    ]
    sessions = {
        one.name for one in functions if any(ast.unparse(d).startswith("nox.session") for d in one.decorator_list)
    }
    assert {"asv", "asv_continuous"} <= sessions


def test_the_nox_sessions_call_tools_that_may_lie_beside_the_machine_s_torch_through_their_own_python() -> None:
    """Such a tool counts as installed, so that the session gets no program of its own for it."""
    called = re.findall(r"session\.run\(\s*\"([^\"]+)\"", (ROOT / "noxfile.py").read_text())
    assert set(called) == {"python", "moebench", "ruff"}, "moebench is always installed, ruff where nothing is lent"


def test_asv_knows_a_new_machine_without_asking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    name = asv_calls.know_machine()
    assert MachineCollection.load(name)["machine"] == name
    MachineCollection.save(name, {"machine": "lab"})
    assert asv_calls.know_machine() == "lab"


def test_the_checkout_is_found_from_below(history: History, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    below = history.root / "deep" / "down"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    assert asv_calls.checkout() == history.root
    monkeypatch.chdir(tmp_path)
    assert asv_calls.checkout() == ROOT
    monkeypatch.setattr(asv_calls, "ROOT", tmp_path)
    with pytest.raises(ValueError, match=r"^no asv.conf.json here: run this inside a checkout"):
        asv_calls.checkout()


@pytest.mark.parametrize(
    ("words", "measured", "calls", "code"),
    [
        ([], 0, [("run", "--show-stderr", "HEAD^!"), ("publish", "--no-pull")], 0),
        (
            ["v1..v2", "--steps", "3"],
            2,
            [("run", "--show-stderr", "v1..v2", "--steps", "3"), ("publish", "--no-pull")],
            2,
        ),
        (["publish"], 0, [("publish", "--no-pull")], 0),
        (["nowhere"], 1, [("run", "--show-stderr", "nowhere")], 1),
    ],
)
def test_what_nox_asv_calls(
    words: list[str],
    measured: int,
    calls: list[tuple[str, ...]],
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = []

    def call(root: Path, *asked: str) -> int:
        assert root == ROOT
        made.append(asked)
        return measured if asked[0] == "run" else 0

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(track, "call_asv", call)
    monkeypatch.setattr(track, "know_machine", lambda: "lab")
    assert track.main(words) == code
    assert made == calls
    assert ("Look at them with" in capsys.readouterr().out) == (calls[-1][0] == "publish")


def test_git_says_why_not(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"not a git command"):
        asv_calls.git(history.root, "such-a-command")
    monkeypatch.setenv("PATH", "")
    assert shutil.which("git") is None
    with pytest.raises(ValueError, match="git cannot be called"):
        asv_calls.git(history.root, "status")
