"""What `gemma pull` decides and says: names, quantizations, terms, access, what arrives."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Env, Gemma, program
from tests.gguf_files import GEMMA3, gguf, projector
from tests.hub_server import Behaviour, LoopbackHub, loopback_hub

REPO = "owner/tiny-it-GGUF"
BIG, MIDDLE, SMALL = (gguf(tensor_bytes=n << 10, seed=n) for n in (512, 256, 128))
PROJECTOR = projector()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


CATALOG = f"""
[[model]]
id = "tiny:1b"
aliases = ["tiny-it"]
family = "gemma3"
size = "1B"
title = "Tiny"
modalities = ["text", "image"]
shape = {{ architecture = "gemma3", layers = 6, context = 32768, embedding = 64, \
feed_forward = 128, heads = 4, kv_heads = 1, head_size = 16, vocabulary = 5, window = 512, \
window_period = 6 }}

[[model.file]]
quant = "Q8_0"
repo = "{REPO}"
file = "tiny-Q8_0.gguf"
size = {len(BIG)}
sha256 = "{sha256(BIG)}"

[[model.file]]
quant = "Q5_K_M"
repo = "{REPO}"
file = "tiny-Q5_K_M.gguf"
size = 900_000_000_000_000

[model.projector]
repo = "{REPO}"
file = "mmproj-F16.gguf"
"""


@pytest.fixture
def hub(home: Env) -> Iterator[LoopbackHub]:
    config = Path(home["GEMMA_HOME"]) / "config"
    config.mkdir(parents=True)
    (config / "models.toml").write_text(CATALOG)
    files = {
        "tiny-Q8_0.gguf": BIG,
        "tiny-Q5_K_M.gguf": MIDDLE,
        "tiny-Q4_0.gguf": SMALL,
        "mmproj-F16.gguf": PROJECTOR,
        "README.md": b"# words",
    }
    with loopback_hub() as server:
        server.add(REPO, files)
        home.update(server.environment())
        yield server


def here(gemma: Gemma) -> list[dict[str, object]]:
    listed = json.loads(gemma("list", "--json").stdout)
    return [model for model in listed if not str(model["source"]).startswith("package:")]


def test_the_best_that_fits_and_why(hub: LoopbackHub, gemma: Gemma) -> None:
    done = gemma("pull", "tiny:1b", "--accept-license")
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "tiny:1b: Q8_0, the best that fits: it needs" in done.stderr
    (model,) = here(gemma)
    expected = {
        "name": "tiny:1b",
        "quant": "Q8_0",
        "bytes": len(BIG),
        "source": f"hf:{REPO}:tiny-Q8_0.gguf",
        "revision": hub.repos[REPO].commit,
        "sha256": sha256(BIG),
        "license": "gemma",
        "last_used": None,
    }
    assert expected.items() <= model.items()
    assert Path(str(model["path"])).read_bytes() == BIG


def test_quant_decides(hub: LoopbackHub, gemma: Gemma) -> None:
    for arguments in (["tiny:1b:q5_k_m"], ["tiny-it", "--quant", "q5_k_m"]):
        assert gemma("pull", *arguments, "--accept-license").returncode == 0
    assert [model["quant"] for model in here(gemma)] == ["Q5_K_M"]
    assert len(hub.gets()) == 1


def test_several_models_in_one_command(hub: LoopbackHub, gemma: Gemma) -> None:
    done = gemma("pull", "tiny:1b:q8_0", f"hf:{REPO}:q4_0", "--accept-license")
    assert done.returncode == 0, done.stderr
    assert {(m["name"], m["quant"]) for m in here(gemma)} == {
        ("tiny:1b", "Q8_0"),
        (f"hf:{REPO}", "Q4_0"),
    }
    assert hub.links == 2


def test_vision_takes_the_projector_too(hub: LoopbackHub, gemma: Gemma) -> None:
    done = gemma("pull", "tiny:1b:q8_0", "--vision", "--accept-license")
    assert done.returncode == 0, done.stderr
    assert [model["quant"] for model in here(gemma)] == ["Q8_0"]
    assert any("mmproj" in get.path for get in hub.gets())
    assert gemma("pull", f"hf:{REPO}:q4_0", "--vision").returncode == 0
    done = gemma("pull", "gemma3:1b", "--vision")
    assert done.returncode == 2
    assert "text only" in done.stderr


def test_a_split_set(hub: LoopbackHub, gemma: Gemma) -> None:
    values = GEMMA3 | {"split.count": 2}
    parts = {f"s-Q8_0-0000{i}-of-00002.gguf": gguf(values, 4096, seed=i) for i in (1, 2)}
    hub.add("owner/split-GGUF", parts, license="mit")
    done = gemma("pull", "hf:owner/split-GGUF:q8_0")
    assert done.returncode == 0, done.stderr
    (model,) = here(gemma)
    assert model["bytes"] == sum(map(len, parts.values()))
    assert str(model["path"]).endswith("-00001-of-00002.gguf")
    Path(str(model["path"]).replace("-00001-", "-00002-")).unlink()
    assert here(gemma) == []


def test_dry_run_fetches_nothing(hub: LoopbackHub, gemma: Gemma, home: Env) -> None:
    done = gemma("pull", "tiny:1b", "--dry-run")
    assert done.returncode == 0
    assert f"{REPO}/tiny-Q8_0.gguf" in done.stdout
    assert "to fetch: 525 kB" in done.stdout
    assert f"into: {home['HF_HOME']}" in done.stdout
    done = gemma("pull", "tiny:1b", "--dry-run", "--json")
    plan = json.loads(done.stdout.splitlines()[-1])
    assert (plan["event"], plan["to_fetch"], plan["quant"]) == ("plan", len(BIG), "Q8_0")
    assert hub.gets() == []
    assert here(gemma) == []


def test_terms_are_asked_for_once(hub: LoopbackHub, gemma: Gemma) -> None:
    refused = gemma("pull", "tiny:1b")
    assert refused.returncode == 2
    assert "Gemma Terms of Use" in refused.stderr
    assert "--accept-license" in refused.stderr
    assert hub.gets() == []
    assert gemma("pull", "tiny:1b", "--accept-license").returncode == 0
    again = gemma("pull", f"hf:{REPO}:q4_0")
    assert again.returncode == 0
    assert "Terms" not in again.stderr


def on_terminal(env: Env, typed: bytes, *arguments: str) -> tuple[int, str]:
    """Run the program on a terminal; type once it has asked something."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [*program(), *arguments], env=env, stdin=slave, stdout=slave, stderr=slave
    )
    os.close(slave)
    said, answered = b"", False
    while True:
        if not select.select([master], [], [], 90)[0]:
            process.kill()
            raise AssertionError(f"nothing more after {said!r}")
        try:
            block = os.read(master, 65536)
        except OSError:
            block = b""
        if not block:
            break
        said += block
        if b"[y/N]" in said and not answered:
            os.write(master, typed)
            answered = True
    os.close(master)
    return process.wait(), said.decode()


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_terms_on_a_terminal(hub: LoopbackHub, home: Env) -> None:
    code, said = on_terminal(home, b"n\n", "pull", "tiny:1b")
    assert code == 130
    assert "nothing was downloaded" in said
    assert hub.gets() == []
    code, said = on_terminal(home, b"\x04", "pull", "tiny:1b")
    assert (code, "nothing was downloaded" in said, "Abort" in said) == (130, True, False)
    code, said = on_terminal(home, b"y\n", "pull", "tiny:1b")
    assert code == 0
    assert "100%" in said
    assert "525 kB of 525 kB" in said


ACCESS = [
    ({}, "", "asks for a login", "hf auth login"),
    ({"HF_TOKEN": "hf_x"}, "", "terms of owner/closed are not accepted yet", "accept them at"),
    (
        {"HF_TOKEN": "hf_x"},
        "Your request to access model owner/closed is awaiting a review from the repo authors.",
        "waits for its authors",
        "see http",
    ),
    (
        {"HF_TOKEN": "hf_x"},
        "Your request to access model owner/closed has been rejected by the repo's authors.",
        "refused your request",
        "see http",
    ),
]


@pytest.mark.parametrize(("token", "message", "said", "hint"), ACCESS)
def test_gated(
    hub: LoopbackHub, gemma: Gemma, token: Env, message: str, said: str, hint: str
) -> None:
    hub.add("owner/closed", {"x-Q8_0.gguf": SMALL}, gated=message or "restricted", license="mit")
    done = gemma("pull", "hf:owner/closed:x-Q8_0.gguf", env=token)
    assert done.returncode == 4
    assert said in done.stderr
    assert hint in done.stderr
    assert f"{hub.endpoint}/owner/closed" in done.stderr
    assert "hf_x" not in done.stderr


def test_a_token_that_is_wrong(hub: LoopbackHub, gemma: Gemma) -> None:
    wrong = {"X-Error-Message": "Invalid credentials in Authorization header"}
    hub.hub_script = [Behaviour(status=401, headers=wrong)]
    done = gemma("pull", f"hf:{REPO}:q4_0", env={"HF_TOKEN": "hf_x"})
    assert done.returncode == 4
    assert "refuses the token" in done.stderr
    assert "hf auth login" in done.stderr


@pytest.mark.parametrize(
    ("variable", "value", "code", "said"),
    [
        ("HF_ENDPOINT", "nowhere", 4, "no address that can be used: nowhere"),
        ("HF_ENDPOINT", "http://[::1", 2, "check HF_ENDPOINT"),
        ("HF_ENDPOINT", "http://127.0.0.1:99999", 2, "check HF_ENDPOINT"),
        ("SSL_CERT_FILE", "/no/such.pem", 4, "check SSL_CERT_FILE"),
        ("SSL_CERT_FILE", __file__, 4, "check SSL_CERT_FILE"),
        ("HTTPS_PROXY", "socks9://x", 4, "HTTPS_PROXY"),
        ("HF_TOKEN", "hf_\xe4", 4, "set HF_TOKEN anew"),
        ("HF_HUB_DOWNLOAD_TIMEOUT", "soon", 2, "check HF_ENDPOINT and"),
    ],
)
def test_settings_that_cannot_be_used(
    hub: LoopbackHub, gemma: Gemma, variable: str, value: str, code: int, said: str
) -> None:
    done = gemma("pull", f"hf:{REPO}:q4_0", env={variable: value})
    assert done.returncode == code
    assert said in done.stderr
    assert len(done.stderr.splitlines()) <= 2
    assert hub.requests == []


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("hf:owner/none", 3, "no repository owner/none"),
        (f"hf:{REPO}:none.gguf", 3, f"{REPO} has no file none.gguf"),
        (f"hf:{REPO}@v9", 3, "has no revision v9"),
        (f"hf:{REPO}:q6_k", 3, "there are: Q8_0, Q5_K_M, Q4_0"),
        ("tiny:1b:q6_k", 3, "there are: Q8_0, Q5_K_M"),
        ("tiny:2b", 3, "did you mean tiny:1b"),
        ("hf:owner/words", 3, "holds no GGUF model"),
        ("./there.gguf", 2, "a path on this machine"),
        ("hf:owner", 2, "no Hub reference"),
    ],
)
def test_bad_names(hub: LoopbackHub, gemma: Gemma, name: str, code: int, said: str) -> None:
    hub.add("owner/words", {"README.md": b"words"})
    done = gemma("pull", name)
    assert done.returncode == code
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"<html>please log in</html>", "a web page"),
        (SMALL[: -64 << 10], "is cut"),
        (SMALL[:300], "damaged or cut"),
        (gguf({"general.architecture": "gemma3"}), "holds no language model"),
        (PROJECTOR, "a vision part"),
        (gguf(GEMMA3 | {"split.count": 3}), "a set of 3 files"),
    ],
)
def test_what_is_no_model_is_not_installed(
    hub: LoopbackHub, gemma: Gemma, home: Env, data: bytes, said: str
) -> None:
    hub.add("owner/odd-GGUF", {"odd-Q8_0.gguf": data}, license="mit")
    done = gemma("pull", "hf:owner/odd-GGUF")
    assert done.returncode == 4, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert here(gemma) == []
    left = [p for p in Path(home["HF_HOME"]).rglob("*") if p.is_file() and p.suffix != ".lock"]
    assert left == []


def test_a_model_of_another_family_is_named(hub: LoopbackHub, gemma: Gemma) -> None:
    values = {key.replace("gemma3", "llama"): value for key, value in GEMMA3.items()}
    foreign = gguf(values | {"general.architecture": "llama"})
    hub.add("owner/llama-GGUF", {"l-Q8_0.gguf": foreign}, license="mit")
    done = gemma("pull", "hf:owner/llama-GGUF")
    assert done.returncode == 0
    assert "is no Gemma but a llama model" in done.stderr
    hub.repos[REPO].files["tiny-Q5_K_M.gguf"] = foreign
    done = gemma("pull", "tiny:1b:q5_k_m", "--accept-license")
    assert done.returncode == 4
    assert "holds a llama model, not a gemma3 one" in done.stderr


def test_a_replaced_file_is_said(hub: LoopbackHub, gemma: Gemma) -> None:
    hub.repos[REPO].files["tiny-Q8_0.gguf"] = MIDDLE
    done = gemma("pull", "tiny:1b:q8_0", "--accept-license")
    assert done.returncode == 0
    assert "was replaced by its publisher" in done.stderr


def test_a_pinned_file_must_be_the_known_one(hub: LoopbackHub, gemma: Gemma, home: Env) -> None:
    own = Path(home["GEMMA_HOME"]) / "config" / "models.toml"
    pin = f'\nrevision = "{hub.repos[REPO].commit}"\nsha256 = "{"0" * 64}"\n'
    own.write_text(CATALOG.replace("\nsize = 900_000_000_000_000\n", pin))
    done = gemma("pull", "tiny:1b:q5_k_m", "--accept-license")
    assert done.returncode == 4
    assert "its hash differs" in done.stderr
    assert hub.gets() == []


HOSTILE = [
    "../../evil-Q8_0.gguf",
    "/etc/evil-Q8_0.gguf",
    "a/../../evil-Q8_0.gguf",
    "C:\\evil-Q8_0.gguf",
    "evil\x1b[31m-Q8_0.gguf",
    "evil\u202e-Q8_0.gguf",
    "a" * 600 + "-Q8_0.gguf",
    "",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_in_listings(hub: LoopbackHub, gemma: Gemma, home: Env, name: str) -> None:
    repo = hub.add("owner/evil-GGUF", {name: SMALL}, license="mit")
    repo.listed = [{"rfilename": name, "size": len(SMALL)}, {"rfilename": 7}]
    done = gemma("pull", "hf:owner/evil-GGUF")
    assert done.returncode == 3
    assert "holds no GGUF model" in done.stderr
    assert not list(Path(home["HF_HOME"]).parent.rglob("*evil*.gguf"))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'{"sha": 3, "siblings": 4}',
        b'{"sha": "../..", "siblings": []}',
        b'{"sha": "' + b"0" * 40 + b'", "siblings": [null, [], {"rfilename": null}]}',
        b"[" * 100_000,
        b'{"sha": "' + b"0" * 40 + b'", "siblings": [' + b'{"rfilename":"x"},' * 500_000,
        b'{"x": "' + b"y" * (33 << 20) + b'"}',
    ],
    ids=[
        "empty",
        "null",
        "list",
        "wrong types",
        "no commit",
        "wrong entries",
        "deep",
        "cut",
        "huge",
    ],
)
def test_hostile_listings(hub: LoopbackHub, gemma: Gemma, body: bytes) -> None:
    hub.hub_always = Behaviour(body=body)
    done = gemma("pull", f"hf:{REPO}")
    assert done.returncode in (3, 4)
    assert "Traceback" not in done.stderr
    assert len(done.stderr) < 2000


def test_a_hub_message_steers_no_terminal(hub: LoopbackHub, gemma: Gemma) -> None:
    hub.hub_script = [Behaviour(status=400, headers={"X-Error-Message": "\x1b]52;c;AAAA\x07 bad"})]
    done = gemma("pull", f"hf:{REPO}:q4_0")
    assert done.returncode == 4
    assert "\x1b" not in done.stderr
    assert "\x07" not in done.stderr


def test_the_embedded_model_needs_no_hub(gemma: Gemma, with_demo: Env) -> None:
    done = gemma("pull", "gemma3:270m-pt", env=with_demo | {"HF_ENDPOINT": "http://127.0.0.1:9"})
    assert done.returncode == 0, done.stderr
    assert "gemma3:270m-pt:q4_k_m is here (253 MB)" in done.stderr


def test_a_dry_run_joins_nothing(gemma: Gemma, home: Env) -> None:
    done = gemma("pull", "gemma3:270m-pt", "--dry-run")
    assert (done.returncode, "to join into: " in done.stdout) == (0, True)
    assert not list(Path(home["GEMMA_HOME"]).rglob("*.gguf*"))
