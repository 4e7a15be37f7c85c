"""Release SloGPT checkpoints on the Hugging Face Hub, proven equal to the original."""

__version__ = "0.1.0"
