"""Compiles grammars with JSON schemas in them; run as a program, it tries one from standard input, so that a hostile one ends that process
alone."""

from __future__ import annotations

import json
import sys
from typing import Any

import llguidance

_MEMORY = 1 << 30
_WHITESPACE = r"[ \n\t]{1,20}"  # some, but a small model may not go on with it for ever


def schema_grammar(schema: Any) -> str:
    """The grammar of what follows a schema, in llguidance's own form."""
    overrides: Any = {"whitespace_pattern": _WHITESPACE}
    return str(llguidance.LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=overrides))


def lark_grammar(lark: str) -> str:
    """The same of a grammar in llguidance's dialect of Lark."""
    return str(llguidance.LLMatcher.grammar_from_lark(lark))


def in_lark(schema: dict[str, Any]) -> str:
    """What stands in such a grammar for what follows a schema, whose references stay its own."""
    guided = {**schema, "x-guidance": {"whitespace_pattern": _WHITESPACE}}
    return f"%json {json.dumps(guided)}"


def compile_grammar(tokenizer: Any, grammar: str) -> llguidance.LLMatcher:
    """What follows a grammar, token by token. Raises ValueError, with a sentence about its schemas."""
    limits = llguidance.LLParserLimits(
        initial_lexer_fuel=500_000,
        step_lexer_fuel=100_000,
        max_lexer_states=50_000,
        max_grammar_size=200_000,
        verbose_errors=False,
    )
    matcher = llguidance.LLMatcher(tokenizer, grammar, log_level=0, limits=limits)
    if not matcher.is_error():
        matcher.compute_bitmask()
    if matcher.is_error():
        raise ValueError(_why(matcher.get_error()))
    return matcher


def _why(said: str) -> str:
    """llguidance's reason, in words."""
    if said.startswith("NoExtension"):
        return "no JSON at all follows it"
    return said.strip().splitlines()[0]


class _Bytes:
    """A vocabulary of the 256 bytes, and an end."""

    eos_token_id, bos_token_id, special_token_ids = 256, None, (256,)
    tokens = (*(bytes([i]) for i in range(256)), b"\xff<end>")

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


def main() -> None:
    """Tries the grammar from standard input; prints what is wrong with it, as JSON, or null."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ImportError, ValueError, OSError):
        pass  # where there are no such limits, the time limit remains
    problem = None
    try:
        compile_grammar(llguidance.LLTokenizer(llguidance.TokenizerWrapper(_Bytes())), sys.stdin.buffer.read().decode())
    except ValueError as error:
        problem = str(error)
    print(json.dumps(problem))


if __name__ == "__main__":
    main()
