"""Takes out of the installed packages what nothing here needs: ``prune.py SITE_PACKAGES [KEPT]``.

Run while the image is built. KEPT names parts that stay, e.g. ``models,symbols``; bench/image.py
measures what each is worth.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

# part: patterns of what it is. Models and symbols are the tables below.
PARTS = {
    "headers": ("**/*.[ach]", "**/*.cpp", "**/*.cu", "**/*.cuh", "**/*.hpp", "**/*.p[xy][dix]"),
    "development": (
        "_distutils_hack",
        "distutils-precedence.pth",
        "numpy/_core/include",
        "numpy/_core/lib",
        "numpy/f2py",
        "pkg_resources",
        "setuptools",
        "setuptools-*",
        "torch/bin/[!t]*",
        "torch/include",
        "torch/share",
        # Of a CUDA build. Triton needs a C compiler to run, and torch does without it.
        "nvidia/*/include",
        "triton",
        "triton-*",
    ),
    "tests": (
        "mpmath/tests",
        "networkx/**/tests",
        "numpy/**/tests",
        "sympy/**/tests",
        "torch/bin/test*",
        "torch/lib/lib*test.so",
        "torch/lib/libaoti_custom_ops.so",
        "torch/lib/libbackend_with_compiler.so",
        "torch/test",
    ),
    # Pictures are drawn and saved as PNG; the other formats of Pillow are libraries of their own.
    "pictures": (
        "PIL/_avif*",
        "PIL/_imagingcms*",
        "PIL/_imagingtk*",
        "PIL/_webp*",
        "pillow.libs/libavif*",
        "pillow.libs/liblcms2*",
        "pillow.libs/libsharpyuv*",
        "pillow.libs/libwebp*",
    ),
    "models": (),
    "symbols": (),
}
# Architectures that are converted to, and what their modules import from others.
MODELS = ("arcee", "auto", "encoder_decoder", "gpt2", "llama", "stablelm", "starcoder2")
# Of the other architectures only the configuration and the tokenizer stay: AutoTokenizer may be
# asked for any of them.
FOREIGN_MODEL = (
    "convert_*",
    "feature_extraction_*",
    "image_processing_*",
    "modeling_*",
    "modular_*",
    "processing_*",
    "video_processing_*",
)
# Symbols that no loader needs. Not all libraries: some that auditwheel rewrote do not survive it.
SYMBOLS = (
    "blake3/*.so",
    "cryptography/**/*.so",
    "hf_xet/*.so",
    "lz4/**/*.so",
    "regex/*.so",
    "rfc3161_client/*.so",
    "safetensors/*.so",
    "tokenizers/*.so",
    "torch/lib/libc10*.so",
    "torch/lib/libtorch_*.so",
    "yaml/*.so",
)


def unneeded(site: Path, kept: Collection[str]) -> Iterator[Path]:
    """Files and folders below ``site`` to take out."""
    for part, patterns in PARTS.items():
        if part not in kept:
            for pattern in patterns:
                yield from site.glob(pattern)
    for model in (site / "transformers/models").iterdir():
        if "models" not in kept and model.is_dir() and model.name not in MODELS:
            for pattern in FOREIGN_MODEL:
                yield from model.glob(pattern)


def main(site: Path, kept: Collection[str]) -> None:
    """Prune and strip."""
    if unknown := set(kept) - set(PARTS):
        raise SystemExit(f"KEEP names {', '.join(unknown)}, known are {', '.join(PARTS)}.")
    for path in list(unneeded(site, kept)):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    if "symbols" not in kept:
        libraries = [path for pattern in SYMBOLS for path in site.glob(pattern)]
        subprocess.run(["strip", "--strip-unneeded", *libraries], check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), [part for part in "".join(sys.argv[2:]).split(",") if part])
