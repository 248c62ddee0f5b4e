"""What llama.cpp asks of Python."""

from __future__ import annotations

from typing import Any

import pytest

from fs_local.runtime.context import Context


@pytest.fixture
def questions(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Every question about a graph node that reaches Python: whether it only asks."""
    asked: list[bool] = []
    answer = Context._on_node

    def note(self: Context, tensor: int, ask: bool, user_data: Any) -> bool:
        asked.append(ask)
        return answer(self, tensor, ask, user_data)

    monkeypatch.setattr(Context, "_on_node", note)
    return asked
