"""A model of random weights that does in milliseconds what SmolLM2 does in seconds: everything but making sense.

Its vocabulary is the 256 bytes, so any text comes back as it went in; its chat template is ChatML, as SmolLM2's. Every block moves the
states, each in its own way: an addition at the wrong block gives other logits. Weights are float32: what one sequence and many at once
compute differs by little more than the last bits. The likeliest token is always a printable character: greedy answers are
readable, differ from query to query, and run to their limit.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gguf import GGUFWriter, LlamaFileType, TokenType

N_LAYER, WIDTH, N_CTX = 6, 64, 2048
_HEADS, _HIDDEN = 4, 128
_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_tiny_model(path: Path, template: str = _TEMPLATE, window: int = 0) -> Path:
    """Writes the model, 1 MB, the same bytes each time. window: every second block looks back so many tokens, as a Gemma 2 does."""
    tokens = [*_SPECIAL, *_letters(), "th"]
    writer = GGUFWriter(path, "gemma2" if window else "llama")
    if window:
        writer.add_sliding_window(window)
    writer.add_name("tiny")
    writer.add_file_type(LlamaFileType.ALL_F32)
    writer.add_context_length(N_CTX)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(N_LAYER)
    writer.add_feed_forward_length(_HIDDEN)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // _HEADS)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL] * len(_SPECIAL) + [TokenType.NORMAL] * (len(tokens) - len(_SPECIAL)))
    writer.add_token_merges(["t h"])  # llama.cpp wants one at least
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template(template)
    weights = _weights(tokens)
    if window:
        del weights["output"]  # it has none of its own
        norms = ("post_attention_norm", "post_ffw_norm")
        weights |= {f"blk.{i}.{name}": np.ones(WIDTH) for i in range(N_LAYER) for name in norms}
    for name, values in weights.items():
        writer.add_tensor(f"{name}.weight", values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _weights(tokens: list[str]) -> dict[str, np.ndarray]:
    """Tensors of about unit variance in and out; attention that looks at some tokens more than at others."""
    rng = np.random.default_rng(0)

    def matrix(rows: int, columns: int, scale: float = 1.0) -> np.ndarray:
        drawn: np.ndarray = scale * columns**-0.5 * rng.standard_normal((rows, columns))
        return drawn

    def norm() -> np.ndarray:
        return rng.uniform(0.8, 1.2, WIDTH)

    made = {"token_embd": rng.standard_normal((len(tokens), WIDTH))}
    for i in range(N_LAYER):
        made |= {
            f"blk.{i}.attn_norm": norm(),
            f"blk.{i}.attn_q": matrix(WIDTH, WIDTH, 1.5),
            f"blk.{i}.attn_k": matrix(WIDTH, WIDTH, 1.5),
            f"blk.{i}.attn_v": matrix(WIDTH, WIDTH),
            f"blk.{i}.attn_output": matrix(WIDTH, WIDTH),
            f"blk.{i}.ffn_norm": norm(),
            f"blk.{i}.ffn_gate": matrix(_HIDDEN, WIDTH),
            f"blk.{i}.ffn_up": matrix(_HIDDEN, WIDTH),
            f"blk.{i}.ffn_down": matrix(WIDTH, _HIDDEN),
        }
    readable = np.array([(t.isascii() and t not in _SPECIAL) or t == "\u0120" for t in tokens])  # U+0120 is the space
    return made | {"output_norm": norm(), "output": readable[:, None] * matrix(len(tokens), WIDTH, 3.0)}


def _letters() -> list[str]:
    """The character that stands for each byte in a GPT-2 vocabulary: itself where it is printable, else one from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]
