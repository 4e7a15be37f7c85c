"""The modeling file saves itself, reloads itself and works on its own."""

from __future__ import annotations

import copy
import json
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, dynamic_module_utils

from slogpt_hf.conversion.modeling_slogpt import SloGPTConfig, SloGPTForCausalLM

Models = Callable[..., SloGPTForCausalLM]
Ids = Callable[..., Tensor]
Measure = Callable[[Tensor, Tensor], float]

CLASSIC = {"positions": "learned", "norm": "layernorm", "mlp": "plain", "bias": True}
MODERN = {"positions": "rotary", "norm": "rmsnorm", "mlp": "gated", "bias": False}


@pytest.fixture
def modules_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Remote code is copied below tmp_path instead of the user's cache."""
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.usefixtures("modules_cache")
def test_saves_and_reloads_itself(
    tmp_path: Path, architecture: dict[str, Any], tied: bool, shaken: Models, tokens: Ids
) -> None:
    model, ids = shaken(architecture, tie_word_embeddings=tied), tokens(2, 9)
    expected, source = model(ids).logits, model
    for name in ("first", "second"):
        folder = tmp_path / name
        source.save_pretrained(folder)
        assert (folder / "modeling_slogpt.py").read_bytes() == Path(
            sys.modules[SloGPTConfig.__module__].__file__ or ""
        ).read_bytes()
        auto_map = json.loads((folder / "config.json").read_text())["auto_map"]
        assert auto_map["AutoConfig"] == "modeling_slogpt.SloGPTConfig"
        assert auto_map["AutoModelForCausalLM"] == "modeling_slogpt.SloGPTForCausalLM"
        source, report = AutoModelForCausalLM.from_pretrained(
            folder, trust_remote_code=True, output_loading_info=True
        )
        assert not any(report.values()), report
        assert type(source).__module__.startswith("transformers_modules.")
        assert torch.equal(source.eval()(ids).logits, expected)
        assert (source.lm_head.weight is source.transformer.wte.weight) == tied
        assert architecture.items() <= source.config.to_dict().items()


@pytest.mark.usefixtures("modules_cache")
def test_saving_again_keeps_the_whole_auto_map(tmp_path: Path, shaken: Models, tokens: Ids) -> None:
    auto_map = {
        "AutoConfig": "modeling_slogpt.SloGPTConfig",
        "AutoModel": "modeling_slogpt.SloGPTModel",
        "AutoModelForCausalLM": "modeling_slogpt.SloGPTForCausalLM",
    }
    model = shaken(CLASSIC)
    model.config.auto_map = auto_map
    model.save_pretrained(tmp_path / "first")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "first", trust_remote_code=True)
    loaded.save_pretrained(tmp_path / "second")
    assert json.loads((tmp_path / "second" / "config.json").read_text())["auto_map"] == auto_map
    base = AutoModel.from_pretrained(tmp_path / "second", trust_remote_code=True).eval()
    ids = tokens(1, 7)
    assert torch.equal(base(ids)[0], model.transformer(ids)[0])


@pytest.mark.usefixtures("modules_cache")
def test_base_model_loads_by_auto_model(tmp_path: Path, shaken: Models, tokens: Ids) -> None:
    model = shaken(MODERN)
    model.transformer.save_pretrained(tmp_path / "base")
    base = AutoModel.from_pretrained(tmp_path / "base", trust_remote_code=True).eval()
    ids = tokens(1, 7)
    assert torch.equal(base(ids).last_hidden_state, model.transformer(ids).last_hidden_state)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.usefixtures("modules_cache")
def test_half_precision(
    tmp_path: Path,
    extreme: dict[str, Any],
    dtype: torch.dtype,
    shaken: Models,
    tokens: Ids,
    relative_error: Measure,
) -> None:
    model, ids = shaken(extreme), tokens(2, 16)
    model.save_pretrained(tmp_path / "artefact")
    half = AutoModelForCausalLM.from_pretrained(
        tmp_path / "artefact", trust_remote_code=True, dtype=dtype
    ).eval()
    cast = copy.deepcopy(model).to(dtype)
    assert {p.dtype for p in half.parameters()} == {dtype}
    assert torch.equal(half(ids).logits, cast(ids).logits)
    assert relative_error(half(ids).logits.float(), model(ids).logits) < 8 * torch.finfo(dtype).eps


@pytest.mark.usefixtures("modules_cache")
def test_config_alone_makes_a_model(tmp_path: Path, shaken: Models, tokens: Ids) -> None:
    shaken(CLASSIC).save_pretrained(tmp_path / "artefact")
    config = AutoConfig.from_pretrained(tmp_path / "artefact", trust_remote_code=True)
    fresh = AutoModelForCausalLM.from_config(config, trust_remote_code=True)
    assert fresh(tokens(1, 3)).logits.shape == (1, 3, 37)


def test_loads_without_this_package_and_without_a_word(tmp_path: Path, shaken: Models) -> None:
    shaken(MODERN).save_pretrained(tmp_path / "artefact")
    script = (
        "import sys, torch\n"
        "from transformers import AutoModelForCausalLM\n"
        "model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True)\n"
        "model.generate(torch.arange(4)[None], max_new_tokens=3, do_sample=False)\n"
        "assert 'slogpt_hf' not in sys.modules\n"
    )
    environment = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    environment |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    done = subprocess.run(
        [sys.executable, "-I", "-c", script, str(tmp_path / "artefact")],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")
    lines = [line for line in done.stderr.splitlines() if "Loading weights" not in line]
    assert lines == []


@pytest.mark.parametrize("version", ["4.57.6", "5.3.0"])
def test_an_older_transformers_is_told_which_one_is_needed(
    version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transformers, "__version__", version)
    path = Path(sys.modules[SloGPTConfig.__module__].__file__ or "")
    with pytest.raises(RuntimeError) as caught:
        runpy.run_path(str(path), run_name="transformers_modules.x.modeling_slogpt")
    assert str(caught.value) == (
        f"modeling_slogpt.py needs transformers 5.4 or later, installed is {version}: "
        "pip install --upgrade 'transformers>=5.4'"
    )
