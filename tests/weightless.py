"""GGUF files of any Gemma without its weights: header and tensor infos over a sparse file."""

from __future__ import annotations

from pathlib import Path

from gemma_cli.models.anatomy import tensors_of
from gemma_cli.models.entries import Shape
from tests.gguf_files import KINDS, TensorSpec, Value, write_gguf


def weightless(path: Path, shape: Shape, quant: str) -> Path:
    """What llama.cpp reads of a real file, but for the vocabulary's words."""
    tensors = [TensorSpec(t.name, t.shape, KINDS[t.type]) for t in tensors_of(shape, quant)]
    return write_gguf(path, _metadata(shape), tensors)


def _metadata(shape: Shape) -> dict[str, Value]:
    facts: dict[str, Value] = {
        "block_count": shape.n_layers,
        "context_length": shape.n_ctx_train,
        "embedding_length": shape.n_embd,
        "feed_forward_length": list(shape.n_ff_layers),
        "attention.head_count": shape.n_head,
        "attention.head_count_kv": list(shape.n_head_kv),
        "attention.key_length": shape.head_dim_k,
        "attention.value_length": shape.head_dim_v,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "rope.freq_base": 1e6,
        "vocab_size": shape.n_vocab,
    }
    if shape.sliding_window:
        facts["attention.sliding_window"] = shape.sliding_window
    if shape.architecture in ("gemma2",):
        facts |= {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
    if shape.architecture == "gemma4":
        facts |= {
            "attention.sliding_window_pattern": list(shape.sliding_pattern),
            "attention.shared_kv_layers": shape.shared_kv_layers,
            "attention.key_length_swa": shape.head_dim_k_swa or 0,
            "attention.value_length_swa": shape.head_dim_v_swa or 0,
            "embedding_length_per_layer_input": shape.n_embd_per_layer,
            "rope.dimension_count": shape.head_dim_k,
            "rope.dimension_count_swa": shape.head_dim_k_swa or 0,
            "final_logit_softcapping": 30.0,
        }
    if shape.architecture == "gemma3n":
        facts |= {
            "altup.active_idx": 0,
            "altup.num_inputs": 4,
            "embedding_length_per_layer_input": shape.n_embd_per_layer,
        }
    if shape.n_expert:
        facts |= {
            "expert_count": shape.n_expert,
            "expert_used_count": shape.n_expert_used,
            "expert_feed_forward_length": shape.n_ff_exp,
        }
    named = {f"{shape.architecture}.{key}": value for key, value in facts.items()}
    return {
        "general.architecture": shape.architecture,
        "general.name": "Without Weights",
        "general.file_type": 7,
        **named,
        "tokenizer.ggml.model": "none",
    }
