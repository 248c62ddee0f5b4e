"""Queries to be decided and not answered, and what was decided."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from fs_local.server.limits import MAX_DECIDED, MAX_MESSAGES
from fs_local.server.schemas_openai import ChatMessage
from fs_local.server.schemas_steering import DecisionShown, Name, Steering, Strict


class DecideRequest(Strict):
    """`POST /v1/steering/decide`: queries, or a conversation, to be decided and not answered."""

    model: Name | None = None
    input: str | Annotated[list[str], Field(min_length=1, max_length=MAX_DECIDED)] | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)] | None = None
    steering: Steering = Steering()


class DecisionsOfQuery(BaseModel):
    """The decisions of one query."""

    index: int
    applied: bool
    decisions: list[DecisionShown]


class DecideResponse(BaseModel):
    """One entry a query, in their order."""

    object: Literal["steering.decisions"] = "steering.decisions"
    model: str
    data: list[DecisionsOfQuery]
