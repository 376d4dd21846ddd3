"""`gemma pull`: models from the Hub, verified, resumed where a former pull stopped."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pathlib import Path

    from gemma_cli.commands.watching import Watcher
    from gemma_cli.models.catalog import ModelRef
    from gemma_cli.models.entries import License
    from gemma_cli.models.resolve import Wanted
    from gemma_cli.models.store import InstalledModel


def pull(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL...", help="gemma3:4b, hf:OWNER/REPO[:QUANT], ...")
    ],
    quant: Annotated[
        str | None, typer.Option("--quant", help="Quantization; the best that fits if not given.")
    ] = None,
    revision: Annotated[
        str | None, typer.Option("--revision", help="Branch, tag or commit of the repository.")
    ] = None,
    vision: Annotated[
        bool, typer.Option("--vision", help="Fetch the part that sees images, too.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be fetched; fetch nothing.")
    ] = False,
    accept_license: Annotated[
        bool, typer.Option("--accept-license", help="Accept the model's terms without being asked.")
    ] = False,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print events as JSON, one a line.")
    ] = False,
) -> None:
    """Download models and verify them. Stopped or broken downloads go on where they stopped."""
    from gemma_cli.commands.watching import JsonWatcher, Watcher
    from gemma_cli.errors import Cancelled
    from gemma_cli.models.catalog import parse_name, with_quant

    refs = [parse_name(name) for name in models]
    if quant is not None:
        refs = [with_quant(ref, quant) for ref in refs]
    watcher = JsonWatcher() if json_output else Watcher()
    try:
        _pull(refs, revision, vision, dry_run, accept_license, watcher)
    except KeyboardInterrupt as error:
        again = " ".join(models) + (f" --quant {quant}" if quant else "")
        again += (f" --revision {revision}" if revision else "") + (" --vision" if vision else "")
        raise Cancelled(
            "stopped", f"what arrived is kept; go on with: gemma pull {again}"
        ) from error
    finally:
        watcher.close()


def _pull(
    refs: list[ModelRef],
    revision: str | None,
    vision: bool,
    dry_run: bool,
    accept_license: bool,
    watcher: Watcher,
) -> None:
    from gemma_cli.commands.completion import remember_models
    from gemma_cli.commands.planning.fitting import MachineCapacity
    from gemma_cli.models import hub
    from gemma_cli.models.demo import DEMO_ID
    from gemma_cli.models.download import check_space
    from gemma_cli.models.resolve import a_path, resolve

    wanted: list[Wanted] = []
    capacity = MachineCapacity()
    for ref in refs:
        if ref.kind == "path":
            raise a_path(ref)
        if ref.name == DEMO_ID:
            _join_embedded(watcher, dry_run)
        elif hub.is_offline():
            watcher.here(_find_offline(ref))
        else:
            wanted.append(resolve(ref, revision, vision, capacity, watcher.report))
            watcher.resolved(wanted[-1])
    if dry_run:
        for one in wanted:
            watcher.would_fetch(one)
        return
    for one in wanted:
        _agree(one.license, accept_license)
    check_space([file for one in wanted for file in one.everything])
    for one in wanted:
        watcher.here(_fetch(one, watcher))
    remember_models()


def _join_embedded(watcher: Watcher, dry_run: bool) -> None:
    """The embedded model needs no Hub: its parts are joined into one file."""
    from gemma_cli.models.demo import assembled, demo_parts, demo_path
    from gemma_cli.models.store import demo_model

    if assembled() is None and demo_parts():
        if dry_run:
            watcher.would_join(demo_path())
            return
        watcher.note(f"joining the parts from its packages into {demo_path()}")
    watcher.here(demo_model())


def _find_offline(ref: ModelRef) -> InstalledModel:
    from gemma_cli.errors import ModelNotFoundError
    from gemma_cli.models.store import find

    try:
        return find(ref)
    except ModelNotFoundError as error:
        raise ModelNotFoundError(
            f"{error.message}, and offline mode is on", "unset HF_HUB_OFFLINE, then gemma pull it"
        ) from error


def _agree(terms: License | None, accept_license: bool) -> None:
    """Show a model's terms before the first download under them."""
    import sys

    from gemma_cli.commands.asking import confirm
    from gemma_cli.errors import Cancelled, UsageError
    from gemma_cli.models.licenses import accept, is_accepted

    if terms is None or is_accepted(terms):
        return
    typer.echo(
        f"This model is provided under the {terms.title}: {terms.url}\n"
        f"Prohibited uses: {terms.prohibited_use}",
        err=True,
    )
    if not accept_license:
        if not (sys.stdin and sys.stdin.isatty()):
            raise UsageError(
                f"the {terms.title} must be accepted once before the first download",
                "read them, then add --accept-license (it is remembered)",
            )
        nothing = "nothing was downloaded"
        if not confirm("Do you accept these terms?", nothing_done=nothing):
            raise Cancelled(nothing)
    accept(terms)


def _fetch(wanted: Wanted, watcher: Watcher) -> InstalledModel:
    """Download one model and look into it before it counts as installed."""
    from gemma_cli.models.download import fetch
    from gemma_cli.models.inspect import check_model_file, check_projector_file
    from gemma_cli.models.store import in_snapshot

    paths = [fetch(file, watcher.report) for file in wanted.files]
    with _discarding(paths):
        header = check_model_file(paths[0], wanted.model, len(paths))
    if not header.architecture.startswith("gemma"):
        watcher.note(f"{paths[0].name} is no Gemma but a {header.architecture} model")
    if wanted.projector is not None:
        path = fetch(wanted.projector, watcher.report)
        with _discarding([path]):
            check_projector_file(path)
    first = wanted.files[0]
    return in_snapshot(first.repo, first.commit, first.file)


@contextmanager
def _discarding(paths: list[Path]) -> Iterator[None]:
    """A file that is no model is not kept, and is a failed download."""
    from gemma_cli.errors import ModelFileError, VerificationError
    from gemma_cli.models.removal import plan_removal, remove

    try:
        yield
    except ModelFileError as error:
        remove(plan_removal(paths))
        message = error.message.replace(f"{paths[0].parent}{os.sep}", "")
        raise VerificationError(message, "it was removed; choose another file") from error
