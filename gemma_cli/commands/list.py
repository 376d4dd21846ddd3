"""`gemma list`: what is here; with --available, every Gemma and what fits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from gemma_cli.commands.planning.fitting import MachineCapacity
    from gemma_cli.models.entries import CatalogFile, CatalogModel
    from gemma_cli.models.store import InstalledModel

_WIDTH = 80  # at most


def list_models(
    available: Annotated[
        bool, typer.Option("--available", help="Every Gemma there is, and what fits here.")
    ] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the models on this machine, or (--available) all there are."""
    from gemma_cli.commands.completion import remember_models
    from gemma_cli.models.store import installed

    here = installed()
    remember_models(here)
    if available:
        _available(here, json_output)
    elif json_output:
        _print_json([installed_json(model) for model in here])
    elif here:
        _print_installed(here)
    else:
        typer.echo(
            "No model is here yet. Download one: gemma pull gemma3:4b\n"
            "See all of them: gemma list --available",
            err=True,
        )


def installed_json(model: InstalledModel) -> dict[str, Any]:
    """One entry of `gemma list --json`; keys are only ever added."""
    return {
        "name": model.name,
        "quant": model.quant,
        "bytes": model.bytes,
        "path": str(model.path),
        "source": model.source,
        "revision": model.revision,
        "sha256": model.sha256,
        "license": model.license,
        "last_used": model.last_used,
    }


def published_json(file: CatalogFile) -> dict[str, Any]:
    """What the catalogue knows of one published file; keys are only ever added."""
    return {
        "quant": file.quant,
        "bytes": file.size,
        "bytes_approx": file.size_approx,
        "repo": file.repo,
        "file": file.file,
        "revision": file.revision,
        "sha256": file.sha256,
        "gated": file.gated,
    }


def _print_json(value: object) -> None:
    import json

    typer.echo(json.dumps(value, ensure_ascii=False, indent=2))


def _print_installed(here: list[InstalledModel]) -> None:
    from gemma_cli.commands.planning.fitting import MachineCapacity
    from gemma_cli.terminal.tables import size, table

    capacity = MachineCapacity()
    rows = [
        [
            model.name,
            model.quant or "?",
            size(model.bytes),
            _fits(model, capacity),
            _ago(model.last_used),
        ]
        for model in here
    ]
    typer.echo(table(["NAME", "QUANT", "SIZE", "FITS", "LAST USED"], rows, right=(2,)))


def _fits(model: InstalledModel, capacity: MachineCapacity) -> str:
    from gemma_cli.errors import GemmaError
    from gemma_cli.models.entries import load_catalog
    from gemma_cli.models.headers import known_header

    entry = load_catalog().get(model.name)
    if entry is not None:
        fit = capacity.fit(entry.shape, model.bytes)
    else:
        try:
            fit = capacity.fit_header(known_header(model.path))
        except GemmaError:
            return "damaged"
    return "yes" if fit.fits else "no"


def _ago(moment: str | None) -> str:
    """A moment (ISO 8601) as a distance from now."""
    if moment is None:
        return "never"
    from datetime import UTC, datetime

    seconds = (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        count = int(seconds // length)
        if count >= 1:
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "just now"


def _available(here: list[InstalledModel], json_output: bool) -> None:
    from gemma_cli.commands.planning.fitting import MachineCapacity
    from gemma_cli.models.catalog import load_catalog

    models, capacity = load_catalog().models, MachineCapacity()
    if json_output:
        _print_json([_available_json(model, here, capacity) for model in models])
        return
    from gemma_cli.machine.sizes import memory_size
    from gemma_cli.terminal.tables import table

    header = ["NAME", "CONTEXT", "FITS", "HERE", "LICENCE", "ALSO TAKES"]
    rows = [_available_row(model, here, capacity) for model in models]
    lines = table(header, rows, right=(1,)).splitlines()
    typer.echo(f"{lines[0]}\n  quantizations with their sizes in GB")
    for model, line in zip(models, lines[1:], strict=True):
        typer.echo(line)
        for sizes in _quantization_lines(model):
            typer.echo(f"  {sizes}")
    typer.echo(
        f"\nFITS: the best quantization for {memory_size(capacity.free)} of memory, free now."
        "\n~ about; ? not known before the download."
        "\nDownload one: gemma pull NAME   All about one: gemma show NAME",
        err=True,
    )


def _available_row(
    model: CatalogModel, here: list[InstalledModel], capacity: MachineCapacity
) -> list[str]:
    from gemma_cli.models.choice import best_file

    choice = best_file(model, capacity)
    quants = [installed.quant for installed in here if installed.name == model.id]
    return [
        model.id,
        f"{model.shape.n_ctx_train // 1024}k",
        choice.file.quant if choice.fits else "no",
        quants[0] + ("+" if len(quants) > 1 else "") if quants else "-",
        model.license.id,
        ", ".join(kind for kind in model.modalities if kind != "text") or "-",
    ]


def _quantization_lines(model: CatalogModel) -> list[str]:
    """`Q8_0 4.13   Q6_K 3.19 ...`, in as many lines as the width asks for."""
    import textwrap

    from gemma_cli.terminal.tables import columns

    words = []
    for file in model.files:
        known = file.planning_size
        number = "?" if known is None else f"{'' if file.size else '~'}{known / 1e9:.2f}"
        # A space that does not break keeps a size beside its quantization.
        words.append(f"{file.quant}\xa0{number}")
    width = min(columns(), _WIDTH) - 2
    wrapped = textwrap.wrap("  ".join(words), width, break_on_hyphens=False)
    return [line.replace("\xa0", " ") for line in wrapped]


def _available_json(
    model: CatalogModel, here: list[InstalledModel], capacity: MachineCapacity
) -> dict[str, Any]:
    from gemma_cli.models.choice import best_file, planned_bytes

    choice = best_file(model, capacity)
    quants = []
    for file in model.files:
        planned = planned_bytes(model, file)
        quants.append(
            published_json(file)
            | {
                "installed": any(i.name == model.id and i.quant == file.quant for i in here),
                "fits": capacity.fit(model.shape, planned).fits if planned else None,
            }
        )
    return {
        "name": model.id,
        "title": model.title,
        "family": model.family,
        "size": model.size,
        "modalities": list(model.modalities),
        "context": model.shape.n_ctx_train,
        "license": model.license.id,
        "base": model.base,
        "quantizations": quants,
        "fits": choice.file.quant if choice.fits else None,
    }
