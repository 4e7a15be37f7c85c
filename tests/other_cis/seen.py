#!PYTHON
"""Stands before slogpt-hf: notes what it sees, then becomes it; or proves nothing, if asked."""

import json
import os
import sys
from pathlib import Path

here = Path(__file__).parent
with (here / "seen.jsonl").open("a") as notes:
    seen = {"arguments": sys.argv[1:], "environment": dict(os.environ)}
    notes.write(json.dumps(seen) + "\n")
if "prove" in sys.argv and (here / "unproven").exists():
    sys.exit()
home = {"HOME": str(here / "home"), "HF_HOME": str(here / "home/hf"), "PYTHONPATH": "ROOT"}
os.environ.update(home, OMP_NUM_THREADS="1")
os.execv(sys.executable, [sys.executable, "-m", "slogpt_hf", *sys.argv[1:]])
