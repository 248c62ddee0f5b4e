"""What is said of a pack."""

from __future__ import annotations

import pytest

from fs_local.pack_summary import share


@pytest.mark.parametrize(
    ("x", "said"), [(0.0, "0%"), (0.0004, "0.04%"), (2e-9, "<0.01%"), (0.005, "0.5%"), (0.037, "4%"), (1.0, "100%")]
)
def test_a_small_share_is_not_none(x: float, said: str) -> None:
    assert share(x) == said
