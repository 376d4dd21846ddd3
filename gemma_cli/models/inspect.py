"""Is a file that arrived what its name promises? Asked before it counts as installed."""

from __future__ import annotations

import math
from pathlib import Path

from gemma_cli.errors import ModelFileError
from gemma_cli.models.entries import CatalogModel
from gemma_cli.models.gguf import Header, read_header
from gemma_cli.models.layout import token_texts

# What a Gemma's parts and relatives are called in general.architecture.
_NO_TEXT = {
    "clip": "a vision part",
    "gemma-embedding": "an embedding model",
    "gemma4-assistant": "a drafting part",
}
# llama.cpp's activations are F32, and vectors (norms, scales) must be what they are.
_VECTOR_TYPE = "F32"
# Types without a product with a vector: llama.cpp calls it all the same.
_NO_WEIGHTS = frozenset(("Q8_1", "Q8_K", "I8", "I16", "I32", "I64", "F64"))

_SPARE_IDS = 128  # llama.cpp's bound for a draft model's vocabulary


def check_model_file(path: Path, model: CatalogModel | None, parts: int) -> Header:
    """Its header, if it is a language model that can be loaded: of the catalogue's
    architecture where that is known, all its tensors inside the file. ModelFileError else.
    """
    header = read_header(path)
    check_language_model(path, header)
    if model is not None and header.architecture != model.shape.architecture:
        raise ModelFileError(
            f"{path.name} holds a {header.architecture} model, not a {model.shape.architecture} one"
        )
    if header.split_count != parts:
        raise ModelFileError(
            f"{path.name} belongs to a set of {header.split_count} files, not {parts}"
        )
    return header


def check_language_model(path: Path, header: Header) -> None:
    """Raise ModelFileError for a header that promises no text, or that llama.cpp computes
    with until it aborts: it checks shapes while it loads, but numbers only when they are used.
    """
    name, architecture = path.name, header.architecture
    if architecture in _NO_TEXT:
        raise ModelFileError(f"{name} is {_NO_TEXT[architecture]}, not a language model")
    if not architecture or not header.tokenizer_model:
        raise ModelFileError(f"{name} holds no language model (no layers or no tokenizer)")
    if not header.n_layers:
        raise ModelFileError(
            f"{name} has no layers, or an unknown model architecture: {architecture!r}"
        )
    if header.n_vocab == 0:
        raise ModelFileError(f"{name} has a tokenizer without tokens")
    if header.n_ctx_train == 0:
        raise ModelFileError(
            f"{name} does not say how many tokens its model was trained on: "
            f"{architecture}.context_length is missing"
        )
    if not (math.isfinite(header.norm_epsilon) and header.norm_epsilon >= 0):
        raise ModelFileError(f"{name} is damaged: its norm's epsilon is {header.norm_epsilon}")
    head = max(header.head_dim_k, header.head_dim_k_swa or 0)
    if header.rope_dims % 2 or header.rope_dims > head:
        raise ModelFileError(
            f"{name} is damaged: it rotates {header.rope_dims} of a head's {head} elements"
        )
    for tensor in header.tensors:
        vector = len(tensor.shape) == 1 and tensor.type != _VECTOR_TYPE
        if vector or tensor.type in _NO_WEIGHTS:
            raise ModelFileError(f"{name} is damaged: {tensor.name} is of type {tensor.type}")


def same_vocabulary(first: Path, second: Path) -> bool:
    """Whether token ids mean the same to both models: all texts that both have are equal.

    Larger Gemmas have some ids more than small ones (262,208 and 262,144 in
    Gemma 3), so one list may be the start of the other. 0.1 s, nothing is loaded.
    """
    shorter, longer = sorted((token_texts(first), token_texts(second)))
    if shorter[0] == 0 or longer[0] - shorter[0] > _SPARE_IDS:
        return False
    return longer[1].startswith(shorter[1])


def check_projector_file(path: Path) -> None:
    header = read_header(path)
    if header.architecture != "clip":
        raise ModelFileError(f"{path.name} is no vision part but a {header.architecture} model")
