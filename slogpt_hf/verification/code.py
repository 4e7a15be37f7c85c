"""Whether the code of a release is known, and known to be wrong."""

from __future__ import annotations

from slogpt_hf.card.record import Record
from slogpt_hf.conversion.shipped import SHIPPED, faults_of
from slogpt_hf.verification.contents import Contents
from slogpt_hf.verification.results import Check

WARNING = "warning"


def check_code(record: Record, contents: Contents) -> Check:
    """The modeling file of a release is one that slogpt-hf shipped, and nothing is wrong with it.

    A file that is not is no failure: a later version may have shipped it.
    """
    files = {name: contents.digests.get(name, "") for name in sorted(record["files"])}
    code = {name: digest for name, digest in files.items() if name.endswith(".py")}
    if not code:
        return Check("code", "ok", "it is loaded without code of its own")
    if faults := faults_of(code.items()):
        return Check("code", WARNING, " ".join(faults))
    if unknown := [name for name, digest in code.items() if digest not in SHIPPED]:
        detail = "none that this version of slogpt-hf knows; read it before you trust it"
        return Check("code", "not checked", f"{', '.join(unknown)} is {detail}")
    return Check("code", "ok", f"{', '.join(code)} is slogpt-hf's own; no fault of it is known")
