"""LoRA adapters: what `--lora FILE[:SCALE]` names, and whether it belongs to a model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from gemma_cli.errors import GemmaError, UsageError
from gemma_cli.models.ggml import open_gguf
from gemma_cli.models.gguf import Header, Tensor, read_header

_TYPES = ("F32", "F16", "BF16", "Q8_0")  # what conversion scripts write, and llama.cpp multiplies


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA file and how strongly it acts: 1 as trained, 0 not at all, below 0 reversed."""

    path: Path
    scale: float = 1.0

    @property
    def identity(self) -> str:
        """Differs when the model would compute something else: for keys of what is kept."""
        facts = self.path.stat()
        name = self.path.resolve()
        return f"{name}|{facts.st_size}|{facts.st_mtime_ns}|{facts.st_ino}|{self.scale!r}"


def parse_adapter(text: str) -> Adapter:
    """FILE[:SCALE]. A colon that no number follows belongs to the path (C:\\lora.gguf).

    UsageError for no file, and for a scale that is not finite.
    """
    path, colon, tail = text.rpartition(":")
    scale = _number(tail) if colon and path and not Path(text).is_file() else None
    if scale is None:
        path, scale = text, 1.0
    if not path:
        raise UsageError("--lora takes a file: --lora FILE or --lora FILE:SCALE")
    if not math.isfinite(scale):
        raise UsageError(f"--lora {path}: the scale must be a finite number, not {tail}")
    return Adapter(Path(path).expanduser(), scale)


def check_adapter(adapter: Adapter, base: Header) -> None:
    """Raise UsageError, with the reason, unless every tensor changes one of the model's."""
    path = adapter.path
    try:
        header = read_header(path)
    except GemmaError as error:
        raise UsageError(f"--lora: {error.message}") from error
    wrong = _wrong_kind(path) or _wrong_model(header, base)
    if wrong:
        raise UsageError(f"--lora {path}: {wrong}")


def _wrong_kind(path: Path) -> str | None:
    """Read again for the keys that a model's header has no place for."""
    reader = open_gguf(path)
    if isinstance(reader, str):  # read a moment ago: it changed meanwhile
        return reader
    try:
        kind, lora = reader.value("general.type"), reader.value("adapter.type")
        alpha = reader.value("adapter.lora.alpha")
        activated = reader.count("adapter.alora.invocation_tokens")
    finally:
        reader.close()
    if kind != "adapter":
        return "it is no adapter (convert one: convert_lora_to_gguf.py of llama.cpp)"
    if lora != "lora":
        return f"it is an adapter of the kind {lora!r}, not a LoRA"
    if activated:
        return "it is an activated LoRA, which acts on part of a prompt only: not supported"
    if alpha is not None and not (isinstance(alpha, float) and math.isfinite(alpha)):
        return f"its alpha is {alpha!r}: it is damaged"
    return None


def _wrong_model(header: Header, base: Header) -> str | None:
    if header.architecture != base.architecture:
        return f"it was made for a {header.architecture} model, and this is a {base.architecture}"
    bases = {tensor.name: tensor for tensor in base.tensors}
    pairs: dict[str, dict[str, Tensor]] = {}
    for tensor in header.tensors:
        name, _, part = tensor.name.rpartition(".")
        if part in ("lora_a", "lora_b"):
            pairs.setdefault(name, {})[part] = tensor
        elif not tensor.name.endswith("_norm.weight"):  # llama.cpp passes those over
            return f"its tensor {tensor.name} is no part of a LoRA"
    if not pairs:
        return "it holds no LoRA tensors"
    for name, pair in pairs.items():
        if len(pair) < 2:
            return f"its tensor {name} lacks one half"
        wrong = _wrong_pair(bases.get(name), pair["lora_a"], pair["lora_b"])
        if wrong:
            return f"its tensor {name} {wrong}"
    return None


def _wrong_pair(base: Tensor | None, a: Tensor, b: Tensor) -> str | None:
    """A maps to the rank, B from the rank; both are flipped for the token embedding."""
    if base is None:
        return "is not in the model: it was made for another one"
    for half in (a, b):
        if half.type not in _TYPES:
            return f"is stored as {half.type}: only {', '.join(_TYPES)} are understood"
    outside = (_width(b, 1), _width(a, 1)) if _embeds(base) else (a.shape[0], _width(b, 1))
    inside = (a.shape[0], b.shape[0]) if _embeds(base) else (_width(a, 1), b.shape[0])
    if outside != (base.shape[0], _width(base, 1)):
        theirs, ours = _sizes(outside), _sizes((base.shape[0], _width(base, 1)))
        return f"changes a matrix of {theirs}, the model's is {ours}: it was made for another one"
    if inside[0] != inside[1] or inside[0] == 0:
        return f"has halves of unequal ranks, {inside[0]} and {inside[1]}"
    return None


def _embeds(base: Tensor) -> bool:
    return base.name.endswith("token_embd.weight")


def _width(tensor: Tensor, axis: int) -> int:
    return tensor.shape[axis] if len(tensor.shape) > axis else 1


def _sizes(shape: tuple[int, ...]) -> str:
    return " x ".join(str(length) for length in shape)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
