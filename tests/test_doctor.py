"""`gemma doctor` beside things that are really broken: each is a line, nothing crashes."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sqlite3
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import gemma_cli
from gemma_cli.commands.checking.program import missing_features
from tests.conftest import Env, Gemma, program
from tests.gguf_models import tiny_gemma
from tests.hub_server import Behaviour, LoopbackHub, loopback_hub

OFFLINE = {"HF_HUB_OFFLINE": "1"}
CHECKS = {
    *("python", "packages", "llama.cpp", "processor", "gpu", "memory", "threads", "settings"),
    *("folders", "disk", "kv cache", "models", "history", "hub", "terminal"),
}


@pytest.fixture
def hub() -> Iterator[LoopbackHub]:
    with loopback_hub() as server:
        yield server


def of(done: subprocess.CompletedProcess[str], check: str) -> list[dict[str, Any]]:
    """A check's findings in the JSON; whatever is broken, the others are there too."""
    assert "Traceback" not in done.stderr
    report = json.loads(done.stdout)
    found = report["findings"]
    assert {"python", "packages", "gpu", "folders", "hub", "terminal"} <= {
        f["check"] for f in found
    }
    assert report["ok"] == (done.returncode == 0)
    return [finding for finding in found if finding["check"] == check]


def problem(done: subprocess.CompletedProcess[str], check: str) -> dict[str, Any]:
    assert done.returncode == 1
    (found,) = (each for each in of(done, check) if each["state"] == "problem")
    return dict(found)


def test_a_sound_installation(gemma: Gemma, with_demo: Env) -> None:
    done = gemma("doctor", "--json", env=OFFLINE)
    assert done.returncode == 0, done.stdout
    report = json.loads(done.stdout)
    assert {finding["check"] for finding in report["findings"]} == CHECKS
    assert "CPU" in report["llama_cpp"]["backends"]
    assert "offline" in of(done, "hub")[0]["text"]
    assert "llama-cpp-python" in of(done, "packages")[0]["text"]
    assert "verified on" in of(done, "models")[0]["text"]
    assert not Path(with_demo["GEMMA_HOME"], "data").exists()  # it only looks


def test_people_get_a_line_each_and_a_sum(gemma: Gemma, home: Env) -> None:
    Path(home["GEMMA_HOME"]).mkdir()
    Path(home["GEMMA_HOME"], "data").write_text("not a folder")
    done = gemma("doctor", env=OFFLINE)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    (at,) = (i for i, line in enumerate(lines) if line.startswith("problem"))
    assert lines[at].split()[:2] == ["problem", "folders"]
    assert lines[at + 1].startswith(" " * 20)
    assert "GEMMA_HOME" in lines[at + 1]
    assert "gemma: 1 problem, " in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="a pseudo-terminal")
def test_on_a_terminal_the_columns_stay_apart(with_demo: Env) -> None:
    from tests.emulator import Terminal

    with Terminal([*program(), "doctor"], with_demo | OFFLINE, columns=80) as terminal:
        lines = terminal.wait_for(r"gemma: \d+ problem").splitlines()
    states = ("good", "notice", "problem")
    assert sum(line.startswith(states) for line in lines) >= len(CHECKS)
    (at,) = (i for i, line in enumerate(lines) if line.split()[1:2] == ["packages"])
    assert lines[at + 1].startswith(" " * 20)  # longer than a line, and still in its column
    assert lines[at + 1][20] != " "
    assert any("xterm-256color, 80 x 24" in line for line in lines)


def test_settings_that_cannot_be_read(gemma: Gemma, home: Env) -> None:
    folder = Path(home["GEMMA_HOME"], "config")
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text("temp = 'warm'\n")
    found = problem(gemma("doctor", "--json", env=OFFLINE), "settings")
    assert "'temp' must be a number" in found["text"]


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("ctx", '"potato"', "number or auto"),
        ("gpu_layers", "-1", "0 or more"),
        ("gpu_margin", '"x"', "amount of memory"),
        ("top_p", "7", "top-p"),
        ("model", '"nosuch"', "nosuch"),
        ("logit_bias", '["x"]', "logit-bias"),
    ],
)
def test_a_setting_that_every_chat_would_refuse(
    gemma: Gemma, home: Env, key: str, value: str, said: str
) -> None:
    file = Path(home["GEMMA_HOME"], "config", "config.toml")
    file.parent.mkdir(parents=True)
    file.write_text(f"{key} = {value}\n")
    found = problem(gemma("doctor", "--json", env=OFFLINE), "settings")
    assert "config.toml" in found["text"]
    assert said in found["text"]
    assert found["fix"] == f"gemma config unset {key}"
    assert gemma("config", "unset", key).returncode == 0
    (well,) = of(gemma("doctor", "--json", env=OFFLINE), "settings")
    assert well["state"] == "good"


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("GEMMA_CTX", "potato", "number or auto"),
        ("GEMMA_TEMP", "warm", "takes a number"),
        ("GEMMA_MODEL", "nosuch", "nosuch"),
    ],
)
def test_a_variable_that_every_chat_would_refuse(
    gemma: Gemma, variable: str, value: str, said: str
) -> None:
    found = problem(gemma("doctor", "--json", env=OFFLINE | {variable: value}), "settings")
    assert variable in found["text"]
    assert said in found["text"]
    assert found["fix"] == f"unset {variable}"


def test_variables_that_hold_what_they_should(gemma: Gemma) -> None:
    env = {"GEMMA_TEMP": "0.7", "GEMMA_TOP_K": "40", "GEMMA_CTX": "max", "GEMMA_THINK": "1"}
    (found,) = of(gemma("doctor", "--json", env=OFFLINE | env), "settings")
    assert found["state"] == "good"


def test_models_that_cannot_be_kept_where_hf_home_says(gemma: Gemma, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    env = OFFLINE | {"HF_HOME": str(tmp_path / "file")}
    found = problem(gemma("doctor", "--json", env=env), "disk")
    assert "HF_HOME" in found["fix"]


@pytest.mark.skipif(os.name == "nt", reason="no such limit")
def test_a_disk_without_room_for_a_chat(home: Env) -> None:
    """A file may be made there, and nothing be written to it: as on a disk that is full."""
    limited = ["sh", "-c", 'ulimit -f 16; exec "$@"', "sh", *program(), "doctor", "--json"]
    done = subprocess.run(limited, env=home | OFFLINE, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    found = [each for each in of(done, "folders") if each["state"] == "problem"]
    assert {each["text"].split(":")[0] for each in found} == {"data", "state", "cache"}


def test_a_library_that_does_not_load(gemma: Gemma, tmp_path: Path) -> None:
    for name in ("libllama.so", "libllama.dylib", "llama.dll"):
        (tmp_path / name).write_bytes(b"not a library")
    done = gemma("doctor", "--json", env=OFFLINE | {"LLAMA_CPP_LIB_PATH": str(tmp_path)})
    found = problem(done, "llama.cpp")
    assert "cannot be loaded" in found["text"]
    assert "LLAMA_CPP_LIB_PATH" in found["fix"]


@pytest.mark.skipif(
    sys.platform != "linux" or not shutil.which("cc"), reason="builds a Linux library"
)
def test_a_library_for_another_processor_ends_a_child_only(gemma: Gemma, tmp_path: Path) -> None:
    source = tmp_path / "trap.c"
    source.write_text('__attribute__((constructor)) void start(void) { __asm__("ud2"); }\n')
    if os.uname().machine != "x86_64":
        source.write_text("__attribute__((constructor)) void s(void) { __builtin_trap(); }\n")
    library = tmp_path / "libllama.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    done = gemma("doctor", "--json", env=OFFLINE | {"LLAMA_CPP_LIB_PATH": str(tmp_path)})
    assert "another processor" in problem(done, "llama.cpp")["text"]


@pytest.fixture
def lacking(tmp_path: Path) -> Any:
    """Make an environment that has all of this one's packages but one: lacking("llama_cpp")."""

    def make(*names: str) -> str:
        place = tmp_path / "venv"
        venv.create(place, with_pip=False, symlinks=os.name != "nt")
        folder = Path(sysconfig.get_path("purelib", vars={"base": str(place)}))
        for entry in Path(pytest.__file__).parents[1].iterdir():
            kept = not entry.name.startswith((*names, "gemma_cli", "__editable__", "__pycache__"))
            if kept and entry.suffix != ".pth":
                (folder / entry.name).symlink_to(entry)
        (folder / "gemma.pth").write_text(str(Path(gemma_cli.__file__).parents[1]))
        metadata = Path(pytest.__file__).parents[1].glob("gemma_cli-*.dist-info")
        for entry in metadata:
            (folder / entry.name).symlink_to(entry)
        return str(place / "bin" / "python")

    return make


@pytest.mark.skipif(os.name == "nt", reason="links packages")
@pytest.mark.parametrize(
    ("package", "check"), [("llama_cpp", "llama.cpp"), ("huggingface_hub", "hub")]
)
def test_a_package_that_is_missing(
    home: Env, lacking: Any, package: str, check: str, tmp_path: Path
) -> None:
    python = lacking(package)
    done = subprocess.run(
        [python, "-m", "gemma_cli", "doctor", "--json"],
        env=home | OFFLINE,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "not" in problem(done, check)["text"].lower()
    missing = problem(done, "packages")
    assert "is not installed" in missing["text"]
    assert python in missing["fix"]
    wanted = shlex.split(missing["fix"])[-1]
    assert wanted.startswith(package.replace("llama_cpp", "llama_cpp_python").replace("_", "-"))


def history_of(home: Env) -> Path:
    return Path(home["GEMMA_HOME"], "data", "history.db")


def with_chats(home: Env) -> Path:
    """A real history of many pages."""
    from gemma_cli.chat.conversation import Conversation
    from gemma_cli.chat.history import History

    path = history_of(home)
    with closing(History(path)) as history:
        for number in range(20):
            conversation = Conversation()
            turn = conversation.add("user", f"question {number} " * 200)
            history.save(None, conversation, [turn], "model")
    return path


def test_a_sound_history_is_counted_and_left_as_it_is(gemma: Gemma, home: Env) -> None:
    path = with_chats(home)
    before = path.read_bytes()
    (found,) = of(gemma("doctor", "--json", env=OFFLINE), "history")
    assert found["state"] == "good"
    assert found["text"].startswith("20 chats")
    assert path.read_bytes() == before


def test_a_damaged_history(gemma: Gemma, home: Env) -> None:
    path = with_chats(home)
    whole = path.read_bytes()
    for damaged in (
        b"no database at all",
        whole[: len(whole) // 2],
        whole[:8192] + os.urandom(16384) + whole[24576:],
    ):
        path.write_bytes(damaged)
        found = problem(gemma("doctor", "--json", env=OFFLINE), "history")
        assert "damaged" in found["text"]
        assert path.read_bytes() == damaged  # it only looks


def test_a_history_of_others(gemma: Gemma, home: Env) -> None:
    path = with_chats(home)
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version = 99")
    assert "newer" in problem(gemma("doctor", "--json", env=OFFLINE), "history")["text"]
    path.unlink()
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE mine (x)")
    found = problem(gemma("doctor", "--json", env=OFFLINE), "history")
    assert "another program" in found["text"]
    path.unlink()
    path.mkdir()
    assert "cannot be read" in problem(gemma("doctor", "--json", env=OFFLINE), "history")["text"]


def test_a_model_that_was_cut_and_one_that_nobody_verified(
    gemma: Gemma, home: Env, tmp_path: Path
) -> None:
    snapshot = Path(home["HF_HOME"], "hub/models--some--gemma/snapshots", "a" * 40)
    snapshot.mkdir(parents=True)
    whole = tiny_gemma(tmp_path / "tiny.gguf").read_bytes()
    (snapshot / "gemma-Q8_0.gguf").write_bytes(whole)
    ours = [f for f in of(gemma("doctor", "--json", env=OFFLINE), "models") if "hf:" in f["text"]]
    assert [finding["state"] for finding in ours] == ["notice"]
    assert ours[0]["fix"] == "gemma verify hf:some/gemma:q8_0"
    assert gemma("verify", "hf:some/gemma:q8_0").returncode == 0
    ours = [f for f in of(gemma("doctor", "--json", env=OFFLINE), "models") if "hf:" in f["text"]]
    assert [finding["state"] for finding in ours] == ["good"]
    (snapshot / "gemma-Q8_0.gguf").write_bytes(whole[: len(whole) // 2])
    found = problem(gemma("doctor", "--json", env=OFFLINE), "models")
    assert "gemma pull hf:some/gemma:q8_0" in found["fix"]


def test_what_verify_found_damaged_is_remembered(gemma: Gemma, home: Env, tmp_path: Path) -> None:
    folder = Path(home["HF_HOME"], "hub/models--some--gemma")
    snapshot = folder / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    blob = folder / "blobs" / ("0" * 64)
    blob.parent.mkdir()
    tiny_gemma(tmp_path / "tiny.gguf").rename(blob)
    try:
        (snapshot / "gemma-Q8_0.gguf").symlink_to(blob)
    except OSError:
        pytest.skip("no symbolic links here")
    ours = [f for f in of(gemma("doctor", "--json", env=OFFLINE), "models") if "hf:" in f["text"]]
    assert "verified on" in ours[0]["text"]  # when it arrived
    assert gemma("verify", "hf:some/gemma:q8_0").returncode == 4
    found = problem(gemma("doctor", "--json", env=OFFLINE), "models")
    assert "gemma verify found" in found["text"]


def test_the_hub_answers_or_not(gemma: Gemma, hub: LoopbackHub) -> None:
    env = hub.environment()
    (found,) = of(gemma("doctor", "--json", env=env), "hub")
    assert found["state"] == "good"
    assert "answers" in found["text"]
    hub.hub_script.append(Behaviour(status=503))
    (found,) = of(gemma("doctor", "--json", env=env), "hub")
    assert found["state"] == "notice"
    assert "503" in found["text"]
    hub.hub_script.append(Behaviour(status=401))
    refused = gemma("doctor", "--json", env=env | {"HF_TOKEN": "hf_wrong"})
    assert "refuses the token" in problem(refused, "hub")["text"]


def test_nobody_at_the_hub_and_no_address_of_one(gemma: Gemma) -> None:
    (found,) = of(gemma("doctor", "--json", env={"HF_ENDPOINT": "http://127.0.0.1:9"}), "hub")
    assert found["state"] == "notice"
    assert "cannot be reached" in found["text"]
    done = gemma("doctor", "--json", env={"HF_ENDPOINT": "http://[::1"})
    assert "HF_" in problem(done, "hub")["fix"]


def test_a_silent_hub_costs_a_few_seconds(gemma: Gemma, hub: LoopbackHub) -> None:
    hub.hub_script.append(Behaviour(hang_s=150))
    done = gemma("doctor", "--json", env=hub.environment(), timeout=140)
    assert of(done, "hub")[0]["state"] == "notice"


def test_a_build_that_leaves_the_processor_unused() -> None:
    info = "CPU : SSE3 = 1 | AVX = 1 | AVX2 = 0 | LLAMAFILE = 1 | "
    assert missing_features({"sse3", "avx", "avx2", "fma"}, info) == ["AVX2", "FMA"]
    assert missing_features({"avx"}, info) == []
    assert missing_features({"asimd", "asimddp", "avx2"}, "CPU : NEON = 1 | ") == ["DOTPROD"]
    assert missing_features(set(), "") == []


@pytest.mark.skipif(sys.platform != "linux", reason="a limit that Linux keeps to")
def test_a_limit_of_the_address_space_is_named(home: Env) -> None:
    limited = ["sh", "-c", 'ulimit -v 500000; exec "$@"', "sh", *program(), "doctor"]
    done = subprocess.run(limited, env=home, capture_output=True, text=True, timeout=60)
    (line,) = [line for line in done.stdout.splitlines() if " memory " in line]
    assert line.startswith("notice")
    assert "but ulimit -v leaves 4" in line
    assert "MiB: larger models fail to load" in line
