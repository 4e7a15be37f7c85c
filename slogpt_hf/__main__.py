"""``python -m slogpt_hf``."""

from __future__ import annotations

from slogpt_hf.cli import main

if __name__ == "__main__":
    main()
