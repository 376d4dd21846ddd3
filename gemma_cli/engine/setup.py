"""What an engine is made of. Values only: importing this loads no library."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from gemma_cli.machine.memory import Plan
from gemma_cli.models.adapter import Adapter
from gemma_cli.models.gguf import Header


@dataclass(frozen=True, slots=True)
class SnapshotPlace:
    """Where KV states are kept on disk. model: identifies the weights; limit: bytes.

    expected: one will probably be of use; the newest is read while the model loads.
    """

    folder: Path
    model: str
    limit: int
    expected: bool = False


@dataclass(frozen=True, slots=True)
class Weights:
    """A model file, its header, and how it is to be loaded."""

    path: Path
    header: Header
    plan: Plan


class Smaller(Protocol):
    """One step below a plan that memory did not suffice for; None where nothing is smaller."""

    def __call__(self, plan: Plan, *, on_gpu: bool) -> Plan | None:
        """on_gpu: a GPU's memory failed, not the host's. The plan's `why` says what is tried."""


@dataclass(frozen=True, slots=True)
class Setup:
    """A model and what helps it.

    adapters: LoRA adapters of the model. snapshots: where evaluated prompts are
    kept on disk, None: nowhere. speculate: guess tokens from the context and
    check them in batches; None: where the answer need not come out the same
    again (Sampling.reproducible). draft: a small model of the same vocabulary that
    guesses too. adapt_threads: the plan's threads are the most there are; where
    others keep cores busy, an answer is made on fewer. smaller: what to try once
    when memory does not suffice all the same; None: nothing.
    """

    weights: Weights
    adapters: tuple[Adapter, ...] = ()
    snapshots: SnapshotPlace | None = None
    speculate: bool | None = None
    draft: Weights | None = None
    adapt_threads: bool = False
    smaller: Smaller | None = None
