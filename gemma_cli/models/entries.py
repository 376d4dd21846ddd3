"""models.toml as values: which Gemmas there are, and which files hold them.

The bundled catalogue, then the user's own models.toml from the config folder,
whose entries replace bundled ones of the same id. catalog.py finds them by name.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from gemma_cli import paths
from gemma_cli.errors import ModelNotFoundError, UsageError

# Best first: what a pull takes if it fits. QAT stands above Q4_K_M: trained for
# its four bits, it loses less than a file that was rounded to them.
QUANT_ORDER = (
    "Q8_0", "Q6_K", "UD-Q5_K_M", "Q5_K_M", "QAT_Q4_0", "UD-Q4_K_M", "Q4_K_M", "Q4_0",
)  # fmt: skip

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Shape:
    """A model's shape under the names of gguf.Header, for planning before any download.

    head_dim_*_swa: head sizes of window layers where they differ, else None.
    n_ff_layers: feed-forward width per layer. key_is_value: full-attention
    layers have no V of their own. n_embd_per_layer: width of the embeddings
    that each layer has (Gemma 3n, E2B, E4B). n_expert, n_ff_exp: mixture of experts.
    """

    architecture: str
    n_layers: int
    n_ctx_train: int
    n_embd: int
    n_ff: int
    n_head: int
    n_head_kv: tuple[int, ...]
    head_dim_k: int
    head_dim_v: int
    head_dim_k_swa: int | None
    head_dim_v_swa: int | None
    sliding_window: int
    sliding_pattern: tuple[bool, ...]
    shared_kv_layers: int
    n_vocab: int
    n_ff_layers: tuple[int, ...]
    key_is_value: bool
    n_embd_per_layer: int
    n_expert: int
    n_expert_used: int
    n_ff_exp: int


@dataclass(frozen=True, slots=True)
class RecommendedSampling:
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repeat_penalty: float


@dataclass(frozen=True, slots=True)
class License:
    """accept: its terms are shown before the first download under them."""

    id: str
    title: str
    url: str
    prohibited_use: str
    accept: bool


@dataclass(frozen=True, slots=True)
class CatalogFile:
    """One published file (of a split set the first). package: an installed
    Python package holds it, and repo is "". size is exact, size_approx rounded.
    gated: a login is asked for."""

    quant: str
    repo: str
    file: str
    revision: str | None = None
    size: int | None = None
    size_approx: int | None = None
    sha256: str | None = None
    package: str | None = None
    gated: bool = False

    @property
    def planning_size(self) -> int | None:
        """Bytes, exact or rounded: good enough to plan with, never to verify with."""
        return self.size or self.size_approx


@dataclass(frozen=True, slots=True)
class CatalogModel:
    """One Gemma. files: best quantization first. projector: its vision part, if published.

    parameters: as published, 0 where only "about" is known.
    """

    id: str
    aliases: tuple[str, ...]
    family: str
    size: str
    title: str
    modalities: tuple[str, ...]
    license: License
    shape: Shape
    sampling: RecommendedSampling
    files: tuple[CatalogFile, ...]
    projector: CatalogFile | None
    parameters: int
    base: bool
    thinking: bool

    def file(self, quant: str) -> CatalogFile:
        """The file of one quantization; ModelNotFoundError lists those that there are."""
        for wanted in (quant, f"UD-{quant}"):
            for file in self.files:
                if file.quant == wanted:
                    return file
        there_are = ", ".join(file.quant for file in self.files)
        raise ModelNotFoundError(
            f"{self.id} has no quantization {quant}",
            f"there are: {there_are}. Any other file: gemma pull hf:OWNER/REPO:{quant}",
        )


@dataclass(frozen=True, slots=True)
class Catalog:
    models: tuple[CatalogModel, ...]

    def get(self, name: str) -> CatalogModel | None:
        """The model with this id or alias, in any case; None when there is none."""
        folded = name.casefold()
        for model in self.models:
            if folded == model.id or folded in (alias.casefold() for alias in model.aliases):
                return model
        return None

    def holding(self, repo: str, file: str) -> tuple[CatalogModel, CatalogFile] | None:
        """Which model a Hub file belongs to, its projector included."""
        for model in self.models:
            for entry in (*model.files, *((model.projector,) if model.projector else ())):
                if (entry.repo.casefold(), entry.file) == (repo.casefold(), file):
                    return model, entry
        return None


def bundled_path() -> Path:
    """models.toml inside the installed package, or at the top of a checkout."""
    package = Path(__file__).resolve().parents[1]
    packaged = package / "models.toml"
    return packaged if packaged.is_file() else package.parent / "models.toml"


def load_catalog() -> Catalog:
    """The bundled catalogue with the user's entries. UsageError if theirs cannot be read."""
    own = paths.config_dir() / "models.toml"
    return _load(bundled_path(), own if own.is_file() else None)


@cache
def _load(bundled: Path, own: Path | None) -> Catalog:
    data = _parse(bundled)
    entries = {entry["id"]: _model(entry, data) for entry in data["model"]}
    if own is not None:
        try:
            mine = _parse(own)
            # Their entries may use the bundled families and licences.
            for table in ("license", "family"):
                mine[table] = {**data[table], **mine.get(table, {})}
            entries |= {str(e["id"]).casefold(): _model(e, mine) for e in mine.get("model", [])}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
            raise UsageError(
                f"{own} cannot be read: {reason}", f"the form to follow is in {bundled}"
            ) from error
    return Catalog(tuple(entries.values()))


def _parse(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text(encoding="utf-8"))


def _model(entry: dict[str, Any], data: dict[str, Any]) -> CatalogModel:
    family = data["family"][entry["family"]]
    files = [_file(file) for file in entry["file"]]
    projector = entry.get("projector")
    return CatalogModel(
        id=str(entry["id"]).casefold(),
        aliases=tuple(entry.get("aliases", ())),
        family=entry["family"],
        size=entry["size"],
        title=entry["title"],
        modalities=tuple(entry.get("modalities", ("text",))),
        license=_license(entry.get("license", family["license"]), data),
        shape=_shape(entry["shape"]),
        sampling=RecommendedSampling(**entry.get("sampling", family["sampling"])),
        files=tuple(sorted(files, key=lambda file: quant_rank(file.quant))),
        projector=_file(projector) if projector else None,
        parameters=entry.get("parameters", 0),
        base=entry.get("base", False),
        thinking=entry.get("thinking", False),
    )


def _license(name: str, data: dict[str, Any]) -> License:
    table = data["license"][name]
    return License(
        id=name,
        title=table["title"],
        url=table["url"],
        prohibited_use=table.get("prohibited_use", ""),
        accept=table.get("accept", False),
    )


def _file(entry: dict[str, Any]) -> CatalogFile:
    sha256 = entry.get("sha256")
    if sha256 is not None and not _SHA256.fullmatch(sha256):
        raise ValueError(f"{sha256!r} is no sha256 (64 hexadecimal digits)")
    return CatalogFile(
        quant=entry.get("quant", ""),
        repo=entry.get("repo", "") if "package" in entry else entry["repo"],
        file=entry.get("file", "") if "package" in entry else entry["file"],
        revision=entry.get("revision"),
        size=entry.get("size"),
        size_approx=entry.get("size_approx"),
        sha256=sha256,
        package=entry.get("package"),
        gated=entry.get("gated", False),
    )


def _shape(entry: dict[str, Any]) -> Shape:
    layers, period = entry["layers"], entry.get("window_period", 0)
    # The last layer of each group attends to everything, the others to a window.
    pattern = tuple(period > 0 and i % period < period - 1 for i in range(layers))
    full, window = entry["kv_heads"], entry.get("kv_heads_window", entry["kv_heads"])
    head, head_window = entry["head_size"], entry.get("head_size_window")
    shared, ff = entry.get("shared_kv_layers", 0), entry["feed_forward"]
    # Gemma 4 E2B: the layers that share another's KV are twice as wide.
    owning = entry.get("feed_forward_owning_kv", ff)
    return Shape(
        architecture=entry["architecture"],
        n_layers=layers,
        n_ctx_train=entry["context"],
        n_embd=entry["embedding"],
        n_ff=entry["feed_forward"],
        n_head=entry["heads"],
        n_head_kv=tuple(window if is_window else full for is_window in pattern),
        head_dim_k=head,
        head_dim_v=head,
        head_dim_k_swa=head_window,
        head_dim_v_swa=head_window,
        sliding_window=entry.get("window", 0),
        sliding_pattern=pattern,
        shared_kv_layers=shared,
        n_vocab=entry["vocabulary"],
        n_ff_layers=(owning,) * (layers - shared) + (ff,) * shared,
        key_is_value=entry.get("key_is_value", False),
        n_embd_per_layer=entry.get("per_layer_embedding", 0),
        n_expert=entry.get("experts", 0),
        n_expert_used=entry.get("experts_used", 0),
        n_ff_exp=entry.get("expert_feed_forward", 0),
    )


def quant_rank(quant: str) -> int:
    """0 for the best quantization; one that the order does not know comes last."""
    return QUANT_ORDER.index(quant) if quant in QUANT_ORDER else len(QUANT_ORDER)
