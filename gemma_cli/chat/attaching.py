"""Documents for a conversation: found, measured, and made to fit if the user agrees."""

from __future__ import annotations

import re
from collections.abc import Sequence

from gemma_cli.chat.compaction import part_request, summary_tokens
from gemma_cli.chat.conversation import Attachment
from gemma_cli.chat.interface import Talk
from gemma_cli.chat.session import Session
from gemma_cli.chat.window import answer_room
from gemma_cli.engine.protocol import Message
from gemma_cli.errors import GemmaError, PromptTooLongError

_PATH = re.compile(r'"((?:[^"\\]|\\.)+)"|(\S+)')


def quoted(path: str) -> str:
    """A path as `attached` takes it, whatever it holds."""
    return '"' + path.replace('"', '\\"') + '"'


def attached(talk: Talk, words: str) -> list[Attachment]:
    """The documents that paths name (quoted where they hold spaces). Raises GemmaError."""
    documents = talk.session.documents
    if documents is None:
        raise GemmaError("this chat takes no files")
    found: list[Attachment] = []
    for marked, plain in _PATH.findall(words):
        path = marked.replace('\\"', '"') or plain
        gathered = documents.gather(path)
        for note in gathered.notes:
            talk.say(note)
        if gathered.question and not talk.confirm(gathered.question):
            _left_out(talk, path, gathered.question)
            continue
        for each in gathered.documents:
            fitted = _fitted(talk, each, [*talk.session.attached, *found])
            if fitted is not None:
                found.append(fitted)
    return found


def _left_out(talk: Talk, path: str, question: str) -> None:
    """Raises GemmaError where nobody could be asked: a script must not go on without it."""
    if not talk.reader.interactive:
        raise GemmaError(f"{path} was left out, because nobody can be asked: {question}")
    talk.say(f"{path} was left out.")


def size_note(session: Session, document: Attachment) -> str:
    return f"{document.name}: {session.tokens(document.text):,} tokens"


def _fitted(talk: Talk, document: Attachment, others: Sequence[Attachment]) -> Attachment | None:
    """The document; where it is too large, what the user wants of it. None: nothing.

    others: those that go with it.
    """
    session = talk.session
    talk.wait()
    limit, size = _room(session, others), session.tokens(document.text)
    if size <= limit:
        return document
    assert session.documents is not None, "it came from there"
    talk.say(f"{document.name} has {size:,} tokens, and the context window has room for {limit:,}.")
    if limit > 0 and talk.confirm("Take the part from its beginning that fits?"):
        part = session.documents.fit(document, session.tokens, limit)
        return part if part.text else None
    if limit > 0 and talk.confirm("Have the model summarise it part by part?"):
        return _summarised(talk, document, limit)
    if talk.reader.interactive:
        talk.say(f"{document.name} was left out.")
        return None
    raise PromptTooLongError(
        f"{document.name} needs {size:,} tokens and the context window has room for {limit:,}",
        "give a part of it, or load a larger window: --ctx max",
    )


def _room(session: Session, others: Sequence[Attachment]) -> int:
    """Tokens for a document, when every earlier turn has left the window."""
    opening = [*session.conversation.opening(), Message("user", "")]
    taken = len(session.engine.render(opening, thinking=session.thinking).tokens)
    taken += sum(session.tokens(each.text) for each in others)
    n_ctx = session.engine.info().n_ctx
    # Half of the answer's room is left to the question itself.
    return n_ctx - taken - answer_room(n_ctx, session.sampling.max_tokens) * 3 // 2


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
