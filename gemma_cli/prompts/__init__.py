"""Prompts that one keeps: personas and templates, built in or a person's own files."""

from gemma_cli.prompts.library import (
    BUILT_IN,
    Listed,
    check_name,
    file_of,
    folder,
    load,
    names,
    source_of,
    text_of,
)
from gemma_cli.prompts.prompt import Filled, Prompt, Variable

__all__ = [
    "BUILT_IN",
    "Filled",
    "Listed",
    "Prompt",
    "Variable",
    "check_name",
    "file_of",
    "folder",
    "load",
    "names",
    "source_of",
    "text_of",
]
