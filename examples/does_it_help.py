"""Find out whether a pretrained encoder helps, and what to do next.

Run it in an empty folder: ``python does_it_help.py``. The reference is the same data without
pretraining: raw pixels for pictures, TF-IDF for texts.
"""

from pathlib import Path

import featurestore
import heads
from featurestore.demo.data import write_pictographs

# {"id": "U+1F410", "text": "goat", "kind": "animal"}
table = write_pictographs(Path("pictographs.jsonl"))

store = featurestore.open_store("store", create=True)
store.embed(
    [table],
    dataset="names",
    encoders=["builtin:tiny-text"],
    source_options=featurestore.SourceOptions(text="text", id="id", label=("kind",)),
)

view = store.view("names", "builtin:tiny-text")
found = heads.assess_transfer(view, heads=["ridge"])
for verdict in found.verdicts:
    print(verdict.sentence())
for encoder, lines in found.advice.items():
    print(f"What to do with {encoder}:", *lines, sep="\n  • ")
