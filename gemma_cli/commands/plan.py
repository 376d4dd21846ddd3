"""`gemma plan`: what of a model would go where, here or on another machine, before any download."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gemma_cli.terminal.notices import say, tell

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gemma_cli.commands.planning.targets import Candidate
    from gemma_cli.errors import DoesNotFitError, ModelFileError
    from gemma_cli.machine.devices import Machine
    from gemma_cli.machine.memory import Plan, Wishes


def plan(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A name, hf:OWNER/REPO or a path to a .gguf.")
    ],
    ctx: Annotated[
        str | None,
        typer.Option("--ctx", envvar="GEMMA_CTX", help="Context window in tokens, auto or max."),
    ] = None,
    quant: Annotated[str | None, typer.Option("--quant", help="Quantization.")] = None,
    kv_type: Annotated[
        str | None,
        typer.Option("--kv-type", envvar="GEMMA_KV_TYPE", help="KV cache: f16, q8_0 or q4_0."),
    ] = None,
    gpu_layers: Annotated[
        str | None,
        typer.Option(
            "--gpu-layers", envvar="GEMMA_GPU_LAYERS", help="Layers on the GPU, auto or all."
        ),
    ] = None,
    gpu: Annotated[
        list[str] | None,
        typer.Option("--gpu", metavar="SIZE", help="For a machine with such a GPU (repeatable)."),
    ] = None,
    ram: Annotated[
        str | None,
        typer.Option("--ram", metavar="SIZE", help="For a machine with so much RAM."),
    ] = None,
    ctx_beyond_training: Annotated[
        bool,
        typer.Option(
            "--ctx-beyond-training",
            envvar="GEMMA_CTX_BEYOND_TRAINING",
            help="Let --ctx be more than the model was trained on.",
        ),
    ] = False,
    gpu_margin: Annotated[
        str | None,
        typer.Option(
            "--gpu-margin",
            metavar="SIZE",
            envvar="GEMMA_GPU_MARGIN",
            help="Memory to leave free on each GPU; 1GiB.",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Show what would be tried although it does not fit.")
    ] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what a model needs, what fits, and how fast it can be; nothing is loaded."""
    from gemma_cli.commands.loading.noticing import say_unused_gpu
    from gemma_cli.commands.loading.opening import wishes_from
    from gemma_cli.commands.options import GenerationOptions
    from gemma_cli.commands.planning.fitting import MachineCapacity
    from gemma_cli.commands.planning.targets import candidates, machine_of
    from gemma_cli.commands.watching import Watcher
    from gemma_cli.models.catalog import parse_name
    from gemma_cli.settings import load_settings

    said = GenerationOptions(
        ctx=ctx,
        ctx_beyond_training=ctx_beyond_training or None,
        gpu_layers=gpu_layers,
        kv_type=kv_type,
        gpu_margin=gpu_margin,
        force=force or None,
    )
    wishes = wishes_from(said.over(load_settings()))
    machine = machine_of(gpu or (), ram)
    capacity = MachineCapacity(machine, gpu_margin=wishes.gpu_margin)
    watcher = Watcher()
    try:
        chosen, all_of_them = candidates(parse_name(model), quant, capacity, watcher.report)
    finally:
        watcher.close()
    report = _Report(chosen, machine, wishes, another=bool(gpu or ram))
    if gpu or ram:
        _note_build(bool(gpu))
    else:
        say_unused_gpu(wishes.gpu_layers)
    if json_output:
        import json

        typer.echo(json.dumps(report.json(all_of_them), ensure_ascii=False, indent=2))
    else:
        report.print(all_of_them)
    if report.unloadable is not None:
        raise report.unloadable
    if report.refusal is not None and not wishes.force:
        raise report.refusal


def _note_build(gpus_named: bool) -> None:
    from gemma_cli.machine.devices import backends

    if gpus_named and backends() == ("CPU",):
        say(
            "the llama.cpp that is installed here is for CPUs only: to use GPUs, that machine "
            "needs one built for them (gemma doctor there says how)"
        )


class _Report:
    """A plan, or why there is none, and its alternatives."""

    def __init__(
        self, chosen: Candidate, machine: Machine, wishes: Wishes, *, another: bool
    ) -> None:
        from gemma_cli.commands.planning.fitting import explained
        from gemma_cli.machine.memory import attempt, refusal

        self._chosen, self._machine, self._wishes = chosen, machine, wishes
        self._another = another
        self._plan, fits = attempt(chosen.header, machine, wishes)
        self.refusal: DoesNotFitError | None = None
        if not fits:
            error = refusal(chosen.header, machine, wishes, self._plan)
            self.refusal = explained(error, chosen.name, chosen.quant, machine, wishes)
        self._host_bandwidth, self._gpu_bandwidth = self._bandwidths()
        self.unloadable: ModelFileError | None = None
        self._confirmed = self._ask() if chosen.path and not another else None

    def _bandwidths(self) -> tuple[float, float]:
        from gemma_cli.machine.speed import ASSUMED_GPU_BANDWIDTH, ASSUMED_HOST_BANDWIDTH

        self._measured = False
        host = ASSUMED_HOST_BANDWIDTH
        if not self._another and self._machine.host.free > 2 << 30:
            from gemma_cli.machine.bandwidth import read_bandwidth

            # ulimit may leave no room for the bytes to read, or for a thread.
            with suppress(MemoryError, RuntimeError):
                host = read_bandwidth(self._machine.threads)
                self._measured = True
        return host, ASSUMED_GPU_BANDWIDTH

    def _ask(self) -> dict[str, Any] | None:
        """llama.cpp's own figures for a file that is here, if it takes that file."""
        from gemma_cli.commands.loading.confirming import ask_llama_cpp
        from gemma_cli.engine.admission import admit
        from gemma_cli.errors import ModelFileError

        assert self._chosen.path is not None
        try:
            admit(self._chosen.path, lambda: False)
        except ModelFileError as error:
            self.unloadable = error
            return None
        said = ask_llama_cpp(self._chosen.path, self._plan)
        return {"kv": said.kv, "compute": sum(said.compute.values())}

    def json(self, all_of_them: Sequence[Candidate]) -> dict[str, Any]:
        """The contract's object; keys are only ever added."""
        chosen, plan = self._chosen, self._plan
        return {
            "model": chosen.name,
            "quant": chosen.quant,
            "file_bytes": chosen.header.file_bytes,
            "n_ctx": plan.n_ctx,
            "n_ctx_max": plan.n_ctx_max,
            "n_layers": plan.n_layers,
            "gpu_layers": plan.gpu_layers,
            "kv_type": plan.kv_type,
            "devices": [
                {
                    "name": share.device.name,
                    "kind": share.device.kind,
                    "total": share.device.total,
                    "free": share.device.free,
                    "weights": share.weights,
                    "kv": share.kv,
                    "compute": share.compute,
                    "left": share.left,
                    "layers": share.layers,
                }
                for share in plan.shares
            ],
            "fits": self.refusal is None,
            "why": self._why(),
            "alternatives": [self._row(each) for each in all_of_them if each is not chosen],
            "ubatch": plan.ubatch,
            "threads": plan.threads,
            "host_experts": plan.host_experts,
            "in_file": plan.in_file,
            "notes": list(plan.notes),
            "tokens_per_second_estimate": self._speed(chosen, plan),
            "bandwidth": {
                "host": round(self._host_bandwidth),
                "gpu": round(self._gpu_bandwidth),
                "measured": self._measured,
            },
            "llama_cpp": self._confirmed,
        }

    def _why(self) -> str:
        if self.refusal is None:
            return self._plan.why
        forced = f"{self._plan.why}: " if self._wishes.force else ""
        return forced + self.refusal.message

    def _row(self, candidate: Candidate) -> dict[str, Any]:
        from gemma_cli.machine.memory import attempt

        made, fits = attempt(candidate.header, self._machine, self._wishes)
        return {
            "quant": candidate.quant,
            "n_ctx": made.n_ctx,
            "gpu_layers": made.gpu_layers,
            "fits": fits,
            "bytes": candidate.header.file_bytes,
            "needed": sum(share.needed for share in made.shares),
            "here": candidate.here,
            "bytes_exact": candidate.exact and candidate.stated is not None,
            "tokens_per_second_estimate": self._speed(candidate, made),
        }

    def _speed(self, candidate: Candidate, plan: Plan) -> float:
        from gemma_cli.machine.speed import tokens_per_second

        speed = tokens_per_second(candidate.header, plan, self._host_bandwidth, self._gpu_bandwidth)
        return round(speed, 1)

    def print(self, all_of_them: Sequence[Candidate]) -> None:
        from gemma_cli.commands.planning.view import devices_text, facts_text, quantizations_text

        chosen, plan = self._chosen, self._plan
        why = plan.why if self.refusal is None or self._wishes.force else None
        typer.echo(facts_text(chosen, plan, fits=self.refusal is None, why=why))
        typer.echo(devices_text(plan))
        rows = [self._row(each) for each in all_of_them]
        typer.echo(quantizations_text(rows, all_of_them, chosen, plan.n_layers))
        source = "measured" if self._measured else "assumed"
        gpus = f", {self._gpu_bandwidth / 1e9:.0f} GB/s assumed of a GPU" if plan.gpu_layers else ""
        tell(
            f"\n~tok/s: an estimate, what memory allows at {self._host_bandwidth / 1e9:.0f} GB/s"
            f" ({source}){gpus}; real decoding is slower."
        )
        for note in plan.notes:
            say(note)
        if self.refusal is not None and self._wishes.force:
            say(f"{self.refusal.message}; --force tries it")
        if self._confirmed:
            tell(_agreement(plan, self._confirmed))


def _agreement(plan: Plan, said: dict[str, Any]) -> str:
    kv = sum(share.kv for share in plan.shares)
    compute = sum(share.compute for share in plan.shares)
    mib = 1 << 20
    return (
        f"llama.cpp itself, asked: KV cache {said['kv'] / mib:.0f} MiB (planned {kv / mib:.0f}), "
        f"compute {said['compute'] / mib:.0f} MiB (planned {compute / mib:.0f})."
    )
