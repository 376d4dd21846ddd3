"""The planner's figures are llama.cpp's own, for every model of the catalogue."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from gemma_cli.engine.model import quiet_backend
from gemma_cli.engine.simulation import Simulation
from gemma_cli.machine.layout import compute_bytes, kv_bytes
from gemma_cli.machine.memory import Wishes, layouts
from gemma_cli.models.entries import CatalogModel, load_catalog
from gemma_cli.models.gguf import read_header
from tests.memory_matrix import HOST, MIB, compared
from tests.weightless import weightless

MODELS = [model for model in load_catalog().models if not model.base]
CONTEXTS = (4096, 8192, 32768, 1 << 20)  # the last is cut to the model's own
LINUX_ONLY = pytest.mark.skipif(sys.platform != "linux", reason="reads libstdc++'s std::map")


@LINUX_ONLY
@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.id)
@pytest.mark.parametrize("quant", ["Q4_0", "Q5_K_M", "Q8_0"])
def test_weights_kv_and_compute(tmp_path: Path, model: CatalogModel, quant: str) -> None:
    quiet_backend()
    count = 0
    for one in compared(tmp_path, model, quant, CONTEXTS):
        assert one.agrees, (one, one.off / MIB)
        if one.what.endswith(" kv"):
            # Exact, but for the few rows of logits that are counted with it.
            assert 0 <= one.real - one.planned <= 2 * MIB, (one, one.off / MIB)
        count += 1
    assert count >= 2 * 3 * 2 * 2 + 1


@LINUX_ONLY
def test_llama_cpp_takes_experts_on_the_host_and_a_split(tmp_path: Path) -> None:
    """Without a GPU nothing moves; that it is understood is what can be seen here."""
    model = load_catalog().get("gemma4:26b")
    assert model is not None
    path = weightless(tmp_path / "model.gguf", model.shape, "Q4_0")
    simulation = Simulation(path, 31, (20, 11), range(5))
    simulation.close()


@pytest.mark.parametrize("name", ["gemma2:2b", "gemma3:4b", "gemma3n:e4b", "gemma4:26b"])
def test_what_the_program_itself_asks(tmp_path: Path, name: str) -> None:
    """Simulation reads llama.cpp's log: on every system, and sees flash attention."""
    model = load_catalog().get(name)
    assert model is not None
    path = weightless(tmp_path / "model.gguf", model.shape, "Q4_K_M")
    header = read_header(path)
    (plan,) = layouts(header, HOST, Wishes(n_ctx=8192))
    simulation = Simulation(path)
    try:
        said = simulation.ask(plan)
    finally:
        simulation.close()
    assert said.flash_attention
    assert said.kv == kv_bytes(header, 8192, "f16", range(header.n_layers))
    assert sum(said.compute.values()) == pytest.approx(compute_bytes(header, 8192), abs=16 * MIB)
