"""From a name to the Hub files it means now: quantization, commit, sizes, hashes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from gemma_cli.errors import ModelNotFoundError, UsageError, VerificationError
from gemma_cli.models import hub
from gemma_cli.models.catalog import ModelRef
from gemma_cli.models.choice import Capacity, best_file
from gemma_cli.models.entries import CatalogFile, CatalogModel, License, load_catalog, quant_rank
from gemma_cli.models.events import Report
from gemma_cli.models.hubcache import is_projector, split_parts
from gemma_cli.models.listing import ListedFile, RemoteFile
from gemma_cli.models.store import quant_in_name


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to fetch for one model. files: of a split set all parts, in order.

    why: how the quantization was chosen, "" if it was asked for. notes: what
    the user should know. license: terms to accept first, None where unknown.
    """

    name: str
    quant: str
    files: tuple[RemoteFile, ...]
    projector: RemoteFile | None
    model: CatalogModel | None
    license: License | None
    why: str
    notes: tuple[str, ...]

    @property
    def everything(self) -> tuple[RemoteFile, ...]:
        return self.files if self.projector is None else (*self.files, self.projector)


def resolve(
    ref: ModelRef, revision: str | None, vision: bool, capacity: Capacity, report: Report
) -> Wanted:
    """Ask the Hub what `ref` is, and choose what fits into `capacity` if no file is named."""
    if ref.kind == "catalog" and ref.model is not None:
        return _from_catalog(ref.model, ref.quant, revision, vision, capacity, report)
    if ref.kind == "hub":
        return _from_hub(replace(ref, revision=revision or ref.revision), vision, capacity, report)
    raise a_path(ref)


def a_path(ref: ModelRef) -> UsageError:
    return UsageError(
        f"{ref.name} is a path on this machine, not the name of a model to download",
        f"use the file where it is: gemma run -m {ref.name}    (names: gemma list --available)",
    )


def _from_catalog(
    model: CatalogModel,
    quant: str | None,
    revision: str | None,
    vision: bool,
    capacity: Capacity,
    report: Report,
) -> Wanted:
    if vision and model.projector is None:
        raise UsageError(f"{model.id} takes text only: there is no vision part", "leave --vision")
    planned = model.projector.planning_size or 0 if vision and model.projector else 0
    entry, why = _pick(model, quant, planned, capacity)
    remotes, notes = _remote_files(entry, revision, report)
    projector = None
    if vision and model.projector:
        (projector, *_), more = _remote_files(model.projector, revision=None, report=report)
        notes += more
    return Wanted(
        model.id, entry.quant, tuple(remotes), projector, model, model.license, why, tuple(notes)
    )


def _pick(
    model: CatalogModel, quant: str | None, projector: int, capacity: Capacity
) -> tuple[CatalogFile, str]:
    if quant is not None:
        return model.file(quant), ""
    choice = best_file(model, capacity, projector)
    if choice.fit is None:
        return choice.file, "the size of no quantization is known before the download"
    needed, free = (f"{size / (1 << 30):.1f} GiB" for size in (choice.fit.needed, capacity.free))
    memory = f"it needs {needed} of memory or more, {free} are free"
    if choice.fits:
        return choice.file, f"the best that fits: {memory}"
    return choice.file, f"the smallest there is, and still more than fits now: {memory}"


def _remote_files(
    entry: CatalogFile, revision: str | None, report: Report
) -> tuple[list[RemoteFile], list[str]]:
    """A catalogue file's parts on the Hub, checked against what the catalogue knows."""
    at = revision or entry.revision
    remotes = [hub.file_facts(entry.repo, name, at, report) for name in split_parts(entry.file)]
    known = entry.sha256
    if revision or known is None or len(remotes) > 1 or remotes[0].hash == known:
        return remotes, []
    if entry.revision:
        raise VerificationError(
            f"{entry.repo}/{entry.file} at {entry.revision[:12]} is not the file that the"
            " catalogue knows: its hash differs",
            "another file: --revision main; please report this",
        )
    return remotes, [f"{entry.file} was replaced by its publisher since this catalogue was made"]


def _from_hub(ref: ModelRef, vision: bool, capacity: Capacity, report: Report) -> Wanted:
    listing = hub.list_repo(ref.repo, ref.revision, report)
    models = {f.name: f for f in listing.files if f.name.lower().endswith(".gguf")}
    file, why = ref.file, ""
    if file is None:
        file, why = _choose_listed(ref, list(models.values()), capacity.free)
    # Every file at the commit of the listing, but noted under the branch asked for.
    branch = ref.revision or "main"
    names = [*split_parts(file), *(_listed_projector(ref, models) if vision else ())]
    remotes = [
        replace(hub.file_facts(ref.repo, name, listing.commit, report), revision=branch)
        for name in names
    ]
    parts = len(split_parts(file))
    known = load_catalog().holding(ref.repo, file)
    terms = known[0].license if known else _license_called(listing.license)
    return Wanted(
        name=known[0].id if known else ref.name,
        quant=known[1].quant if known else quant_in_name(file),
        files=tuple(remotes[:parts]),
        projector=remotes[parts] if vision else None,
        model=known[0] if known else None,
        license=terms,
        why=why,
        notes=(),
    )


def _choose_listed(ref: ModelRef, files: Sequence[ListedFile], available: int) -> tuple[str, str]:
    """One model file of a listing: of the quantization asked for, else the best that fits."""
    models = listed_models(ref.repo, files)
    quants = list(dict.fromkeys(quant_in_name(f.name) or f.name for f in models))
    if ref.quant is not None:
        wanted = (ref.quant, f"UD-{ref.quant}")
        named = sorted(f.name for f in models if quant_in_name(f.name) in wanted)
        if not named:
            raise ModelNotFoundError(
                f"{ref.repo} has no quantization {ref.quant}", f"there are: {', '.join(quants)}"
            )
        return named[0], ""
    if len(models) == 1:
        return models[0].name, ""
    for file in models:
        if fits_roughly(file, available):
            return file.name, f"the best that fits of {', '.join(quants)}"
    smallest = min(models, key=lambda f: f.size or float("inf"))
    return smallest.name, f"the smallest of {', '.join(quants)}; it may not fit"


def listed_models(repo: str, files: Sequence[ListedFile]) -> list[ListedFile]:
    """The models of a listing, best quantization first; a split set once, with its whole size.

    ModelNotFoundError if there are none.
    """
    by_name = {file.name: file for file in files if file.name.lower().endswith(".gguf")}
    models = []
    for file in by_name.values():
        names = split_parts(file.name)
        if is_projector(file.name) or names[0] != file.name:
            continue
        sizes = [by_name[name].size if name in by_name else None for name in names]
        total = sum(size for size in sizes if size is not None)
        models.append(replace(file, size=None if None in sizes else total))
    if not models:
        raise ModelNotFoundError(
            f"{repo} holds no GGUF model", "look for a repository whose name ends in -GGUF"
        )
    return sorted(models, key=lambda f: (quant_rank(quant_in_name(f.name)), -(f.size or 0)))


def fits_roughly(file: ListedFile, available: int) -> bool:
    """Whether a model of unknown shape is likely to fit: a fifth more than its weights."""
    return file.size is not None and file.size * 1.2 <= available


def _listed_projector(ref: ModelRef, files: dict[str, ListedFile]) -> tuple[str]:
    names = sorted(name for name in files if is_projector(name))
    if not names:
        raise ModelNotFoundError(f"{ref.repo} has no vision part (mmproj)", "leave --vision")
    # F16 is what every build of llama.cpp runs; BF16 is slow on many.
    return (next((n for n in names if "bf16" not in n.lower() and "f16" in n.lower()), names[0]),)


def _license_called(name: str) -> License | None:
    for model in load_catalog().models:
        if model.license.id == name:
            return model.license
    return None
