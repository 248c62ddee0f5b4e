"""A llama of random float32 weights, 500 KB: every block matters to its logits, and no quantization makes them differ between machines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gguf import GGUFWriter, TokenType

N_VOCAB, WIDTH, BLOCKS = 40, 64, 3


def write_arithmetic_model(path: Path) -> None:
    """Tokens are <unk>, <s>, </s> and 37 letters."""
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(BLOCKS)
    writer.add_feed_forward_length(2 * WIDTH)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // 2)
    writer.add_vocab_size(N_VOCAB)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(["<unk>", "<s>", "</s>", *(chr(ord("A") + i) for i in range(N_VOCAB - 3))])
    writer.add_token_scores([0.0] * N_VOCAB)
    writer.add_token_types(
        [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL, *[TokenType.NORMAL] * (N_VOCAB - 3)]
    )
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    rng = np.random.default_rng(0)

    def matrix(name: str, rows: int, columns: int) -> None:
        writer.add_tensor(
            f"{name}.weight", rng.standard_normal((rows, columns), dtype=np.float32) / np.float32(columns**0.5)
        )

    def ones(name: str) -> None:
        writer.add_tensor(f"{name}.weight", np.ones(WIDTH, dtype=np.float32))

    writer.add_tensor("token_embd.weight", rng.standard_normal((N_VOCAB, WIDTH), dtype=np.float32))
    for i in range(BLOCKS):
        ones(f"blk.{i}.attn_norm")
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            matrix(f"blk.{i}.{name}", WIDTH, WIDTH)
        ones(f"blk.{i}.ffn_norm")
        matrix(f"blk.{i}.ffn_gate", 2 * WIDTH, WIDTH)
        matrix(f"blk.{i}.ffn_up", 2 * WIDTH, WIDTH)
        matrix(f"blk.{i}.ffn_down", WIDTH, 2 * WIDTH)
    ones("output_norm")
    writer.add_tensor("output.weight", rng.standard_normal((N_VOCAB, WIDTH), dtype=np.float32) / 2)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
