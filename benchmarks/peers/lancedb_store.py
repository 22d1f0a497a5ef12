"""LanceDB: ingest, load to numpy, IVF_PQ with refine. VECTORS QUERIES TRUTH FOLDER"""

import json
import sys
import time
from importlib.metadata import version

import lancedb
import numpy as np
import pyarrow as pa

vectors, queries, truth = (np.load(path) for path in sys.argv[1:4])
n, dim = vectors.shape
database = lancedb.connect(sys.argv[4])
found: dict[str, object] = {"version": version("lancedb")}


def rows() -> pa.Table:
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), dim)
    return pa.table({"id": [f"i{i:06d}" for i in range(n)], "vector": column})


started = time.perf_counter()
table = database.create_table("t", rows())
found["ingest_s"] = time.perf_counter() - started

loads = []
for _ in range(3):
    table = lancedb.connect(sys.argv[4]).open_table("t")
    started = time.perf_counter()
    arrow = table.to_arrow()
    flat = np.concatenate([chunk.flatten().to_numpy() for chunk in arrow["vector"].chunks])
    loaded = flat.reshape(-1, dim)
    loads.append(time.perf_counter() - started)
    assert loaded.shape == vectors.shape
found["load_s"] = loads

started = time.perf_counter()
table.create_index(metric="cosine", vector_column_name="vector", index_type="IVF_PQ")
found["build_s"] = time.perf_counter() - started

for n_probes, refine in ((20, 10), (40, 20), (80, 50)):
    seconds, hits = [], 0
    for query, true in zip(queries, truth, strict=True):
        started = time.perf_counter()
        result = (
            table.search(query).metric("cosine").nprobes(n_probes).refine_factor(refine).limit(10)
            .select(["id"]).to_arrow()
        )  # fmt: skip
        seconds.append(time.perf_counter() - started)
        hits += len({int(one[1:]) for one in result["id"].to_pylist()} & set(true.tolist()))
    found["query_s"] = float(np.median(seconds))
    found["recall"] = hits / truth.size
    found["settings"] = f"nprobes {n_probes}, refine {refine}"
    if found["recall"] >= 0.95:
        break
print(json.dumps(found))
