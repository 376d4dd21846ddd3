"""What `gemma plan` plans: a model's quantizations, and a machine, this one or another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gemma_cli.commands.planning.fitting import MachineCapacity, expected_header
from gemma_cli.errors import ModelFileError, ModelNotFoundError, UsageError
from gemma_cli.machine.devices import Device, Machine, this_machine
from gemma_cli.machine.sizes import parse_size
from gemma_cli.models.catalog import ModelRef, canonical_quant, load_catalog
from gemma_cli.models.choice import best_file
from gemma_cli.models.demo import DEMO_ID, assembled
from gemma_cli.models.entries import CatalogModel, quant_rank
from gemma_cli.models.events import Report
from gemma_cli.models.gguf import Header
from gemma_cli.models.headers import known_header
from gemma_cli.models.store import InstalledModel, find_all


@dataclass(frozen=True, slots=True)
class Candidate:
    """One file that could be loaded. path: where it is, None if it is not here.

    here: the embedded model is, before its parts are joined into a file with a
    path. stated: bytes as published, None where nobody says; exact: not rounded.
    """

    name: str
    quant: str
    header: Header
    path: Path | None = None
    here: bool = False
    stated: int | None = None
    exact: bool = True


def machine_of(gpus: Sequence[str], ram: str | None) -> Machine:
    """This machine; or one with the memory that was named, all of it free."""
    here = this_machine()
    if not gpus and ram is None:
        return here
    host = here.host
    if ram is not None:
        size = _memory("--ram", ram)
        host = Device("CPU", "cpu", size, size)
    sizes = [_memory("--gpu", text) for text in gpus]
    cards = (Device(f"GPU {i}", "gpu", size, size) for i, size in enumerate(sizes, start=1))
    return replace(here, host=host, gpus=tuple(cards))


def _memory(option: str, text: str) -> int:
    size = parse_size(option, text, "24GiB")
    if size < 1 << 20:
        number = text.strip()
        meant = f"{option} {number}GiB" if size and number.isdigit() else "24GiB"
        raise UsageError(
            f"{option} {text} is {size} byte{'' if size == 1 else 's'}: no machine is so small",
            f"for example: {meant}",
        )
    return size


def candidates(
    ref: ModelRef, quant: str | None, capacity: MachineCapacity, report: Report
) -> tuple[Candidate, list[Candidate]]:
    """(the file that would be used, all that there are): named, or here, or the best that fits.

    ModelNotFoundError for what is neither here nor in the catalogue nor on the Hub.
    """
    asked = quant or ref.quant
    wanted = None if asked is None else canonical_quant(asked)
    here = _here(ref)
    entry = ref.model or (load_catalog().get(here[0].name) if here else None)
    found = list(_of_files(here, entry, wanted))
    if entry is not None:
        found += _published(entry, {candidate.quant for candidate in found})
    if not found:
        found = [_remote(ref, capacity, report)]
    chosen = _chosen(ref, found, wanted, entry, capacity)
    return chosen, sorted(found, key=lambda candidate: quant_rank(candidate.quant))


def _chosen(
    ref: ModelRef,
    found: list[Candidate],
    wanted: str | None,
    entry: CatalogModel | None,
    capacity: MachineCapacity,
) -> Candidate:
    if wanted is not None:
        named = [c for c in found if c.quant in (wanted, f"UD-{wanted}")]
        if not named and entry is not None:
            entry.file(wanted)  # says which there are
        if not named:
            there_are = ", ".join(c.quant or "?" for c in found)
            raise ModelNotFoundError(
                f"{ref.name} has no quantization {wanted}", f"there are: {there_are}"
            )
        return named[0]
    if found[0].here or entry is None:
        return found[0]
    best = best_file(entry, capacity).file.quant
    return next((c for c in found if c.quant == best), found[0])


def _here(ref: ModelRef) -> list[InstalledModel]:
    try:
        return find_all(replace(ref, quant=None) if ref.kind == "catalog" else ref)
    except ModelNotFoundError:
        if ref.kind == "path":
            raise
        return []


def _of_files(
    here: Sequence[InstalledModel], entry: CatalogModel | None, wanted: str | None
) -> Iterator[Candidate]:
    """ModelFileError for a damaged one, unless another quantization is wanted."""
    for model in here:
        try:
            yield _of_file(model, entry)
        except ModelFileError:
            if wanted in (None, model.quant):
                raise


def _of_file(model: InstalledModel, entry: CatalogModel | None) -> Candidate:
    if model.name == DEMO_ID and assembled() is None:
        # Looking is no reason to join its parts.
        assert entry is not None
        header, path = expected_header(entry, model.quant), None
        assert header is not None, "the catalogue states its size"
    else:
        header, path = known_header(model.path), model.path
    quant = model.quant or header.quant
    return Candidate(model.name, quant, header, path, here=True, stated=header.file_bytes)


def _published(entry: CatalogModel, here: set[str]) -> list[Candidate]:
    """The catalogue's files that are not here, best first."""
    found = []
    for file in entry.files:
        header = None if file.quant in here else expected_header(entry, file.quant)
        if header is not None:
            size = file.planning_size
            about = Candidate(entry.id, file.quant, header, stated=size, exact=bool(file.size))
            found.append(about)
    return found


def _remote(ref: ModelRef, capacity: MachineCapacity, report: Report) -> Candidate:
    """A file of the Hub that no catalogue knows: its header alone is fetched."""
    from gemma_cli.commands.repository import offline
    from gemma_cli.models import hub
    from gemma_cli.models.remoteheader import remote_header
    from gemma_cli.models.resolve import resolve

    if hub.is_offline():
        raise offline(ref)
    wanted = resolve(ref, None, False, capacity, report)
    header = remote_header(wanted.files[0])
    whole = sum(file.size for file in wanted.files)
    if len(wanted.files) > 1:  # of a split set only the first part was read: scale it
        scale = whole / max(header.tensor_bytes, 1)
        tensors = tuple(replace(t, bytes=int(t.bytes * scale)) for t in header.tensors)
        header = replace(header, tensors=tensors, tensor_bytes=whole)
    header = replace(header, file_bytes=whole)
    return Candidate(wanted.name, wanted.quant or header.quant, header, stated=whole)
