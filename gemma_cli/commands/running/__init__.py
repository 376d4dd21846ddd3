"""What `gemma run` does: its question put together, the answer to its output, both kept."""
