"""What a chat costs beside the model: rendering per token, journalling, searching.

    python scripts/bench_chat.py

Rendering is compared with Rich's Live over the same Markdown, at two lengths: a
cost per token that grows with the answer shows as a higher second figure.
"""

from __future__ import annotations

import io
import tempfile
import time
from contextlib import closing
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.markdown import Markdown

from gemma_cli.chat.conversation import Conversation
from gemma_cli.chat.history import History
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
_MESSAGES = 20_000


def main() -> None:
    short, long = (_tokens(blocks) for blocks in (12, 24))
    print("rendering, ms per token, painted at every token:")
    for name, render in (("Rich Live", _rich_live), ("ours", _ours)):
        print(f"  {name:<10} {render(short):7.3f} (12 blocks) {render(long):7.3f} (24 blocks)")
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(History(Path(folder) / "h.db")) as history,
    ):
        _journalling(history)
        _searching(history)


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


def _journalling(history: History) -> None:
    conversation = Conversation()
    conversation.add("user", "question")
    turn = conversation.add("assistant", "", "streaming")
    chat = history.save(None, conversation, conversation, "bench")
    saves = 100
    started = time.perf_counter()
    for length in range(saves):
        grown = conversation.change(turn.id, "word " * (20 * length), "streaming")
        history.save(chat, conversation, [grown], "bench")
    cost = (time.perf_counter() - started) * 1000 / saves
    print(f"journalling: {cost:.2f} ms a save of an answer of up to {20 * saves:,} words")


def _searching(history: History) -> None:
    conversation = Conversation()
    for number in range(_MESSAGES // 2):
        conversation.add("user", f"What about café number {number} in the town?")
        conversation.add("assistant", f"It is the {number}th one and sells tea. " * 5)
    history.save(None, conversation, conversation, "bench")
    started = time.perf_counter()
    hits = history.search("cafe 4711")
    cost = (time.perf_counter() - started) * 1000
    print(f"search in {_MESSAGES:,} messages: {cost:.1f} ms, {len(hits)} found")


if __name__ == "__main__":
    main()
