"""Other people's tokenizers on a GGUF file's vocabulary, to compare ours with."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable
from typing import Any

_CONTROL, _USER_DEFINED = 3, 4
_UNK = 3

Encode = Callable[[str], list[int]]


def reference(metadata: dict[str, Any]) -> Encode:
    """Text to ids with control tokens parsed, by the library that the vocabulary was made for."""
    if metadata["tokenizer.ggml.model"] == "llama":
        return with_control(metadata, sentencepiece_encoder(metadata))
    return hf_encoder(metadata)


def with_control(metadata: dict[str, Any], encode: Encode) -> Encode:
    """An encoder that also parses control tokens, cutting the text at them."""
    ids = {
        text: token
        for token, (text, kind) in enumerate(
            zip(
                metadata["tokenizer.ggml.tokens"],
                metadata["tokenizer.ggml.token_type"],
                strict=True,
            )
        )
        if kind == _CONTROL
    }
    borders = re.compile(f"({'|'.join(map(re.escape, sorted(ids, key=len, reverse=True)))})")

    def encode_all(text: str) -> list[int]:
        found: list[int] = []
        for part in borders.split(text):
            found += [ids[part]] if part in ids else encode(part) if part else []
        return found

    return encode_all


def sentencepiece_encoder(metadata: dict[str, Any]) -> Encode:
    """Google's SentencePiece; a model file is a protocol buffer, written here by hand."""
    import sentencepiece

    pieces = b"".join(
        # GGUF files spell runs of spaces as such, SentencePiece models as it sees them.
        _field(
            1, _field(1, text.replace(" ", "\u2581").encode()) + _float(2, score) + _varint(3, kind)
        )
        for text, score, kind in zip(
            metadata["tokenizer.ggml.tokens"],
            metadata["tokenizer.ggml.scores"],
            metadata["tokenizer.ggml.token_type"],
            strict=True,
        )
    )
    bpe, byte_fallback = _varint(3, 2), _varint(35, 1)
    special = _varint(40, _UNK) + _varint(41, 2) + _varint(42, 1) + _varint(43, 0)
    trainer = _field(2, bpe + byte_fallback + special)
    # No dummy prefix, no white space removed, spaces escaped.
    normalizer = _field(3, _field(1, b"identity") + _varint(3, 0) + _varint(4, 0) + _varint(5, 1))
    processor = sentencepiece.SentencePieceProcessor(model_proto=pieces + trainer + normalizer)
    encode: Encode = processor.encode
    return encode


def hf_encoder(metadata: dict[str, Any]) -> Encode:
    """Hugging Face's tokenizers with the vocabulary and merges of Gemma 4; specials parsed."""
    import tokenizers

    texts = metadata["tokenizer.ggml.tokens"]
    kinds = metadata["tokenizer.ggml.token_type"]
    added = [
        {"id": token, "content": text, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False, "special": kind == _CONTROL}
        for token, (text, kind) in enumerate(zip(texts, kinds, strict=True))
        if kind in (_CONTROL, _USER_DEFINED)
    ]  # fmt: skip
    model = {
        "type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
        "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True,
        "ignore_merges": False,
        "vocab": {text: token for token, text in enumerate(texts)},
        "merges": [merge.split(" ", 1) if merge[0] != " " else merge.rsplit(" ", 1)
                   for merge in metadata["tokenizer.ggml.merges"]],
    }  # fmt: skip
    tokenizer = tokenizers.Tokenizer.from_str(
        json.dumps(
            {
                "version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
                "normalizer": {
                    "type": "Replace", "pattern": {"String": " "}, "content": "\u2581",
                },
                "pre_tokenizer": None, "post_processor": None, "decoder": None, "model": model,
            }
        )
    )  # fmt: skip

    def encode(text: str) -> list[int]:
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    return encode


def _varint(number: int, value: int) -> bytes:
    return _base128(number << 3) + _base128(value)


def _float(number: int, value: float) -> bytes:
    return _base128(number << 3 | 5) + struct.pack("<f", value)


def _field(number: int, raw: bytes) -> bytes:
    return _base128(number << 3 | 2) + _base128(len(raw)) + raw


def _base128(value: int) -> bytes:
    raw = bytearray()
    while value > 127:
        raw.append(value & 127 | 128)
        value >>= 7
    raw.append(value)
    return bytes(raw)
