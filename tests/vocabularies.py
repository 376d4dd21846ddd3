"""Vocabularies alone, in llama.cpp, from files whose weights do not matter."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gemma_cli.engine.library import C
from gemma_cli.engine.model import quiet_backend
from gemma_cli.engine.protocol import Prompt
from gemma_cli.engine.tokens import Vocabulary


@contextmanager
def open_vocabulary(path: Path) -> Iterator[Vocabulary]:
    """The file may have no weights at all."""
    quiet_backend()
    params = C.llama_model_default_params()
    params.vocab_only = True
    model = C.llama_model_load_from_file(os.fsencode(path), params)
    assert model, path
    try:
        yield Vocabulary(C.llama_model_get_vocab(model))
    finally:
        C.llama_model_free(model)


def llama_ids(vocabulary: Vocabulary, text: str) -> list[int]:
    """What llama.cpp itself makes of a text with special tokens parsed; no BOS is added."""
    raw = text.encode()
    buffer = (C.llama_token * (len(raw) + 8))()
    count = C.llama_tokenize(vocabulary.pointer, raw, len(raw), buffer, len(buffer), False, True)
    return list(buffer[:count])


def without_bos(vocabulary: Vocabulary, prompt: Prompt) -> list[int]:
    assert prompt.tokens[0] == vocabulary.bos
    return list(prompt.tokens[1:])
