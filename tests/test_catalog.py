"""models.toml agrees with itself, and with what is known of the models."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from gemma_cli.commands.loading.offering import best_model
from gemma_cli.commands.planning.fitting import MachineCapacity, planned_header
from gemma_cli.errors import UsageError
from gemma_cli.machine.devices import Device, Machine
from gemma_cli.machine.memory import kv_bytes
from gemma_cli.models.catalog import CatalogFile, CatalogModel, load_catalog
from gemma_cli.models.choice import best_file, planned_bytes
from gemma_cli.models.entries import QUANT_ORDER, bundled_path
from gemma_cli.models.gguf import read_header

# Bytes of f16 KV cache a token: in layers that see everything, and in window layers.
KV_A_TOKEN = {
    "gemma1:2b": (18432, 0),
    "gemma1:7b": (458752, 0),
    "gemma1.1:2b": (18432, 0),
    "gemma1.1:7b": (458752, 0),
    "gemma2:2b": (53248, 53248),
    "gemma2:9b": (172032, 172032),
    "gemma2:27b": (188416, 188416),
    "gemma3:270m": (3072, 15360),
    "gemma3:270m-pt": (3072, 15360),
    "gemma3:1b": (4096, 22528),
    "gemma3:4b": (20480, 118784),
    "gemma3:12b": (65536, 327680),
    "gemma3:27b": (81920, 425984),
    "gemma3n:e2b": (8192, 32768),
    "gemma3n:e4b": (8192, 32768),
    "gemma4:e2b": (6144, 12288),
    "gemma4:e4b": (16384, 40960),
    "gemma4:12b": (16384, 327680),
    "gemma4:26b": (20480, 204800),
    "gemma4:31b": (81920, 819200),
}
GB = 10**9


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMMA_HOME", str(tmp_path))


def models() -> tuple[CatalogModel, ...]:
    return load_catalog().models


def model(name: str) -> CatalogModel:
    found = load_catalog().get(name)
    assert found is not None
    return found


def files() -> list[CatalogFile]:
    return [f for m in models() for f in (*m.files, *((m.projector,) if m.projector else ()))]


def test_every_gemma_is_there() -> None:
    assert {m.id for m in models()} == set(KV_A_TOKEN)


def test_names_are_unique() -> None:
    spellings = Counter(name.casefold() for m in models() for name in (m.id, *m.aliases))
    assert spellings.most_common(1)[0][1] == 1
    assert all(m.id == m.id.casefold() for m in models())


def test_shapes_give_the_known_kv_cache() -> None:
    for m in models():
        header = planned_header(m.shape, GB)
        layers = range(header.n_layers)

        def a_token(n_ctx: int) -> float:
            """Bytes of growth a token below n_ctx; cells come in blocks of 256."""
            larger = kv_bytes(header, n_ctx, "f16", layers)  # noqa: B023 - called at once
            return (larger - kv_bytes(header, n_ctx - 256, "f16", layers)) / 256  # noqa: B023

        assert a_token(102_400) == KV_A_TOKEN[m.id][0], m.id
        # Short contexts grow in every layer.
        assert a_token(512) == sum(KV_A_TOKEN[m.id]), m.id


def test_the_embedded_models_shape_is_that_of_its_file(demo_gguf: Path) -> None:
    shape, header = model("gemma3:270m-pt").shape, read_header(demo_gguf)
    for name in type(shape).__slots__:
        assert getattr(shape, name) == getattr(header, name), name


def test_files_are_well_formed() -> None:
    for file in files():
        assert file.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", file.sha256)
        assert file.revision is None or re.fullmatch(r"[0-9a-f]{40}", file.revision)
        assert file.size is None or file.size > 10**8
        assert file.package or (re.fullmatch(r"[\w.-]+/[\w.-]+", file.repo) and file.file)
        assert file.package or file.file.endswith(".gguf")
    where = Counter((f.repo, f.file) for f in files() if not f.package)
    assert where.most_common(1)[0][1] == 1
    hashes = Counter(f.sha256 for f in files() if f.sha256)
    assert hashes.most_common(1)[0][1] == 1


def test_quantizations() -> None:
    for m in models():
        quants = [file.quant for file in m.files]
        assert len(set(quants)) == len(quants)
        assert set(quants) <= set(QUANT_ORDER)
        assert quants == sorted(quants, key=QUANT_ORDER.index)
        if not m.base:
            assert {"Q8_0", "Q5_K_M", "Q4_0"} <= set(quants), m.id
        sizes = {f.quant: f.planning_size for f in m.files if f.planning_size}
        assert sizes.get("Q8_0", 2) > sizes.get("Q4_0", 1)


def test_sizes_are_plausible_for_the_parameters() -> None:
    for m in models():
        size = m.file("Q8_0").planning_size if not m.base else None
        if size and m.parameters:
            assert 0.9 < size / m.parameters < 1.3, m.id


def test_licences() -> None:
    for m in models():
        assert m.license.url.startswith("https://")
        assert m.license.id == ("apache-2.0" if m.family == "gemma4" else "gemma")
        assert m.license.accept == (m.license.id == "gemma")


def test_sampling_and_modalities() -> None:
    for m in models():
        assert (m.sampling.temperature, m.sampling.top_k, m.sampling.top_p) == (1.0, 64, 0.95)
        assert m.modalities[0] == "text"
        assert (m.projector is not None) == ("image" in m.modalities)


def test_a_users_own_models(tmp_path: Path) -> None:
    own = tmp_path / "config" / "models.toml"
    own.parent.mkdir()
    text = bundled_path().read_text(encoding="utf-8")
    start = text.index('[[model]]\nid = "gemma3:1b"')
    entry = text[start : text.index("[[model]]", start + 5)]
    own.write_text(entry.replace('"gemma3:1b"', '"mine:1b"').replace('"gemma-3-1b-it"', '"my-one"'))
    mine = load_catalog().get("my-one")
    assert mine is not None
    assert (mine.id, mine.license.id) == ("mine:1b", "gemma")
    assert load_catalog().get("gemma3:1b") is not None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[model", "cannot be read"),
        ('[[model]]\nid = "a:1b"\n', "it lacks 'family'"),
        ('[[model]]\nid = "a:1b"\nfamily = "none"\n', "it lacks 'none'"),
        ("model = 3\n", "cannot be read"),
    ],
)
def test_a_broken_file_of_the_user_is_named(tmp_path: Path, text: str, said: str) -> None:
    own = tmp_path / "config" / "models.toml"
    own.parent.mkdir()
    own.write_text(text)
    with pytest.raises(UsageError, match=said) as error:
        load_catalog()
    assert str(own) in error.value.message


def machine(ram: float, *gpus: float) -> Machine:
    """A computer with so many GB free."""
    cards = tuple(Device("card", "gpu", int(gb * GB), int(gb * GB)) for gb in gpus)
    return Machine(Device("CPU", "cpu", int(ram * GB), int(ram * GB)), cards, threads=4)


def quant_for(name: str, ram: float, *gpus: float, projector: int = 0) -> str:
    return best_file(model(name), MachineCapacity(machine(ram, *gpus)), projector).file.quant


def test_choice_takes_the_best_that_fits() -> None:
    assert quant_for("gemma3:4b", 100) == "Q8_0"
    # Q6_K: 3.19 GB of weights, 0.45 GB of KV cache at 8192 tokens, buffers and a margin.
    assert quant_for("gemma3:4b", 4.4) == "Q6_K"
    assert quant_for("gemma3:4b", 4.4, projector=851_251_328) != "Q6_K"
    assert quant_for("gemma3:4b", 3.7) not in ("Q8_0", "Q6_K")


def test_a_gpu_makes_room() -> None:
    assert quant_for("gemma3:12b", 8) != "Q8_0"
    assert quant_for("gemma3:12b", 8, 24) == "Q8_0"
    # All of it on the card goes before more bits that are half on the host.
    assert quant_for("gemma3:27b", 64) == "Q8_0"
    assert quant_for("gemma3:27b", 64, 24) == "Q5_K_M"


def test_the_smallest_where_nothing_fits() -> None:
    gemma = model("gemma3:4b")
    choice = best_file(gemma, MachineCapacity(machine(1)))
    assert not choice.fits
    assert choice.fit is not None
    stated = [planned_bytes(gemma, file) or 0 for file in gemma.files]
    assert planned_bytes(gemma, choice.file) == min(stated)


def test_what_fits_is_what_the_planner_loads(demo_gguf: Path) -> None:
    """A header made from the catalogue fits where the file's own does."""
    gemma, header = model("gemma3:270m-pt"), read_header(demo_gguf)
    for mb in range(400, 1000, 2):
        capacity = MachineCapacity(machine(mb / 1000))
        of_shape = capacity.fit(gemma.shape, header.tensor_bytes)
        assert of_shape == capacity.fit_header(header), mb
    assert of_shape.fits


def test_what_is_offered_first() -> None:
    def offered(computer: Machine) -> str:
        found = best_model(computer)
        return f"{found[0].id}:{found[1].file.quant}" if found else ""

    assert offered(machine(0.5)) == ""
    assert offered(machine(3)) == "gemma3:1b:Q8_0"  # no Gemma 4 is that small
    # Its per-layer embeddings stay in the file.
    assert offered(machine(4)).startswith("gemma4:e2b")
    assert offered(machine(12)).startswith("gemma4:e4b")
    assert offered(machine(64, 16)) == "gemma4:12b:Q8_0"  # all of it on the card
    assert offered(machine(64, 100)) == "gemma4:31b:Q8_0"


def test_a_size_nobody_stated_is_estimated_only_to_choose() -> None:
    gemma = model("gemma3:4b")
    qat = gemma.file("QAT_Q4_0")
    assert qat.planning_size is None
    guess = planned_bytes(gemma, qat)
    assert guess is not None
    assert 2.3 * GB < guess < 3.2 * GB  # the published one is about 2.4
    # Of the sibling with as many bits: the large embedding of a small model counts in both.
    small = model("gemma3:270m")
    guess = planned_bytes(small, small.file("QAT_Q4_0"))
    assert guess is not None
    assert guess >= (small.file("Q4_0").planning_size or 0)
