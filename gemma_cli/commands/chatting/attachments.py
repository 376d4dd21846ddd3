"""Files of this machine as documents of a chat."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from gemma_cli import documents
from gemma_cli.chat.conversation import Attachment
from gemma_cli.chat.session import Gathered


class FilesHere:
    """Satisfies chat.session's Documents."""

    def __init__(self) -> None:
        self._read: dict[str, documents.Document] = {}

    def mentioned(self, text: str) -> list[str]:
        return [mention.path for mention in documents.mentions(text)]

    def missing(self, text: str) -> list[str]:
        return [documents.clean_name(each) for each in documents.missing(text)]

    def gather(self, path: str) -> Gathered:
        from gemma_cli.terminal.tables import size

        found = documents.gather(path)
        question = None
        if found.needs_asking:
            question = f"{path} means {len(found.paths):,} files, {size(found.bytes)}. Read them?"
        read, said = documents.read_all(found.paths)
        shown = {each.rendered(): each for each in read}
        self._read.update(shown)
        notes = (*([f"{path}: {found.note}"] if found.note else []), *said)
        taken = tuple(Attachment(each.name, text) for text, each in shown.items())
        return Gathered(taken, notes, question)

    def complete(self, prefix: str) -> list[str]:
        return documents.complete(prefix)

    def fit(self, document: Attachment, measure: Callable[[str], int], limit: int) -> Attachment:
        whole = self._read[document.text]
        frame = measure(replace(whole, text="").rendered())
        text = documents.fit(whole.text, measure, max(0, limit - frame))
        if not text.strip():
            return Attachment(document.name, "")
        return Attachment(document.name, replace(whole, text=text).rendered())

    def parts(
        self, document: Attachment, measure: Callable[[str], int], limit: int
    ) -> Sequence[str]:
        return documents.parts(self._read[document.text].text, measure, limit)
