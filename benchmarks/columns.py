"""Columns beside vectors: how often noise is said to help, and how often what helps is found.

Made-up vectors of 64 numbers that tell two classes to some 75 %; a number and a category of four
values beside them, of which the class decides nothing, a little, or much. The store, the folds,
the heads and the verdict are the real ones. `python -m benchmarks.columns --draws 200`.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import heads
from benchmarks.main import print_table, write_results
from featurestore.sources.listing import SourceOptions
from featurestore.store.store import open_store

SCENARIOS = {"noise": 0.0, "a little": 0.5, "much": 1.0}  # distance of the classes' means
DIM, HEADS = 64, ["ridge", "logistic"]
