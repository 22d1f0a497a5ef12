"""Make the weights of ``builtin:tiny-text``: distil a sentence transformer into token vectors.

Run: python -m tools.distil_text --teacher PATH --wordnet PATH --work FOLDER

Each token of the vocabulary goes through the teacher alone, and so do WordNet's definitions and
examples (into a featurestore in FOLDER, which goes on after an interruption). Token vectors start
as the principal components of the first and are fitted to the second: the sum over a text shall
point where the teacher does.
"""

import argparse
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SEED = 0
DIM = 256
MAX_TOKENS = 28_700  # what fits: 8 MB with the tokenizer
BATCH, EPOCHS, LEARNING_RATE = 1024, 20, 2e-3


def main() -> None:
    """Embed, fit, write the weights; embedding goes on where it was left."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", required=True, help="a sentence-transformers folder")
    parser.add_argument("--wordnet", type=Path, required=True, help="folder of data.noun, …")
    parser.add_argument("--work", type=Path, required=True, help="where steps are kept")
    parser.add_argument("--out", type=Path, default=Path("featurestore/weights"))
    asked = parser.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    texts, vectors = embed_wordnet(asked.wordnet, asked.teacher, asked.work)
    tokens = embed_tokens(asked.teacher)
    tokenizer, kept = cut_tokenizer(asked.teacher)
    table = fit(tokenizer, texts, vectors, tokens[kept])
    write_weights(table, tokenizer, asked.out)


def embed_wordnet(folder: Path, teacher: str, work: Path) -> tuple[list[str], NDArray[np.float32]]:
    """Return WordNet's texts and the teacher's vectors of them, (n, 384)."""
    from featurestore.sources.listing import SourceOptions
    from featurestore.store.store import open_store

    path, spec = work / "wordnet.jsonl", f"st:local-dir:{teacher}"
    rows = list(wordnet_texts(folder))
    with path.open("w", encoding="utf-8") as file:
        for key, text in rows:
            file.write(json.dumps({"id": key, "text": text}, ensure_ascii=False) + "\n")
    store = open_store(work / "store", create=True)
    options = SourceOptions(text="text", id="id")
    for report in store.embed([path], dataset="wordnet", encoders=[spec], source_options=options):
        print(report.describe(), flush=True)
    found = store.view("wordnet", spec).load()
    by_id = dict(rows)
    return [by_id[one] for one in found.ids], found.vectors


def wordnet_texts(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield (id, text): words with their definition, then each example (format: wndb(5WN))."""
    for part in ("noun", "verb", "adj", "adv"):
        with (folder / f"data.{part}").open(encoding="utf-8") as file:
            for line in file:
                if line.startswith("  "):
                    continue  # the licence
                fields, _, gloss = line.partition(" | ")
                offset, _, _, n_words, *rest = fields.split()
                words = [_word(one) for one in rest[: 2 * int(n_words, 16) : 2]]
                definition = re.sub(r'[;,:\s]*"[^"]+"', "", gloss).strip(" ;\n")
                yield f"{part}-{offset}", f"{', '.join(words)}: {definition}"
                for i, example in enumerate(re.findall(r'"([^"]+)"', gloss)):
                    yield f"{part}-{offset}-{i}", example


def _word(written: str) -> str:
    return re.sub(r"\(.*\)", "", written).replace("_", " ")


def embed_tokens(teacher: str) -> NDArray[np.float32]:
    """Return the teacher's vector of each token of its vocabulary, alone, (n, 384)."""
    import torch
    from sentence_transformers import SentenceTransformer

    pipeline = SentenceTransformer(teacher, device="cpu")
    first, last = pipeline.tokenizer.cls_token_id, pipeline.tokenizer.sep_token_id
    found = []
    with torch.inference_mode():
        for ids in torch.arange(len(pipeline.tokenizer)).split(512):
            framed = torch.stack(
                [torch.full_like(ids, first), ids, torch.full_like(ids, last)], dim=1
            )
            batch = {
                "input_ids": framed,
                "attention_mask": torch.ones_like(framed),
                "token_type_ids": torch.zeros_like(framed),
            }
            found.append(pipeline(batch)["sentence_embedding"].numpy())
    return np.concatenate(found)


def cut_tokenizer(teacher: str) -> tuple[Any, NDArray[np.intp]]:
    """Return the teacher's tokenizer without what is unused or rare, and the ids that stay."""
    from tokenizers import Tokenizer

    whole = json.loads((Path(teacher) / "tokenizer.json").read_text(encoding="utf-8"))
    ids: dict[str, int] = whole["model"]["vocab"]
    special = {"[PAD]", "[CLS]", "[SEP]", "[MASK]"}
    useful = [
        token
        for token in sorted(ids, key=lambda one: ids[one])
        if not token.startswith("[unused") and token not in special
    ][:MAX_TOKENS]
    whole["model"]["vocab"] = {token: new for new, token in enumerate(useful)}
    whole |= {"post_processor": None, "padding": None, "truncation": None, "added_tokens": []}
    tokenizer = Tokenizer.from_str(json.dumps(whole))
    return tokenizer, np.array([ids[token] for token in useful])


def fit(
    tokenizer: Any, texts: list[str], vectors: NDArray[np.float32], tokens: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return token vectors, (n_tokens, DIM), whose sums point where the teacher's vectors do."""
    import torch
    from torch.nn.functional import cosine_similarity, embedding_bag

    mean, components = _principal(np.concatenate([vectors, tokens]))
    targets = torch.from_numpy((vectors - mean) @ components)
    start = torch.from_numpy((tokens - mean) @ components)
    rank = torch.arange(len(tokens)).clamp(min=1)
    table = (start * torch.log(2 + rank)[:, None]).requires_grad_()
    found = [one.ids for one in tokenizer.encode_batch(texts, add_special_tokens=False)]
    rows = np.array([i for i, ids in enumerate(found) if ids])
    n_held_out = 2000
    order = np.random.default_rng(SEED).permutation(rows)
    held_out, rows = order[:n_held_out], order[n_held_out:]

    def loss_of(some: NDArray[np.intp]) -> Any:
        ids = [found[i] for i in some]
        flat = torch.tensor([one for text in ids for one in text])
        starts = torch.tensor(np.cumsum([0, *map(len, ids)])[:-1])
        sums = embedding_bag(flat, table, starts, mode="sum")
        return 1 - cosine_similarity(sums, targets[some]).mean()

    optimizer = torch.optim.Adam([table], lr=LEARNING_RATE)
    n_steps = EPOCHS * (len(rows) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_steps)
    for epoch in range(EPOCHS):
        shuffled = np.random.default_rng([SEED, epoch]).permutation(rows)
        for at in range(0, len(rows) - BATCH + 1, BATCH):
            loss = loss_of(shuffled[at : at + BATCH])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        with torch.inference_mode():
            line = {"epoch": epoch + 1, "loss": float(loss), "held_out": float(loss_of(held_out))}
        print(json.dumps(line), flush=True)
    return np.asarray(table.detach().numpy(), np.float32)


def _principal(vectors: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the mean and the first principal components, (384, DIM)."""
    mean = vectors.mean(axis=0)
    values, components = np.linalg.eigh(np.cov(vectors - mean, rowvar=False))
    return mean, components[:, np.argsort(values)[::-1][:DIM]].astype(np.float32)


def write_weights(table: NDArray[np.float32], tokenizer: Any, folder: Path) -> None:
    """Write int8 safetensors with a scale for each token, and the tokenizer; print SHA-256."""
    from safetensors.numpy import save_file

    scales = np.abs(table).max(axis=1) / 127
    scales = np.maximum(scales, 1e-8).astype(np.float16)
    vectors = np.round(table / scales[:, None].astype(np.float32)).clip(-127, 127).astype(np.int8)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"vectors": vectors, "scales": scales}, folder / "tiny-text.safetensors")
    written = json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False, separators=(",", ":"))
    (folder / "tiny-text.tokenizer.json").write_text(written, encoding="utf-8")
    for name in ("tiny-text.safetensors", "tiny-text.tokenizer.json"):
        content = (folder / name).read_bytes()
        print(name, f"{len(content):,} bytes, SHA-256", hashlib.sha256(content).hexdigest())


if __name__ == "__main__":
    main()
