"""Texts with sentence-transformers: its encode, or a loop over batches as they come.

encode|loop TEXTS.json MODEL OUT
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import sentence_transformers
import torch

how, texts, model, out = sys.argv[1:5]
texts = json.loads(Path(texts).read_text())
model = sentence_transformers.SentenceTransformer(model, device="cpu")
model.encode(texts[:8])
started = time.perf_counter()
if how == "encode":
    vectors = model.encode(texts, show_progress_bar=False)
else:
    tokenizer, network, pooling = model.tokenizer, model[0], list(model)[1:]
    vectors = []
    for start in range(0, len(texts), 32):
        batch = tokenizer(
            texts[start : start + 32], padding=True, truncation=True, return_tensors="pt",
            max_length=model.max_seq_length,
        )  # fmt: skip
        with torch.no_grad():
            features = network(dict(batch))
            for module in pooling:
                features = module(features)
        vectors.append(features["sentence_embedding"].numpy())
    vectors = np.concatenate(vectors)
seconds = time.perf_counter() - started
np.savez(out, vectors=vectors)
version = sentence_transformers.__version__
print(json.dumps({"n": len(texts), "seconds": seconds, "version": version}))
