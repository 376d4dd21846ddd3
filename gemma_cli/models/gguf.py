"""What a GGUF file says about itself: shape, tokenizer, template, tensors.

Read through ggml's own reader (80 ms for a Gemma), checked against the file's
real length: ggml accepts a file that was cut after its header.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gemma_cli.errors import ModelFileError, ModelNotFoundError
from gemma_cli.models.ggml import Reader, open_gguf
from gemma_cli.models.layout import check_layout

# general.file_type of the quantizations that Gemma files come in.
_FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1",
    10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M",
    16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS", 21: "Q2_K_S",
    22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M",
    28: "IQ2_S", 29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0",
    37: "TQ2_0", 38: "MXFP4_MOE", 39: "NVFP4", 40: "Q1_0", 41: "Q2_0",
}  # fmt: skip

# Layers per group, the last of which attends to everything; llama.cpp's own
# defaults where a file does not say.
_PATTERN_PERIOD = {"gemma2": 2, "gemma3": 6, "gemma3n": 5}
_GEMMA2_WINDOW = 4096
# llama.cpp gives Gemma 3n its KV cache in the first 20 layers only.
_GEMMA3N_KV_LAYERS = 20

_MOST_LAYERS = 512
_GUESSED = 1024  # llama.cpp's flag for a file type that the file did not state


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor as stored. shape: ggml's order, fastest dimension first.

    bytes: its length in the file; offset: from the start of the file.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    bytes: int
    offset: int


@dataclass(frozen=True, slots=True)
class Header:
    """A GGUF file's facts. A number that the file does not state is 0, a text is "".

    n_head_kv: one value per layer. head_dim_k_swa, head_dim_v_swa: head sizes of
    the window layers where they differ (Gemma 4), else None. sliding_window:
    tokens a window layer sees, 0 for none. sliding_pattern: one value per layer,
    True for a window layer. shared_kv_layers: how many of the last layers
    reuse another layer's KV. tensor_bytes: all tensors, without the header.
    split_count: files that the model consists of, 1 for a single one.
    rope_dims: elements of a head that are rotated, 0 for all. n_ff_layers,
    key_is_value and what follows: as in entries.Shape.
    """

    architecture: str
    name: str
    basename: str
    finetune: str
    size_label: str
    license: str
    quant: str
    n_layers: int
    n_ctx_train: int
    n_embd: int
    n_ff: int
    n_head: int
    n_head_kv: tuple[int, ...]
    head_dim_k: int
    head_dim_v: int
    head_dim_k_swa: int | None
    head_dim_v_swa: int | None
    sliding_window: int
    sliding_pattern: tuple[bool, ...]
    shared_kv_layers: int
    n_vocab: int
    tokenizer_model: str
    chat_template: str | None
    file_bytes: int
    tensor_bytes: int
    tensors: tuple[Tensor, ...]
    split_count: int
    norm_epsilon: float = 0.0
    rope_dims: int = 0
    n_ff_layers: tuple[int, ...] = ()
    key_is_value: bool = False
    n_embd_per_layer: int = 0
    n_expert: int = 0
    n_expert_used: int = 0
    n_ff_exp: int = 0


def read_header(path: Path) -> Header:
    """Read and check a GGUF file's header.

    ModelNotFoundError when there is no such file; ModelFileError when it is
    something else, cut, or not readable.
    """
    size = _check_is_gguf(path)
    check_layout(path)
    reader = open_gguf(path)
    if isinstance(reader, str):
        raise ModelFileError(
            f"{path} is damaged or cut: {reader}",
            "download it again, or check it where it came from",
        )
    try:
        return _Metadata(reader, path).header(size)
    finally:
        reader.close()


def _check_is_gguf(path: Path) -> int:
    """The file's length, after a look at its first bytes."""
    try:
        if path.is_dir():
            raise ModelFileError(
                f"{path} is a folder, not a model file", "name the .gguf file inside it"
            )
        if not path.is_file():
            if path.exists():
                raise ModelFileError(f"{path} is not a regular file")
            raise ModelNotFoundError(f"no such file: {path}", "see what is here: gemma list")
        with path.open("rb") as file:
            start = file.read(512)
        size = path.stat().st_size
    except PermissionError as error:
        raise ModelFileError(f"no permission to read {path}") from error
    except (OSError, ValueError) as error:
        raise ModelFileError(f"cannot read {path}: {error}") from error
    if start[:4] != b"GGUF":
        raise ModelFileError(
            f"{path} is not a GGUF file: {_looks_like(start)}", "gemma needs a .gguf model file"
        )
    if start[4:8] in (b"\0\0\0\3", b"\0\0\0\2"):
        raise ModelFileError(f"{path} is a big-endian GGUF file, which llama.cpp cannot read here")
    return size


def _looks_like(start: bytes) -> str:
    text = start.lstrip().lower()
    if not start:
        return "it is empty"
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<")):
        return "it is a web page (a login or an error page, perhaps)"
    if text.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer, not the file itself (git lfs pull)"
    if start[8:10] == b'{"':
        return "it is a safetensors file"
    if start.startswith(b"PK"):
        return "it is a zip archive (PyTorch weights, perhaps)"
    if start.startswith(b"\x1f\x8b"):
        return "it is compressed with gzip"
    if start[:4] in (b"lmgg", b"tjgg", b"fmgg", b"algg", b"ggml"):
        return "it is an older ggml format"
    if not start.strip(b"\0"):
        return "it starts with zeros (a download that never came)"
    if text.startswith((b"{", b"[")):
        return "it is a JSON text"
    return "its first bytes are not GGUF"


class _Metadata:
    """The keys of one file as Python values; a key of another type counts as absent."""

    def __init__(self, reader: Reader, path: Path) -> None:
        self._reader = reader
        self._path = path
        self._arch = self._text("general.architecture")

    def header(self, size: int) -> Header:
        tensors = self._tensors(size)
        n_layers = self._layers()
        n_head = max(self._numbers("attention.head_count"), default=0)
        head_dim = self._number("embedding_length") // n_head if n_head else 0
        window = self._window()
        return Header(
            architecture=self._arch,
            name=self._text("general.name"),
            basename=self._text("general.basename"),
            finetune=self._text("general.finetune"),
            size_label=self._text("general.size_label"),
            license=self._text("general.license"),
            quant=self._quant(tensors),
            n_layers=n_layers,
            n_ctx_train=self._number("context_length"),
            n_embd=self._number("embedding_length"),
            n_ff=max(self._numbers("feed_forward_length"), default=0),
            n_head=n_head,
            n_head_kv=self._per_layer("attention.head_count_kv", n_layers, n_head),
            head_dim_k=self._number("attention.key_length") or head_dim,
            head_dim_v=self._number("attention.value_length") or head_dim,
            head_dim_k_swa=self._number("attention.key_length_swa") or None,
            head_dim_v_swa=self._number("attention.value_length_swa") or None,
            sliding_window=window,
            sliding_pattern=self._pattern(n_layers, window),
            shared_kv_layers=self._shared_kv_layers(n_layers),
            n_vocab=self._vocabulary_size(tensors),
            tokenizer_model=self._text("tokenizer.ggml.model"),
            chat_template=self._text("tokenizer.chat_template") or None,
            file_bytes=size,
            tensor_bytes=sum(tensor.bytes for tensor in tensors),
            tensors=tensors,
            split_count=max(1, _whole(self._reader.value("split.count"))),
            norm_epsilon=self._decimal("attention.layer_norm_rms_epsilon"),
            rope_dims=max(
                self._number("rope.dimension_count"), self._number("rope.dimension_count_swa")
            ),
            n_ff_layers=self._per_layer("feed_forward_length", n_layers, 0),
            key_is_value=_key_is_value(tensors),
            n_embd_per_layer=self._per_layer_embedding(tensors, n_layers),
            n_expert=self._number("expert_count"),
            n_expert_used=self._number("expert_used_count"),
            n_ff_exp=self._number("expert_feed_forward_length"),
        )

    def _text(self, key: str) -> str:
        value = self._reader.value(key)
        return value if isinstance(value, str) else ""

    def _number(self, key: str) -> int:
        """One number of the model's architecture; of an array, its first."""
        return next(iter(self._numbers(key)), 0)

    def _numbers(self, key: str) -> tuple[int, ...]:
        value = self._reader.value(f"{self._arch}.{key}")
        values = value if isinstance(value, tuple) else (value,)
        return tuple(_whole(v) for v in values if v is not None)

    def _decimal(self, key: str) -> float:
        value = self._reader.value(f"{self._arch}.{key}")
        return value if isinstance(value, float) else 0.0

    def _layers(self) -> int:
        n_layers = self._number("block_count")
        if n_layers > _MOST_LAYERS:
            raise ModelFileError(f"{self._path} claims {n_layers} layers: it is damaged")
        return n_layers

    def _per_layer(self, key: str, n_layers: int, default: int) -> tuple[int, ...]:
        values = self._numbers(key) or (default,)
        return (values * n_layers)[:n_layers] if len(values) == 1 else _fitted(values, n_layers)

    def _window(self) -> int:
        window = self._number("attention.sliding_window")
        if self._arch == "gemma2":
            return window or _GEMMA2_WINDOW
        has_pattern = bool(self._numbers("attention.sliding_window_pattern"))
        return window if has_pattern or self._arch in _PATTERN_PERIOD else 0

    def _pattern(self, n_layers: int, window: int) -> tuple[bool, ...]:
        if not window:
            return (False,) * n_layers
        key = f"{self._arch}.attention.sliding_window_pattern"
        stated = self._reader.value(key)
        if isinstance(stated, tuple):
            return tuple(bool(v) for v in _fitted(stated, n_layers))
        period = _PATTERN_PERIOD.get(self._arch, 0) if stated is None else _whole(stated)
        if period == 0:
            return (True,) * n_layers
        return tuple(layer % period < period - 1 for layer in range(n_layers))

    def _vocabulary_size(self, tensors: tuple[Tensor, ...]) -> int:
        """By the tokens; a header without any can still be planned by its embedding."""
        tokens = "tokenizer.ggml.tokens"
        return self._reader.count(tokens) if self._reader.has(tokens) else _embedding_rows(tensors)

    def _shared_kv_layers(self, n_layers: int) -> int:
        if self._arch == "gemma3n":
            return max(0, n_layers - _GEMMA3N_KV_LAYERS)
        return min(self._number("attention.shared_kv_layers"), n_layers)

    def _per_layer_embedding(self, tensors: tuple[Tensor, ...], n_layers: int) -> int:
        """Its key's name differs between generations; the tensor's does not."""
        for tensor in tensors:
            if tensor.name == "per_layer_token_embd.weight" and n_layers:
                return tensor.shape[0] // n_layers
        return 0

    def _quant(self, tensors: tuple[Tensor, ...]) -> str:
        stated = self._reader.value("general.file_type")
        if isinstance(stated, int) and stated & ~_GUESSED in _FILE_TYPES:
            return _FILE_TYPES[stated & ~_GUESSED]
        by_type: dict[str, int] = {}
        for tensor in tensors:
            by_type[tensor.type] = by_type.get(tensor.type, 0) + tensor.bytes
        return max(by_type, key=lambda name: by_type[name], default="")

    def _tensors(self, size: int) -> tuple[Tensor, ...]:
        start = self._reader.data_offset()
        tensors = tuple(
            Tensor(name, kind, shape, length, start + offset)
            for name, kind, shape, length, offset in self._reader.tensors()
        )
        end = max((t.offset + t.bytes for t in tensors), default=0)
        if end > size:
            raise ModelFileError(
                f"{self._path} is cut: its tensors need {end:,} bytes, the file has {size:,}",
                "download it again, or check it where it came from",
            )
        return tensors


def _embedding_rows(tensors: tuple[Tensor, ...]) -> int:
    shapes = (t.shape for t in tensors if t.name == "token_embd.weight")
    return next((shape[1] for shape in shapes if len(shape) > 1), 0)


def _key_is_value(tensors: tuple[Tensor, ...]) -> bool:
    """Whether a layer has K but no V. Files without K in sharing layers lack both there."""
    names = {tensor.name for tensor in tensors}
    return any(n.replace("attn_k.", "attn_v.") not in names for n in names if ".attn_k.w" in n)


def _whole(value: object) -> int:
    """A number of any GGUF type as an int that is not negative."""
    if not isinstance(value, (int, float)) or not 0 <= value < 2**63:
        return 0
    return int(value)


def _fitted(values: tuple[int, ...], n_layers: int) -> tuple[int, ...]:
    return (values + (0,) * n_layers)[:n_layers]
