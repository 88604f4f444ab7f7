"""What asv loads at the start of every command in this checkout (``plugins`` in ``asv.conf.json``)."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import sysconfig
from pathlib import Path
from typing import Any

from asv.benchmarks import Benchmarks

from harness.export.asv_definitions import restore_definitions

HOST_PATH = "MOEBENCH_HOST_PATH"
"""Variable with the folders that asv's environments borrow packages from."""


def host_path() -> str:
    """Folders of the packages beside the Python that runs asv, and of its torch, which may itself be borrowed."""
    folders = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # the harness will say so
        folders.append(str(importlib.metadata.distribution("torch").locate_file("")))
    return os.pathsep.join(dict.fromkeys(str(Path(folder).resolve()) for folder in folders))


def setup() -> None:
    """Lend this Python's packages to asv's environments, and let asv find exported benchmarks in its list."""
    os.environ.setdefault(HOST_PATH, host_path())
    read = Benchmarks.load.__func__

    def load(cls: type[Benchmarks], conf: Any, regex: Any = None) -> Any:  # noqa: ANN401 (asv is untyped)
        restore_definitions(Path(conf.results_dir))
        return read(cls, conf, regex=regex)

    Benchmarks.load = classmethod(load)
