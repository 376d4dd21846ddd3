"""What `gemma history` does with past chats."""
