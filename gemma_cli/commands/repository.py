"""What a repository of the Hub holds, for `gemma show` of one that is not here."""

from __future__ import annotations

import json
from typing import Any

import typer

from gemma_cli.commands.planning.fitting import MachineCapacity
from gemma_cli.commands.watching import Watcher
from gemma_cli.errors import ModelNotFoundError
from gemma_cli.models import hub
from gemma_cli.models.catalog import ModelRef
from gemma_cli.models.listing import ListedFile, Listing
from gemma_cli.models.resolve import fits_roughly, listed_models
from gemma_cli.models.store import quant_in_name
from gemma_cli.terminal.sanitize import clean_line
from gemma_cli.terminal.tables import size, table


def show_repository(ref: ModelRef, json_output: bool) -> None:
    """Ask the Hub and print. ModelNotFoundError for what it does not have, or in offline mode;
    DownloadError if it does not answer."""
    if hub.is_offline():
        raise offline(ref)
    watcher = Watcher()
    try:
        listing = hub.list_repo(ref.repo, ref.revision, watcher.report)
    finally:
        watcher.close()
    models = _asked_for(ref, listed_models(ref.repo, listing.files))
    if json_output:
        typer.echo(json.dumps(_json(ref, listing, models), ensure_ascii=False, indent=2))
    else:
        _print(ref, listing, models)


def offline(ref: ModelRef) -> ModelNotFoundError:
    """What can be said of a repository that is not here when no Hub may be asked."""
    return ModelNotFoundError(
        f"{ref} is not here, and offline mode is on", "unset HF_HUB_OFFLINE, then try again"
    )


def _asked_for(ref: ModelRef, models: list[ListedFile]) -> list[ListedFile]:
    """All models, or the file or quantization that was named."""
    if ref.file is None and ref.quant is None:
        return models
    wanted = (ref.quant, f"UD-{ref.quant}")
    found = [m for m in models if m.name == ref.file or quant_in_name(m.name) in wanted]
    if not found:
        there_are = dict.fromkeys(quant_in_name(m.name) or m.name for m in models)
        raise ModelNotFoundError(
            f"{ref.repo} has no {ref.file or f'quantization {ref.quant}'}",
            f"there are: {', '.join(there_are)}",
        )
    return found


def _print(ref: ModelRef, listing: Listing, models: list[ListedFile]) -> None:
    free = MachineCapacity().free
    gated = ", asks for a login" if listing.gated else ""
    typer.echo(ref.name)
    typer.echo(f"  licence       {clean_line(listing.license) or '?'}{gated}")
    typer.echo(f"  revision      {listing.commit}\n")
    rows = [
        [
            quant_in_name(file.name) or "?",
            size(file.size),
            "?" if file.size is None else "yes" if fits_roughly(file, free) else "no",
            file.name,
        ]
        for file in models
    ]
    typer.echo(table(["QUANT", "SIZE", "FITS", "FILE"], rows, right=(1,)))
    quant = quant_in_name(models[0].name).lower() or models[0].name
    typer.echo(f"\nNot here yet: gemma pull {clean_line(ref.name)}:{clean_line(quant)}", err=True)


def _json(ref: ModelRef, listing: Listing, models: list[ListedFile]) -> dict[str, Any]:
    return {
        "name": ref.name,
        "license": listing.license,
        "gated": listing.gated,
        "revision": listing.commit,
        "quantizations": [
            {
                "quant": quant_in_name(file.name),
                "bytes": file.size,
                "bytes_approx": None,
                "repo": listing.repo,
                "file": file.name,
                "revision": listing.commit,
                "sha256": file.sha256,
                "gated": listing.gated,
            }
            for file in models
        ],
        "installed": [],
    }
