"""What `gemma doctor` looks at."""
