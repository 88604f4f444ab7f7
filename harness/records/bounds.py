"""What a figure in a record can be at all.

Held when a record is read: somebody may have changed it, and arithmetic and pictures need an end. Wide enough for
whatever rounding may leave below zero, since what was written must be read again.
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
