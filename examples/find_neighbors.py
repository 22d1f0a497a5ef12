"""Nearest neighbors of an item, of a new text, and of several examples together.

Run it in an empty folder: ``python find_neighbors.py``.
"""

from pathlib import Path

import featurestore
from featurestore.demo.data import write_pictographs

table = write_pictographs(Path("pictographs.jsonl"))

store = featurestore.open_store("store", create=True)
store.embed(
    [table],
    dataset="names",
    encoders=["builtin:tiny-text"],
    source_options=featurestore.SourceOptions(text="text", id="id", label=("kind",)),
)

view = store.view("names", "builtin:tiny-text")
found = view.search_text("something to eat", k=5, where="kind = 'food'")
names = found.column("text")[0]
for score, item_id, name in zip(found.scores[0], found.ids[0], names, strict=True):
    print(f"{score:.3f}  {item_id}  {name}")

alike = view.like(items=[found.ids[0][0]], texts=["fruit"], k=3)
print(alike.column("text")[0].tolist())
