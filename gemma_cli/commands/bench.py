"""`gemma bench`: speed and memory of a model here, beside what memory bandwidth allows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from gemma_cli.commands import options
from gemma_cli.errors import ExitCode, UsageError
from gemma_cli.terminal.notices import say

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gemma_cli.commands.benching import Run, Scan
    from gemma_cli.commands.loading.opening import ChosenModel
    from gemma_cli.machine.memory import Plan

_CTX = "512"
_SHORTEST_CTX = 16
_NEARLY = 0.97
_SPEED = ("PREFILL", "FIRST", "DECODE", "LIMIT", "OF IT")
_MEMORY = ("LOAD", "PEAK", "KV", "COMPUTE")
_Several = list[str] | None


def bench(
    model_argument: options.ModelArgument = None,
    model: options.ModelOption = None,
    ctx: Annotated[
        _Several,
        typer.Option(
            "--ctx",
            metavar="N[,N]...",
            help=f"Tokens to fill the context with, prompt and answer (repeatable); {_CTX}.",
        ),
    ] = None,
    threads: Annotated[
        _Several,
        typer.Option(
            "--threads",
            metavar="N[,N]...",
            envvar="GEMMA_THREADS",
            help="CPU threads (repeatable); auto also compares its choice with others.",
        ),
    ] = None,
    gpu_layers: Annotated[
        _Several,
        typer.Option(
            "--gpu-layers",
            metavar="N[,N]...",
            envvar="GEMMA_GPU_LAYERS",
            help="Layers on the GPU, auto or all (repeatable).",
        ),
    ] = None,
    ctx_beyond_training: Annotated[
        bool,
        typer.Option(
            "--ctx-beyond-training",
            envvar="GEMMA_CTX_BEYOND_TRAINING",
            help="Let --ctx be more than the model was trained on.",
        ),
    ] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure prefill, decode, first token, load time and memory; Ctrl-C shows what is known.

    Prefill and decode in tokens per second, the median of up to five rounds,
    each configuration in a process of its own. LIMIT: decoded tokens per second
    if reading the weights and the KV cache from memory were all there is to do;
    the bandwidth is measured with as many threads. KV and COMPUTE are llama.cpp's
    own figures; with a ~ those of the plan.
    """
    from gemma_cli.commands.loading import opening
    from gemma_cli.settings import load_settings

    settings = load_settings()
    wanted = (
        _each(ctx, _CTX, "--ctx", ("max",), _SHORTEST_CTX),
        _each(threads, settings.threads or "auto", "--threads", (), 1),
        _each(gpu_layers, settings.gpu_layers or "auto", "--gpu-layers", ("all",), 0),
    )
    chosen = opening.choose_model(options.one_model(model_argument, model), settings)
    beyond = ctx_beyond_training or bool(settings.ctx_beyond_training)
    bench = _Bench(chosen, wanted, beyond_training=beyond)
    try:
        bench.measure()
        complete = True
    except KeyboardInterrupt:
        complete = False
    bench.line.end()
    if json_output:
        _print_json(bench, complete=complete)
    else:
        _print(bench)
    if not complete:
        say("stopped; that much was measured")
        raise typer.Exit(ExitCode.CANCELLED)


def _each(given: _Several, default: object, name: str, words: tuple[str, ...], least: int) -> Any:
    """Every value of an option that is repeated or holds commas; None stands for auto."""
    texts = [text for one in given or [str(default)] for text in one.replace(",", " ").split()]
    if not texts:
        raise UsageError(f"{name} takes numbers", f"for example: {name} 512,4096")
    values = [options.number_or_word(name, text, words, least) for text in texts]
    return tuple(dict.fromkeys(values))


class _Bench:
    """What is to be measured of a model, and what was."""

    def __init__(
        self, chosen: ChosenModel, wanted: tuple[Any, Any, Any], *, beyond_training: bool
    ) -> None:
        """wanted: contexts, numbers of threads, numbers of layers on the GPU."""
        from gemma_cli.commands.planning.fitting import configured_margin
        from gemma_cli.terminal.progress import ProgressLine

        self.chosen = chosen
        self.line = ProgressLine()
        self.bandwidth: dict[int, float] = {}
        self.runs: list[Run] = []
        self.scan: Scan | None = None
        self._wanted, self._beyond_training = wanted, beyond_training
        self._gpu_margin = configured_margin()

    def measure(self) -> None:
        from gemma_cli.commands.benching import Scan, measure, planned_run, scan_threads
        from gemma_cli.commands.loading.noticing import say_unused_gpu
        from gemma_cli.engine.admission import admit

        path = self.chosen.installed.path
        plans = list(self._plans())  # what cannot fit is said before anything is measured
        say_unused_gpu(next((layers for layers in self._wanted[2] if layers != 0), 0))
        admit(path, lambda: False)
        for note in plans[0].notes:
            say(note)
        for plan in plans:
            bandwidth = self._bandwidth(plan)
            run = planned_run(self.chosen.header, plan, bandwidth, self._gpu_margin)
            self.line.note(f"context {run.n_ctx}, {_threads(run.threads)}, {_layers(run)} ...")
            for _ in measure(path, run):
                if len(run.rounds) == 1:
                    self.runs.append(run)
        if None in self._wanted[1] and plans[0].gpu_layers == 0:
            self.line.note("numbers of threads, in turns ...")
            self.scan = Scan(plans[0].threads)
            for _ in scan_threads(path, self.scan, plans[0].gpu_layers, self._gpu_margin):
                pass

    def _plans(self) -> Iterator[Plan]:
        from gemma_cli.commands.loading.opening import plan_for
        from gemma_cli.machine.memory import Wishes

        contexts, threads, layers = self._wanted
        for gpu_layers in layers:
            for count in threads:
                for n_ctx in contexts:
                    wishes = Wishes(
                        n_ctx=n_ctx,
                        gpu_layers=gpu_layers,
                        threads=count,
                        beyond_training=self._beyond_training,
                        gpu_margin=self._gpu_margin,
                    )
                    yield plan_for(self.chosen.header, wishes)

    def _bandwidth(self, plan: Plan) -> float | None:
        from gemma_cli.machine.bandwidth import read_bandwidth

        if plan.gpu_layers:
            return None
        if plan.threads not in self.bandwidth:
            self.line.note(f"memory bandwidth, {_threads(plan.threads)} ...")
            try:
                self.bandwidth[plan.threads] = read_bandwidth(plan.threads)
            except (MemoryError, RuntimeError):  # no room for the bytes to read, or for a thread
                return None
        return self.bandwidth[plan.threads]


def _threads(count: int) -> str:
    return f"{count} thread{'' if count == 1 else 's'}"


def _layers(run: Run) -> str:
    return f"{run.gpu_layers} layers on the GPU" if run.gpu_layers else "no GPU"


def _print(bench: _Bench) -> None:
    from gemma_cli.terminal.sanitize import clean_line
    from gemma_cli.terminal.tables import size, table

    installed = bench.chosen.installed
    typer.echo(clean_line(f"{installed.ref}, {size(installed.bytes)}"))
    if bench.runs:
        header = ["CTX", "THREADS", "GPU"]
        which = [[str(run.n_ctx), str(run.threads), str(run.gpu_layers)] for run in bench.runs]
        for names, figures in ((_SPEED, _speed), (_MEMORY, _memory)):
            rows = [key + figures(run) for key, run in zip(which, bench.runs, strict=True)]
            typer.echo(table([*header, *names], rows, right=range(len(header) + len(names))))
            typer.echo("")
    for threads, rate in bench.bandwidth.items():
        typer.echo(f"memory: {rate / 1e9:.1f} GB/s read by {_threads(threads)}")
    if bench.scan is not None and bench.scan.auto in bench.scan.rounds:
        _print_scan(bench.scan)


def _speed(run: Run) -> list[str]:
    share = run.limit_share
    return [
        f"{run.median('prefill_tps'):.0f}/s",
        f"{run.median('ttft_s'):.2f} s",
        f"{run.median('decode_tps'):.1f}/s",
        f"{run.limit_tps:.0f}/s" if run.limit_tps else "-",
        f"{share:.0%}" if share else "-",
    ]


def _memory(run: Run) -> list[str]:
    from gemma_cli.machine.sizes import memory_size

    about = "" if run.accounted else "~"
    return [
        f"{run.load_s:.2f} s",
        memory_size(run.peak_rss) if run.peak_rss else "-",
        about + memory_size(run.kv_bytes),
        about + memory_size(run.compute_bytes),
    ]


def _print_scan(scan: Scan) -> None:
    from gemma_cli.terminal.tables import table

    rows = [
        [
            f"{threads}{' auto' if threads == scan.auto else ''}",
            f"{scan.median(threads, 'prefill_tps'):.0f}/s",
            f"{scan.median(threads, 'decode_tps'):.1f}/s",
        ]
        for threads in sorted(scan.rounds)
    ]
    typer.echo("")
    typer.echo(table(["THREADS", "PREFILL", "DECODE"], rows, right=(1, 2)))
    typer.echo(f"--threads auto takes {scan.auto}: {scan.share:.0%} of the best, {scan.best}")
    if scan.share < _NEARLY:
        faster = f"{_threads(scan.best)} {'was' if scan.best == 1 else 'were'} faster here now"
        say(
            f"{faster}. If other programs were busy, that is why (on Linux, run and chat then take"
            f" fewer by themselves); if none was: gemma config set threads {scan.best}"
        )


def _print_json(bench: _Bench, *, complete: bool) -> None:
    """Keys are only ever added. Rates per second, seconds, bytes."""
    import json

    installed = bench.chosen.installed
    whole = {
        "model": installed.name,
        "quant": installed.quant,
        "file_bytes": installed.bytes,
        "complete": complete,
        "bandwidth": [
            {"threads": threads, "bytes_per_s": round(rate)}
            for threads, rate in bench.bandwidth.items()
        ],
        "runs": [_run_json(run) for run in bench.runs],
        "threads": _scan_json(bench.scan),
    }
    typer.echo(json.dumps(whole, ensure_ascii=False, indent=2))


def _run_json(run: Run) -> dict[str, Any]:
    return {
        "n_ctx": run.n_ctx,
        "threads": run.threads,
        "gpu_layers": run.gpu_layers,
        "rounds": len(run.rounds),
        **{key: run.median(key) for key in ("prefill_tps", "ttft_s", "decode_tps")},
        "limit_tps": run.limit_tps,
        "limit_share": run.limit_share,
        "load_s": run.load_s,
        "peak_rss": run.peak_rss,
        "kv_bytes": run.kv_bytes,
        "compute_bytes": run.compute_bytes,
        "memory_source": "llama.cpp" if run.accounted else "plan",
    }


def _scan_json(scan: Scan | None) -> dict[str, Any] | None:
    if scan is None or scan.auto not in scan.rounds:
        return None
    counts: Sequence[int] = sorted(scan.rounds)
    return {
        "auto": scan.auto,
        "best": scan.best,
        "share": scan.share,
        "scan": [
            {
                "threads": threads,
                "prefill_tps": scan.median(threads, "prefill_tps"),
                "decode_tps": scan.median(threads, "decode_tps"),
            }
            for threads in counts
        ],
    }
