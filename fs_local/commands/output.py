"""JSON for programs, on standard output."""

from __future__ import annotations

import json
from typing import Any


def print_json(value: dict[str, Any] | list[Any]) -> None:
    text = json.dumps(value, indent=1, ensure_ascii=False)
    print(text.encode("utf-8", "backslashreplace").decode())  # a file's name need not be UTF-8
