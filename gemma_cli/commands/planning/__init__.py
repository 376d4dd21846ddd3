"""What `gemma plan` needs, and others who say whether a model fits."""
