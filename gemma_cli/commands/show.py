"""`gemma show`: everything about a model, whether it is here or not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from gemma_cli.models.catalog import ModelRef
    from gemma_cli.models.entries import CatalogModel
    from gemma_cli.models.gguf import Header
    from gemma_cli.models.store import InstalledModel


def show(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A name, or a path to a .gguf.")],
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show a model's facts, quantizations, licence, what is here of it, and its template."""
    from gemma_cli.errors import ModelNotFoundError
    from gemma_cli.models.catalog import load_catalog, parse_name
    from gemma_cli.models.store import find_all

    ref = parse_name(model)
    try:
        here = find_all(ref)
    except ModelNotFoundError:
        if ref.kind == "hub":
            from gemma_cli.commands.repository import show_repository

            show_repository(ref, json_output)
            return
        if ref.kind != "catalog":
            raise
        here = []
    best = here[0] if here else None
    header = _header(best) if best else None
    entry = ref.model or (load_catalog().get(best.name) if best else None)
    facts = _facts(ref, entry, header, best)
    if json_output:
        _print_json(facts, entry, here, header)
    else:
        _print(ref, facts, entry, here, header)


def _header(best: InstalledModel) -> Header | None:
    """The file's own facts. None for the embedded model before its first use: joining
    its parts is not done just to look."""
    from gemma_cli.models.demo import DEMO_ID, assembled
    from gemma_cli.models.headers import known_header

    if best.name == DEMO_ID and assembled() is None:
        return None
    return known_header(best.path)


def _facts(
    ref: ModelRef, entry: CatalogModel | None, header: Header | None, best: InstalledModel | None
) -> dict[str, Any]:
    """What is known, from the file itself where there is one, else from the catalogue."""
    shape = header or (entry.shape if entry else None)
    assert shape is not None, "a model is in the catalogue, or a file of it is here"
    windows = sum(shape.sliding_pattern)
    facts: dict[str, Any] = {"name": entry.id if entry else ref.name}
    if entry:
        facts |= {
            "title": entry.title,
            "parameters": entry.parameters or None,
            "modalities": list(entry.modalities),
            "base": entry.base,
            "license": entry.license.id,
            "license_url": entry.license.url,
            "sampling": _sampling(entry),
        }
    elif header:
        facts |= {"title": header.name, "license": header.license}
    facts |= {
        "quant": header.quant if header else best.quant if best else None,
        "path": str(best.path) if best and header else None,
        "file_bytes": header.file_bytes if header else best.bytes if best else None,
        "plan": _plan(ref, entry, header),
        "architecture": shape.architecture,
        "context": shape.n_ctx_train,
        "layers": shape.n_layers,
        "window_layers": windows,
        "window": shape.sliding_window,
        "embedding": shape.n_embd,
        "feed_forward": shape.n_ff,
        "heads": shape.n_head,
        "kv_heads": list(shape.n_head_kv),
        "head_size": shape.head_dim_k,
        "vocabulary": shape.n_vocab,
    }
    return facts


def _plan(ref: ModelRef, entry: CatalogModel | None, header: Header | None) -> str:
    """How it would be loaded here now, or why it cannot be; of what is not here,
    the file that was named, or the best one."""
    from gemma_cli.commands.planning.fitting import MachineCapacity, planned_header
    from gemma_cli.errors import DoesNotFitError
    from gemma_cli.models.choice import best_file, planned_bytes

    capacity, which = MachineCapacity(), ""
    if header is None:
        assert entry is not None
        file = entry.file(ref.quant) if ref.quant else best_file(entry, capacity).file
        weights = planned_bytes(entry, file)
        if weights is None:
            return "its size is not known before the download"
        header, which = planned_header(entry.shape, weights), f"{file.quant}: "
    try:
        chosen = capacity.plan(header)
    except DoesNotFitError as error:
        return f"{which}does not fit: {error.message}"
    return (
        f"{which}context {chosen.n_ctx:,}, {chosen.gpu_layers} of {chosen.n_layers + 1} layers"
        f" on a GPU, {chosen.threads} threads"
    )


def _sampling(entry: CatalogModel) -> dict[str, float]:
    advice = entry.sampling
    return {
        "temperature": advice.temperature,
        "top_k": advice.top_k,
        "top_p": advice.top_p,
        "min_p": advice.min_p,
        "repeat_penalty": advice.repeat_penalty,
    }


def _print_json(
    facts: dict[str, Any],
    entry: CatalogModel | None,
    here: list[InstalledModel],
    header: Header | None,
) -> None:
    import json

    from gemma_cli.commands.list import installed_json, published_json

    facts["quantizations"] = [published_json(file) for file in (entry.files if entry else ())]
    facts["installed"] = [installed_json(model) for model in here]
    facts["chat_template"] = header.chat_template if header else None
    typer.echo(json.dumps(facts, ensure_ascii=False, indent=2))


def _print(
    ref: ModelRef,
    facts: dict[str, Any],
    entry: CatalogModel | None,
    here: list[InstalledModel],
    header: Header | None,
) -> None:
    from gemma_cli.terminal.sanitize import clean, clean_line
    from gemma_cli.terminal.tables import hanging

    typer.echo(clean_line(f"{facts['name']}   {facts.get('title') or ''}").rstrip())
    for label, text in _lines(facts):
        typer.echo(hanging(f"  {label:<14}", clean_line(text)))
    if entry:
        typer.echo("")
        typer.echo(_quantizations(entry, here))
    typer.echo("")
    if header is not None:
        for model in here:
            typer.echo(clean_line(f"here: {model.path}"))
        template = header.chat_template
        typer.echo(f"\nchat template:\n{clean(template)}" if template else "\nchat template: none")
    elif here:
        typer.echo(
            "Here, in its Python packages: its first use joins the parts into one file,"
            f" {here[0].path}",
            err=True,
        )
    else:
        typer.echo(
            f"Not here yet, nor its chat template: gemma pull {ref}",
            err=True,
        )


def _lines(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """The facts as people read them."""
    from gemma_cli.terminal.tables import size

    layers = f"{facts['layers']}"
    if facts["window_layers"]:
        layers += f", {facts['window_layers']} of them see {facts['window']:,} tokens"
    heads = f"{facts['heads']}, {facts['kv_heads'][0] if facts['kv_heads'] else 0} for KV"
    lines = [
        ("parameters", f"{facts['parameters'] / 1e9:.2f} billion")
        if facts.get("parameters")
        else None,
        ("context", f"{facts['context']:,} tokens"),
        ("layers", layers),
        ("heads", f"{heads}, of size {facts['head_size']}"),
        ("embedding", f"{facts['embedding']:,}, feed-forward {facts['feed_forward']:,}"),
        ("vocabulary", f"{facts['vocabulary']:,}"),
        ("architecture", facts["architecture"]),
        ("takes", ", ".join(facts["modalities"])) if "modalities" in facts else None,
        ("kind", "base model: continues texts, was not taught to converse")
        if facts.get("base")
        else None,
        ("file", f"{facts['quant']}, {size(facts['file_bytes'])}") if facts["quant"] else None,
        ("plan", facts["plan"]) if facts["plan"] else None,
        ("licence", f"{facts['license'] or '?'}   {facts.get('license_url', '')}".rstrip()),
    ]
    if "sampling" in facts:
        said = "  ".join(f"{key} {value}" for key, value in facts["sampling"].items())
        lines.append(("sampling", said))
    return [line for line in lines if line is not None]


def _quantizations(entry: CatalogModel, here: list[InstalledModel]) -> str:
    from gemma_cli.commands.planning.fitting import MachineCapacity
    from gemma_cli.models.choice import planned_bytes
    from gemma_cli.terminal.tables import size, table

    capacity = MachineCapacity()
    quants = {model.quant for model in here}
    rows = []
    for file in entry.files:
        weights = planned_bytes(entry, file)
        fits = "?"
        if weights is not None:
            fits = "yes" if capacity.fit(entry.shape, weights).fits else "no"
        where = "here" if file.quant in quants else "-"
        about = file.size is None and file.size_approx is not None
        source = file.package or f"{file.repo}/{file.file}"
        rows.append([file.quant, size(file.planning_size, about=about), fits, where, source])
    return table(["QUANT", "SIZE", "FITS", "HERE", "FROM"], rows, right=(1,))
