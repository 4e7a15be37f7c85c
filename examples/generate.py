"""Load a release by its tag and let it write: python examples/generate.py NS/NAME TAG [PROMPT]."""

from __future__ import annotations

import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

repo_id, tag, prompt = (*sys.argv[1:3], sys.argv[3] if len(sys.argv) > 3 else "\n")
tokenizer = AutoTokenizer.from_pretrained(repo_id, revision=tag, trust_remote_code=True)
model = AutoModelForCausalLM.from_pretrained(repo_id, revision=tag, trust_remote_code=True)

torch.manual_seed(1337)
inputs = tokenizer(prompt, return_tensors="pt")
room = model.config.max_position_embeddings - inputs["input_ids"].shape[1]
output = model.generate(**inputs, max_new_tokens=min(200, room), do_sample=True, temperature=0.8)
print(tokenizer.decode(output[0]))
