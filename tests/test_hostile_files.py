"""Model files that llama.cpp would die of: each ends as an error of ours, quickly."""

from __future__ import annotations

import contextlib
import os
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gemma_cli.engine import probe
from gemma_cli.engine.admission import admit
from gemma_cli.errors import Cancelled, EngineError, GemmaError, ModelFileError
from gemma_cli.models.gguf import read_header
from gemma_cli.models.inspect import check_language_model, same_vocabulary
from tests.conftest import Env, Gemma, program
from tests.gguf_files import F32, TensorSpec, Value, gguf_header, write_gguf
from tests.gguf_models import (
    TOKENS,
    gemma3_metadata,
    gemma3_tensors,
    gemma4_with_per_layer_embeddings,
    tiny_gemma,
    with_noise,
)
from tests.gguf_mutations import Parsed, mutated, parse

# Found by scripts/fuzz_gguf.py: seeds whose file ends llama.cpp while it reads
# the vocabulary, and seeds that end it only when it computes.
CRASHES = (51, 107, 238, 275, 280, 359, 364, 457, 560, 667, 686)
CRASHES_LATER = (26, 96, 138, 250, 264, 292, 306, 488, 502, 670)
CRASHES_GEMMA4 = (51, 238, 873)


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMMA_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_gemma(tmp_path_factory.mktemp("tiny") / "tiny.gguf", layers=2)


@pytest.fixture(scope="module")
def parsed(tiny: Path) -> Parsed:
    return parse(tiny.read_bytes())


def hostile(folder: Path, tiny: Path, parsed: Parsed, seed: int) -> Path:
    """The tiny model with the header that a seed makes of its own."""
    head, change = mutated(parsed, seed)
    path = folder / f"{seed}.gguf"
    with path.open("wb") as file:
        file.write(head)
        if change != "cut short":
            file.write(tiny.read_bytes()[parsed.length :] + bytes(1 << 20))
    return path


def never() -> bool:
    return False


@pytest.mark.parametrize("seed", CRASHES)
def test_a_crash_is_the_childs(tmp_path: Path, tiny: Path, parsed: Parsed, seed: int) -> None:
    with pytest.raises(ModelFileError, match=r"is damaged: llama\.cpp crashes on it"):
        admit(hostile(tmp_path, tiny, parsed, seed), never)


@pytest.mark.parametrize("seed", CRASHES_GEMMA4)
def test_a_crash_of_gemma_4_is_too(tmp_path: Path, seed: int) -> None:
    built = gemma4_with_per_layer_embeddings(tmp_path / "built.gguf", 32)
    with pytest.raises(ModelFileError, match=r"is damaged: llama\.cpp crashes on it"):
        admit(hostile(tmp_path, built, parse(built.read_bytes()), seed), never)


@pytest.mark.parametrize("seed", CRASHES_LATER)
def test_what_would_crash_later_is_refused(
    tmp_path: Path, tiny: Path, parsed: Parsed, seed: int
) -> None:
    with pytest.raises(ModelFileError, match="is of type"):
        admit(hostile(tmp_path, tiny, parsed, seed), never)


@pytest.mark.parametrize("first", [2002, 2016, 2030])
def test_every_kind_of_damage(tmp_path: Path, tiny: Path, parsed: Parsed, first: int) -> None:
    for seed in range(first, first + 14):
        start = time.monotonic()
        with contextlib.suppress(GemmaError):
            admit(hostile(tmp_path, tiny, parsed, seed), never)
        assert time.monotonic() - start < 50  # less than what ends a busy loop


def test_the_program_says_it_in_a_line(
    gemma: Gemma, tmp_path: Path, tiny: Path, parsed: Parsed
) -> None:
    path = hostile(tmp_path, tiny, parsed, CRASHES[0])
    for arguments in (("--raw", "Hi"), ("--show-prompt", "Hi")):
        done = gemma("run", "-m", str(path), *arguments)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(f"gemma: {path} is damaged: llama.cpp crashes on it")
        assert "Traceback" not in done.stderr
        assert len(done.stderr.splitlines()) == 2


def test_an_odd_vocabulary_still_answers(
    gemma: Gemma, tmp_path: Path, tiny: Path, parsed: Parsed
) -> None:
    """A seed that makes "▁the" a token that users may not type."""
    path = hostile(tmp_path, tiny, parsed, 50129)
    done = gemma("run", "-m", str(path), "--raw", "-n", "2", "--ctx", "512", "the a")
    assert done.returncode == 0, done.stderr


def test_what_passed_is_remembered_until_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny_gemma(tmp_path / "model.gguf", layers=1)
    admit(path, never)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    admit(path, never)
    os.utime(path, (1, 1))
    with pytest.raises(EngineError, match="cannot start a check"):
        admit(path, never)


def test_a_crash_is_not_remembered(tmp_path: Path, tiny: Path, parsed: Parsed) -> None:
    path = hostile(tmp_path, tiny, parsed, CRASHES[0])
    for _ in range(2):
        with pytest.raises(ModelFileError, match="crashes"):
            admit(path, never)


def test_the_check_ends(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_SECONDS", 0)
    with pytest.raises(ModelFileError, match="does not come to an end"):
        admit(tiny, never)
    with pytest.raises(Cancelled):
        admit(tiny, lambda: True)


def test_the_check_needs_no_environment_and_heeds_no_folder(tmp_path: Path, tiny: Path) -> None:
    """Modules that lie in the current folder are not ours."""
    for name in ("json.py", "ctypes.py", "gemma_cli.py", "llama_cpp.py", "resource.py"):
        (tmp_path / name).write_text("raise SystemExit('hostile module')", encoding="utf-8")
    keep = ("PATH", "SYSTEMROOT", "LD_LIBRARY_PATH", "TEMP")
    env: Env = {key: os.environ[key] for key in keep if key in os.environ}
    done = subprocess.run(
        [*program(), "run", "-m", str(tiny), "--raw", "-n", "1", "--threads", "1", "the"],
        cwd=tmp_path,
        env=env | {"GEMMA_HOME": str(tmp_path / "h")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "h" / "cache" / "probed").is_dir()


def with_count(path: Path, key: str, kind: int, count: int, size: int) -> Path:
    """A sparse file whose one list claims `count` elements."""
    name = key.encode()
    head = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", len(name)) + name
    path.write_bytes(head + struct.pack("<IIQ", 9, kind, count))
    os.truncate(path, size)
    return path


@pytest.mark.parametrize(
    ("kind", "count", "size", "said"),
    [
        (8, 1 << 29, 5 << 30, "claims 536,870,912 elements"),  # 17 GB of empty strings
        (0, 1 << 30, 2 << 30, "claims 1,073,741,824 elements"),  # a byte at a time: 10 s
        (8, 1000, 100, "the file has 100"),
        (77, 1, 1000, "unknown type 77"),
        (9, 1, 1000, "unknown type 9"),
    ],
)
def test_absurd_lists_cost_nothing(
    tmp_path: Path, kind: int, count: int, size: int, said: str
) -> None:
    path = with_count(tmp_path / "huge.gguf", "tokenizer.ggml.tokens", kind, count, size)
    start = time.monotonic()
    with pytest.raises(ModelFileError, match=said):
        read_header(path)
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"general.architecture": "gemma-embedding"}, "an embedding model, not a language"),
        ({"general.architecture": "clip"}, "a vision part"),
        ({"gemma3.attention.layer_norm_rms_epsilon": -1.0}, "epsilon is -1.0"),
        ({"gemma3.attention.layer_norm_rms_epsilon": float("nan")}, "epsilon is nan"),
        ({"gemma3.rope.dimension_count": 33}, "rotates 33 of a head's 32"),
        ({"gemma3.rope.dimension_count": 64}, "rotates 64 of a head's 32"),
        ({"gemma3.context_length": 0}, "how many tokens its model was trained on"),
        ({"tokenizer.ggml.tokens": 5}, "a tokenizer without tokens"),
        ({"tokenizer.ggml.model": 5}, "no layers or no tokenizer"),
    ],
)
def test_numbers_that_llama_cpp_believes(tmp_path: Path, keys: dict[str, Value], said: str) -> None:
    metadata = gemma3_metadata(layers=1)
    path = write_gguf(tmp_path / "m.gguf", metadata | keys, gemma3_tensors(metadata))
    with pytest.raises(ModelFileError, match=said):
        check_language_model(path, read_header(path))


def test_integers_are_no_weights(tmp_path: Path) -> None:
    metadata = gemma3_metadata(layers=1)
    for name, kind in (("output_norm.weight", 1), ("blk.0.attn_q.weight", 26)):
        tensors = [
            TensorSpec(t.name, t.shape, F32, t.data) for t in with_noise(gemma3_tensors(metadata))
        ]
        head = gguf_header(metadata, tensors)
        at = head.index(name.encode()) + len(name)
        at += 4 + 8 * struct.unpack_from("<I", head, at)[0]
        path = tmp_path / "m.gguf"
        body = b"".join(t.data + b"\0" * (-len(t.data) % 32) for t in tensors)
        path.write_bytes(head[:at] + struct.pack("<I", kind) + head[at + 4 :] + body)
        with pytest.raises(ModelFileError):
            admit(path, never)


def test_vocabularies_are_compared_by_what_they_hold(tmp_path: Path, demo_gguf: Path) -> None:
    def model(name: str, tokens: list[str]) -> Path:
        metadata = gemma3_metadata(layers=1) | {"tokenizer.ggml.tokens": tokens}
        return write_gguf(tmp_path / name, metadata, gemma3_tensors(metadata))

    plain = model("plain", TOKENS)
    longer = model("longer", [*TOKENS, *(f"<spare{i}>" for i in range(64))])
    other = model("other", [*TOKENS[:-1], "changed"])
    far = model("far", [*TOKENS, *(f"<spare{i}>" for i in range(200))])
    assert same_vocabulary(plain, plain)
    assert same_vocabulary(plain, longer)
    assert same_vocabulary(longer, plain)
    assert not same_vocabulary(plain, other)
    assert not same_vocabulary(plain, far)
    assert not same_vocabulary(plain, demo_gguf)
    assert same_vocabulary(demo_gguf, demo_gguf)
    bare = write_gguf(tmp_path / "bare", {"general.architecture": "gemma3"}, [])
    assert not same_vocabulary(bare, bare)
