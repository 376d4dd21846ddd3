"""A GGUF header walked byte by byte, before C code trusts its counts and lengths.

ggml's reader believes a header up to a thousand million strings; on a large
file that is a long wait and gigabytes of memory. Here every count is bounded,
so that what passes is read quickly and in little memory.
"""

from __future__ import annotations

import struct
from pathlib import Path

from gemma_cli.errors import ModelFileError

# Gemma files have some 50 keys, 1,000 tensors, 262,144 tokens and 515,000
# merges, 20 MiB in all: these are bounds of another order.
_MOST_KEYS, _MOST_TENSORS = 4096, 65536
_MOST_ELEMENTS = 1 << 23
_MOST_BYTES = 1 << 28
_LONGEST_KEY = 65535  # as GGUF's description has it
_LONGEST_TENSOR_NAME, _MOST_DIMENSIONS = 63, 4  # GGML_MAX_NAME, GGML_MAX_DIMS
_FIRST_READ = 1 << 23

_TOKENS = b"tokenizer.ggml.tokens"
_STRING, _ARRAY = 8, 9
_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_LENGTH = struct.Struct("<Q")


def check_layout(path: Path) -> None:
    """Raise ModelFileError for a header with absurd counts, or one that the file cannot hold.

    What is wrong in other ways (types, names, versions) is left to ggml's reader.
    """
    walk = _Walk(path)
    version, tensors, keys = struct.unpack("<IQQ", walk.take(4, 20))
    if not 2 <= version <= 3:
        return
    if keys > _MOST_KEYS or tensors > _MOST_TENSORS:
        raise walk.damaged(f"it claims {keys:,} keys and {tensors:,} tensors")
    position = 24
    for _ in range(keys):
        position = walk.skip_string(position, _LONGEST_KEY)
        position = walk.skip_value(position)
    for _ in range(tensors):
        position = walk.skip_string(position, _LONGEST_TENSOR_NAME)
        (dimensions,) = struct.unpack("<I", walk.take(position, 4))
        if dimensions > _MOST_DIMENSIONS:
            raise walk.damaged(f"a tensor claims {dimensions:,} dimensions")
        position += 4 + 8 * dimensions + 4 + 8
    walk.take(position, 0)


def token_texts(path: Path) -> tuple[int, bytes]:
    """How many tokens a GGUF file has, and all their texts as stored, each after its length.

    (0, b"") without a tokenizer; ModelFileError for a damaged header.
    """
    walk = _Walk(path)
    (keys,) = _LENGTH.unpack(walk.take(16, 8))
    position = 24
    for _ in range(min(keys, _MOST_KEYS)):
        end = walk.skip_string(position, _LONGEST_KEY)
        name, position = walk.take(position + 8, end - position - 8), end
        end = walk.skip_value(position)
        if name == _TOKENS:
            kind, element, count = struct.unpack("<IIQ", walk.take(position, 16))
            if (kind, element) == (_ARRAY, _STRING):
                return count, walk.take(position + 16, end - position - 16)
        position = end
    return 0, b""


class _Walk:
    """The start of a file, read further as the walk goes on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._data = b""
        self._elements = 0
        self._read(_FIRST_READ)

    def take(self, position: int, size: int) -> bytes:
        self._have(position + size)
        return self._data[position : position + size]

    def skip_string(self, position: int, longest: int = _MOST_BYTES) -> int:
        (length,) = _LENGTH.unpack(self.take(position, 8))
        if length > longest:
            raise self.damaged(f"a text in its header claims {length:,} bytes")
        self._have(position + 8 + length)
        return int(position + 8 + length)

    def skip_value(self, position: int) -> int:
        (kind,) = struct.unpack("<I", self.take(position, 4))
        position += 4
        if kind == _STRING:
            return self.skip_string(position)
        if kind != _ARRAY:
            return position + self._bytes(kind)
        kind, count = struct.unpack("<IQ", self.take(position, 12))
        position += 12
        self._elements += count
        if self._elements > _MOST_ELEMENTS:
            raise self.damaged(f"a list in its header claims {count:,} elements")
        if kind == _STRING:
            return self._skip_strings(position, count)
        position += count * self._bytes(kind)
        self._have(position)
        return position

    def damaged(self, why: str) -> ModelFileError:
        return ModelFileError(
            f"{self._path} is damaged: {why}",
            "download it again, or check it where it came from",
        )

    def _skip_strings(self, position: int, count: int) -> int:
        """The tokens: a tight loop, for it runs some hundred thousand times."""
        unpack, data = _LENGTH.unpack_from, self._data
        for _ in range(count):
            if position + 8 > len(data):
                self._have(position + 8)
                data = self._data
            position += 8 + unpack(data, position)[0]
            if position > len(data):
                self._have(position)
                data = self._data
        return position

    def _bytes(self, kind: int) -> int:
        size = _BYTES.get(kind)
        if size is None:
            raise self.damaged(f"a value in its header is of the unknown type {kind}")
        return size

    def _have(self, end: int) -> None:
        if end <= len(self._data):
            return
        if end > _MOST_BYTES:
            raise self.damaged(f"its header claims {end:,} bytes")
        self._read(max(end, min(2 * len(self._data), _MOST_BYTES)))
        if end > len(self._data):
            raise ModelFileError(
                f"{self._path} is damaged or cut: its header claims {end:,} bytes, "
                f"the file has {len(self._data):,}",
                "download it again, or check it where it came from",
            )

    def _read(self, size: int) -> None:
        try:
            with self._path.open("rb") as file:
                self._data = file.read(size)
        except OSError as error:
            raise ModelFileError(f"cannot read {self._path}: {error.strerror}") from error
