"""Tests marked ``cuda`` skip themselves where there is no GPU. No test asserts on time, so one thread is enough.

Property tests take the same examples every time; ``--hypothesis-profile random`` looks for new ones.
"""

import os

import pytest
from hypothesis import settings

settings.register_profile("same", derandomize=True)
settings.register_profile("random", print_blob=True)
settings.load_profile("same")  # the same examples every time: a test fails for its change, not by chance

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, here and in workers
os.environ["XDG_STATE_HOME"] = "/nonexistent/state"  # what the user's machine was calibrated to is no business of tests
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # no pool of compiling processes, which can hang


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    on_gpu = [item for item in items if item.get_closest_marker("cuda")]
    if not on_gpu:
        return
    import torch

    if not torch.cuda.is_available():
        for item in on_gpu:
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU"))
