"""What a figure in a record can be at all.

Held when a record is read: somebody may have changed it, and arithmetic and pictures need an end. What is out of bounds
is not written either (``unmeasured.storable``), so that they leave room for what rounding may put below zero.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

Count = Annotated[int, msgspec.Meta(ge=0)]
Amount = Annotated[float, msgspec.Meta(ge=-1e30, le=1e30)]
LogRatio = Annotated[float, msgspec.Meta(ge=0, le=100)]
"""Of two times, whichever way round."""
Nanoseconds = Annotated[float, msgspec.Meta(ge=0, le=1e18)]
"""Up to thirty years."""
Elapsed = Annotated[float, msgspec.Meta(ge=1e-3, le=1e18)]
"""Nanoseconds that a call took: nothing takes none."""
