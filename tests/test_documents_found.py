"""Which files are meant: paths, folders, patterns, @mentions in a text, completion."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from gemma_cli.commands.running.attaching import file_texts
from gemma_cli.documents import (
    MANY_BYTES,
    MANY_FILES,
    complete,
    gather,
    mentions,
    missing,
    read_all,
)
from gemma_cli.documents import completion as completing
from gemma_cli.errors import UsageError

POSIX_ONLY = pytest.mark.skipif(os.name == "nt", reason="POSIX names and links")


@pytest.fixture(autouse=True)
def _there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))


def make(*names: str, content: bytes = b"text\n") -> None:
    for name in names:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def gathered(pattern: str) -> list[str]:
    return [path.as_posix() for path in gather(pattern).paths]


def test_a_folder_gives_its_texts_sorted_and_counts_what_is_left_out() -> None:
    make("src/b.py", "src/a/z.md", "src/a/y.txt", "src/c.pdf", content=b"%PDF-1.4 text\n")
    make("src/.git/config", "src/.env", "src/node_modules/x/i.js", "src/env/pyvenv.cfg")
    make("src/p.png", content=b"\x89PNG" + bytes(range(256)))
    make("src/z.zip", content=b"PK\x03\x04" + bytes(99))
    found = gather("src")
    assert gathered("src") == ["src/a/y.txt", "src/a/z.md", "src/b.py", "src/c.pdf"]
    assert found.bytes == 4 * len(b"%PDF-1.4 text\n")
    assert found.left_out == {"binary": 2, "hidden": 2, "folder(s) of packages": 2}
    assert found.note == "left out: 2 binary, 2 folder(s) of packages, 2 hidden"
    assert not found.needs_asking
    assert not found.named


def test_patterns_and_the_home_folder() -> None:
    make("a.py", "b.txt", "src/c.py", "src/d/e.py", "src/.h/f.py", "[x].py")
    assert gathered("*.py") == ["[x].py", "a.py"]
    assert gathered("**/*.py") == ["[x].py", "a.py", "src/c.py", "src/d/e.py"]
    assert gathered("src/**") == ["src/c.py", "src/d/e.py"]
    assert gathered("src/**/**/e.*") == ["src/d/e.py"]
    assert gathered("[ab].*") == ["a.py", "b.txt"]
    assert gathered("[x].py") == ["[x].py"]
    assert gathered("s*") == ["src/c.py", "src/d/e.py"]
    make("../home/notes/n.md")
    (home_file,) = gather("~/notes/*").paths
    assert home_file == Path.home() / "notes" / "n.md"
    assert gather("~/notes/n.md").named
    assert read_all([home_file])[0][0].name == "~/notes/n.md"


@pytest.mark.parametrize("pattern", ["none", "none/*.py", "*.none", "~nobody/x", "a\0b", "empty"])
def test_nothing_found_is_an_error_that_names_it(pattern: str) -> None:
    Path("empty").mkdir()
    with pytest.raises(UsageError, match=pattern.partition("/")[0].replace("*", ".").strip("\0b")):
        gather(pattern)


@POSIX_ONLY
def test_links_that_loop_and_pipes_end_no_walk() -> None:
    make("src/a.txt", "src/d/b.txt")
    Path("src/d/up").symlink_to(Path.cwd() / "src")
    Path("src/self").symlink_to("self")
    os.mkfifo("src/pipe")
    found = gather("src")
    assert gathered("src/**/*.txt") == gathered("src") == ["src/a.txt", "src/d/b.txt"]
    assert found.left_out == {"link(s) to folders": 1, "link(s) to nothing, pipes or devices": 2}


def test_over_a_limit_one_must_ask_but_not_for_one_file_named() -> None:
    make(*(f"many/{number}.txt" for number in range(MANY_FILES)))
    assert not gather("many").needs_asking
    make("many/x.txt")
    assert gather("many").needs_asking
    with pytest.raises(UsageError, match="many names 51 files, 255 B together"):
        file_texts([Path("many")])  # of `gemma run`
    make("large/a.txt", content=b"text\n" * (MANY_BYTES // 5 + 1))
    assert gather("large").needs_asking
    assert not gather("large/a.txt").needs_asking


def test_a_whole_disk_is_refused_soon() -> None:
    make(*(f"disk/{number // 100}/{number}.txt" for number in range(2001)))
    start = time.monotonic()
    with pytest.raises(UsageError, match="directory of more than 2,000 files"):
        gather("disk")
    assert time.monotonic() - start < 60


ODD = ["with space.txt", "ünï 日本.txt", "q'uote.txt", "dash-_.txt"]
ODDER = ['dou"ble.txt', "new\nline.txt", "esc\x1b[31m.txt"] if os.name != "nt" else []


def test_odd_names_are_found_and_completed() -> None:
    make(*(f"odd/{name}" for name in ODD + ODDER))
    assert sorted(gathered("odd")) == sorted(f"odd/{name}" for name in ODD + ODDER)
    assert sorted(gathered("odd/*.txt")) == sorted(gathered("odd"))
    offered = complete("odd/")
    assert sorted(offered) == sorted(
        [f"odd/{name}" for name in ODD[1:] if " " not in name]
        + [f'"odd/{name}"' for name in ODD if " " in name]
        + ['"odd/dou\\"ble.txt"'] * bool(ODDER)
    )
    for text in offered:
        (mention,) = mentions(f"read @{text} now")
        assert Path(mention.path).is_file()
        assert f"read @{text} now"[mention.start : mention.end] == f"@{text}"


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ("@a.txt", ["a.txt"]),
        ("see @a.txt.", ["a.txt"]),
        ("see (@a.txt), @src/b.py: why?", ["a.txt", "src/b.py"]),
        ("what does @a.txt's end say", ["a.txt"]),
        ("@a.txtを要約", ["a.txt"]),
        ('"@a.txt"', []),
        ('@"my file.txt" and @"a.txt"', ["my file.txt", "a.txt"]),
        ("@src @src/ @./", ["src", "src/", "./"]),
        ("@src/*.py?", ["src/*.py"]),
        ("@src/*.rs", []),
        ("me@a.txt x@src", []),
        ("@property\ndef x(): @app.route('/')", []),
        ("@... @. @/ @* @  @~ @//host/share @\\\\host\\share", []),
        ("@~nobody/x @" + "n" * 9000 + " @a\0b @" + "%" * 9000, []),
        ("@~/n.md", ["~/n.md"]),
        ("@a.txt@a.txt", []),
        ("<@a.txt> [@a.txt] {@a.txt}", ["a.txt"] * 3),
        ("line\n@a.txt\nline", ["a.txt"]),
    ],
)
def test_mentions_are_files_that_exist(text: str, paths: list[str]) -> None:
    make("a.txt", "src/b.py", "my file.txt", "../home/n.md")
    found = mentions(text)
    assert [mention.path for mention in found] == paths
    for mention in found:
        shown = text[mention.start : mention.end]
        assert shown in (f"@{mention.path}", f'@"{mention.path}"')


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("@b.txt and @A.PDF, then (@src/no.py)!", ["b.txt", "A.PDF", "src/no.py"]),
        ('@"no such" @"a.txt" @a.txt @b.md. @b.md?', ["no such", "b.md"]),
        ("@src/*.rs @./no", ["src/*.rs", "./no"]),
        ("me@x.txt @you @dataclass @pytest.fixture @app.route('/') @... @/ @//host/share", []),
        ("@property\ndef x(): @x.setter @v1.2 @src @src/b.py", []),
    ],
)
def test_what_looks_like_a_file_and_is_none(text: str, names: list[str]) -> None:
    make("a.txt", "src/b.py")
    assert missing(text) == names


def test_completion_of_paths() -> None:
    make("src/main.py", "src/mail.txt", ".hidden", "my dir/a b.txt", "../home/notes.md")
    assert complete("") == ['"my dir/', "src/"]
    assert complete("s") == ["src/"]
    assert complete("src/ma") == ["src/mail.txt", "src/main.py"]
    assert complete("src/x") == complete("none/") == complete("\0/") == []
    assert complete(".h") == [".hidden"]
    assert complete('"my') == ['"my dir/']
    assert complete('"my dir/') == complete("my dir/") == ['"my dir/a b.txt"']
    assert complete("~") == ["~/"]
    assert complete("~/n") == ["~/notes.md"]
    assert complete(str(Path.cwd()) + "/s") == [f"{Path.cwd()}/src/"]
    assert complete("//") == complete("\\\\host\\") == []


def test_completion_offers_200_and_is_quick() -> None:
    make(*(f"many/{number:04}" for number in range(1000)))
    times = []
    for _ in range(5):
        start = time.monotonic()
        assert len(complete("many/")) <= 200
        times.append(time.monotonic() - start)
    assert min(times) < 1
    completing._listing.clear()


@POSIX_ONLY
def test_completion_does_not_wait_for_a_sleeping_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No disk here sleeps at will: the listing is one that takes its time."""
    make("slow/a.txt")
    look = completing._look

    awake = threading.Event()

    def slowly(folder: Path, start: str) -> list[tuple[str, bool]]:
        awake.wait(90)
        return list(look(folder, start))

    monkeypatch.setattr(completing, "_look", slowly)
    assert complete("slow/") == []
    assert complete("slow/") == []  # the first listing is still under way: no second one
    assert completing._listing
    awake.set()
    while completing._listing:
        time.sleep(0.05)
