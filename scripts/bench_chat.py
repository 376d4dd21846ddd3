"""What a chat costs beside the model: rendering per token, journalling, searching.

    python scripts/bench_chat.py [MESSAGES]

Rendering is compared with Rich's Live over the same Markdown, at two lengths: a
cost per token that grows with the answer shows as a higher second figure.

Journalling and searching work on a made-up history of MESSAGES messages (100,000):
words as frequent as in a natural language (Zipf's law over 50,000 of them, "the"
in every message), questions of 15 and answers of 120 words in the median, some
ten times as long, ten turns a chat; in every fifth chat a document of 2,000 words
in the median, sent with the first question or pinned.
"""

from __future__ import annotations

import io
import itertools
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.markdown import Markdown

from gemma_cli.chat.conversation import Attachment, Conversation
from gemma_cli.chat.history import History
from gemma_cli.engine.protocol import Role
from gemma_cli.terminal.markdown import StreamingMarkdown

_BLOCK = """## Heading {n}

A paragraph of some **bold** and `code` words that goes on for a line or two, as answers do.

- first item of a list
- second item of a list

```python
def function_{n}(x):
    return x + {n}
```

"""
_TOKEN = 4  # characters
_COMMON = ("the", "of", "and", "to", "a", "in", "is", "it")
_MEDIANS: Sequence[tuple[Role, int]] = (("user", 15), ("assistant", 120))
_QUERIES = (
    *("the", "the of and", '"of and"', "t", "to", "the s", "rare", "café", '"no such phrase"'),
    *("the of and to a in is i", "pdf", "papers 1"),
)


def main() -> None:
    short, long = (_tokens(blocks) for blocks in (12, 24))
    print("rendering, ms per token, painted at every token:")
    for name, render in (("Rich Live", _rich_live), ("ours", _ours)):
        print(f"  {name:<10} {render(short):7.3f} (12 blocks) {render(long):7.3f} (24 blocks)")
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(History(Path(folder) / "h.db")) as history,
    ):
        messages = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
        _fill(history, messages)
        size = (Path(folder) / "h.db").stat().st_size / 1e6
        print(f"a history of {messages:,} messages, {size:,.0f} MB:")
        _journalling(history)
        _searching(history)
        _opening(Path(folder) / "h.db")


def _tokens(blocks: int) -> list[str]:
    text = "".join(_BLOCK.format(n=n) for n in range(blocks))
    return [text[at : at + _TOKEN] for at in range(0, len(text), _TOKEN)]


def _rich_live(tokens: list[str]) -> float:
    console = Console(file=io.StringIO(), force_terminal=True, width=80, height=24)
    text = ""
    started = time.perf_counter()
    with Live(console=console, auto_refresh=False, vertical_overflow="ellipsis") as live:
        for token in tokens:
            text += token
            live.update(Markdown(text), refresh=True)
    return (time.perf_counter() - started) * 1000 / len(tokens)


class _Unthrottled(StreamingMarkdown):
    """Paints at every token, where the real one paints 30 times a second at most."""

    def feed(self, text: str) -> None:
        self._next_frame = 0.0
        super().feed(text)


def _ours(tokens: list[str]) -> float:
    answer = _Unthrottled(io.StringIO(), live=True, colour=True)
    started = time.perf_counter()
    for token in tokens:
        answer.feed(token)
    answer.close()
    return (time.perf_counter() - started) * 1000 / len(tokens)


def _fill(history: History, messages: int) -> None:
    rng = random.Random(1)
    words, weights = _vocabulary(rng)
    left = messages
    for number in itertools.count():
        if left <= 0:
            break
        conversation = Conversation()
        documents = _document(rng, words, weights, number) if number % 5 == 0 else ()
        if number % 2:
            conversation.pinned, documents = documents, ()
        for _ in range(min(1 + int(rng.expovariate(0.1)), (left + 1) // 2)):
            for role, median in _MEDIANS:
                count = 3 + int(rng.lognormvariate(0, 0.8) * median)
                text = " ".join(("the", *rng.choices(words, cum_weights=weights, k=count)))
                conversation.add(role, text, attachments=documents)
                documents = ()
                left -= 1
        history.add(conversation, "bench")


def _document(
    rng: random.Random, words: list[str], weights: list[float], number: int
) -> tuple[Attachment, ...]:
    count = 3 + int(rng.lognormvariate(0, 0.8) * 2_000)
    text = " ".join(("the", *rng.choices(words, cum_weights=weights, k=count)))
    return (Attachment(f"papers/{number}.pdf", text),)


def _vocabulary(rng: random.Random) -> tuple[list[str], list[float]]:
    words = dict.fromkeys((*_COMMON, "café"))
    words.update(dict.fromkeys(itertools.islice(_words(rng), 50_000)))
    weights = itertools.accumulate(1 / rank for rank in range(1, len(words) + 1))
    return list(words), list(weights)


def _words(rng: random.Random) -> Iterator[str]:
    consonants, vowels = (*"bcdfghjklmnprstvwz", "st", "tr", "ch"), (*"aeiou", "é", "ü", "ea")
    while True:
        syllables = rng.choice((1, 2, 2, 2, 3, 3, 4))
        yield "".join(rng.choice(consonants) + rng.choice(vowels) for _ in range(syllables))


def _journalling(history: History) -> None:
    for name, document in (("", ""), (" beside a document of 1 MB", "a word " * 150_000)):
        conversation = Conversation()
        conversation.pinned = (Attachment("document", document),) if document else ()
        conversation.add("user", "question")
        turn = conversation.add("assistant", "", "streaming")
        chat = history.save(None, conversation, conversation, "bench")
        costs = []
        for length in range(100):
            grown = conversation.change(turn.id, "word " * (20 * length), "streaming")
            started = time.perf_counter()
            history.save(chat, conversation, [grown], "bench", pinned=False)
            costs.append((time.perf_counter() - started) * 1000)
        costs.sort()
        print(f"  a save of an answer{name}: {costs[50]:.2f} ms, at worst {costs[-1]:.1f}")


def _searching(history: History) -> None:
    slowest = 0.0
    for query in _QUERIES:
        costs = []
        for _ in range(5):
            started = time.perf_counter()
            hits = history.search(query)
            costs.append((time.perf_counter() - started) * 1000)
        slowest = max(slowest, *costs)
        print(f"  search {query:<24} {sorted(costs)[2]:6.1f} ms, {len(hits)} shown")
    print(f"  the slowest search: {slowest:.1f} ms")


def _opening(path: Path) -> None:
    started = time.perf_counter()
    with closing(History(path)) as history:
        opened = time.perf_counter()
        chats = history.conversations(20)
        listed = time.perf_counter()
        history.remove(chats[0].id)
        removed = time.perf_counter()
    print(
        f"  open {(opened - started) * 1000:.1f} ms, list 20 {(listed - opened) * 1000:.1f} ms, "
        f"remove a chat for good {removed - listed:.1f} s"
    )


if __name__ == "__main__":
    main()
