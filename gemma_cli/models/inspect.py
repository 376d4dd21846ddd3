"""Is a file that arrived what its name promises? Asked before it counts as installed."""

from __future__ import annotations

from pathlib import Path

from gemma_cli.errors import ModelFileError
from gemma_cli.models.entries import CatalogModel
from gemma_cli.models.gguf import Header, read_header


def check_model_file(path: Path, model: CatalogModel | None, parts: int) -> Header:
    """Its header, if it is a language model that can be loaded: of the catalogue's
    architecture where that is known, all its tensors inside the file. ModelFileError else.
    """
    header = read_header(path)
    if header.architecture == "clip":
        raise ModelFileError(f"{path.name} is a vision part, not a language model")
    if not header.architecture or not header.n_layers or not header.tokenizer_model:
        raise ModelFileError(f"{path.name} holds no language model (no layers or no tokenizer)")
    if model is not None and header.architecture != model.shape.architecture:
        raise ModelFileError(
            f"{path.name} holds a {header.architecture} model, not a {model.shape.architecture} one"
        )
    if header.split_count != parts:
        raise ModelFileError(
            f"{path.name} belongs to a set of {header.split_count} files, not {parts}"
        )
    return header


def check_projector_file(path: Path) -> None:
    header = read_header(path)
    if header.architecture != "clip":
        raise ModelFileError(f"{path.name} is no vision part but a {header.architecture} model")
