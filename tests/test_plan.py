"""`gemma plan`: the installed program, for this machine and for others."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gemma_cli.commands.planning.fitting import MachineCapacity
from gemma_cli.errors import UsageError
from gemma_cli.machine.devices import Device, Machine
from tests.conftest import DEMO, Env, Gemma, program
from tests.gguf_files import write_gguf
from tests.gguf_models import gemma3_metadata, gemma3_tensors
from tests.hub_server import LoopbackHub, loopback_hub

KEYS = [
    *("model", "quant", "file_bytes", "n_ctx", "n_ctx_max", "n_layers", "gpu_layers", "kv_type"),
    *("devices", "fits", "why", "alternatives"),
]
GIB = 1 << 30


def planned(gemma: Gemma, *arguments: str, env: Env | None = None, code: int = 0) -> dict[str, Any]:
    done = gemma("plan", *arguments, "--json", env=env)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_the_contracts_keys_before_any_download(gemma: Gemma) -> None:
    made = planned(gemma, "gemma3:27b:q4_0", "--gpu", "24GiB", "--ram", "64GiB")
    assert list(made)[: len(KEYS)] == KEYS
    assert (made["model"], made["quant"], made["fits"]) == ("gemma3:27b", "Q4_0", True)
    assert (made["n_layers"], made["gpu_layers"], made["kv_type"]) == (62, 63, "f16")
    host, gpu = made["devices"]
    assert (host["name"], host["kind"], host["total"]) == ("CPU", "cpu", 64 * GIB)
    assert (gpu["kind"], gpu["total"]) == ("gpu", 24 * GIB)
    assert gpu["weights"] + gpu["kv"] + gpu["compute"] <= 23 * GIB
    assert all(isinstance(gpu[key], int) for key in ("free", "weights", "kv", "compute"))
    quants = {row["quant"] for row in made["alternatives"]}
    assert {"Q8_0", "Q5_K_M"} <= quants
    assert "Q4_0" not in quants
    for row in made["alternatives"]:
        assert {"quant", "n_ctx", "gpu_layers", "fits"} <= set(row)


def test_ram_alone_is_a_machine_without_gpu(gemma: Gemma) -> None:
    made = planned(gemma, "gemma3:4b", "--ram", "8GiB", "--ctx", "8192")
    assert [device["name"] for device in made["devices"]] == ["CPU"]
    assert (made["gpu_layers"], made["n_ctx"]) == (0, 8192)
    assert made["quant"] == "Q8_0"


def test_two_gpus_share_the_layers(gemma: Gemma) -> None:
    made = planned(
        gemma, "gemma3:27b:q8_0", "--gpu", "24GiB", "--gpu", "12GiB", "--ram", "64GiB",
        "--ctx", "8192",
    )  # fmt: skip
    _, first, second = made["devices"]
    assert made["gpu_layers"] == 63 == first["layers"] + second["layers"]
    assert first["left"] >= GIB
    assert second["left"] >= GIB


def test_experts_leave_the_gpu_before_layers_do(gemma: Gemma) -> None:
    made = planned(gemma, "gemma4:26b:q4_0", "--gpu", "10GiB", "--ram", "64GiB", "--ctx", "8192")
    assert made["gpu_layers"] == 31
    assert 0 < made["host_experts"] < 30


def test_what_does_not_fit_exits_5_with_commands(gemma: Gemma) -> None:
    done = gemma("plan", "gemma3:27b:q8_0", "--ram", "16GiB", "--json")
    assert done.returncode == 5
    made = json.loads(done.stdout)
    assert made["fits"] is False
    assert "needs" in made["why"]
    assert "gemma pull gemma3:12b:" in done.stderr
    smaller = gemma("plan", "gemma3:12b:q8_0", "--ram", "10GiB")
    assert smaller.returncode == 5
    assert "gemma pull gemma3:12b:q6_k" in smaller.stderr
    assert planned(gemma, "gemma3:12b:q6_k", "--ram", "10GiB")["fits"]
    long = gemma("plan", "gemma3:12b:q4_0", "--ram", "12GiB", "--ctx", "max")
    assert long.returncode == 5
    assert "--kv-type q8_0" in long.stderr
    assert "--ctx 65536" in long.stderr
    assert planned(gemma, "gemma3:12b:q4_0", "--ram", "12GiB", "--ctx", "65536")["fits"]
    kv = ("--kv-type", "q8_0")
    assert planned(gemma, "gemma3:12b:q4_0", "--ram", "12GiB", "--ctx", "max", *kv)["fits"]


def test_force_shows_what_would_be_tried(gemma: Gemma, home: Env) -> None:
    asked = ("gemma3:27b:q8_0", "--ram", "16GiB")
    made = planned(gemma, *asked, "--force")
    assert made["fits"] is False
    assert made["n_ctx"] == 4096
    assert "more than fits, as forced" in made["why"]
    assert "needs 27." in made["why"]
    assert made["devices"][0]["left"] < 0
    assert {row["quant"]: row["fits"] for row in made["alternatives"]}["Q4_0"] is True
    shown = gemma("plan", *asked, "--force")
    assert shown.returncode == 0
    assert "fits       no" in shown.stdout
    assert "--force tries it" in shown.stderr
    config = Path(home["GEMMA_HOME"]) / "config"
    config.mkdir(parents=True)
    (config / "config.toml").write_text("force = true\n")
    assert planned(gemma, *asked)["fits"] is False
    assert planned(gemma, "gemma3:27b:q4_0", "--ram", "64GiB")["fits"] is True


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--gpu", "24 potatoes"], "--gpu takes an amount of memory, not '24 potatoes'"),
        (["--gpu-margin", "lots"], "--gpu-margin takes an amount of memory"),
        (["--gpu-layers", "999"], "this model has 35"),
        (["--ram", "24 potatoes"], "--ram takes an amount of memory"),
        (["--gpu", "lots"], "--gpu takes an amount of memory"),
        (["--gpu", "0"], "no machine is so small"),
        (["--gpu", "24"], "for example: --gpu 24GiB"),
        (["--ram", "1"], "--ram 1 is 1 byte: no machine"),
        (["--ctx", "9999999"], "131072"),
        (["--ctx", "-1"], "--ctx must be"),
        (["--gpu", "24GiB", "--gpu-layers", "99"], "this model has 35"),
        (["--kv-type", "q3"], "--kv-type takes"),
    ],
)
def test_nonsense_is_refused(gemma: Gemma, arguments: list[str], said: str) -> None:
    done = gemma("plan", "gemma3:4b", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_unknown_names_and_quantizations(gemma: Gemma) -> None:
    assert gemma("plan", "gemma3:5b").returncode == 3
    done = gemma("plan", "gemma3:4b", "--quant", "q2_k")
    assert done.returncode == 3
    assert "Q4_K_M" in done.stderr


def test_a_gpu_for_a_build_without_one_is_said(gemma: Gemma) -> None:
    from gemma_cli.machine.devices import backends

    if backends() != ("CPU",):
        pytest.skip("this llama.cpp can use GPUs")
    assert "for CPUs only" in gemma("plan", "gemma3:4b", "--gpu", "8GiB").stderr


def test_a_file_that_is_here_is_confirmed_by_llama_cpp(gemma: Gemma, with_demo: Env) -> None:
    made = planned(gemma, DEMO, "--ctx", "8192", env=with_demo)
    host = made["devices"][0]
    said = made["llama_cpp"]
    assert said["kv"] == host["kv"]
    assert abs(said["compute"] - host["compute"]) < 16 << 20
    shown = gemma("plan", DEMO, env=with_demo)
    assert shown.returncode == 0
    assert "[" in shown.stdout
    assert "~TOK/S" in shown.stdout
    assert "llama.cpp itself" in shown.stderr


def test_a_header_that_lacks_a_key_is_planned_cautiously(gemma: Gemma, tmp_path: Path) -> None:
    metadata = gemma3_metadata()
    tensors = gemma3_tensors(metadata)
    del metadata["gemma3.context_length"]
    path = write_gguf(tmp_path / "odd.gguf", metadata, tensors)
    done = gemma("plan", str(path), "--ram", "8GiB")
    assert "gemma3.context_length is missing" in done.stderr, done.stderr
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("key", "cautious"),
    [
        ("context_length", "planned for 4,096 tokens"),
        ("feed_forward_length", "taken as 128"),
        ("attention.head_count", "a full-width KV cache is planned"),
    ],
)
def test_what_llama_cpp_refuses_is_planned_all_the_same_and_said(
    gemma: Gemma, tmp_path: Path, key: str, cautious: str
) -> None:
    metadata = gemma3_metadata()
    tensors = gemma3_tensors(metadata)
    del metadata[f"gemma3.{key}"]
    path = write_gguf(tmp_path / "odd.gguf", metadata, tensors)
    done = gemma("plan", str(path))
    assert done.returncode == 1
    assert "KV cache" in done.stdout
    assert f"gemma3.{key} is missing: {cautious}" in done.stderr
    assert "odd.gguf" in done.stderr.splitlines()[-1] + done.stderr.splitlines()[-2]
    assert "Traceback" not in done.stderr
    assert gemma("run", "-m", str(path), "Hi").returncode == 1


def test_layers_for_a_gpu_that_is_not_here(gemma: Gemma, with_demo: Env) -> None:
    from gemma_cli.machine.devices import backends
    from gemma_cli.machine.graphics import graphics_cards

    if backends() != ("CPU",) or graphics_cards():
        pytest.skip("there is a GPU")
    said = "--gpu-layers all: this llama.cpp is built for CPUs only, and no GPU was found here"
    run = ("run", "--raw", "-n", "1", "--ctx", "256")
    told = gemma(*run, "--gpu-layers", "all", "Hi", env=with_demo)
    assert told.returncode == 0
    assert told.stderr.count(said) == 1
    assert "gemma doctor" in told.stderr
    hidden = gemma(*run, "--gpu-layers", "all", "Hi", env={"CUDA_VISIBLE_DEVICES": ""})
    assert "CUDA_VISIBLE_DEVICES hides any GPU" in hidden.stderr
    for silent in ((), ("--gpu-layers", "0"), ("--gpu-layers", "auto")):
        assert "--gpu-layers" not in gemma(*run, *silent, "Hi", env=with_demo).stderr
    assert said in gemma("plan", DEMO, "--gpu-layers", "all", env=with_demo).stderr
    assert said not in gemma("plan", DEMO, "--gpu-layers", "all", "--gpu", "8GiB").stderr
    refused = gemma(*run, "--gpu-layers", "999", "Hi", env=with_demo)
    assert refused.returncode == 2
    assert "this model has 19" in refused.stderr
    assert "use --gpu-layers all" in refused.stderr


@pytest.fixture
def hub() -> Iterator[LoopbackHub]:
    with loopback_hub() as running:
        yield running


def test_a_file_on_the_hub_by_its_header_alone(
    gemma: Gemma, tmp_path: Path, hub: LoopbackHub
) -> None:
    metadata = gemma3_metadata(embedding=256, feed_forward=4096)
    path = write_gguf(tmp_path / "built-Q8_0.gguf", metadata, gemma3_tensors(metadata))
    assert path.stat().st_size > 64 << 20
    hub.add("someone/built-GGUF", {path.name: path.read_bytes()})
    env = hub.environment()
    made = planned(gemma, "hf:someone/built-GGUF", "--ram", "8GiB", env=env)
    assert made["file_bytes"] == path.stat().st_size
    assert (made["n_layers"], made["n_ctx_max"], made["fits"]) == (6, 32768, True)
    assert [get.headers.get("range") for get in hub.gets()] == [f"bytes=0-{(8 << 20) - 1}"]
    hub.add("someone/bad-GGUF", {"bad-Q8_0.gguf": b"no model at all"})
    bad = gemma("plan", "hf:someone/bad-GGUF", env=env)
    assert bad.returncode == 1
    # Not the copy that is gone when this is read.
    assert "gemma: someone/bad-GGUF/bad-Q8_0.gguf is not a GGUF file" in bad.stderr
    offline = gemma("plan", "hf:someone/built-GGUF", env={**env, "HF_HUB_OFFLINE": "1"})
    assert offline.returncode == 3
    assert "offline" in offline.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not keep to the limit")
def test_where_bandwidth_cannot_be_measured_it_is_assumed(home: Env) -> None:
    # What is read for it are 256 MiB.
    limited = ["sh", "-c", 'ulimit -v 250000; exec "$@"', "sh", *program(), "plan", "gemma1:2b"]
    done = subprocess.run(limited, env=home, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 5), done.stderr
    assert "(assumed)" in done.stderr


def test_the_margin_is_a_setting(gemma: Gemma) -> None:
    asked = ("gemma3:12b:q4_0", "--gpu", "8GiB", "--ram", "32GiB", "--ctx", "8192")
    usual = planned(gemma, *asked)["gpu_layers"]
    greedy = planned(gemma, *asked, env={"GEMMA_GPU_MARGIN": "0"})["gpu_layers"]
    generous = planned(gemma, *asked, env={"GEMMA_GPU_MARGIN": "3GiB"})["gpu_layers"]
    assert generous < usual <= greedy
    assert planned(gemma, *asked, "--gpu-margin", "3GiB")["gpu_layers"] == generous


def test_the_margin_decides_which_quantization_is_taken(gemma: Gemma, home: Env) -> None:
    asked = ("gemma3:4b", "--gpu", "6GiB", "--ram", "32GiB")
    usual = planned(gemma, *asked)
    config = Path(home["GEMMA_HOME"]) / "config"
    config.mkdir(parents=True)
    (config / "config.toml").write_text('gpu_margin = "3GiB"\n')
    careful = planned(gemma, *asked)
    assert careful["file_bytes"] < usual["file_bytes"]
    assert careful["gpu_layers"] == usual["gpu_layers"] == 35
    assert planned(gemma, *asked, env={"GEMMA_GPU_MARGIN": "1GiB"})["quant"] == usual["quant"]


def test_the_margin_holds_for_capacities_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """What pull, list --available and show ask; a GPU is not at hand where this runs."""
    card = Device("Card", "gpu", 8 * GIB, 8 * GIB, id="CUDA0")
    here = Machine(Device("CPU", "cpu", 16 * GIB, 16 * GIB), (card,), threads=4)
    monkeypatch.setenv("GEMMA_GPU_MARGIN", "5GiB")
    assert MachineCapacity(here).free == 19 * GIB
    assert MachineCapacity(here, gpu_margin=GIB).free == 23 * GIB
    monkeypatch.setenv("GEMMA_GPU_MARGIN", "lots")
    with pytest.raises(UsageError, match="GEMMA_GPU_MARGIN takes an amount"):
        MachineCapacity(here)


def test_list_and_show_refuse_a_margin_that_is_none(gemma: Gemma) -> None:
    for asked in (
        ("list", "--available"),
        ("show", "gemma3:4b"),
        ("pull", "--dry-run", "gemma3:4b"),
    ):
        done = gemma(*asked, env={"GEMMA_GPU_MARGIN": "lots"})
        assert (done.returncode, done.stdout) == (2, "")
        assert "GEMMA_GPU_MARGIN takes an amount of memory, not 'lots'" in done.stderr


def test_the_table_in_the_docs_is_the_planners() -> None:
    script = Path(__file__).resolve().parents[1] / "scripts" / "memory_table.py"
    done = subprocess.run([sys.executable, str(script), "--check"], check=False)
    assert done.returncode == 0


def test_the_embedded_model_before_its_parts_are_joined(gemma: Gemma, home: Env) -> None:
    shown = gemma("plan", DEMO)
    assert shown.returncode == 0, shown.stderr
    assert "Q4_K_M, 253 MB, here" in shown.stdout
    assert not (Path(home["GEMMA_HOME"]) / "cache" / "models").exists()


def test_a_size_is_the_same_wherever_it_is_shown(gemma: Gemma) -> None:
    """Exact, rounded or not known: plan, show and list say so alike."""
    rows = {}
    for command in ("plan", "show"):
        lines = gemma(command, "gemma3:4b").stdout.replace("> ", "  ").splitlines()
        cells = [line.split() for line in lines if line.split()[1:2]]
        rows[command] = {row[0]: row[1] for row in cells if row[0].endswith(("_0", "_K_M", "_K"))}
    assert rows["plan"] == rows["show"]
    assert rows["plan"]["Q4_0"] == "~2.36"
    assert rows["plan"]["QAT_Q4_0"] == "?"
    listed = gemma("list", "--available").stdout
    for quant, size in rows["plan"].items():
        assert f"{quant} {size}" in listed
    assert gemma("plan", "gemma3:4b:q4_0").stdout.startswith("gemma3:4b  Q4_0, ~2.36 GB,")


@pytest.mark.usefixtures("with_demo")
def test_a_base_model_that_does_not_fit(gemma: Gemma) -> None:
    done = gemma("plan", DEMO, "--ram", "300MiB")
    assert done.returncode == 5
    assert "Traceback" not in done.stderr
    assert "needs" in done.stderr


def test_a_damaged_file_is_no_hindrance_to_another_quantization(gemma: Gemma, home: Env) -> None:
    repo = Path(home["HF_HOME"]) / "hub" / "models--unsloth--gemma-3-4b-it-GGUF"
    snapshot = repo / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "gemma-3-4b-it-Q5_K_M.gguf").write_bytes(b"no model at all")
    assert gemma("plan", "gemma3:4b").returncode == 1
    other = gemma("plan", "gemma3:4b:q4_0")
    assert other.returncode == 0, other.stderr
    rows = [line.removeprefix("> ").split()[0] for line in other.stdout.splitlines()[-6:]]
    assert rows == ["Q8_0", "Q6_K", "Q5_K_M", "QAT_Q4_0", "Q4_K_M", "Q4_0"]


def test_a_quantization_is_spelled_as_for_a_pull(gemma: Gemma) -> None:
    for spelling in ("qat", "QAT-Q4_0", "q4_0-qat"):
        assert planned(gemma, "gemma3:4b", "--quant", spelling)["quant"] == "QAT_Q4_0"
