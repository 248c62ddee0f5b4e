"""Types of arrays; shapes stand in the docstrings of what takes or gives them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
