"""Which tensors a Gemma has, by its shape and quantization, before any of its files is here.

Names and shapes are llama.cpp's (src/models/gemma*.cpp); the types are those
that its quantizer chooses (llama-quant.cpp). Publishers may choose others for a
few tensors, so a file's own header is better where there is one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from gemma_cli.models.entries import Shape
from gemma_cli.models.gguf import Tensor

# Elements in a block, bytes of a block (ggml-common.h).
BLOCKS: dict[str, tuple[int, int]] = {
    "F32": (1, 4),
    "F16": (1, 2),
    "BF16": (1, 2),
    "Q4_0": (32, 18),
    "Q5_0": (32, 22),
    "Q5_1": (32, 24),
    "Q8_0": (32, 34),
    "Q4_K": (256, 144),
    "Q5_K": (256, 176),
    "Q6_K": (256, 210),
}
# Where rows are no multiple of 256 (the 270M's, the 1B's).
_SMALLER_BLOCKS = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
_MAIN_TYPE = {"Q4_K_M": "Q4_K", "Q5_K_M": "Q5_K"}
_ALTUP, _LAUREL_RANK = 4, 64  # of Gemma 3n (llama-hparams.h)
_ALIGNMENT = 32

Dims = tuple[int, ...]


def tensors_of(shape: Shape, quant: str) -> tuple[Tensor, ...]:
    """All tensors in file order, offsets from the first one. quant: as in the catalogue."""
    found, offset = [], 0
    for name, dims in _named(shape):
        kind = _type(name, dims, shape, quant.removeprefix("UD-"))
        elements, size = BLOCKS[kind]
        length = math.prod(dims) // elements * size
        found.append(Tensor(name, kind, dims, length, offset))
        offset += length + -length % _ALIGNMENT
    return tuple(found)


def _named(shape: Shape) -> Iterator[tuple[str, Dims]]:
    embd, per_layer = shape.n_embd, shape.n_embd_per_layer
    yield "token_embd.weight", (embd, shape.n_vocab)
    yield "output_norm.weight", (embd,)
    if shape.architecture == "gemma3n":
        yield "altup_proj.weight", (embd, embd, _ALTUP - 1)
        yield "altup_unembd_proj.weight", (embd, embd, _ALTUP - 1)
    if per_layer:
        yield "per_layer_token_embd.weight", (per_layer * shape.n_layers, shape.n_vocab)
        yield "per_layer_model_proj.weight", (embd, per_layer * shape.n_layers)
        yield "per_layer_proj_norm.weight", (per_layer,)
    if shape.architecture == "gemma4":
        yield "rope_freqs.weight", (shape.head_dim_k // 2,)
    for layer in range(shape.n_layers):
        parts = _attention(shape, layer) | _feed_forward(shape, layer) | _additions(shape)
        for name, dims in parts.items():
            yield f"blk.{layer}.{name}", dims


def _attention(shape: Shape, layer: int) -> dict[str, Dims]:
    embd, local = shape.n_embd, shape.sliding_pattern[layer]
    head = shape.head_dim_k_swa if local and shape.head_dim_k_swa else shape.head_dim_k
    q, kv = head * shape.n_head, head * shape.n_head_kv[layer]
    parts = {
        "attn_norm.weight": (embd,),
        "attn_q.weight": (embd, q),
        "attn_k.weight": (embd, kv),
        "attn_v.weight": (embd, kv),
        "attn_output.weight": (q, embd),
    }
    if shape.key_is_value and not local:
        del parts["attn_v.weight"]
    if shape.architecture not in ("gemma", "gemma2"):
        parts |= {"attn_q_norm.weight": (head,), "attn_k_norm.weight": (head,)}
    if shape.architecture != "gemma":
        parts |= {"post_attention_norm.weight": (embd,)}
    return parts


def _feed_forward(shape: Shape, layer: int) -> dict[str, Dims]:
    embd, ff = shape.n_embd, shape.n_ff_layers[layer]
    parts: dict[str, Dims] = {
        "ffn_norm.weight": (embd,),
        "ffn_gate.weight": (embd, ff),
        "ffn_up.weight": (embd, ff),
        "ffn_down.weight": (ff, embd),
    }
    if shape.architecture != "gemma":
        parts["post_ffw_norm.weight"] = (embd,)
    if shape.n_expert:
        count, width = shape.n_expert, shape.n_ff_exp
        parts |= {
            "ffn_gate_inp.weight": (embd, count),
            "ffn_gate_inp.scale": (embd,),
            "pre_ffw_norm_2.weight": (embd,),
            "post_ffw_norm_1.weight": (embd,),
            "post_ffw_norm_2.weight": (embd,),
            "ffn_gate_up_exps.weight": (embd, 2 * width, count),
            "ffn_down_exps.weight": (width, embd, count),
            "ffn_down_exps.scale": (count,),
        }
    return parts


def _additions(shape: Shape) -> dict[str, Dims]:
    """What Gemma 3n and 4 have beside attention and feed-forward."""
    embd, per_layer = shape.n_embd, shape.n_embd_per_layer
    parts: dict[str, Dims] = {}
    if shape.architecture == "gemma4":
        parts["layer_output_scale.weight"] = (1,)
    if per_layer:
        parts |= {
            "inp_gate.weight": (embd, per_layer),
            "proj.weight": (per_layer, embd),
            "post_norm.weight": (embd,),
        }
    if shape.architecture == "gemma3n":
        parts |= {
            "altup_correct_coef.weight": (_ALTUP, _ALTUP),
            "altup_correct_scale.weight": (embd,),
            "altup_predict_coef.weight": (_ALTUP, _ALTUP * _ALTUP),
            "altup_router.weight": (embd, _ALTUP),
            "altup_router_norm.weight": (embd,),
            "laurel_l.weight": (embd, _LAUREL_RANK),
            "laurel_r.weight": (_LAUREL_RANK, embd),
            "laurel_post_norm.weight": (embd,),
        }
    return parts


def _type(name: str, dims: Dims, shape: Shape, quant: str) -> str:
    if len(dims) == 1 or "ffn_gate_inp" in name:
        return "F32"
    if any(part in name for part in ("altup", "laurel", "per_layer_model_proj")):
        return "F16"
    main = quant.removeprefix("QAT_")
    kind = _MAIN_TYPE.get(main, main)
    if "token_embd" in name:  # tied: it is the output, too
        if quant.startswith("QAT_"):
            # Google's own files: Gemma 4 E2B and E4B have Q8_0, Gemma 3 F16.
            kind = "Q8_0" if shape.n_embd_per_layer else "F16"
        elif kind != "Q8_0":
            kind = "Q6_K"
    elif kind != main and ("attn_v" in name or "ffn_down" in name):
        layer = int(name.split(".")[1])
        kind = "Q6_K" if _more_bits(layer, shape.n_layers) else kind
    return _SMALLER_BLOCKS[kind] if dims[0] % BLOCKS[kind][0] else kind


def _more_bits(layer: int, layers: int) -> bool:
    """The layers that Q4_K_M and Q5_K_M keep finer: the outer eighths, a third between."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2
