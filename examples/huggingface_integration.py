"""The command lines and the class of the script of this name, by slogpt-hf.

python examples/huggingface_integration.py convert-model shakespeare models/shakespeare/model.pt out
"""

import sys

from slogpt_hf import HuggingFaceManager as HuggingFaceManager
from slogpt_hf.cli import main

if __name__ == "__main__":
    main(sys.argv[1:] or ["--help"])
