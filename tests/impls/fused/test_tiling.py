"""How many programs go over the tiles."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from impls.fused.configuration import Tiles

H100 = SimpleNamespace(multi_processor_count=132, shared_memory_per_multiprocessor=228 << 10)


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device: H100)
    return SimpleNamespace(slots=SimpleNamespace(is_cuda=True, device="cuda:0"), tile_experts=[0] * 1000)


@pytest.mark.parametrize(
    ("tiles", "programs"),
    [
        (Tiles(128, 256, 64, 8, 4), 1),  # registers
        (Tiles(128, 128, 64, 4, 4), 1),  # 128 KiB each
        (Tiles(128, 128, 64, 4, 3), 2),
        (Tiles(64, 64, 64, 4, 2), 2),
        (Tiles(16, 32, 64, 2, 2), 4),
        (Tiles(256, 256, 128, 8, 4), 1),  # more than there is: one, whatever comes of it
    ],
)
def test_persistent_programs_find_room_at_a_time(on_gpu: Any, tiles: Tiles, programs: int) -> None:
    pytest.importorskip("triton", reason="the fused kernels need Triton")
    from dataclasses import replace

    from impls.fused.tiling import grid

    tiles = replace(tiles, tma=True, persistent=True)
    assert grid(on_gpu, 2048, tiles, tiles.shared_bytes(1, 2)) == (132 * programs,)


def test_otherwise_every_place_in_the_map_has_one(on_gpu: Any) -> None:
    pytest.importorskip("triton", reason="the fused kernels need Triton")
    from impls.fused.tiling import grid

    assert grid(on_gpu, 300, Tiles(128, 128, 64, 4, 3), 0) == (3000,)
