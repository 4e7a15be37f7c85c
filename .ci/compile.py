"""Byte-compiles the modules that a release imports: ``compile.py SITE_PACKAGES ROOT [WHICH]``.

Run while the image is built. WHICH is imported, all or none, the others for bench/image.py: all
would be a fifth more image, none would treble the time that torch and transformers take. What is
imported is seen, not listed: the work of a release is done with the installed packages, without
this project's own, so that their layer stays the same from release to release. The image's modules
never change, so Python is told not to look whether they have (PEP 552, unchecked hashes).
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import py_compile
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

SIZES = {
    "vocab_size": 8,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 8,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
CONFIGURATIONS = ("ArceeConfig", "GPT2Config", "LlamaConfig", "StableLmConfig", "Starcoder2Config")
# What the command line, publishing, signing, the embedded hub and watching import beside that. One
# that is not installed belongs to an extra. tests/image/test_image.py finds what is missing here.
MODULES = """
    _strptime blake3 click._textwrap click.shell_completion encodings.idna encodings.utf_8_sig
    fsspec.implementations.http graphlib hf_xet http.server httpx2 huggingface_hub.hf_api
    huggingface_hub.repocard jinja2.sandbox lz4.frame model_signing.signing model_signing.verifying
    OpenSSL.crypto packaging.requirements PIL.Image PIL.ImageDraw PIL.ImageFont
    PIL.BmpImagePlugin PIL.GifImagePlugin PIL.JpegImagePlugin PIL.JpegPresets PIL.PngImagePlugin
    PIL.PpmImagePlugin safetensors.numpy safetensors.torch secrets sigstore.sign sigstore.verify
    tokenizers.processors torch.overrides tqdm.auto yaml
"""


def generate(transformers: Any, name: str) -> None:
    """Save, load and sample a model of one architecture."""
    configuration = getattr(transformers, name)(**SIZES)
    with tempfile.TemporaryDirectory() as folder:
        transformers.AutoModelForCausalLM.from_config(configuration).save_pretrained(folder)
        model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    model.generate(model.dummy_inputs["input_ids"] * 0, max_new_tokens=2, do_sample=True)


def tokenize(transformers: Any) -> None:
    """Save and load a tokenizer."""
    from tokenizers import Tokenizer, models

    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()))
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        transformers.AutoTokenizer.from_pretrained(folder)("text")


def imported() -> set[Path]:
    """Sources of the modules that a release imports."""
    for module in MODULES.split():
        with suppress(ModuleNotFoundError):
            importlib.import_module(module)
    import transformers

    for name in CONFIGURATIONS:
        generate(transformers, name)
    tokenize(transformers)
    specs = [getattr(module, "__dict__", {}).get("__spec__") for module in sys.modules.values()]
    origins = {str(getattr(spec, "origin", None)) for spec in specs}
    return {Path(origin) for origin in origins if origin.endswith(".py")}


def main(site: Path, root: Path, which: str = "imported") -> None:
    """Compile beside each module of ``site``, and below ``root`` those of the standard library."""
    seen = imported()
    if which == "all":
        library = Path(os.__file__).parent
        seen = {*site.rglob("*.py"), *library.rglob("*.py")}
    for source in sorted(seen) if which != "none" else ():
        kept = source if source.is_relative_to(site) else root / source.relative_to("/")
        if kept.is_file():
            py_compile.compile(
                str(kept),
                importlib.util.cache_from_source(str(kept)),
                dfile=str(source),
                quiet=2,  # templates among the packages are no Python
                invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
            )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
