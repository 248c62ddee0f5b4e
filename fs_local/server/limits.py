"""How much a stranger may send, and how long for. What is beyond these is refused before anything is computed."""

from __future__ import annotations

MAX_BODY_BYTES = 8 << 20
MAX_MESSAGES = 1024
MAX_CHARACTERS_A_TOKEN = 32
"""Of the context, for all messages or prompts of a request together: no text has so many, so one that is longer is not tokenized."""
MAX_CHOICES = 16
"""Answers that one request may ask for: prompts times n."""
MAX_STOPS, MAX_STOP_CHARACTERS = 16, 256
MAX_BIASES = 1024
MAX_TOOLS = 128
MAX_TOP_LOGPROBS = 20
MAX_DECIDED = 64
"""Queries of one request for decisions alone."""
MAX_STRENGTH = 100.0
MAX_SCHEMA_CHARACTERS, MAX_SCHEMA_DEPTH = 64 << 10, 32
SCHEMA_SECONDS = 5.0
"""For the trial of a schema in a process of its own."""
MAX_CONNECTIONS = 512
MAX_HEAD_BYTES = 64 << 10
HEADER_SECONDS = 10.0
"""For the head of a request, from the connection or from its first byte on."""
BODY_SECONDS = 30.0
SEND_SECONDS = 30.0
"""For a client to take what was sent; one that stops reading is hung up on. It never holds a sequence of the engine."""
KEEP_ALIVE_SECONDS = 15
GRACE_SECONDS = 10.0
"""For answers under way when the server is told to stop."""
