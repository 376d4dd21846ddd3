"""Conversations by seed: what people write, and what they might write to trick a tokenizer."""

from __future__ import annotations

import random
from collections.abc import Iterator

from gemma_cli.engine.protocol import Message, Role

_PLAIN = (
    "the a why sky is blue please list three reasons, Prime Minister: 42 3.14 naïve café größer"
)
_SCRIPTS = "भारत के प्रधानमंत्री 日本語の文章 안녕하세요 Привет мир مرحبا שלום ไทย Ελληνικά 𝔘𝔫𝔦"
_SIGNS = "👩‍👩‍👧 🏳️‍🌈 e\u0301 ½ € — … “quoted” x² \u200b \ufeff"
_WORDS = [*_PLAIN.split(), *_SCRIPTS.split(), *_SIGNS.split(), "\u00a0"]
_CODE = (
    "def f(x):\n        return {'a': [x]}\n",
    "<table>\n\t<tr><td>1</td></tr>\n</table>",
    '<p><b>bold</b> and <s>struck</s></p><br/>\n<img src="a.png">',
    "for (int i = 0; i < n; ++i) {\r\n\tsum += a[i];\r\n}",
    "SELECT *  FROM t WHERE a <> '</s>';",
    '{"key": [1, 2.5e-3, null], "name": "\\u00e9"}',
    "```python\nprint('hi')\n```",
)
_EDGES = ("", "", "", " ", "\n", "\n\n\n", "\t", "   ", " \n ")


def conversation(seed: int) -> list[Message]:
    """An ordinary one: control tokens are not named in it, nor is U+2581."""
    chance = random.Random(seed)
    messages = []
    if chance.random() < 0.5:
        messages.append(Message("system", _text(chance)))
    turns = chance.choice((1, 1, 3, 5, 9))
    roles: tuple[Role, Role] = ("user", "assistant")
    messages += [Message(roles[turn % 2], _text(chance)) for turn in range(turns)]
    return messages


def conversations(count: int, first: int = 0) -> Iterator[list[Message]]:
    return (conversation(seed) for seed in range(first, first + count))


def _text(chance: random.Random) -> str:
    kind = chance.random()
    if kind < 0.08:
        return chance.choice(_EDGES)
    parts = []
    for _ in range(400 if kind > 0.97 else chance.randint(1, 25)):
        part = chance.choice(_WORDS) if chance.random() < 0.9 else chance.choice(_CODE)
        parts.append(part + chance.choice((" ", " ", " ", "", "  ", "\n", "\n\n")))
    return chance.choice(_EDGES) + "".join(parts) + chance.choice(_EDGES)
