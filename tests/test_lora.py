"""LoRA adapters on the real model: they act by their scale, and only on what they were made for."""

from __future__ import annotations

import ctypes
import random
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gemma_cli.engine.library import C
from gemma_cli.engine.model import Model
from gemma_cli.errors import UsageError
from gemma_cli.models.adapter import Adapter, check_adapter, parse_adapter
from gemma_cli.models.gguf import Header, read_header
from tests.conftest import Gemma
from tests.gguf_files import F32, TensorSpec, Value, gguf, write_gguf

KEYS: dict[str, Value] = {
    "general.type": "adapter",
    "general.architecture": "gemma3",
    "adapter.type": "lora",
    "adapter.lora.alpha": 4.0,
}
Logits = np.ndarray[Any, np.dtype[np.float32]]


def matrix(name: str, shape: tuple[int, int], seed: int) -> TensorSpec:
    chance, count = random.Random(seed), shape[0] * shape[1]
    values = [chance.gauss(0, 0.3) for _ in range(count)]
    return TensorSpec(name, shape, F32, struct.pack(f"<{count}f", *values))


def pair(name: str, wide: int, tall: int, rank: int = 2) -> list[TensorSpec]:
    return [
        matrix(f"{name}.lora_a", (wide, rank), 1),
        matrix(f"{name}.lora_b", (rank, tall), 2),
    ]


# Shapes of the 270M: 640 wide, 4 heads of 256, 2048 in the feed-forward.
TENSORS = [*pair("blk.3.attn_q.weight", 640, 1024), *pair("blk.9.ffn_down.weight", 2048, 640)]


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("lora") / "small.gguf", KEYS, TENSORS)


@pytest.fixture(scope="module")
def base(demo_gguf: Path) -> Header:
    return read_header(demo_gguf)


def logits(model_file: Path, *adapters: Adapter) -> Logits:
    """What the model thinks comes after some tokens."""
    model = Model(model_file, 0, adapters=adapters)
    params = C.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = 64
    params.n_threads = params.n_threads_batch = 1
    context = C.llama_init_from_model(model.pointer, params)
    try:
        model.adapters.activate(context)
        prompt = model.vocabulary.plain("Once upon a time")
        tokens = (C.llama_token * len(prompt))(*prompt)
        assert C.llama_decode(context, C.llama_batch_get_one(tokens, len(prompt))) == 0
        row = C.llama_get_logits_ith(context, -1)
        address = ctypes.cast(row, ctypes.POINTER(ctypes.c_float))
        return np.ctypeslib.as_array(address, shape=(model.vocabulary.size,)).copy()
    finally:
        C.llama_free(context)
        model.close()


def test_an_adapter_acts_by_its_scale(demo_gguf: Path, lora: Path) -> None:
    without = logits(demo_gguf)
    full = logits(demo_gguf, Adapter(lora))
    assert np.abs(full - without).max() > 0.5
    assert np.array_equal(logits(demo_gguf, Adapter(lora, 0.0)), without)
    faint = logits(demo_gguf, Adapter(lora, 0.01))
    assert 0 < np.abs(faint - without).max() < np.abs(full - without).max()
    both = logits(demo_gguf, Adapter(lora, 0.5), Adapter(lora, 0.5))
    # Equal on paper; activations are rounded to 8 bits at other places.
    assert np.abs(both - full).max() < np.abs(full - without).max() / 4


def test_the_program_answers_with_it(gemma: Gemma, demo_gguf: Path, tmp_path: Path) -> None:
    layers = [pair(f"blk.{layer}.ffn_down.weight", 2048, 640) for layer in range(8, 18)]
    loud = write_gguf(tmp_path / "loud.gguf", KEYS, [half for each in layers for half in each])
    arguments = ("run", "-m", str(demo_gguf), "--raw", "-t", "0", "-n", "4", "1, 2, 3,")
    plain = gemma(*arguments)
    none = gemma(*arguments, "--lora", f"{loud}:0")
    strong = gemma(*arguments, "--lora", str(loud), "--lora", f"{loud}:9")
    assert (none.returncode, strong.returncode) == (0, 0), strong.stderr
    assert none.stdout == plain.stdout
    assert strong.stdout != plain.stdout


@pytest.mark.parametrize(
    ("keys", "tensors", "said"),
    [
        ({"general.type": "model"}, TENSORS, "it is no adapter"),
        ({"general.type": 7}, TENSORS, "it is no adapter"),
        ({"adapter.type": "control_vector"}, TENSORS, "not a LoRA"),
        ({"adapter.lora.alpha": "four"}, TENSORS, "its alpha is 'four'"),
        ({"adapter.lora.alpha": float("nan")}, TENSORS, "its alpha is nan"),
        ({"adapter.alora.invocation_tokens": [1, 2]}, TENSORS, "activated LoRA"),
        ({"general.architecture": "gemma2"}, TENSORS, "made for a gemma2 model"),
        ({}, pair("blk.3.attn_q.weight", 1152, 1024), "matrix of 1152 x 1024"),
        ({}, pair("blk.40.attn_q.weight", 640, 1024), "is not in the model"),
        ({}, TENSORS[:1], "lacks one half"),
        ({}, [TENSORS[0], matrix("blk.3.attn_q.weight.lora_b", (3, 1024), 1)], "unequal ranks"),
        ({}, [matrix("blk.3.attn_q.bias", (2, 2), 1)], "no part of a LoRA"),
        ({}, [], "holds no LoRA tensors"),
    ],
)
def test_what_is_of_another_model_is_refused(
    tmp_path: Path, base: Header, keys: dict[str, Value], tensors: list[TensorSpec], said: str
) -> None:
    path = write_gguf(tmp_path / "lora.gguf", KEYS | keys, tensors)
    with pytest.raises(UsageError, match=said):
        check_adapter(Adapter(path), base)


def test_refusals_come_before_the_load(gemma: Gemma, demo_gguf: Path, tmp_path: Path) -> None:
    wrong = write_gguf(tmp_path / "w.gguf", KEYS, pair("blk.3.attn_q.weight", 64, 64))
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(gguf()[:100])
    for file, said in (
        (str(wrong), "it was made for another one"),
        (str(cut), "damaged or cut"),
        (str(tmp_path / "none.gguf"), "no such file"),
        (str(demo_gguf), "it is no adapter"),
        (f"{wrong}:inf", "must be a finite number"),
    ):
        done = gemma("run", "-m", str(demo_gguf), "--raw", "--lora", file, "Hi")
        assert (done.returncode, done.stdout) == (2, "")
        assert said in done.stderr
        assert "Traceback" not in done.stderr


def test_a_scale_is_told_from_a_path(tmp_path: Path) -> None:
    assert parse_adapter("a.gguf") == Adapter(Path("a.gguf"), 1.0)
    assert parse_adapter("a.gguf:0.5") == Adapter(Path("a.gguf"), 0.5)
    assert parse_adapter("a.gguf:-1") == Adapter(Path("a.gguf"), -1.0)
    assert parse_adapter(r"C:\x.gguf") == Adapter(Path(r"C:\x.gguf"), 1.0)
    assert parse_adapter(r"C:\x.gguf:.25") == Adapter(Path(r"C:\x.gguf"), 0.25)
    if sys.platform != "win32":
        odd = tmp_path / "v:2"
        odd.write_bytes(b"")
        assert parse_adapter(str(odd)) == Adapter(odd, 1.0)


def test_its_identity_changes_with_file_and_scale(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "a.gguf", KEYS, TENSORS[:2])
    first = Adapter(path).identity
    assert Adapter(path).identity == first
    assert Adapter(path, 0.5).identity != first
    write_gguf(path, KEYS, TENSORS)
    assert Adapter(path).identity != first
