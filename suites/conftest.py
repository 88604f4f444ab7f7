"""pytest's front door: ``pytest suites/ --benchmark-only --suite tiny --impl loop,grouped --budget 20s``.

The harness takes the times, in worker processes; pytest-benchmark shows, saves and compares them. It is switched off in
the project's settings and loaded here, so that the project's own tests do without it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from suites.bouts import Bouts

PLUGIN = "pytest_benchmark.plugin"
INSTALL = "install moebench with what it needs, for instance by `pip install -e .`"
COMPARE = pytest.StashKey[Any]()
"""What ``--benchmark-compare`` was given."""


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """Add moebench's options, and pytest-benchmark with its own."""
    if pluginmanager.hasplugin("session"):
        return  # too late, the command line is read already: `pytest .` just comes by
    group = parser.getgroup("moebench")
    group.addoption("--suite", metavar="SUITE", default="tiny", help="A shipped suite's name or a TOML file.")
    group.addoption("--impl", metavar="A,B", default="", help="Only these implementations.")
    group.addoption("--budget", metavar="5m", default="", help="Time to measure in; the suite's by default.")
    group.addoption("--run-dir", metavar="DIR", type=Path, help="Keep the run in DIR, for `moebench report DIR`.")
    if not pluginmanager.hasplugin("benchmark"):
        try:
            pluginmanager.import_plugin(PLUGIN)
        except (ImportError, pytest.UsageError) as error:
            raise pytest.UsageError(f"{error}; {INSTALL}") from None


def asked_for(config: pytest.Config) -> bool:
    """Whether pytest was given this folder, and not one around it."""
    return config.getoption("--suite", None) is not None


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    """Measure only when this folder is asked for."""
    return None if asked_for(config) else True


def pytest_configure(config: pytest.Config) -> None:
    """Keep pytest-benchmark, which configures itself last, from comparing before the device is known."""
    if asked_for(config):
        config.stash[COMPARE] = config.option.benchmark_compare
        config.option.benchmark_compare = []


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """Look at the machine, once, and plan. Bad input ends the session with one line."""
    config = session.config
    try:
        from harness.running.machine import MachineError
        from harness.running.request import Request
        from suites.bouts import BOUTS, Bouts
    except ImportError as error:
        raise pytest.UsageError(f"{error}; {INSTALL}") from None
    given = config.option
    request = Request(given.suite, given.impl, budget=given.budget)
    try:
        config.stash[BOUTS] = Bouts(request, given.run_dir, config.invocation_params.args)
    except (ValueError, MachineError) as error:
        first, *log = str(error).strip().splitlines()
        raise pytest.UsageError(": ".join([first, *log[-1:]])) from None
    _keep_devices_apart(config, config.stash[BOUTS])


def _keep_devices_apart(config: pytest.Config, bouts: Bouts) -> None:
    """Give each device a folder of its own in pytest-benchmark's storage, and only then let it load what to compare."""
    plugin: Any = config.pluginmanager.get_plugin("pytest-benchmark")
    plugin.machine_id = f"{plugin.machine_id}-{bouts.device_slug}"
    plugin.storage.default_machine_id = plugin.machine_id
    plugin.compare = config.stash[COMPARE]
    plugin.handle_loading()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Measure what is selected and nothing else."""
    if asked_for(session.config):
        from suites.bouts import BOUTS

        chosen = [item.callspec.params for item in session.items if hasattr(item, "callspec")]
        session.config.stash[BOUTS].narrow({(one.get("case_id"), one.get("implementation")) for one in chosen})


def pytest_report_collectionfinish(config: pytest.Config) -> str | None:
    """Say what is about to be measured."""
    if not asked_for(config):
        return None
    from suites.bouts import BOUTS

    return config.stash[BOUTS].summary


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """Add devices and versions, and leave out clock rates, which never repeat: a warning shall mean something."""
    from suites.bouts import BOUTS

    for volatile in ("hz_actual", "hz_actual_friendly"):
        machine_info.get("cpu", {}).pop(volatile, None)
    machine_info["moebench"] = config.stash[BOUTS].machine_details()


@pytest.fixture(scope="session")
def bouts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bouts:
    """Where records come from; without ``--run-dir`` the run goes to pytest's temporary folder."""
    from suites.bouts import BOUTS

    found = request.config.stash[BOUTS]
    found.run_dir = found.run_dir or tmp_path_factory.mktemp("moebench") / found.plan.suite
    return found
