"""Memory: what llama.cpp reserves for the shapes that matter; what happens without it."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gemma_cli.engine.library import C
from gemma_cli.engine.loaded import Loaded
from gemma_cli.engine.mapping import release_repacked
from gemma_cli.engine.model import Model, quiet_backend
from gemma_cli.engine.setup import Setup, Weights
from gemma_cli.errors import DoesNotFitError, ModelFileError, UsageError
from gemma_cli.machine.devices import Device, Machine
from gemma_cli.machine.memory import Wishes, kv_bytes, plan
from gemma_cli.models.gguf import read_header
from tests.conftest import DEMO, Env, Gemma, program
from tests.gguf_files import Q4_0, TensorSpec, write_gguf
from tests.gguf_models import (
    gemma3_27b_without_weights,
    gemma3_metadata,
    gemma3_tensors,
    gemma4_with_per_layer_embeddings,
)

GIB = 1 << 30
MIB = 1 << 20
HUGE = Machine(Device("CPU", "cpu", 256 * GIB, 256 * GIB), (), threads=1)


def simulated(path: Path, n_ctx: int, *, kind: int = C.GGML_TYPE_F16, flash: int = -1) -> str:
    """llama.cpp's log of a load and a context in which nothing is allocated."""
    quiet_backend()
    lines: list[str] = []
    keep = C.llama_log_callback(lambda _level, text, _data: lines.append(text.decode()))
    C.llama_log_set(keep, ctypes.c_void_p(0))
    try:
        model_params = C.llama_model_default_params()
        model_params.no_alloc, model_params.load_mode = True, C.LLAMA_LOAD_MODE_NONE
        model = C.llama_model_load_from_file(str(path).encode(), model_params)
        params = C.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = n_ctx, 256, 256
        params.n_outputs_max, params.n_seq_max, params.swa_full = 1, 1, False
        params.type_k = params.type_v = kind
        params.flash_attn_type = flash
        context = C.llama_init_from_model(model, params)
        if context:
            C.llama_free(context)
        C.llama_model_free(model)
    finally:
        C.llama_log_set(ctypes.cast(_silence().abs, C.llama_log_callback), ctypes.c_void_p(0))
    return "".join(lines)


def _silence() -> ctypes.CDLL:
    return ctypes.CDLL("ucrtbase" if sys.platform == "win32" else None)


def kv_in(log: str) -> float:
    """Bytes of all KV caches that a log names."""
    sizes = re.findall(r"llama_kv_cache: size =\s*([\d.]+) MiB", log)
    assert sizes, log[-2000:]
    return sum(float(size) for size in sizes) * MIB


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gemma3_27b_without_weights(tmp_path_factory.mktemp("large") / "27b.gguf")


def test_27b_at_131072_tokens(large: Path) -> None:
    """Full-length window layers would take 62 GiB; the plan and llama.cpp agree on 10.5."""
    log = simulated(large, 131072)
    assert kv_in(log) < 11.5 * GIB
    header = read_header(large)
    assert kv_in(log) == kv_bytes(header, 131072, "f16", range(62))
    compute = re.search(r"compute buffer size =\s*([\d.]+) MiB", log)
    assert compute is not None
    assert float(compute[1]) < 256


def test_quantized_kv_is_half_and_brings_flash_attention(large: Path) -> None:
    log = simulated(large, 32768, kind=C.GGML_TYPE_Q8_0)
    assert kv_in(log) == kv_bytes(read_header(large), 32768, "q8_0", range(62))
    assert "enabling flash_attn since it is required for quantized V cache" in log
    refused = simulated(large, 32768, kind=C.GGML_TYPE_Q8_0, flash=C.LLAMA_FLASH_ATTN_TYPE_DISABLED)
    assert "quantized V cache requires flash_attn" in refused
    assert "llama_kv_cache: size" not in refused


LINUX_ONLY = pytest.mark.skipif(sys.platform != "linux", reason="limits and /proc of Linux")


@LINUX_ONLY
@pytest.mark.parametrize("kib", [250_000, 400_000, 560_000, 600_000, 620_000, 640_000, 700_000])
def test_too_little_memory_is_an_error(with_demo: Env, kib: int) -> None:
    """Where the limit strikes differs by machine: it is never an abort, and never silent."""
    limited = ["sh", "-c", f'ulimit -v {kib}; exec "$@"', "sh", *program()]
    done = subprocess.run(
        [*limited, "run", "-m", DEMO, "--raw", "-n", "1", "--ctx", "32768", "Hi"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=with_demo,
        timeout=60,
        check=False,
    )
    assert done.returncode in ((5,) if kib < 500_000 else (0, 5)), done.stderr
    assert "Traceback" not in done.stderr
    if done.returncode == 5:
        assert "too little memory" in done.stderr
        assert re.search(r"--ctx \d+|gemma pull NAME:q4_0", done.stderr)


@LINUX_ONLY
def test_a_context_without_memory_names_smaller_ones(with_demo: Env) -> None:
    limited = ["sh", "-c", 'ulimit -v 2000000; exec "$@"', "sh", *program()]
    done = subprocess.run(
        [*limited, "run", "-m", DEMO, "--raw", "--ctx", "2000000", "--ctx-beyond-training", "Hi"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=with_demo,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (5, ""), done.stderr
    assert "context of 2000000 tokens" in done.stderr
    assert "context of 1000000 tokens, not the 2000000 that --ctx asked for" in done.stderr
    assert "--ctx 500000" in done.stderr


def test_more_context_than_trained_on_is_said_and_allowed_by_a_flag(
    gemma: Gemma, with_demo: Env
) -> None:
    run = ("run", "-m", DEMO, "--raw", "-t", "0", "-n", "2", "--ctx", "40000")
    refused = gemma(*run, "1, 2, 3,", env=with_demo)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "--ctx-beyond-training" in refused.stderr
    allowed = gemma(*run, "--ctx-beyond-training", "1, 2, 3,", env=with_demo)
    assert (allowed.returncode, allowed.stdout[:2]) == (0, " 4"), allowed.stderr
    assert "trained on 32768 tokens" in allowed.stderr


def test_the_plan_beyond_training(large: Path) -> None:
    header = read_header(large)
    with pytest.raises(UsageError, match="131073 is more than the 131072"):
        plan(header, HUGE, Wishes(n_ctx=131073))
    assert plan(header, HUGE, Wishes(n_ctx=262144, beyond_training=True)).n_ctx == 262144
    with pytest.raises(DoesNotFitError):
        plan(header, HUGE, Wishes(n_ctx=1 << 24, beyond_training=True))


@LINUX_ONLY
@pytest.mark.skipif(shutil.which("sh") is None, reason="no shell")
def test_rearranged_weights_are_resident_once(tmp_path: Path) -> None:
    """A model of Q4_0: with llama.cpp's rearranged copy its pages are not needed."""
    metadata = gemma3_metadata(layers=4, embedding=1024, feed_forward=4096, head_size=128)
    tensors = [
        TensorSpec(t.name, t.shape, t.kind, os.urandom(1) * t.bytes)
        for t in gemma3_tensors(metadata, Q4_0)
    ]
    path = write_gguf(tmp_path / "q4.gguf", metadata, tensors)
    model = C.llama_model_load_from_file(str(path).encode(), C.llama_model_default_params())
    try:
        before = resident(path)
        release_repacked(path, read_header(path))
        after = resident(path)
    finally:
        C.llama_model_free(model)
    assert before > 20 * MIB
    assert after < before / 10


@LINUX_ONLY
def test_per_layer_embeddings_stay_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """20 MiB of them, of which a token reads one row."""
    monkeypatch.setenv("GEMMA_HOME", str(tmp_path / "home"))
    path = gemma4_with_per_layer_embeddings(tmp_path / "g4.gguf", 8192)
    header = read_header(path)
    embeddings = next(t.bytes for t in header.tensors if t.name == "per_layer_token_embd.weight")
    model = Model(path, 0)
    try:
        assert resident(path) < header.file_bytes - embeddings + MIB
    finally:
        model.close()


def resident(path: Path) -> int:
    """Bytes of a file's mappings that are in this process's memory."""
    total, ours = 0, False
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            ours = line.endswith(str(path))
        elif ours and line.startswith("Rss:"):
            total += int(line.split()[1]) * 1024
    return total


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_a_load_that_fails_late_gives_everything_back(demo_gguf: Path, tmp_path: Path) -> None:
    """A chat goes on after /model, with another model."""
    header = read_header(demo_gguf)
    weights = Weights(demo_gguf, header, plan(header, HUGE, Wishes(n_ctx=32768)))
    no_model = tmp_path / "none.gguf"
    no_model.write_bytes(b"GGUF")
    setup = Setup(weights, draft=Weights(no_model, header, weights.plan))

    def mapped() -> int:
        with pytest.raises(ModelFileError):
            Loaded(setup, lambda _progress: True)
        return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")

    before = mapped()
    assert mapped() - before < 100 * MIB < weights.plan.shares[0].kv
