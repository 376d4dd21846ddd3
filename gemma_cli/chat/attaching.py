"""Documents for a conversation: found, measured, and made to fit if the user agrees."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import suppress
from itertools import accumulate

from gemma_cli.chat.compaction import part_request, summary_tokens
from gemma_cli.chat.conversation import Attachment, Turn
from gemma_cli.chat.interface import Talk
from gemma_cli.chat.session import Session
from gemma_cli.chat.window import answer_room
from gemma_cli.engine.protocol import Message
from gemma_cli.errors import GemmaError, PromptTooLongError

_PATH = re.compile(r'"((?:[^"\\]|\\.)+)"|(\S+)')
# So many files are told and asked about one by one.
_FEW = 8


def quoted(path: str) -> str:
    """A path as `attached` takes it, whatever it holds."""
    return '"' + path.replace('"', '\\"') + '"'


def named(talk: Talk, text: str, before: str = "") -> list[Attachment]:
    """The documents that a text names by @path and that `before` does not. Raises GemmaError.

    What looks like a path there and is none is said.
    """
    documents = talk.session.documents
    if documents is None:
        return []
    missing = [f"@{name}" for name in documents.missing(text) if f"@{name}" not in before]
    if missing:
        shown = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
        talk.say(f"There is no file {shown}: the model sees only the name.")
    known = documents.mentioned(before)
    paths = [path for path in dict.fromkeys(documents.mentioned(text)) if path not in known]
    return talk.attach(" ".join(map(quoted, paths))) if paths else []


def named_by_changed(talk: Talk, asked: Turn, changed: str) -> list[Attachment]:
    """What goes with a question that is changed: the documents that went with it, but for those
    that it no longer names, and those that it names now. Raises GemmaError."""
    gone: set[str] = set()
    if (documents := talk.session.documents) is not None:
        for path in set(documents.mentioned(asked.text)) - set(documents.mentioned(changed)):
            with suppress(GemmaError):  # what cannot be read now went with it under no name
                gone.update(each.name for each in documents.gather(path).documents)
    kept = [each for each in asked.attachments if each.name not in gone]
    return list(dict.fromkeys((*kept, *named(talk, changed, asked.text))))


def attached(talk: Talk, words: str) -> list[Attachment]:
    """The documents that paths name (quoted where they hold spaces). Raises GemmaError."""
    documents = talk.session.documents
    if documents is None:
        raise GemmaError("this chat takes no files")
    found: list[Attachment] = []
    room = _Room(talk)
    for marked, plain in _PATH.findall(words):
        path = marked.replace('\\"', '"') or plain
        gathered = documents.gather(path)
        for note in gathered.notes:
            talk.say(note)
        if gathered.question and not talk.confirm(gathered.question):
            _left_out(talk, path, gathered.question)
            continue
        found += _fitting(talk, path, gathered.documents, room)
    return found


def _left_out(talk: Talk, path: str, question: str) -> None:
    """Raises GemmaError where nobody could be asked: a script must not go on without it."""
    if not talk.reader.interactive:
        raise GemmaError(f"{path} was left out, because nobody can be asked: {question}")
    talk.say(f"{path} was left out.")


def size_note(session: Session, document: Attachment) -> str:
    return f"{document.name}: {session.tokens(document.text):,} tokens"


def sizes(session: Session, documents: Sequence[Attachment]) -> str:
    """What each document has, a line for each; of many what all have together."""
    if len(documents) <= _FEW:
        return "\n".join(size_note(session, each) for each in documents)
    total = sum(session.tokens(each.text) for each in documents)
    names = f"{documents[0].name} to {documents[-1].name}"
    return f"{len(documents):,} files, {names}: {total:,} tokens together"


class _Room:
    """Tokens for documents, when every earlier turn has left the window; loads the model."""

    def __init__(self, talk: Talk) -> None:
        self._talk = talk
        self._left: int | None = None

    @property
    def left(self) -> int:
        if self._left is None:
            self._left = self._measured()
        return self._left

    def size(self, document: Attachment) -> int:
        """With what stands between it and the next one."""
        return self._talk.session.tokens(f"{document.text}\n\n")

    def take(self, tokens: int) -> None:
        self._left = self.left - tokens

    def _measured(self) -> int:
        self._talk.wait()
        session = self._talk.session
        opening = [*session.conversation.opening(), Message("user", "")]
        taken = len(session.engine.render(opening, thinking=session.thinking).tokens)
        taken += sum(map(self.size, session.attached))
        n_ctx = session.engine.info().n_ctx
        # Half of the answer's room is left to the question itself.
        return n_ctx - taken - answer_room(n_ctx, session.sampling.max_tokens) * 3 // 2


def _fitting(
    talk: Talk, path: str, documents: Sequence[Attachment], room: _Room
) -> list[Attachment]:
    """Those of one path that fit; where not all do, what the user wants of them."""
    left, needed = room.left, [room.size(each) for each in documents]
    if len(documents) > 1 and sum(needed) > left:
        whole = bisect_right(list(accumulate(needed)), left)
        talk.say(
            f"{path} has {sum(needed):,} tokens in {len(documents):,} files, and the context "
            f"window has room for {left:,}."
        )
        first = "first one" if whole == 1 else f"first {whole:,}"
        if whole and talk.confirm(f"Take the {first} of them and leave the others out?"):
            room.take(sum(needed[:whole]))
            return list(documents[:whole])
        if len(documents) > _FEW or not talk.reader.interactive:
            _too_large(talk, path, sum(needed), left)
            return []
    found = []
    for each, size in zip(documents, needed, strict=True):
        fitted = _fitted(talk, each, size, room.left)
        if fitted is not None:
            room.take(size if fitted is each else room.size(fitted))
            found.append(fitted)
    return found


def _fitted(talk: Talk, document: Attachment, size: int, limit: int) -> Attachment | None:
    """The document; where it is too large, what the user wants of it. None: nothing."""
    session = talk.session
    if size <= limit:
        return document
    assert session.documents is not None, "it came from there"
    talk.say(f"{document.name} has {size:,} tokens, and the context window has room for {limit:,}.")
    if limit > 0 and talk.confirm("Take the part from its beginning that fits?"):
        part = session.documents.fit(document, session.tokens, limit)
        if part.text:
            return part
        talk.say("There is no room for a part of it, either.")
    elif limit > 0 and talk.confirm("Have the model summarise it part by part?"):
        return _summarised(talk, document, limit)
    _too_large(talk, document.name, size, limit)
    return None


def _too_large(talk: Talk, name: str, size: int, limit: int) -> None:
    """Raises PromptTooLongError where nobody could be asked."""
    if talk.reader.interactive:
        talk.say(f"{name} was left out.")
        return
    raise PromptTooLongError(
        f"{name} needs {size:,} tokens and the context window has room for {limit:,}",
        "give a part of it, or load a larger window: --ctx max",
    )


def _summarised(talk: Talk, document: Attachment, limit: int) -> Attachment:
    session = talk.session
    assert session.documents is not None, "the document came from there"
    n_ctx = session.engine.info().n_ctx
    tokens = summary_tokens(n_ctx)
    frame = len(session.engine.render(part_request("", tokens)).tokens)
    parts = session.documents.parts(document, session.tokens, n_ctx - tokens - frame - 8)
    texts = []
    for number, part in enumerate(parts, start=1):
        heading = f"Part {number} of {len(parts)}"
        text, _ = talk.write(part_request(part, tokens), tokens, heading)
        texts.append(text.strip())
    summary = f"{document.name}, a summary of its {len(parts)} parts:\n\n" + "\n\n".join(texts)
    if session.tokens(summary) > limit:
        raise PromptTooLongError(
            f"the summary of {document.name} needs {session.tokens(summary):,} tokens and there "
            f"is room for {limit:,}",
            "load a larger window: /set ctx max",
        )
    return Attachment(document.name, summary)
