"""Pictures in class folders → vectors → a head → predictions for new pictures.

Run it in an empty folder: ``python train_a_head.py``. Put your own folder in place of ``digits``.
"""

from pathlib import Path

import featurestore
import heads
from featurestore.demo.data import write_digits

photos = write_digits(Path("digits"), every=3)  # digits/0/0000.png, digits/3/0003.png, …

store = featurestore.open_store("store", create=True)
store.embed([photos], dataset="digits", encoders=["builtin:tiny-image"])

view = store.view("digits", "builtin:tiny-image")
head = heads.fit(view, "ridge")  # chooses its settings, fits, and measures itself out of fold
score = head.card["metrics"]["balanced_accuracy"]
print(f"balanced accuracy {score['value']:.3f} ({score['low']:.3f} to {score['high']:.3f})")

head.save("bundle")  # head, card and encoder: all that another machine needs
new = sorted((photos / "7").glob("*.png"))[:3]
answers = heads.load_bundle("bundle").ask(new)
print(answers.predicted.tolist())
