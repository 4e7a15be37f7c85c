"""What other programs make of artefacts: ``consume.py NAME FOLDER``, JSON on stdout.

Each folder in FOLDER is one, and NAME one of CONSUMERS. Nothing of slogpt_hf is imported, nothing
is set on a tokenizer or a model: this is an artefact as released.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

TEXTS = ("ABC a hand, ", "a", "w, and w is. ", "u ")  # of the tests' vocabulary
# What adapters go on, by class: what the card names.
TARGETS: Mapping[str, list[str]] = json.loads(os.environ.get("LORA_TARGETS", "{}"))


def loaded(folder: Path) -> tuple[Any, Any]:
    """Model and tokenizer."""
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    return model.eval(), AutoTokenizer.from_pretrained(folder)


def of_pipeline(folder: Path) -> dict[str, Any]:
    """Batches give what single calls give."""
    from transformers import pipeline

    made = pipeline("text-generation", str(folder), trust_remote_code=True)
    settings = {"max_new_tokens": 12, "do_sample": False}
    alone = [made(text, **settings)[0]["generated_text"] for text in TEXTS]
    batch = [found[0]["generated_text"] for found in made(list(TEXTS), batch_size=2, **settings)]
    return {"alone": alone, "batch": batch}


def _arguments(folder: str, kind: Any, **more: Any) -> Any:
    return kind(
        folder,
        max_steps=3,
        per_device_train_batch_size=2,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        logging_steps=1,
        **more,
    )


def of_trainer(folder: Path) -> dict[str, Any]:
    """Three steps; and the loss that the collator gives beside that of the attention mask."""
    from transformers import DataCollatorForLanguageModeling, Trainer, TrainingArguments

    model, tokenizer = loaded(folder)
    collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    rows = [tokenizer(text) for text in TEXTS * 3]
    batch = collator([tokenizer(text) for text in TEXTS])
    by_mask = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    with torch.no_grad():
        losses = [
            float(model(**{**batch, "labels": labels}).loss)
            for labels in (batch["labels"], by_mask)
        ]
    with tempfile.TemporaryDirectory() as out:
        arguments = _arguments(out, TrainingArguments)
        trainer = Trainer(model, arguments, collator, rows, processing_class=tokenizer)
        trained = trainer.train()
        again = AutoTokenizer.from_pretrained(Path(out, "checkpoint-3"))
        ids = again(TEXTS[0])["input_ids"]
    return {
        "losses": losses,
        "steps": trained.global_step,
        "loss": trained.training_loss,
        "same ids": ids == tokenizer(TEXTS[0])["input_ids"],
    }


def of_trl(folder: Path) -> dict[str, Any]:
    """Three steps of supervised fine-tuning."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    model, tokenizer = loaded(folder)
    rows = Dataset.from_list([{"text": text} for text in TEXTS * 3])
    with tempfile.TemporaryDirectory() as out:
        arguments = _arguments(out, SFTConfig, max_length=64, bf16=False)
        trainer = SFTTrainer(model, arguments, train_dataset=rows, processing_class=tokenizer)
        trained = trainer.train()
    return {"steps": trained.global_step, "loss": trained.training_loss}


def of_peft(folder: Path) -> dict[str, Any]:
    """An adapter on the modules that the card names: a step, reloaded, merged."""
    from peft import LoraConfig, PeftModel, get_peft_model

    model, tokenizer = loaded(folder)
    targets = TARGETS[type(model).__name__]
    config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=targets)
    tuned = get_peft_model(model, config)
    batch = tokenizer(list(TEXTS), padding=True, return_tensors="pt")
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    optimizer = torch.optim.SGD([p for p in tuned.parameters() if p.requires_grad], lr=1.0)
    before = tuned(**batch, labels=labels).loss
    before.backward()
    optimizer.step()
    with torch.no_grad():
        logits, after = tuned(**batch).logits, tuned(**batch, labels=labels).loss
        with tempfile.TemporaryDirectory() as out:
            tuned.save_pretrained(out)
            again = PeftModel.from_pretrained(loaded(folder)[0], out).eval()
        reloaded = again(**batch).logits
        merged = again.merge_and_unload()(**batch).logits
    largest = float(logits.abs().max())
    return {
        "losses": [float(before), float(after)],
        "reloaded": float((reloaded - logits).abs().max()) / largest,
        "merged": float((merged - logits).abs().max()) / largest,
    }


TASKS = {
    "multiple": {
        "output_type": "multiple_choice",
        "doc_to_choice": ["a", "w"],
        "doc_to_target": 0,
        "metric_list": [{"metric": "acc"}],
    },
    "rolling": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "byte_perplexity"}],
    },
    "likelihood": {
        "output_type": "loglikelihood",
        "doc_to_target": "u",
        "metric_list": [{"metric": "perplexity"}],
    },
    "generate": {
        "output_type": "generate_until",
        "doc_to_target": "u",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 8},
        "metric_list": [{"metric": "exact_match"}],
    },
}


def of_lm_eval(folder: Path) -> dict[str, Any]:
    """A task of each kind over local texts."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    with tempfile.TemporaryDirectory() as place:
        data = Path(place, "data.jsonl")
        data.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
        source = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}}}
        tasks: list[Any] = [
            {"doc_to_text": "{{text}}", **source, "test_split": "test", "task": name, **task}
            for name, task in TASKS.items()
        ]
        model = HFLM(pretrained=str(folder), trust_remote_code=True, device="cpu", batch_size=2)
        manager = TaskManager(include_defaults=False)
        found = lm_eval.simple_evaluate(model, tasks=tasks, task_manager=manager, bootstrap_iters=0)
    assert found is not None
    return {
        name: [v for key, v in values.items() if isinstance(v, float) and "stderr" not in key]
        for name, values in found["results"].items()
    }


def of_ctranslate2(folder: Path) -> dict[str, Any]:
    """Converted; log probabilities of a text beside those of transformers."""
    import ctranslate2

    model, tokenizer = loaded(folder)
    with tempfile.TemporaryDirectory() as place:
        out = str(Path(place, "out"))
        ctranslate2.converters.TransformersConverter(str(folder)).convert(out)
        generator = ctranslate2.Generator(out)
        ids = tokenizer(TEXTS[0])["input_ids"]
        tokens = tokenizer.convert_ids_to_tokens(ids)
        scored = generator.score_batch([tokens])[0].log_probs
        made = generator.generate_batch(
            [tokens], max_length=8, sampling_topk=1, include_prompt_in_result=False
        )[0]
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        longer = model.generate(torch.tensor([ids]), max_new_tokens=8, do_sample=False)
    own = [float(logits[at, i]) for at, i in enumerate(ids[1:])]
    return {
        "error": max(abs(a - b) for a, b in zip(scored, own, strict=True)),
        "continued": made.sequences_ids[0],
        "own": longer[0, len(ids) :].tolist(),
    }


def of_optimum(folder: Path) -> dict[str, Any]:
    """Exported to ONNX; logits and greedy tokens beside those of transformers."""
    from optimum.onnxruntime import ORTModelForCausalLM

    model, tokenizer = loaded(folder)
    exported = ORTModelForCausalLM.from_pretrained(folder, export=True)
    batch = tokenizer(TEXTS[0], return_tensors="pt")
    with torch.no_grad():
        own, found = (each(**batch).logits for each in (model, exported))
        settings = {"max_new_tokens": 8, "do_sample": False}
        longer = [each.generate(**batch, **settings).tolist() for each in (model, exported)]
    return {
        "error": float((own - found).abs().max() / own.abs().max()),
        "continued": longer[1],
        "own": longer[0],
    }


CONSUMERS: Mapping[str, Callable[[Path], dict[str, Any]]] = {
    "pipeline": of_pipeline,
    "trainer": of_trainer,
    "trl": of_trl,
    "peft": of_peft,
    "lm_eval": of_lm_eval,
    "ctranslate2": of_ctranslate2,
    "optimum": of_optimum,
}


def main(name: str, folder: Path) -> None:
    """Print what the consumer found for each artefact, or how it failed."""
    found: dict[str, Any] = {}
    out = sys.stdout
    sys.stdout = sys.stderr  # some print what they do
    for path in sorted(folder.iterdir()):
        try:
            found[path.name] = CONSUMERS[name](path)
        except Exception as error:
            found[path.name] = {"failed": f"{type(error).__name__}: {error}"}
    json.dump(found, out)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
