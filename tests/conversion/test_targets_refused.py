"""What no class computes exactly is refused."""

from __future__ import annotations

import pytest

from slogpt_hf.checkpoints.dialects.slo import spec_from_model_args
from slogpt_hf.conversion.targets import config_for, target_for
from slogpt_hf.errors import CheckpointError

ARGS = {"n_layer": 1, "n_head": 2, "n_embd": 8, "block_size": 8, "vocab_size": 9, "bias": True}


def test_the_tanh_gelu_has_a_stock_class() -> None:
    from dataclasses import replace

    spec = replace(spec_from_model_args(ARGS), activation="gelu_tanh")
    config = config_for(spec, target_for(spec), "float32")
    assert config["activation_function"] == "gelu_pytorch_tanh"


@pytest.mark.parametrize(
    "changes",
    [
        {"attention_multiplier": 0.5},
        {"embedding_multiplier": 2.0},
        {"residual_multiplier": 0.5},
        {"logit_multiplier": 2.0},
        {"n_kv_head": 1},
    ],
)
def test_what_no_class_computes_is_refused(changes: dict[str, float]) -> None:
    from dataclasses import replace

    with pytest.raises(CheckpointError, match="No class computes"):
        target_for(replace(spec_from_model_args(ARGS), **changes))
