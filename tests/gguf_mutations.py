"""Hostile GGUF headers: a valid one, changed in one way that a seed chooses.

The same base and seed give the same bytes, so a bad file is kept as its recipe.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

_STRING, _ARRAY = 8, 9
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_EXTREMES = [0, 1, 2, 3, 7, 255, 65535, 2**16, 2**20, 2**31 - 1, 2**31, 2**32 - 1]
_EXTREMES += [2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1]
_NUMBERS = [0.0, -0.0, 1e-45, -1.0, 1e38, float("inf"), float("-inf"), float("nan")]
_ODD_TEXTS = [b"", b"\0", b"\xff\xfe", b"\xe2\x96", b"<0x100>", b"<0xZZ>", b"a" * 65536, b"\n" * 99]
_ARCHITECTURES = [b"gemma", b"gemma2", b"gemma3", b"gemma3n", b"gemma4", b"gemma-embedding"]
_ARCHITECTURES += [
    b"gemma4-assistant",
    b"clip",
    b"llama",
    b"qwen3",
    b"phi3",
    b"mamba",
    b"t5",
    b"bert",
]
_ARCHITECTURES += [b"rwkv7", b"deepseek2", b"gpt2", b"olmo2", b"falcon", b"", b"\xff", b"a" * 9999]


@dataclass
class Parsed:
    """A header in parts.

    keys: (name, type, encoded value); tensors: (name, shape, type, offset).
    """

    keys: list[tuple[bytes, int, bytes]] = field(default_factory=list)
    tensors: list[tuple[bytes, tuple[int, ...], int, int]] = field(default_factory=list)
    length: int = 0

    def encoded(self, n_keys: int | None = None, n_tensors: int | None = None) -> bytes:
        """The header again; the counts may lie."""
        counts = (
            len(self.tensors) if n_tensors is None else n_tensors,
            len(self.keys) if n_keys is None else n_keys,
        )
        parts = [b"GGUF", struct.pack("<I2Q", 3, *counts)]
        for name, kind, value in self.keys:
            parts += [_text(name), struct.pack("<I", kind), value]
        for name, shape, kind, offset in self.tensors:
            parts += [_text(name), struct.pack(f"<I{len(shape)}Q", len(shape), *shape)]
            parts.append(struct.pack("<IQ", kind & 0xFFFFFFFF, offset))
        head = b"".join(parts)
        return head + b"\0" * (-len(head) % 32)


def parse(data: bytes) -> Parsed:
    """Take a valid file's header apart."""
    n_tensors, n_keys = struct.unpack_from("<QQ", data, 8)
    parsed, at = Parsed(), 24
    for _ in range(n_keys):
        name, at = _read_text(data, at)
        (kind,) = struct.unpack_from("<I", data, at)
        end = _value_end(data, at + 4, kind)
        parsed.keys.append((name, kind, data[at + 4 : end]))
        at = end
    for _ in range(n_tensors):
        name, at = _read_text(data, at)
        (dims,) = struct.unpack_from("<I", data, at)
        shape = struct.unpack_from(f"<{dims}Q", data, at + 4)
        kind, offset = struct.unpack_from("<IQ", data, at + 4 + 8 * dims)
        parsed.tensors.append((name, shape, kind, offset))
        at += 16 + 8 * dims
    parsed.length = at + -at % 32
    return parsed


def mutated(base: Parsed, seed: int) -> tuple[bytes, str]:
    """A changed header, and what was changed. The tensors' data is to follow."""
    chance = random.Random(seed)
    change = _CHANGES[seed % len(_CHANGES)]
    copy = Parsed(list(base.keys), list(base.tensors))
    return change(copy, chance), change.__name__.strip("_").replace("_", " ")


def _flipped_bits(base: Parsed, chance: random.Random) -> bytes:
    data = bytearray(base.encoded())
    near = len(data) if chance.random() < 0.5 else min(len(data), 4096)
    for _ in range(chance.choice((1, 1, 2, 8))):
        data[chance.randrange(near)] ^= 1 << chance.randrange(8)
    return bytes(data)


def _cut_short(base: Parsed, chance: random.Random) -> bytes:
    data = base.encoded()
    return data[: chance.randrange(len(data))]


def _false_counts(base: Parsed, chance: random.Random) -> bytes:
    value = chance.choice(_EXTREMES)
    return base.encoded(n_keys=value) if chance.random() < 0.5 else base.encoded(n_tensors=value)


def _false_lengths(base: Parsed, chance: random.Random) -> bytes:
    """A length of a text, a list or a name that is not its own."""
    index = chance.randrange(len(base.keys))
    name, kind, value = base.keys[index]
    lie = struct.pack("<Q", chance.choice(_EXTREMES))
    if kind == _ARRAY:
        value = value[:4] + lie + value[12:]
    elif kind == _STRING:
        value = lie + value[8:]
    else:
        data = base.encoded()
        at = data.index(_text(name))
        return data[:at] + lie + data[at + 8 :]
    base.keys[index] = name, kind, value
    return base.encoded()


def _other_types(base: Parsed, chance: random.Random) -> bytes:
    """A type code that is not the value's."""
    index = chance.randrange(len(base.keys))
    name, kind, value = base.keys[index]
    other = chance.choice([*range(14), 255, 2**32 - 1])
    if kind == _ARRAY and chance.random() < 0.7:
        value = struct.pack("<I", other) + value[4:]
    else:
        kind = other
    base.keys[index] = name, kind, value
    return base.encoded()


def _other_values(base: Parsed, chance: random.Random) -> bytes:
    """A number out of every range, whole values of the right form."""
    numbers = [i for i, (_, kind, _) in enumerate(base.keys) if kind in _SIZES]
    for _ in range(chance.choice((1, 1, 1, 2))):
        index = chance.choice(numbers)
        name, kind, value = base.keys[index]
        if kind == 6:
            value = struct.pack("<f", chance.choice(_NUMBERS))
        else:
            value = chance.choice(_EXTREMES).to_bytes(8, "little")[: len(value)]
        base.keys[index] = name, kind, value
    return base.encoded()


def _values_of_another_kind(base: Parsed, chance: random.Random) -> bytes:
    """A whole value of another type: a text for a number, a list for a text."""
    index = chance.randrange(len(base.keys))
    name = base.keys[index][0]
    values: list[tuple[int, bytes]] = [
        (_STRING, _text(chance.choice(_ODD_TEXTS))),
        (_ARRAY, struct.pack("<IQ", 4, 0)),
        (_ARRAY, struct.pack("<IQ3i", 5, 3, -1, 0, 2**31 - 1)),
        (_ARRAY, struct.pack("<IQ", _STRING, 2) + _text(b"a") + _text(b"a")),
        (_ARRAY, struct.pack("<IQ", _ARRAY, 1) + struct.pack("<IQ", 4, 0)),
        (4, struct.pack("<I", 5)),
        (5, struct.pack("<i", -5)),
        (7, b"\2"),
        (10, struct.pack("<Q", 2**63)),
        (12, struct.pack("<d", float("nan"))),
    ]
    base.keys[index] = (name, *chance.choice(values))
    return base.encoded()


def _missing_keys(base: Parsed, chance: random.Random) -> bytes:
    for _ in range(chance.choice((1, 1, 2, 5))):
        del base.keys[chance.randrange(len(base.keys))]
    return base.encoded()


def _doubled_keys(base: Parsed, chance: random.Random) -> bytes:
    base.keys.insert(chance.randrange(len(base.keys)), chance.choice(base.keys))
    return base.encoded()


def _odd_tokens(base: Parsed, chance: random.Random) -> bytes:
    """The lists of the tokenizer: shortened, lengthened, with doubles, odd texts and kinds."""
    lists = [
        i for i, (_, kind, value) in enumerate(base.keys) if kind == _ARRAY and len(value) > 99
    ]
    index = chance.choice(lists)
    name, kind, value = base.keys[index]
    (element,) = struct.unpack_from("<I", value)
    items = _items(value)
    match chance.randrange(5):
        case 0:
            items = items[: chance.choice((0, 1, 3, len(items) // 2, len(items) - 1))]
        case 1:
            items += [chance.choice(items)] * chance.choice((1, 1000))
        case 2:
            items[chance.randrange(len(items))] = chance.choice(items)
        case 3 if element == _STRING:
            items[chance.randrange(len(items))] = _text(chance.choice(_ODD_TEXTS))
        case 4 if element != _STRING:
            items = [items[chance.randrange(len(items))]] * len(items)
        case _:
            odd = chance.choice((0, 3, 4, 6, 7, 255, 2**31, 2**32 - 1)).to_bytes(8, "little")
            text = _text(b"<0x%02X>" % chance.randrange(256))
            items[chance.randrange(len(items))] = (
                text if element == _STRING else odd[: _SIZES[element]]
            )
    head = struct.pack("<IQ", element, len(items))
    base.keys[index] = name, kind, head + b"".join(items)
    return base.encoded()


def _odd_ids(base: Parsed, chance: random.Random) -> bytes:
    """Special tokens of impossible or wrong ids, added where they were not."""
    names = ["bos", "eos", "unknown", "padding", "eot", "eom", "mask", "separator", "fim_pre"]
    for _ in range(chance.choice((1, 2, 6))):
        name = f"tokenizer.ggml.{chance.choice(names)}_token_id".encode()
        value = struct.pack("<I", chance.choice([*_EXTREMES[:12], 4, 5, 262143, 262144]))
        base.keys = [key for key in base.keys if key[0] != name]
        base.keys.append((name, 4, value))
    return base.encoded()


def _odd_tensors(base: Parsed, chance: random.Random) -> bytes:
    """A tensor of another name, shape, type or place, twice or not at all."""
    index = chance.randrange(len(base.tensors))
    name, shape, kind, offset = base.tensors[index]
    match chance.randrange(8):
        case 0:
            name = chance.choice(base.tensors)[0]
        case 1:
            name = chance.choice((b"", b"blk.99.attn_q.weight", b"a" * 64, b"output.weight"))
        case 2:
            axis = chance.randrange(len(shape))
            shape = (*shape[:axis], chance.choice(_EXTREMES), *shape[axis + 1 :])
        case 3:
            shape = chance.choice((shape[::-1], (*shape, 1), (*shape, 2, 2), shape[:1], ()))
        case 4:
            kind = chance.choice([*range(45), 2**31, 2**32 - 1])
        case 5:
            offset = chance.choice(_EXTREMES)
        case 6:
            del base.tensors[index]
            return base.encoded()
        case _:
            base.tensors.append((name, shape, kind, offset))
            return base.encoded()
    base.tensors[index] = name, shape, kind, offset
    return base.encoded()


def _other_sizes(base: Parsed, chance: random.Random) -> bytes:
    """All tensors' data in line again after one got another type: a valid file, odd inside."""
    index = chance.randrange(len(base.tensors))
    name, shape, _, _ = base.tensors[index]
    base.tensors[index] = name, shape, chance.choice((0, 1, 24, 25, 26, 27, 28, 30)), 0
    offset = 0
    for at, (name, shape, kind, _) in enumerate(base.tensors):
        base.tensors[at] = name, shape, kind, offset
        count = 1
        for length in shape:
            count *= length
        size = count * {0: 4, 1: 2, 24: 1, 25: 2, 26: 4, 27: 8, 28: 8, 30: 2}.get(kind, 4)
        offset += size + -size % 32
    return base.encoded()


def _other_architectures(base: Parsed, chance: random.Random) -> bytes:
    """The same tensors under another model's name, its keys renamed with it or not."""
    name = chance.choice(_ARCHITECTURES)
    renamed = chance.random() < 0.8
    before = next(v for k, _, v in base.keys if k == b"general.architecture")[8:]
    for index, (key, kind, value) in enumerate(base.keys):
        if key == b"general.architecture":
            base.keys[index] = key, kind, _text(name)
        elif renamed and key.startswith(before + b"."):
            base.keys[index] = key.replace(before, name, 1), kind, value
    return base.encoded()


_CHANGES: list[Callable[[Parsed, random.Random], bytes]] = [
    _flipped_bits,
    _cut_short,
    _false_counts,
    _false_lengths,
    _other_types,
    _other_values,
    _values_of_another_kind,
    _missing_keys,
    _doubled_keys,
    _odd_tokens,
    _odd_ids,
    _odd_tensors,
    _other_sizes,
    _other_architectures,
]


def _text(raw: bytes) -> bytes:
    return struct.pack("<Q", len(raw)) + raw


def _read_text(data: bytes, at: int) -> tuple[bytes, int]:
    (length,) = struct.unpack_from("<Q", data, at)
    return data[at + 8 : at + 8 + length], at + 8 + length


def _value_end(data: bytes, at: int, kind: int) -> int:
    if kind == _STRING:
        return _read_text(data, at)[1]
    if kind != _ARRAY:
        return at + _SIZES[kind]
    element, count = struct.unpack_from("<IQ", data, at)
    at += 12
    if element != _STRING:
        return int(at + count * _SIZES[element])
    for _ in range(count):
        at += 8 + int.from_bytes(data[at : at + 8], "little")
    return at


def _items(value: bytes) -> list[bytes]:
    """The encoded elements of an encoded list."""
    element, _ = struct.unpack_from("<IQ", value)
    items, at = [], 12
    while at < len(value):
        end = _read_text(value, at)[1] if element == _STRING else at + _SIZES[element]
        items.append(value[at:end])
        at = end
    return items
