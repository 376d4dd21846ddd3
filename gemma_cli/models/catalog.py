"""What a person types for a model, as a value: the grammar of names.

NAME[:QUANT]                              gemma3:4b, gemma-3-4b-it, google/gemma-3-4b-it
hf:OWNER/REPO[:FILE-or-QUANT][@REVISION]  any GGUF on the Hub
PATH                                      a .gguf file, or anything with a separator
                                          that exists
"""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from gemma_cli.errors import ModelNotFoundError, UsageError
from gemma_cli.models.entries import Catalog, CatalogFile, CatalogModel, Shape, load_catalog

__all__ = [
    "Catalog",
    "CatalogFile",
    "CatalogModel",
    "ModelRef",
    "Shape",
    "canonical_quant",
    "load_catalog",
    "near_names",
    "parse_name",
    "with_quant",
]


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A model as it was asked for; nothing is known yet about what is here.

    name: canonical, without quantization: "gemma3:4b", "hf:OWNER/REPO" or the
    path. quant: upper case, None for "the best". model: the catalogue's entry
    when kind is "catalog". repo, file, revision: for "hub". path: for "path".
    """

    kind: Literal["catalog", "hub", "path"]
    name: str
    quant: str | None = None
    model: CatalogModel | None = None
    repo: str = ""
    file: str | None = None
    revision: str | None = None
    path: Path | None = None

    def __str__(self) -> str:
        return f"{self.name}:{self.quant.lower()}" if self.quant else self.name


_QUANT = (
    r"(?:ud-)?(?:qat(?:[-_]q4_0)?|q4_0[-_]qat|i?q\d(?:_[0-9a-z]{1,3}){0,2}"
    r"|b?f16|f32|mxfp4(?:_moe)?|nvfp4|tq\d_0)"
)
_LOOSE_NAME = re.compile(
    r"(?:google/)?gemma[-_ ]?(?P<generation>1\.1|1|2|3n|3|4)?[-_: ]"
    r"(?P<size>e?\d+[bm](?:-a4b)?)"
    r"(?:[-_](?:it|instruct|chat))?"
    rf"(?:[-_:](?P<quant>{_QUANT}))?(?:[-_]gguf)?"
)
_HUB_PREFIX = re.compile(r"(?:hf:|(?:https?://)?(?:hf\.co|huggingface\.co)/)", re.IGNORECASE)
_REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_REVISION = re.compile(r"[A-Za-z0-9][\w./-]{0,199}")


def parse_name(text: str) -> ModelRef:
    """The model that `text` names. ModelNotFoundError suggests near ones for a wrong name;
    UsageError for an hf: reference or a text that is no name at all."""
    text = text.strip()
    if not text:
        raise UsageError("the model's name is empty", "see what there is: gemma list --available")
    if not text.isprintable():
        raise UsageError("the model's name contains control characters")
    prefix = _HUB_PREFIX.match(text)
    if prefix:
        return _hub_ref(text[prefix.end() :], text)
    path = _as_path(text)
    if path is not None:
        return ModelRef(kind="path", name=str(path), path=path)
    return _catalog_ref(text, load_catalog())


def canonical_quant(text: str) -> str:
    """q5_k_m -> Q5_K_M, qat -> QAT_Q4_0, ud-q4_k_m -> UD-Q4_K_M."""
    folded = text.strip().lower()
    if folded in ("qat", "qat-q4_0", "qat_q4_0", "q4_0-qat", "q4_0_qat"):
        return "QAT_Q4_0"
    unsloth = folded.startswith(("ud-", "ud_"))
    body = (folded[3:] if unsloth else folded).replace("-", "_").upper()
    return f"UD-{body}" if unsloth else body


def with_quant(ref: ModelRef, quant: str) -> ModelRef:
    """The same model in another quantization (--quant); it must exist in the catalogue."""
    wanted = canonical_quant(quant)
    if ref.kind == "path":
        raise UsageError("a file has the quantization that it has", "leave --quant away")
    if ref.kind == "hub":
        return replace(ref, quant=wanted, file=None)
    assert ref.model is not None
    return replace(ref, quant=ref.model.file(wanted).quant)


def _as_path(text: str) -> Path | None:
    has_separator = os.sep in text or (os.altsep is not None and os.altsep in text)
    try:
        path = Path(text).expanduser()
        if text.lower().endswith(".gguf") or (has_separator and path.exists()):
            return path
    except (OSError, RuntimeError):  # a name too long, or ~ of an unknown user
        return None
    return None


def _catalog_ref(text: str, catalog: Catalog) -> ModelRef:
    folded = text.casefold()
    for name, quant in _splits(folded.removeprefix("google/")):
        model = catalog.get(name)
        if model is not None:
            return _ref(model, quant)
    loose = _LOOSE_NAME.fullmatch(folded)
    if loose:
        generation = loose["generation"] or "1"
        model = catalog.get(f"gemma{generation}:{loose['size']}")
        if model is not None:
            return _ref(model, loose["quant"])
    raise _unknown(text, catalog)


def _splits(text: str) -> list[tuple[str, str | None]]:
    """The whole text as a name, then NAME:QUANT."""
    name, colon, quant = text.rpartition(":")
    return [(text, None), (name, quant)] if colon and name else [(text, None)]


def _ref(model: CatalogModel, quant: str | None) -> ModelRef:
    ref = ModelRef(kind="catalog", name=model.id, model=model)
    return with_quant(ref, quant) if quant else ref


def _unknown(text: str, catalog: Catalog) -> ModelNotFoundError:
    if Path(text).suffix.lower() in (".bin", ".safetensors", ".pt", ".ggml"):
        return ModelNotFoundError(f"{text}: gemma reads .gguf files only")
    near = near_names(text, catalog)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    if len(text.split()) > 2:
        hint += 'To ask a question: gemma run "QUESTION". '
    return ModelNotFoundError(
        f"no model is called {text[:80]}", f"{hint}See them all: gemma list --available"
    )


def near_names(text: str, catalog: Catalog) -> list[str]:
    """Up to three ids that look like `text`, nearest first."""
    spellings = {
        spelling.casefold(): model.id
        for model in catalog.models
        for spelling in (model.id, *model.aliases)
    }
    close = difflib.get_close_matches(text.casefold()[:80], spellings, n=6, cutoff=0.6)
    return list(dict.fromkeys(spellings[spelling] for spelling in close))[:3]


def _hub_ref(rest: str, text: str) -> ModelRef:
    rest = rest.split("?", 1)[0].rstrip("/")
    rest, _, revision = rest.partition("@")
    repo, _, chosen = rest.partition(":")
    owner_repo = repo.split("/", 2)
    if len(owner_repo) == 3:  # a page's address: OWNER/REPO/(blob|resolve)/REVISION/FILE
        repo = "/".join(owner_repo[:2])
        page = re.fullmatch(r"(?:blob|resolve)/([^/]+)/(.+)", owner_repo[2])
        if page is None:
            raise _bad_hub_ref(text)
        revision, chosen = revision or page[1], page[2]
    file = quant = None
    if chosen.lower().endswith(".gguf"):
        file = chosen
    elif chosen:
        quant = canonical_quant(chosen)
    plain = _REPO.fullmatch(repo) and (not revision or _REVISION.fullmatch(revision))
    parts = (file or "x").split("/")
    dots = ".." in f"{repo} {revision}" or any(part in ("", ".", "..") for part in parts)
    if not plain or dots or "\\" in chosen or (quant and not re.fullmatch(r"[\w-]+", quant)):
        raise _bad_hub_ref(text)
    return ModelRef(
        kind="hub", name=f"hf:{repo}", quant=quant, repo=repo, file=file, revision=revision or None
    )


def _bad_hub_ref(text: str) -> UsageError:
    return UsageError(
        f"{text[:120]} is no Hub reference",
        "the form is hf:OWNER/REPO[:FILE.gguf or QUANT][@REVISION],"
        " for example hf:google/gemma-3-4b-it-qat-q4_0-gguf",
    )
