"""Prompts that one keeps: personas and templates, built in or a person's own files."""

from gemma_cli.prompts.library import Listed, file_of, folder, load, names
from gemma_cli.prompts.prompt import Filled, Prompt, Variable

__all__ = ["Filled", "Listed", "Prompt", "Variable", "file_of", "folder", "load", "names"]
