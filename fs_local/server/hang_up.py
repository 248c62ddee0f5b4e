"""When a client hangs up, its answer ends: `answers.unless_gone` ends one that is sent whole, `streaming.LiveResponse` one under way."""

from __future__ import annotations

from starlette.types import Receive


async def hung_up(receive: Receive) -> None:
    """Returns when the client is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
