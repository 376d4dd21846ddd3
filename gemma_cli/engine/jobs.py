"""What an engine's worker is asked to do, and the ways back to those who asked."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from gemma_cli.engine.protocol import Done, Message, Piece, Prompt, Sampling

if TYPE_CHECKING:
    from gemma_cli.engine.library import AbortFlag
    from gemma_cli.engine.loaded import Loaded


class Answer:
    """One request and its way back: an iterator of Pieces, then Done (protocol.Generation)."""

    def __init__(self, prompt: Prompt, sampling: Sampling) -> None:
        from gemma_cli.engine.library import AbortFlag

        self.prompt = prompt
        self.sampling = sampling
        self.abort = AbortFlag()
        self._evaluated = 0  # tokens of the prompt
        self.before: AbortFlag | None = None  # of the work that must end first
        self._values: queue.SimpleQueue[Piece | Done | BaseException] = queue.SimpleQueue()

    def cancel(self) -> None:
        self.abort.set()
        if self.before is not None:
            self.before.set()

    def prefill(self) -> float:
        return self._evaluated / max(1, len(self.prompt.tokens))

    def note_evaluated(self, tokens: int) -> None:
        self._evaluated = tokens

    def put(self, value: Piece | Done) -> None:
        self._values.put(value)

    def fail(self, failure: BaseException) -> None:
        """Whoever iterates raises it."""
        self._values.put(failure)

    def __iter__(self) -> Iterator[Piece | Done]:
        while True:
            try:
                # Windows cannot interrupt a wait without end: look up now and then.
                value = self._values.get(timeout=0.2)
            except queue.Empty:
                continue
            if isinstance(value, BaseException):
                raise value
            yield value
            if isinstance(value, Done):
                return


class ReadAhead:
    """What is being typed, to be evaluated while there is time."""

    def __init__(self, messages: Sequence[Message], thinking: bool | None) -> None:
        from gemma_cli.engine.library import AbortFlag

        self.messages, self.thinking = tuple(messages), thinking
        self.since = time.monotonic()
        self.abort = AbortFlag()
        self.tokens: tuple[int, ...] = ()  # known once it has begun

    def is_part_of(self, prompt: Sequence[int]) -> bool:
        return bool(self.tokens) and tuple(prompt[: len(self.tokens)]) == self.tokens


class Errand:
    """Something else that only the worker may do with the model."""

    def __init__(self, work: Callable[[Loaded], None]) -> None:
        self._work = work
        self._done = threading.Event()
        self._failure: BaseException | None = None

    def run(self, loaded: Loaded) -> None:
        try:
            self._work(loaded)
        except BaseException as failure:  # the caller's thread raises it
            self._failure = failure
        finally:
            self._done.set()

    def fail(self, failure: BaseException) -> None:
        """Whoever waits raises it; it will not be done."""
        self._failure = failure
        self._done.set()

    def wait(self) -> None:
        """Until it is done; raises what went wrong."""
        while not self._done.wait(timeout=0.2):
            pass
        if self._failure is not None:
            raise self._failure
