"""The embedded hub: the Hugging Face Hub's HTTP protocol over a plain folder of git repositories.

`serve(folder)` is all that others need. The storage is ordinary: `FOLDER/NAMESPACE/NAME.git` is a
bare repository that `git clone` reads; LFS objects lie below its `lfs/objects`, as git-lfs does it.
Models and datasets; other kinds and gating are refused with a message. The server needs `git` and
the standard library (PyYAML for card metadata, `lz4` for uploads by Xet), never `huggingface_hub`.
"""

from __future__ import annotations

from slogpt_hf.hub.embedded.server import RunningHub, serve
from slogpt_hf.hub.embedded.wire import FileSlice, Request, Response

__all__ = ["FileSlice", "Request", "Response", "RunningHub", "serve"]
