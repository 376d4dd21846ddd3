"""`gemma verify`: hash again what is here, against what was published."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pathlib import Path

    from gemma_cli.models.store import InstalledModel
    from gemma_cli.terminal.progress import ProgressLine


def verify(
    models: Annotated[
        list[str] | None, typer.Argument(metavar="[MODEL]...", help="All that are here if none.")
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Hash models again and compare with the hashes that their publishers state."""
    from gemma_cli.errors import VerificationError
    from gemma_cli.models.catalog import parse_name
    from gemma_cli.models.store import find_all, installed
    from gemma_cli.models.verification import remember_verification
    from gemma_cli.terminal.progress import ProgressLine

    chosen = [m for name in models for m in find_all(parse_name(name))] if models else installed()
    line = ProgressLine()
    results = [(model, *_check(model, line)) for model in chosen]
    line.end()
    for model, state, _ in results:
        remember_verification(model, state)
    if json_output:
        _print_json(results)
    elif not results:
        typer.echo("No model is here: there is nothing to verify.", err=True)
    else:
        for model, state, detail in results:
            typer.echo(f"{model.ref}: {state}{f' ({detail})' if detail else ''}")
    damaged = [model for model, state, _ in results if state == "damaged"]
    if damaged:
        fetched = [model.ref for model in damaged if model.source != "path"]
        again = " ".join(fetched)
        raise VerificationError(
            f"{', '.join(model.ref for model in damaged)}: not what was published, or damaged",
            f"fetch anew: gemma rm -y {again} && gemma pull {again}"
            if fetched
            else "copy the file again from where it came",
        )


def _check(model: InstalledModel, line: ProgressLine) -> tuple[str, str]:
    """("ok" | "damaged" | "unknown", what was found)."""
    from gemma_cli.errors import GemmaError
    from gemma_cli.models.demo import DEMO_ID
    from gemma_cli.models.gguf import read_header
    from gemma_cli.models.store import parts_of, published_hash

    try:
        paths = parts_of(model)
        # The packages' parts of the embedded model have one hash together.
        units = [paths] if model.name == DEMO_ID else [[path] for path in paths]
        for unit in units:
            wanted = published_hash(model, unit[0])
            if wanted is None:
                read_header(unit[0])
                return "unknown", "no published hash is known; its header and length are right"
            found = _hash(unit, wanted, model.ref, line)
            if found != wanted:
                return "damaged", f"{unit[0].name} has {found}, published is {wanted}"
    except GemmaError as error:
        return "damaged", error.message
    except OSError as error:
        return "damaged", f"cannot read it: {error.strerror or error}"
    return "ok", ""


def _hash(paths: list[Path], wanted: str, label: str, line: ProgressLine) -> str:
    from gemma_cli.models.hashing import file_hash

    total = sum(path.stat().st_size for path in paths)
    line.start(f"verifying {label}")
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        line.update(done, total)

    return file_hash(paths, wanted, advance)


def _print_json(results: list[tuple[InstalledModel, str, str]]) -> None:
    import json

    from gemma_cli.commands.list import installed_json

    rows = [installed_json(m) | {"state": state, "detail": detail} for m, state, detail in results]
    typer.echo(json.dumps(rows, ensure_ascii=False, indent=2))
