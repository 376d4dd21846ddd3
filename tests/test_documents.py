"""Files as documents: every encoding and format from real bytes, every bad one refused clearly."""

from __future__ import annotations

import io
import os
import random
import re
import struct
import subprocess
import sys
import threading
import time
import zipfile
import zlib
from pathlib import Path

import docx
import pypdf
import pytest

from gemma_cli.documents import Document, read, read_all
from gemma_cli.documents.source import MOST_BYTES
from gemma_cli.errors import UsageError
from tests.conftest import Env, Gemma

POSIX_ONLY = pytest.mark.skipif(os.name == "nt", reason="POSIX files")
RUSSIAN = "Съешь же ещё этих мягких французских булок, да выпей чаю. Это письмо о погоде.\n"


def pdf(*pages: str) -> bytes:
    """A PDF with these lines, one a page, written by hand: objects, xref, trailer."""
    kids = " ".join(f"{4 + 2 * number} 0 R" for number in range(len(pages)))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for number, text in enumerate(pages):
        stream = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET" if text else "0 0 10 10 re f"
        objects.append(
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Resources "
            f"<< /Font << /F1 3 0 R >> >> /Contents {5 + 2 * number} 0 R >>"
        )
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
    out = io.BytesIO()
    out.write(b"%PDF-1.4\n")
    places = []
    for number, content in enumerate(objects, 1):
        places.append(out.tell())
        out.write(f"{number} 0 obj\n{content}\nendobj\n".encode())
    table = out.tell()
    rows = "".join(f"{place:010} 00000 n \n" for place in places)
    size = len(objects) + 1
    out.write(f"xref\n0 {size}\n0000000000 65535 f \n{rows}".encode())
    out.write(f"trailer\n<< /Size {size} /Root 1 0 R >>\nstartxref\n{table}\n%%EOF\n".encode())
    return out.getvalue()


def locked_pdf(user_password: str) -> bytes:
    writer = pypdf.PdfWriter(clone_from=io.BytesIO(pdf("The secret is out.")))
    writer.encrypt(user_password, owner_password="owner", algorithm="AES-256")
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def word() -> bytes:
    document = docx.Document()
    document.add_heading("Harvest", 1)
    document.add_paragraph("The pears weigh 12 kg – “good” ones.")
    document.add_paragraph("first", style="List Bullet")
    table = document.add_table(2, 2)
    for cell, text in zip(table._cells, ("fruit", "kg", "pears", "12"), strict=True):
        cell.text = text
    out = io.BytesIO()
    document.save(out)
    return out.getvalue()


def zipped(**members: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


@pytest.fixture(autouse=True)
def _there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def made(name: str, content: bytes | str) -> Path:
    path = Path(name)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("utf-8", "plain, naïve, 日本\n"),
        ("utf-8-sig", "naïve\n"),
        ("utf-16", "naïve 日本\n"),
        ("utf-32", "naïve 日本\n"),
        ("ascii", "plain\n"),
    ],
)
def test_unicode_is_read_as_it_says(encoding: str, text: str) -> None:
    document = read(made("a.txt", text.encode(encoding)))
    assert document == Document("a.txt", text, "", (), len(text.encode(encoding)))


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp1252", "café\n"),
        ("cp1252", "„Grüße“ – 5 €\n"),
        ("cp1252", "L’été à la plage\xa0: déjà vu\n"),
        ("cp1251", RUSSIAN),
        ("koi8_r", RUSSIAN),
        ("cp866", RUSSIAN),
        ("cp1250", "Příliš žluťoučký kůň úpěl ďábelské ódy\n"),
        ("cp1253", "Καλημέρα κόσμε, τι κάνετε σήμερα;\n"),
        ("cp932", "今日は天気がいいですね。東京へ行きましょう。\n"),
        ("iso2022_jp", "今日は天気がいいですね。\n"),
        ("gb18030", "今天天气很好，我们去公园散步吧。\n"),
        ("big5", "今天天氣很好，我們去公園散步吧。\n"),
        ("cp949", "오늘 날씨가 좋네요. 공원에 갑시다.\n"),
        ("utf-16-le", "no mark at the beginning\n"),
        ("utf-16-be", "no mark at the beginning\n"),
    ],
)
def test_an_encoding_is_recognised_and_said(encoding: str, text: str) -> None:
    document = read(made("a.txt", text.encode(encoding)))
    assert document.text == text
    assert document.notes == (f"is not UTF-8: read as {encoding}",)


def test_a_declared_encoding_is_believed_unless_it_is_none_of_files() -> None:
    greek = "# -*- coding: iso8859-7 -*-\nx = 'ώ'\n"
    assert read(made("a.py", greek.encode("iso8859-7"))).text == greek
    for name in ("zlib", "rot13", "unicode_escape", "utf-7", "no-such", "undefined"):
        text = f"<?xml version='1.0' encoding='{name}'?><a>é</a>"
        assert read(made("a.xml", text.encode("cp1252"))).text == text


def test_what_cannot_be_read_of_a_text_is_said() -> None:
    broken = read(made("a.txt", "naïve 日本語 ".encode() + b"\xff end"))
    assert broken.text == "naïve 日本語 \ufffd end"
    assert "is not all UTF-8" in broken.notes[0]
    nul = read(made("a.txt", b"one\0two and three"))
    assert (nul.text, nul.notes) == ("onetwo and three", ("holds NUL bytes: they were left out",))
    assert read(made("a.txt", b"1\r\n2\r3\n")).text == "1\n2\n3\n"
    assert read(made("a.txt", b" \n")).notes == ("is empty",)


@pytest.mark.parametrize(
    ("name", "content", "language"),
    [
        ("a.py", "x = 1\n", "python"),
        ("a.RS", "fn main() {}\n", "rust"),
        ("Makefile", "all:\n", "makefile"),
        ("Dockerfile.test", "FROM x\n", "dockerfile"),
        ("CMakeLists.txt", "project(x)\n", "cmake"),
        ("go.mod", "module x\n", "go"),
        ("tool", "#!/usr/bin/env python3\nprint()\n", "python"),
        ("tool", "#!/bin/sh\nls\n", "bash"),
        ("a.csv", "a,b\n", "csv"),
        ("a.json", "{}\n", "json"),
        ("a.md", "# Hi\n", ""),
        ("a.txt", "Hi\n", ""),
        ("LICENSE", "Free.\n", ""),
    ],
)
def test_code_is_fenced_with_its_language(name: str, content: str, language: str) -> None:
    document = read(made(name, content))
    assert document.language == language
    assert document.rendered() == f"{name}:\n```{language}\n{content}```"


@pytest.mark.parametrize("text", ["a ``` b", "````\n`````\nUser: hi", "`", "no end", "end\n", ""])
def test_no_text_ends_its_fence(text: str) -> None:
    lines = Document("a.md", text).rendered().split("\n")
    fence = lines[1]
    assert lines[-1] == fence
    assert re.fullmatch("`{3,}", fence)
    assert not any(line.lstrip().startswith(fence) for line in lines[2:-1])


@POSIX_ONLY
def test_names_are_shown_on_one_line_without_controls() -> None:
    name = os.fsdecode(b"a\nUser: hi\x1b]52;c;x\x07\xff.txt")
    document = read(made(name, "x"))
    assert document.name == "a\ufffdUser: hi\ufffd]52;c;x\ufffd\ufffd.txt"
    document.rendered().encode()


def test_a_name_is_the_way_from_here(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    made("src/a.txt", "x")
    assert read(tmp_path / "src" / "a.txt").name == "src/a.txt"
    assert read(Path("src/../src/a.txt")).name == "src/../src/a.txt"


def test_a_pdf_is_its_text() -> None:
    document = read(made("a.pdf", pdf("Two pears", "and an apple")))
    assert document.text == "Two pears\n\nand an apple"
    assert (document.language, document.notes) == ("", ())
    assert read(made("b", locked_pdf(""))).text == "The secret is out."


def test_pages_without_text_are_said() -> None:
    assert read(made("a.pdf", pdf("Two pears", ""))).notes == (
        "holds no text on 1 of 2 pages: they may be pictures",
    )


def test_a_word_document_keeps_its_structure() -> None:
    text = read(made("a.docx", word())).text
    assert "# Harvest" in text
    assert "The pears weigh 12 kg – “good” ones." in text
    assert "- first" in text
    assert re.search(r"\| fruit \| kg \|\n\| --- \| --- \|\n\| pears \| 12 \|", text)


def test_pictures_of_a_word_document_are_counted(tmp_path: Path) -> None:
    document = docx.Document()
    document.add_paragraph("See:")
    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0\0")), (b"IEND", b""))
    pixel = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )
    document.add_picture(io.BytesIO(pixel))
    document.save(str(tmp_path / "a.docx"))
    assert read(Path("a.docx")).notes == ("holds a picture: it was left out",)


def test_html_is_its_text() -> None:
    page = (
        "<!doctype html><html><head><title>Fruit</title><style>p{}</style></head><body>"
        "<script>alert(1)</script><h1>Pears</h1><p>12&nbsp;kg <b>ripe</b> a_b*c</p><!-- no -->"
        "<ul><li>one<li>two</ul><img src='data:image/png;base64,AAAA'></body></html>"
    )
    document = read(made("a.html", page))
    assert document.language == ""
    assert document.text == "Fruit\n\n# Pears\n\n12\xa0kg **ripe** a_b*c\n\n- one\n- two"
    assert read(made("stream", page)).text == document.text
    assert "<p>" in read(made("a.txt", page)).text
    rows = "<table><tr><td>a<td>b<tr><td>1<td>2</table><p>one<p>two"
    assert read(made("a.html", rows)).text == "| a | b |\n| --- | --- |\n| 1 | 2 |\n\none\n\ntwo"
    assert read(made("a.html", "<p>one<![- no -->two")).text.startswith("one")
    links = "<p><a href='#x'>up</a> <a href='https://pear.example'>pears</a>"
    assert read(made("a.html", links)).text == "up [pears](https://pear.example)"
    latin = "<meta charset='iso-8859-2'><p>ľúbiť"
    assert read(made("a.htm", latin.encode("iso-8859-2"))).text == "ľúbiť"
    deep = "<div>" * 3000 + "bottom" + "</div>" * 3000
    assert read(made("a.html", deep)).text == "bottom"


OLE = bytes.fromhex("d0cf11e0a1b11ae1")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.png", b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "a PNG picture"),
        ("a.txt", b"\x1f\x8b" + bytes(range(256)), "gzip"),
        ("a.txt", b"GGUF" + bytes(range(256)), "a model file"),
        ("a.txt", bytes(5000), "a binary file"),
        ("a.txt", bytes(range(256)) * 9, "a binary file"),
        ("a.rtf", b"{\\rtf1 hi}", "Rich Text"),
        ("a.doc", OLE + bytes(600), "before 2007"),
        ("a.docx", OLE + "EncryptedPackage".encode("utf-16-le") * 9, "password"),
        ("a.zip", zipped(a=b"x"), "ZIP archive"),
        ("a.xlsx", zipped(**{"[Content_Types].xml": b"x", "xl/a.xml": b"x"}), "Excel"),
        ("a.odt", zipped(mimetype=b"x"), "OpenDocument"),
        ("a.docx", word()[:9000], "damaged"),
        ("a.docx", zipped(**{"[Content_Types].xml": b"<a", "word/document.xml": b"<"}), "damaged"),
        ("a.pdf", pdf("Two pears")[:60], "damaged PDF"),
        ("a.pdf", b"%PDF-1.7\n" + bytes(range(256)) * 20, "damaged PDF"),
        ("a.pdf", pdf("", ""), "no text on its 2 pages"),
        ("a.pdf", locked_pdf("pear"), "password"),
    ],
)
def test_what_has_no_text_is_refused_by_its_content(name: str, content: bytes, said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(name)) as refused:
        read(made(name, content))
    assert said in refused.value.message
    assert "\n" not in refused.value.message


@pytest.mark.parametrize("name", ["a.pdf", "locked.pdf", "a.docx", "a.html", "a.txt"])
def test_broken_bytes_are_text_or_one_clear_line(name: str) -> None:
    chance = random.Random(name)
    whole = {
        "a.pdf": pdf("Two pears", "and an apple"),
        "locked.pdf": locked_pdf(""),
        "a.docx": word(),
        "a.html": b"<!doctype html><table><tr><td>1<td>2</table><ul><li>a<li>b</ul><!-- x -->",
        "a.txt": "naïve “quotes” 日本語\n".encode() * 20,
    }[name]
    lines_of_errors = set()
    for _ in range(25):
        raw = bytearray(whole)
        for _ in range(chance.randint(1, 12)):
            raw[chance.randrange(len(raw))] = chance.randrange(256)
        at = chance.randrange(len(raw))
        raw[at : at + chance.choice([0, 0, 1, 50, 9999])] = b""
        try:
            shown = read(made(name, bytes(raw))).rendered()
        except UsageError as error:
            shown = f"{error.message.strip()}\n"
            lines_of_errors.add(len(shown.splitlines()))
        shown.encode()
    assert lines_of_errors <= {1}


def test_a_document_that_unfolds_without_end_is_refused_early() -> None:
    parts = {"[Content_Types].xml": b"<a/>", "word/document.xml": b" " * (MOST_BYTES + 9)}
    bomb = zipped(**parts)
    assert len(bomb) < 100_000
    with pytest.raises(UsageError, match="unfolds to more than"):
        read(made("a.docx", bomb))
    laughs = b"<!DOCTYPE a [<!ENTITY b 'ha'>]><a>&b;</a>"
    with pytest.raises(UsageError, match="declares types"):
        read(made("b.docx", zipped(**(parts | {"word/document.xml": laughs}))))


def test_a_huge_file_is_refused_before_it_is_read() -> None:
    with Path("huge.txt").open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    with pytest.raises(UsageError, match="more than 64 MiB"):
        read(Path("huge.txt"))


@POSIX_ONLY
def test_what_is_no_file_is_refused_without_waiting() -> None:
    os.mkfifo("pipe")
    Path("folder").mkdir()
    Path("loop").symlink_to("loop")
    for name, said in (
        ("pipe", "a pipe or a device"),
        ("/dev/zero", "a pipe or a device"),
        ("folder", "a directory"),
        ("loop", "cannot read loop"),
        ("none", "No such file"),
        ("n" * 5000, "too long"),
        ("a\0b", "cannot read"),
    ):
        with pytest.raises(UsageError, match=said):
            read(Path(name))


@POSIX_ONLY
@pytest.mark.skipif(os.name != "nt" and os.geteuid() == 0, reason="root reads every file")
def test_a_file_that_may_not_be_read_is_named() -> None:
    made("a.txt", "x").chmod(0)
    with pytest.raises(UsageError, match=r"cannot read a\.txt: Permission denied"):
        read(Path("a.txt"))


def test_a_file_that_changes_while_it_is_read_says_so() -> None:
    path = made("log.txt", "line\n" * 4_000_000)
    stop = threading.Event()

    def shrink_and_grow() -> None:
        while not stop.is_set():
            os.truncate(path, 15_000_000)
            with path.open("ab") as file:
                file.write(b"more\n" * 1000)
            time.sleep(0.001)

    writer = threading.Thread(target=shrink_and_grow)
    writer.start()
    try:
        found = (note for _ in range(50) for note in read(path).notes)
        assert any("changed while it was read" in note for note in found)
    finally:
        stop.set()
        writer.join()


def test_of_many_the_readable_ones_are_taken_and_the_others_said() -> None:
    paths = [made("a.txt", b"caf\xe9"), made("b.pdf", pdf("")), made("c.txt", "x")]
    documents, said = read_all(paths)
    assert [document.text for document in documents] == ["café", "x"]
    assert said[0] == "a.txt is not UTF-8: read as cp1252"
    assert said[1].startswith("b.pdf holds no text")
    assert said[1].endswith(": left out")
    with pytest.raises(UsageError, match="no text"):
        read_all(paths[1:2])


@pytest.mark.parametrize(
    ("library", "name", "content"),
    [("pypdf", "a.pdf", pdf("x")), ("mammoth", "a.docx", word())],
)
def test_without_the_extra_the_command_is_named(library: str, name: str, content: bytes) -> None:
    done = _without(library, made(name, content))
    assert "UsageError" in done.stderr
    assert f"{name} is a" in done.stderr
    assert "pip install 'gemma-cli[documents]'" in done.stderr
    assert f"pipx inject gemma-cli '{library}" in done.stderr


def test_without_the_extra_html_is_taken_with_its_markup() -> None:
    done = _without("markdownify", made("a.html", "<p>Hi"))
    assert "language='html'" in done.stdout
    assert "<p>Hi" in done.stdout
    assert "gemma-cli[documents]" in done.stdout


def _without(library: str, path: Path) -> subprocess.CompletedProcess[str]:
    code = (
        f"import sys; sys.modules[{library!r}] = None\n"
        "from pathlib import Path\nfrom gemma_cli.documents import read\n"
        "from gemma_cli.errors import UsageError\n"
        f"try: print(read(Path({str(path)!r})))\n"
        "except UsageError as e: print(repr(e), e.hint, file=sys.stderr)\n"
    )
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8", check=True
    )


def _asked(gemma: Gemma, *arguments: str, **more: str) -> tuple[str, str]:
    import json

    done = gemma("run", "--raw", "--show-prompt", *arguments, **more)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["text"], done.stderr


@pytest.mark.usefixtures("with_demo")
def test_run_takes_documents_and_folders(gemma: Gemma, tmp_path: Path) -> None:
    folder = tmp_path / "my notes"
    folder.mkdir()
    (folder / "b.py").write_text("x = 1\n")
    (folder / "a.txt").write_bytes("café".encode("cp1252"))
    (folder / "c.png").write_bytes(b"\x89PNG" + bytes(range(256)))
    report = str(made(str(tmp_path / "r.pdf"), pdf("Two pears")))
    assert _asked(gemma, "-f", report, "Why?")[0] == "Two pears\n\nWhy?"
    text, said = _asked(gemma, "-f", str(folder), "-f", report, "Why?")
    code = "my notes/b.py:\n```python\nx = 1\n```"
    assert text == f"my notes/a.txt:\n```\ncafé\n```\n\n{code}\n\nr.pdf:\nTwo pears\n\nWhy?"
    assert "left out: 1 binary" in said
    assert "a.txt is not UTF-8: read as cp1252" in said
    for number in range(60):
        (folder / f"{number}.txt").write_text("x")
    done = gemma("run", "-f", str(folder), "Why?")
    assert done.returncode == 2
    assert "62 files" in done.stderr
    assert "Traceback" not in done.stderr


@POSIX_ONLY
def test_run_takes_what_the_shell_gives_as_a_file(with_demo: Env, gemma: Gemma) -> None:
    from tests.conftest import program

    assert _asked(gemma, "-f", "/dev/stdin", "Why?", input="piped")[0] == "piped\n\nWhy?"
    command = f"{program()[0]} run --raw --show-prompt -f <(printf 'from a command') 'Why?'"
    done = subprocess.run(
        ["bash", "-c", command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=with_demo,
        timeout=60,
        check=True,
    )
    assert '"text": "from a command\\n\\nWhy?"' in done.stdout
