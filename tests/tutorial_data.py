"""The small data sets of docs/tutorials/, cut from ../shared/data."""

import csv
import shutil
from pathlib import Path

SHARED = Path(__file__).parents[2] / "shared" / "data"


def steel(folder):
    """Every fifth photograph in `steel/`, two others in `new/`."""
    (folder / "new").mkdir()
    for kind in sorted((SHARED / "neu_steel").iterdir()):
        paths = sorted(kind.iterdir())
        (folder / "steel" / kind.name).mkdir(parents=True)
        for path in paths[::5]:
            shutil.copy(path, folder / "steel" / kind.name)
        shutil.copy(paths[1], folder / "new")


def satellite(folder):
    """Every eighth picture, and a table that says in which cell of 0.05 degrees it lies."""
    rows = []
    for label in ("damage", "no_damage"):
        for path in sorted((SHARED / "hurricane_damage" / label).iterdir())[::8]:
            lon, lat = (float(one) for one in path.stem.split("_")[:2])
            copy = folder / "roofs" / f"{label}_{path.name}"
            copy.parent.mkdir(exist_ok=True)
            shutil.copy(path, copy)
            cell = f"{20 * lon:.0f} {20 * lat:.0f}"
            rows.append({"image": f"roofs/{copy.name}", "roof": label, "place": cell})
    _write(folder / "roofs.csv", rows)


def hospital(folder):
    """The cells of every fifth blood smear."""
    cells = SHARED / "blood_cells" / "cells.csv"
    with cells.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    kept = set(sorted({row["smear"] for row in rows})[::5])
    (folder / "crops").mkdir()
    for row in (rows := [row for row in rows if row["smear"] in kept]):
        shutil.copy(cells.parent / row["path"], folder / row["path"])
    _write(folder / "cells.csv", rows)


def law(folder):
    """Twenty messages for each of eight matters about which bank clients complain."""
    matters = (
        "transaction_charged_twice", "compromised_card", "lost_or_stolen_card", "request_refund",
        "card_payment_fee_charged", "direct_debit_payment_not_recognised", "terminate_account",
        "verify_my_identity",
    )  # fmt: skip
    with (SHARED / "banking77" / "train.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    found = []
    for matter in matters:
        texts = [row["text"] for row in rows if row["category"] == matter]
        found += [{"text": text, "matter": matter} for text in texts[:20]]
        found += [{"text": text, "matter": ""} for text in texts[20:25]]  # nobody has read these
    _write(folder / "messages.csv", [{"id": f"m{n:03}", **row} for n, row in enumerate(found)])


def _write(path, rows):
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


DATA = {"steel": steel, "satellite": satellite, "hospital": hospital, "law": law}
