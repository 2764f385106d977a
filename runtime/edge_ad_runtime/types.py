"""Array types that the rooms share."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Image: TypeAlias = npt.NDArray[np.uint8]
"""``uint8 HxWx3``, RGB."""

FloatArray: TypeAlias = npt.NDArray[np.float32]
"""Any float32 array; the docstring where it is used gives the shape."""
