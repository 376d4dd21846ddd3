"""`gemma list`: what is here; with --available, every Gemma and what fits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from gemma_cli.models.entries import CatalogModel
    from gemma_cli.models.store import InstalledModel


def list_models(
    available: Annotated[
        bool, typer.Option("--available", help="Every Gemma there is, and what fits here.")
    ] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the models on this machine, or (--available) all there are."""
    from gemma_cli.models.store import installed

    here = installed()
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


def _print_json(value: object) -> None:
    import json

    typer.echo(json.dumps(value, ensure_ascii=False, indent=2))


def _print_installed(here: list[InstalledModel]) -> None:
    from gemma_cli.machine.devices import available_memory
    from gemma_cli.models.catalog import load_catalog
    from gemma_cli.models.choice import memory_needed
    from gemma_cli.terminal.tables import size, table

    catalog, free = load_catalog(), available_memory()
    rows = []
    for model in here:
        entry = catalog.get(model.name)
        needed = memory_needed(entry.shape, model.bytes) if entry else model.bytes
        fits = "yes" if needed <= free else "tight"
        quant = model.quant or "?"
        rows.append([model.name, quant, size(model.bytes), fits, _ago(model.last_used)])
    typer.echo(table(["NAME", "QUANT", "SIZE", "FITS", "LAST USED"], rows, right=(2,)))


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
    from gemma_cli.machine.devices import available_memory
    from gemma_cli.models.catalog import load_catalog

    models, free = load_catalog().models, available_memory()
    if json_output:
        _print_json([_available_json(model, here, free) for model in models])
        return
    from gemma_cli.terminal.tables import size, table

    header = ["NAME", "SIZES", "CONTEXT", "SEES", "LICENCE", "HERE", "FITS"]
    rows = [_available_row(model, here, free) for model in models]
    typer.echo(table(header, rows, right=(2,)))
    typer.echo(
        f"\nFITS: the best quantization for the {size(free)} of memory that is free now."
        "\nDownload one: gemma pull NAME    All about one: gemma show NAME",
        err=True,
    )


def _available_row(model: CatalogModel, here: list[InstalledModel], free: int) -> list[str]:
    from gemma_cli.models.choice import best_file
    from gemma_cli.terminal.tables import size

    sizes = [file.planning_size for file in model.files if file.planning_size]
    span = size(min(sizes), about=True) if sizes else "?"
    if sizes and max(sizes) != min(sizes):
        span = f"{size(min(sizes)).removesuffix(' GB')}-{size(max(sizes))}"
    choice = best_file(model, free)
    quants = [installed.quant for installed in here if installed.name == model.id]
    return [
        model.id,
        span,
        f"{model.shape.n_ctx_train // 1024}k",
        "images" if "image" in model.modalities else "-",
        model.license.id,
        quants[0] + ("+" if len(quants) > 1 else "") if quants else "-",
        choice.file.quant if choice.fits else "no",
    ]


def _available_json(model: CatalogModel, here: list[InstalledModel], free: int) -> dict[str, Any]:
    from gemma_cli.models.choice import best_file, estimate, memory_needed

    choice = best_file(model, free)
    quants = []
    for file in model.files:
        planned = file.planning_size or estimate(model, file)
        fits = memory_needed(model.shape, planned) <= free if planned else None
        quants.append(
            {
                "quant": file.quant,
                "bytes": file.size,
                "bytes_approx": file.size_approx,
                "repo": file.repo,
                "file": file.file,
                "revision": file.revision,
                "sha256": file.sha256,
                "installed": any(i.name == model.id and i.quant == file.quant for i in here),
                "fits": fits,
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
