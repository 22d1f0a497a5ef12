"""Imports point one way (design 3), lazy imports included."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Lower may not import higher. What is missing here is a file that nobody placed.
LAYERS = [
    {"featurestore.errors"},
    {"featurestore.values", "featurestore.remote"},
    {"featurestore.files"},
    {
        "featurestore.user_cache",
        "featurestore.query",
        "featurestore.images",
        "featurestore.batching",
        "featurestore.profile",
        "featurestore.gpu_search",
        "featurestore.plain_pages",
    },
    {"featurestore.shards"},
    {"featurestore.tables", "featurestore.sources", "featurestore.encoders", "featurestore.index"},
    {"featurestore.approximate", "featurestore.pictures"},
    {
        "featurestore.layout",
        "featurestore.cache",
        "featurestore.canary",
        "featurestore.direct",
        "featurestore.embed",
        "featurestore.gains",
    },
    {"featurestore.slices", "featurestore.reviews"},
    {"featurestore.ingest", "featurestore.intake", "featurestore.plan", "featurestore.writer"},
    {"featurestore.store", "featurestore.view", "featurestore.labelling", "featurestore.fleet"},
    {
        "featurestore.upkeep",
        "featurestore.relocate",
        "featurestore.verify",
        "featurestore.exchange",
    },
    {"featurestore.review_files"},
    {"featurestore.derived", "featurestore.torch_data"},
    {"featurestore.graph"},
    {"featurestore.projection"},
    {"featurestore.demo_data"},
    {"featurestore.demo"},
    {"heads"},
    {"dashboard"},
    {"featurestore.cli"},
]
TORCH_BY_NAME = {"torch_data.py", "softmax_gpu.py"}  # imported by those alone who ask for them
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}

FILES = sorted(
    p for room in ("featurestore", "heads", "dashboard") for p in (ROOT / room).rglob("*.py")
)


def layer(module):
    parts = module.split(".")
    if parts[0] in ("heads", "dashboard"):
        return LEVEL[parts[0]]
    return LEVEL[".".join(parts[:2])]


def imports(path):
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [node.module]
            if node.module in ("featurestore", "featurestore.encoders"):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from ((module, name) for name in names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path):
    if path == ROOT / "featurestore" / "__init__.py":
        return  # the public names: type hints only, the rest is lazy
    for module, name in imports(path):
        parts = name.split(".")
        if parts[0] not in ("featurestore", "heads", "dashboard"):
            continue
        if len(parts) == 2 and name not in LEVEL and parts[0] == "featurestore":
            continue  # a public name of the package, such as featurestore.open_store
        assert layer(name) <= layer(module), f"{module} imports {name}, which stands above it"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_heads_compute_on_arrays_and_only_encoders_know_torch(path):
    place = path.relative_to(ROOT)
    for _, name in imports(path):
        top = name.split(".")[0]
        if top in ("torch", "timm", "open_clip", "sentence_transformers", "transformers"):
            is_loader = top == "torch" and place.name in TORCH_BY_NAME
            assert is_loader or place.parts[:2] == ("featurestore", "encoders"), (
                f"{place} imports {top}"
            )
        if top == "deltalake":
            assert place.name == "tables.py"
        if top == "duckdb":
            assert place.name == "query.py"
        if top == "faiss":
            assert place.name == "index.py"
        if top == "pickle":
            pytest.fail(f"{place} imports pickle")
