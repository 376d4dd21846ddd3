"""What `gemma chat` hands to the chat: files, models and prompts of this machine."""
