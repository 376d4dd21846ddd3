"""The models on this machine: the Hub cache, the embedded one, and what was used last."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from gemma_cli.errors import ModelFileError, ModelNotFoundError
from gemma_cli.models import demo, hubcache
from gemma_cli.models.catalog import ModelRef, canonical_quant
from gemma_cli.models.entries import load_catalog, quant_rank
from gemma_cli.models.state import read_state, write_state

_USES = "last-used.json"

_QUANT_IN_NAME = re.compile(
    r"(?:^|[-._])((?:UD-)?(?:I?Q\d(?:_[0-9A-Z]{1,3}){0,2}|BF16|F16|F32|MXFP4(?:_MOE)?|TQ\d_0))"
    r"(?:-\d{5}-of-\d{5})?\.gguf$",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class InstalledModel:
    """A model file that is here.

    name: "gemma3:4b", "hf:OWNER/REPO" or a path. quant: upper case, "" if its
    name does not tell. bytes: all its parts. path: the (first) file; the
    embedded model's is made when `find` asks for it. source: what to type to
    fetch it again. revision: the commit; sha256: None where the cache does not
    say. last_used: ISO 8601 in UTC, None for never.
    """

    name: str
    quant: str
    bytes: int
    path: Path
    source: str
    revision: str | None = None
    sha256: str | None = None
    license: str = ""
    last_used: str | None = None

    @property
    def ref(self) -> str:
        """Its name with its quantization, as one would type it."""
        if self.source == "path" or not self.quant:
            return self.name
        return f"{self.name}:{self.quant.lower()}"


def installed() -> list[InstalledModel]:
    """Everything that is here, by name, the best quantization first."""
    uses = _read_uses()
    found = [_from_cache(file) for file in hubcache.cached_files()]
    if demo.demo_parts():
        found.append(_demo())
    models = [replace(model, last_used=_last_use(uses, model.ref)) for model in found]
    return sorted(models, key=lambda m: (m.name, quant_rank(m.quant), m.source))


def find(ref: ModelRef) -> InstalledModel:
    """The file to load: the quantization asked for, else the best one here.

    ModelNotFoundError names the command that fetches it; ModelFileError for a
    path that is no file. The embedded model is made ready if need be.
    """
    if ref.kind == "path":
        return _at_path(ref)
    if ref.name == demo.DEMO_ID:
        return demo_model()
    return min(find_all(ref), key=lambda m: quant_rank(m.quant))


def find_all(ref: ModelRef) -> list[InstalledModel]:
    """Every file here that a name means; ModelNotFoundError if there is none."""
    if ref.kind == "path":
        return [_at_path(ref)]
    found = [model for model in installed() if _is_asked_for(model, ref)]
    if found:
        return found
    if ref.name == demo.DEMO_ID:
        raise demo.not_installed()
    others = [model.ref for model in installed() if model.name == ref.name]
    here = f" Here is {', '.join(others)}." if others else ""
    source = ref.name if ref.file is None else f"{ref.name}:{ref.file}"
    wanted = source if ref.file else str(ref)
    raise ModelNotFoundError(f"{wanted} is not on this machine", f"gemma pull {wanted}{here}")


def in_snapshot(repo: str, commit: str, file: str) -> InstalledModel:
    """A file that a download has just put into the cache."""
    snapshot = hubcache.repo_folder(repo) / "snapshots" / commit
    cached = hubcache.cached_file(repo, snapshot, file)
    assert cached is not None, f"{file} is not in {snapshot}"
    model = _from_cache(cached)
    return replace(model, last_used=_last_use(_read_uses(), model.ref))


def demo_model() -> InstalledModel:
    """The embedded Gemma 3 270M (base), joined from its packages and checked."""
    demo.assemble()
    model = _demo()
    return replace(model, last_used=_last_use(_read_uses(), model.ref))


def remember_use(model: InstalledModel) -> None:
    """Note that a model was used now. A folder that cannot be written to is no reason to fail."""
    uses = _read_uses()
    uses[model.ref] = {
        "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "path": str(model.path.absolute()),
    }
    write_state(_USES, uses)


def last_used() -> str | None:
    """The name of the model used last that is still here, as one would type it."""
    uses = _read_uses()
    for name in sorted(uses, key=lambda key: uses[key]["at"], reverse=True):
        is_demo = name.startswith(demo.DEMO_ID) and bool(demo.demo_parts())
        if is_demo or Path(uses[name]["path"]).is_file():
            return name
    return None


def quant_in_name(file: str) -> str:
    """The quantization that a file's name states, "" if none."""
    match = _QUANT_IN_NAME.search(file)
    if match is None:
        return ""
    quant = canonical_quant(match[1])
    return "QAT_Q4_0" if quant == "Q4_0" and "qat" in file.lower() else quant


def _from_cache(file: hubcache.CachedFile) -> InstalledModel:
    known = load_catalog().holding(file.repo, file.file)
    model, entry = known if known else (None, None)
    return InstalledModel(
        name=model.id if model else f"hf:{file.repo}",
        quant=entry.quant if entry else quant_in_name(file.file),
        bytes=file.bytes,
        path=file.path,
        source=f"hf:{file.repo}:{file.file}",
        revision=file.revision,
        sha256=file.sha256,
        license=model.license.id if model else "",
    )


def _demo() -> InstalledModel:
    model, entry = demo.demo_entry()
    return InstalledModel(
        name=model.id,
        quant=entry.quant,
        bytes=entry.size or 0,
        path=demo.demo_path(),
        source=f"package:{entry.package}",
        sha256=entry.sha256,
        license=model.license.id,
    )


def _at_path(ref: ModelRef) -> InstalledModel:
    path = ref.path
    assert path is not None
    if path.is_dir():
        raise ModelFileError(
            f"{path} is a folder, not a model file", "name the .gguf file inside it"
        )
    try:
        size = path.stat().st_size
    except FileNotFoundError as error:
        raise ModelNotFoundError(f"no such file: {path}", "see what is here: gemma list") from error
    except OSError as error:
        raise ModelFileError(f"cannot read {path}: {error.strerror}") from error
    return InstalledModel(
        name=str(path), quant=quant_in_name(path.name), bytes=size, path=path, source="path"
    )


def _is_asked_for(model: InstalledModel, ref: ModelRef) -> bool:
    if ref.kind == "catalog":
        return model.name == ref.name and ref.quant in (None, model.quant)
    prefix = f"hf:{ref.repo}:".casefold()
    if not model.source.casefold().startswith(prefix):
        return False
    if ref.file is not None:
        return model.source[len(prefix) :] == ref.file
    return ref.quant in (None, model.quant) and ref.revision in (None, "main", model.revision)


def parts_of(model: InstalledModel) -> list[Path]:
    """Its files, in order; of the embedded model the joined one, else the packages' parts."""
    if model.name == demo.DEMO_ID:
        return [model.path] if model.path.exists() else list(demo.demo_parts())
    return [model.path.with_name(name) for name in hubcache.split_parts(model.path.name)]


def projector_of(model: InstalledModel) -> Path | None:
    """The vision part that is here for a model: the catalogue's, else the one beside it."""
    entry = load_catalog().get(model.name)
    if entry is not None and entry.projector is not None:
        found = hubcache.find_file(entry.projector.repo, entry.projector.file)
        if found is not None:
            return found
    if model.source == "path" or model.name == demo.DEMO_ID:
        return None
    beside = sorted(path for path in model.path.parent.glob("*mmproj*.gguf") if path.is_file())
    return beside[0] if beside else None


def published_hash(model: InstalledModel, path: Path) -> str | None:
    """What a file's hash must be: the name of its blob, else what the catalogue states."""
    blob = path.resolve().name
    if path.is_symlink() and re.fullmatch(r"[0-9a-f]{64}|[0-9a-f]{40}", blob):
        return blob
    return model.sha256 or _catalogued_hash(model)


def _catalogued_hash(model: InstalledModel) -> str | None:
    """The catalogue's hash, where it belongs to the commit that is here."""
    entry = load_catalog().get(model.name)
    for file in entry.files if entry else ():
        if f"hf:{file.repo}:{file.file}" == model.source and file.revision == model.revision:
            return file.sha256
    return None


def _read_uses() -> dict[str, dict[str, str]]:
    """{name: {"at", "path"}}; what someone broke counts as absent."""
    return {
        name: {"at": str(use["at"]), "path": str(use["path"])}
        for name, use in read_state(_USES).items()
        if isinstance(use, dict) and "at" in use and "path" in use
    }


def _last_use(uses: dict[str, dict[str, str]], name: str) -> str | None:
    return uses[name]["at"] if name in uses else None
