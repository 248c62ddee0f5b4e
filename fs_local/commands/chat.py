"""fs-local chat: a conversation in the terminal."""

from __future__ import annotations

from fs_local.commands.answering import Answering, Loading, with_options
from fs_local.commands.options import ModelArgument, Packs


@with_options
def chat(model: ModelArgument, pack: Packs = None, *, answering: Answering, loading: Loading) -> None:
    """Chat with a model, steered where it is needed; /help inside lists commands.

    Example: fs-local chat smollm2 --pack refusal.fspack
    """
    from fs_local.chat import Chat

    with loading.load(model, pack) as steered:
        Chat(steered, answering.until(answering.sampling(steered)), answering.system).run()
