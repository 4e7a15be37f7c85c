#!PYTHON
"""Stands for docker: notes its arguments, and runs a stage with the environment they let in."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

here = Path(__file__).parent
arguments = sys.argv[1:]
with (here / "docker.jsonl").open("a") as notes:
    notes.write(json.dumps(arguments) + "\n")
if arguments[0] == "info":
    answers = {"{{.OSType}}": "linux", "{{.SecurityOptions}}": "[name=seccomp]"}
    sys.stdout.write(answers[arguments[2]])
elif arguments[:2] == ["image", "inspect"]:
    sys.exit(0 if arguments[2] == "present" else 1)
elif arguments[0] == "build":
    Path(arguments[arguments.index("--iidfile") + 1]).write_text("sha256:built")
elif arguments[0] == "run":
    pairs = itertools.pairwise(arguments)
    targets = [value for value in arguments if "target=" in value]
    if len({value.partition("target=")[2].split(",")[0] for value in targets}) < len(targets):
        sys.exit("Duplicate mount point")
    let_in = [value for option, value in pairs if option == "--env"]
    given = dict(each.split("=", 1) if "=" in each else (each, os.environ[each]) for each in let_in)
    command = arguments[arguments.index("ci") :]
    folder = arguments[arguments.index("--workdir") + 1]
    sys.exit(subprocess.run([here / "stub.py", *command], env=given, cwd=folder).returncode)
elif arguments[0] != "pull":
    sys.exit(f"docker {arguments} is not known")
