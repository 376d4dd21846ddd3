"""Files that take part in a conversation: found, read as text, shown to a model, cut to fit."""

from gemma_cli.documents.completion import complete
from gemma_cli.documents.document import Document, clean_name
from gemma_cli.documents.fitting import fit, parts
from gemma_cli.documents.gathering import MANY_BYTES, MANY_FILES, Found, gather
from gemma_cli.documents.mentions import Mention, mentions, missing
from gemma_cli.documents.reading import read, read_all

__all__ = [
    "MANY_BYTES",
    "MANY_FILES",
    "Document",
    "Found",
    "Mention",
    "clean_name",
    "complete",
    "fit",
    "gather",
    "mentions",
    "missing",
    "parts",
    "read",
    "read_all",
]
