"""Measure a model in child processes, and say what memory bandwidth would allow."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gemma_cli.errors import DoesNotFitError, EngineError, ExitCode

if TYPE_CHECKING:
    from gemma_cli.machine.memory import Plan
    from gemma_cli.models.gguf import Header

# -P: no file of the current folder may stand in for a module.
_PROGRAM = (
    "import sys; sys.path.append(sys.argv[1]); "
    "from gemma_cli.engine.measuring import main; sys.exit(main())"
)


@dataclass(slots=True)
class Run:
    """One configuration, and what was measured of it: rates are medians over rounds.

    kv_bytes, compute_bytes: by llama.cpp's own accounting if `accounted`, else by
    the plan. limit_tps: decoded tokens per second if reading weights and KV cache from
    memory were all there is to do; None where a GPU takes part.
    """

    n_ctx: int
    threads: int
    gpu_layers: int
    kv_bytes: int
    compute_bytes: int
    limit_tps: float | None
    gpu_margin: int
    accounted: bool = False
    load_s: float = 0.0
    peak_rss: int = 0
    rounds: list[dict[str, float]] = field(default_factory=list)

    def median(self, key: str) -> float:
        return statistics.median(each[key] for each in self.rounds)

    @property
    def limit_share(self) -> float | None:
        return self.median("decode_tps") / self.limit_tps if self.limit_tps else None


@dataclass(slots=True)
class Scan:
    """Rates by number of threads, each with its rounds."""

    auto: int
    rounds: dict[int, list[dict[str, float]]] = field(default_factory=dict)

    def median(self, threads: int, key: str) -> float:
        return statistics.median(each[key] for each in self.rounds[threads])

    @property
    def best(self) -> int:
        return max(self.rounds, key=lambda threads: self.median(threads, "decode_tps"))

    @property
    def share(self) -> float:
        """How fast the automatic choice decodes, of the best there was: paired by round,
        so that a machine whose speed drifts does not decide."""
        pairs = zip(self.rounds[self.auto], self.rounds[self.best], strict=False)
        return statistics.median(a["decode_tps"] / b["decode_tps"] for a, b in pairs)


def planned_run(header: Header, plan: Plan, bandwidth: float | None, gpu_margin: int) -> Run:
    """A configuration by its plan, nothing measured yet. bandwidth: bytes per second."""
    from gemma_cli.machine.speed import weights_read

    kv = sum(share.kv for share in plan.shares)
    compute = sum(share.compute for share in plan.shares)
    limit = None if bandwidth is None else bandwidth / (sum(weights_read(header, plan)) + kv)
    return Run(plan.n_ctx, plan.threads, plan.gpu_layers, kv, compute, limit, gpu_margin)


def measure(path: Path, run: Run) -> Iterator[None]:
    """Fill in a run's figures as they come; an item for each round."""
    for told in _child(path, run.n_ctx, [run.threads], run.gpu_layers, run.gpu_margin):
        if "decode_tps" in told:
            run.rounds.append(told)
            yield
        run.load_s = told.get("load_s", run.load_s)
        run.peak_rss = told.get("peak_rss", run.peak_rss)
        if "kv_bytes" in told:
            run.kv_bytes, run.compute_bytes = told["kv_bytes"], told["compute_bytes"]
            run.accounted = True


def scan_threads(path: Path, scan: Scan, gpu_layers: int, gpu_margin: int) -> Iterator[None]:
    """Fill in a scan as its figures come; an item for each."""
    for told in _child(path, 128, thread_counts(scan.auto), gpu_layers, gpu_margin):
        if "threads" in told:
            scan.rounds.setdefault(told.pop("threads"), []).append(told)
            yield


def thread_counts(auto: int) -> list[int]:
    """What the automatic choice is compared with: its neighbours, half of it, all there are."""
    from gemma_cli.machine.cpu import affinity

    most = max(auto, len(affinity()))
    counts = {1, auto // 2, auto - 1, auto, auto + 1, most}
    return sorted(count for count in counts if 1 <= count <= most)


def _child(
    path: Path, n_ctx: int, threads: Sequence[int], gpu_layers: int, gpu_margin: int
) -> Iterator[dict[str, Any]]:
    """What the measuring program tells, line by line. EngineError if it fails."""
    package = Path(__file__).resolve().parents[2]
    wish = json.dumps(
        {
            "n_ctx": n_ctx,
            "threads": list(threads),
            "gpu_layers": gpu_layers,
            "gpu_margin": gpu_margin,
        }
    )
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", _PROGRAM, str(package), str(path.absolute()), wish],
        stdin=subprocess.PIPE,  # held open: the child ends when this process does
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"GGML_NO_BACKTRACE": "1"},
        start_new_session=True,  # Ctrl-C is ours to handle
    )
    with process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                told = json.loads(line)
                if "error" in told:
                    too_large = told["code"] == ExitCode.MEMORY
                    kind = DoesNotFitError if too_large else EngineError
                    raise kind(told["error"], told["hint"])
                yield told
            if process.wait() != 0:
                raise EngineError(
                    f"the measuring program ended with {process.returncode}",
                    "GEMMA_DEBUG=1 shows llama.cpp's log",
                )
        finally:
            process.kill()
