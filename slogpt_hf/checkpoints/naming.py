"""The words of an entry's name: those of an optimiser, a data loader..., and of a function."""

from __future__ import annotations

import re

from slogpt_hf.checkpoints.fields import SKIPPED


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Words of a name that say: nothing that a forward pass computes depends on it.
ALWAYS_NEUTRAL = _words(
    "dropout drop pdrop dropconnect dropouts init initializer initialization initialisation "
    "initialize lr optim optimizer optimiser adam adamw adafactor muon sgd lion grad grads "
    "gradient gradients loss losses flash sdpa compile compiled checkpointing lora ia3 peft "
    "adapter adapters wandb tensorboard mlflow dtype precision amp autocast freeze frozen triton "
    "liger xformers"
)
NEUTRAL = _words(
    "wd learning decay beta betas beta1 beta2 momentum nesterov warmup warmdown anneal annealing "
    "scheduler schedule epoch epochs iter iters iteration iterations step steps batch batches "
    "microbatch minibatch accum accumulation eval evaluate evaluation val valid validation "
    "test train training trainer trained pretrain pretrained finetune finetuning log logs "
    "logging logger seed device devices gpu gpus cuda cpu tpu mps ddp fsdp deepspeed "
    "distributed backend world nodes nproc fp16 bf16 fp32 fp8 tf32 ckpt checkpoint "
    "checkpoints save saved saving resume resumed dir directory path paths file files folder "
    "dataset datasets data dataloader corpus tokenizer tokenizers tokenization encoding vocab "
    "vocabulary workers name names date datetime timestamp elapsed seconds hours created "
    "updated description author authors project git commit sha hash host hostname uuid id "
    "notes note comment tags license language languages char chars idx word merges special "
    "url sample samples sampler sampling keep generate generation prompt perplexity ppl accuracy "
    "acc metric metrics best patience stopping shuffle split splits prefetch pin verbose debug "
    "profile profiler monitor interval every hardware smoothing flops mfu bin hub push overwrite "
    "experiment experiments org organization entity email user pid duration platform "
    "python framework library source format"
)
# Words of a name that belong to the function: beside one of them NEUTRAL says nothing.
OF_THE_FUNCTION = _words(
    "act activation attn attention norm ln layernorm rmsnorm rope rotary pos position positions "
    "positional softmax residual resid embed embedding embeddings emb mlp ffn feedforward gate "
    "gated head heads qk qkv q k v kv window mask logit logits expert experts moe router routing "
    "mup causal cap softcap alibi bias block blocks layer layers hidden recurrent scale scaling "
    "multiplier clamp clip swish gelu relu silu sigmoid tanh glu loop loops recurrence think "
    "depth latent unroll sink sinks memory quant quantize quantization nope swa thinking reasoning "
    "inner"
)
# Nor does a word of ALWAYS_NEUTRAL: ``loss_softcap`` may cap what is returned as well.
NEVER_NEUTRAL = _words("softcap softcapping")
# Of lists that number layers.
INDEXED = _words("layer layers block blocks index indices idx idxs")
FACTORS = _words(
    "scale scaling scaler multiplier mult factor alpha gain temperature temp ratio divisor"
)
WORD = re.compile(r"[a-z]+\d*|\d+|[A-Z]+(?![a-z])|[A-Z][a-z]*\d*")


def is_neutral(name: str) -> bool:
    """Whether a name is of an optimiser's, a data loader's... setting."""
    said = name_words(name)
    if said & NEVER_NEUTRAL:
        return False
    if said & ALWAYS_NEUTRAL or name.lower() == "scaler":
        return True
    if "scaler" not in said and SKIPPED.search(name):
        return True
    return bool(said & NEUTRAL) and not said & OF_THE_FUNCTION


def name_words(name: str) -> set[str]:
    """The words of a name such as ``max_seq_len`` or ``maxSeqLen``."""
    return {word.lower() for word in WORD.findall(name)}
