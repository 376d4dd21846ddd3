"""`gemma config`: settings shown with their source, set one by one, never half."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Env, Gemma

OWN = "# mine\r\ntemp = 0.5  # warm\r\n\r\n# lists\r\nstop = [\r\n  'END', # of it\r\n]\r\n"


@pytest.fixture
def file(home: Env) -> Path:
    folder = Path(home["GEMMA_HOME"]) / "config"
    folder.mkdir(parents=True)
    return folder / "config.toml"


def shown(gemma: Gemma, **env: str) -> dict[str, tuple[Any, str]]:
    listed = json.loads(gemma("config", "show", "--json", env=env).stdout)
    return {each["key"]: (each["value"], each["source"]) for each in listed}


def test_each_value_names_its_source(gemma: Gemma, file: Path) -> None:
    file.write_text("temp = 0.5\ntop_k = 3\n")
    found = shown(gemma, GEMMA_TOP_K="7", GEMMA_MODEL="gemma3:4b")
    assert found["temp"] == (0.5, "config.toml")
    assert found["top_k"] == ("7", "environment")
    assert found["model"] == ("gemma3:4b", "environment")
    assert found["seed"] == (None, "default")
    lines = gemma("config", "show").stdout.splitlines()
    assert any(line.split() == ["temp", "0.5", "(config.toml)"] for line in lines)
    assert len(lines) == len(found)


def test_every_variable_that_wins_is_one_that_is_read(gemma: Gemma) -> None:
    """What `show` says of the environment is what `run` does."""
    names = [
        key
        for key, (_, source) in shown(gemma, GEMMA_SEED="1", GEMMA_STOP="x").items()
        if source == "environment"
    ]
    assert names == ["seed", "threads"]  # threads: set by the tests; stop has no variable


def test_get_prints_the_bare_value(gemma: Gemma, file: Path) -> None:
    file.write_text("temp = 0.5\nstop = ['a', 'b']\nthink = true\nctx = 8192\n")
    assert gemma("config", "get", "temp").stdout == "0.5\n"
    assert gemma("config", "get", "stop").stdout == "a\nb\n"
    assert gemma("config", "get", "think").stdout == "true\n"
    assert gemma("config", "get", "--", "--ctx").stdout == "8192\n"
    done = gemma("config", "get", "seed")
    assert (done.returncode, done.stdout) == (1, "")
    assert "not set" in done.stderr


def test_set_keeps_comments_order_and_line_ends(gemma: Gemma, file: Path) -> None:
    file.write_bytes(OWN.encode())
    assert gemma("config", "set", "temp", "0.7").returncode == 0
    assert gemma("config", "set", "seed", "3").returncode == 0
    text = file.read_bytes().decode()
    assert text.startswith(OWN.replace("0.5", "0.7"))
    assert text.endswith("seed = 3\n")
    assert gemma("config", "unset", "seed").returncode == 0
    assert file.read_bytes().decode().rstrip() == OWN.replace("0.5", "0.7").rstrip()


def test_the_first_value_makes_the_file_for_its_owner_alone(gemma: Gemma, home: Env) -> None:
    file = Path(home["GEMMA_HOME"]) / "config" / "config.toml"
    assert gemma("config", "path").stdout == f"{file}\n"
    assert gemma("config", "set", "system", "Be brief.").returncode == 0
    assert file.read_text() == 'system = "Be brief."\n'
    if os.name != "nt":
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in file.parent.iterdir()] == ["config.toml"]


@pytest.mark.parametrize(
    ("key", "words", "line"),
    [
        ("stop", ["END", "STOP"], 'stop = ["END", "STOP"]'),
        ("think", ["off"], "think = false"),
        ("ctx", ["8192"], "ctx = 8192"),
        ("ctx", ["max"], 'ctx = "max"'),
        ("temp", ["1"], "temp = 1"),
        ("top-k", ["5"], "top_k = 5"),
        ("kv_cache", ["2GiB"], 'kv_cache = "2GiB"'),
        ("context_full", ["stop"], 'context_full = "stop"'),
        ("stop", ["\n"], 'stop = ["\\n"]'),
        ("system", [""], 'system = ""'),
    ],
)
def test_a_value_gets_its_kind(
    gemma: Gemma, file: Path, key: str, words: list[str], line: str
) -> None:
    done = gemma("config", "set", key, *words)
    assert done.returncode == 0, done.stderr
    assert file.read_text() == f"{line}\n"


@pytest.mark.parametrize(
    ("key", "words", "said"),
    [
        ("temprature", ["1"], "temp"),
        ("temp", ["hot"], "must be a number"),
        ("temp", ["-1"], "--temp"),
        ("temp", ["nan"], "--temp"),
        ("temp", ["1", "2"], "one value"),
        ("top_k", ["1.5"], "whole number"),
        ("think", ["perhaps"], "true or false"),
        ("ctx", ["many"], "--ctx"),
        ("kv_type", ["q2"], "q8_0"),
        ("kv_cache", ["24 potatoes"], "24 potatoes"),
        ("context_full", ["burst"], "drop, compact or stop"),
        ("model", [""], "gemma config unset model"),
        ("lora", ["a.gguf", " "], "gemma config unset lora"),
        ("stop", [""], "--stop"),
        ("history_days", ["0"], "gemma config set history false"),
        ("history_days", ["-1"], "1 or more"),
    ],
)
def test_a_bad_value_leaves_the_file_as_it_was(
    gemma: Gemma, file: Path, key: str, words: list[str], said: str
) -> None:
    file.write_bytes(OWN.encode())
    done = gemma("config", "set", key, *words)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert file.read_bytes() == OWN.encode()


def test_a_wrong_key_can_be_taken_out(gemma: Gemma, file: Path) -> None:
    file.write_text("temprature = 1\ntemp = 1\n")
    assert gemma("config", "set", "seed", "1").returncode == 2
    assert gemma("config", "unset", "temprature").returncode == 0
    assert file.read_text() == "temp = 1\n"
    assert gemma("config", "unset", "temprature").returncode == 2


@pytest.mark.parametrize("content", [b"temp = ", b"\xff\xfe", b"[a]\n[a]\n", b"a = 1\na = 2\n"])
def test_a_broken_file_is_named_and_stays(gemma: Gemma, file: Path, content: bytes) -> None:
    file.write_bytes(content)
    for arguments in (("set", "temp", "1"), ("unset", "temp"), ("show",), ("get", "temp")):
        done = gemma("config", *arguments)
        assert done.returncode == 2
        assert f"gemma: {file} is" in done.stderr or "not UTF-8" in done.stderr
        assert "Traceback" not in done.stderr
    assert file.read_bytes() == content
    assert gemma("config", "path").returncode == 0


@pytest.mark.skipif(os.name == "nt", reason="symbolic links")
def test_a_link_to_the_file_stays_one(gemma: Gemma, file: Path, tmp_path: Path) -> None:
    real = tmp_path / "dotfiles.toml"
    real.write_text("temp = 1\n")
    file.symlink_to(real)
    assert gemma("config", "set", "temp", "0.5").returncode == 0
    assert file.is_symlink()
    assert real.read_text() == "temp = 0.5\n"


def test_an_environment_variable_that_wins_is_said(gemma: Gemma) -> None:
    done = gemma("config", "set", "seed", "3", env={"GEMMA_SEED": "4"})
    assert done.returncode == 0
    assert "GEMMA_SEED" in done.stderr
