"""Bring a context to a prompt with as little evaluation as possible, and never wrongly."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from gemma_cli.engine.cache import SPACING, Checkpoints, Reuse, common_prefix, reusable
from gemma_cli.engine.context import Context
from gemma_cli.engine.snapshots import Snapshot, Snapshots

# A snapshot on disk is read, and written, for no less: evaluating it is as quick.
WORTH_KEEPING = 256
_MIB = 1 << 20
# Newest checkpoints that go into a snapshot: to take back the last turn after a restart.
_KEPT_CHECKPOINTS = 1


@dataclass(frozen=True, slots=True)
class Reached:
    """cached: tokens of the prompt that needed no evaluation. complete: False when stopped."""

    cached: int
    complete: bool


class Evaluation:
    """The context of one model, its checkpoints in memory and its snapshots on disk.

    budget: bytes for checkpoints.
    """

    def __init__(
        self, context: Context, sliding_window: int, budget: int, snapshots: Snapshots | None
    ) -> None:
        self.context = context
        self.checkpoints = Checkpoints(budget if sliding_window else 0)
        self._window = sliding_window
        self._snapshots = snapshots
        self._resumed: tuple[int, ...] | None = None
        self._settles = bool(sliding_window)

    def reach(
        self,
        prompt: Sequence[int],
        *,
        stable: int = 0,
        logits: bool = True,
        proceed: Callable[[], bool] = lambda: True,
        tell: Callable[[int], None] = lambda _held: None,
    ) -> Reached:
        """Make the context hold exactly this prompt.

        stable: position up to which other prompts will probably begin the same
        way; a checkpoint is taken there. proceed: asked between batches. tell: hears
        how many tokens of the prompt are held.
        """
        context = self.context
        self._look_on_disk(prompt)
        cached = self._go_back(prompt)
        last = cached
        while len(context.tokens) < len(prompt):
            start = len(context.tokens)
            tell(start)
            end = min(start + context.n_batch, len(prompt))
            if start < stable < end:
                end = stable
            wanted = int(logits and end == len(prompt))
            if not context.evaluate(prompt[start:end], logits=wanted):
                return Reached(cached, complete=False)
            if end == stable:
                self._settle()
            if end == stable or end - last >= SPACING:
                self.mark()
                last = end
            if end < len(prompt) and not proceed():
                return Reached(cached, complete=False)
        return Reached(cached, complete=True)

    def _settle(self) -> None:
        """Have the window layers as they are after a restart.

        Attention is summed in the order of their cells, which a snapshot moves
        together: without this the same question, asked again, is rounded otherwise.
        """
        if self._settles and self._may_copy():
            with suppress(MemoryError):
                checkpoint = self.context.checkpoint()
                self._settles = self.context.restore(checkpoint)  # else all is evaluated again
                if self._settles:
                    self.checkpoints.add(checkpoint)

    def mark(self) -> None:
        """Take a checkpoint here, unless one is near."""
        position = len(self.context.tokens)
        if not (self.checkpoints.budget and position) or self.checkpoints.is_near(position):
            return
        if self._may_copy():
            with suppress(MemoryError):  # it only saves time
                self.checkpoints.add(self.context.checkpoint())

    def _may_copy(self) -> bool:
        """Whether a checkpoint has room in its budget: of a large model it is half a gigabyte."""
        return self.context.checkpoint_size() <= self.checkpoints.budget

    def _look_on_disk(self, prompt: Sequence[int]) -> None:
        """Resume a snapshot that holds much more of the prompt than the context does."""
        if self._snapshots is None:
            return
        least = self._reusable(prompt).n_past + WORTH_KEEPING
        if least > len(prompt):
            return
        snapshot = self._snapshots.best(prompt, least, self.context.n_ctx)
        if snapshot is not None:
            self._resume(snapshot)

    def _go_back(self, prompt: Sequence[int]) -> int:
        """Rewind or restore; the number of prompt tokens that are then held."""
        reuse = self._reusable(prompt)
        self.checkpoints.forget(common_prefix(self.context.tokens, prompt))
        if reuse.checkpoint is None or self.context.restore(reuse.checkpoint):
            self.context.rewind(reuse.n_past)
        return len(self.context.tokens)

    def _reusable(self, prompt: Sequence[int]) -> Reuse:
        context = self.context
        return reusable(context.tokens, prompt, context.pos_min(), self._window, self.checkpoints)

    def _resume(self, snapshot: Snapshot) -> None:
        self.checkpoints.replace(())
        if self.context.set_state(snapshot.state, snapshot.tokens):
            self.checkpoints.replace(snapshot.checkpoints)
            self._resumed = snapshot.tokens

    def forget(self) -> None:
        """Hold nothing, and nothing to go back to."""
        self.context.rewind(0)
        self.checkpoints.replace(())
        self._resumed = None

    def keep(self, n_past: int | None = None, *, continues: bool = False) -> None:
        """Write a snapshot of the first n_past tokens, or of all. Raises OSError: too large, too.

        Where the windows at that position are gone, the nearest checkpoint
        before it is kept. continues: it takes the place of the one that the
        context was resumed from, if it goes on where that one ends.
        """
        context, snapshots = self.context, self._snapshots
        if snapshots is None:
            return
        if n_past is not None and n_past < len(context.tokens):
            self._go_back([*context.tokens[:n_past], -1])
        tokens = tuple(context.tokens)
        if len(tokens) < WORTH_KEEPING or tokens == self._resumed or snapshots.has(tokens):
            return
        size, most = context.state_size(), snapshots.largest
        if size > most:
            raise OSError(
                errno.EFBIG,
                f"it takes {size / _MIB:,.0f} MiB, and one may take {most / _MIB:,.0f}: "
                "half of kv_cache, a quarter of the free disk",
            )
        points = [point for point in self.checkpoints if point.n_past < len(tokens)]
        resumed = self._resumed or ()
        replaces = resumed if continues and tokens[: len(resumed)] == resumed else ()
        snapshots.keep(
            Snapshot(tokens, context.state(), tuple(points[-_KEPT_CHECKPOINTS:])), replaces
        )
        self._resumed = tokens
