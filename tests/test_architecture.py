"""The rooms of the code: who may import whom, lazy imports included.

A room is a folder. A broken rule means that something stands in the wrong room: move what is
needed below both rooms, or hand it in as an argument.
"""

import ast
from pathlib import Path

import pytest

from tools.structure import (
    COUNTS,
    circles,
    files,
    floors,
    graph,
    imports,
    module_name,
    parsed,
    rooms,
)

ROOT = Path(__file__).parents[1]

# room: the rooms below it that it may import; all may import featurestore.errors. What is listed
# for a room of featurestore is all that it knows; heads and dashboard know featurestore, too.
FEATURESTORE = {
    "terms": "",
    "storage": "terms",
    "search": "storage terms",
    "sources": "storage terms",
    "encoders": "storage terms",
    "pipeline": "sources encoders storage terms",
    "curation": "sources storage terms",
    "workers": "pipeline sources encoders storage terms",
    "store": "pipeline curation sources encoders search storage terms",
    "upkeep": "curation sources encoders search storage terms",
    "maps": "store search storage terms",
    "exchange": "store pipeline curation sources search storage terms",
    "publish": "store storage terms",
    "demo": "store sources encoders terms",
    "cli": (
        "workers demo publish exchange maps upkeep store pipeline curation sources encoders search "
        "storage terms"
    ),
}
HEADS = {
    "charts": "",
    "labels": "",
    "measures": "labels charts",
    "estimators": "labels",
    "twins": "labels",
    "catalogue": "estimators measures labels",
    "saved": "catalogue estimators twins measures labels",
    "experiments": "saved catalogue estimators twins measures labels charts",
    "quality": "experiments saved catalogue estimators twins measures labels",
    "transfer": "experiments saved catalogue estimators twins measures labels charts",
    "advice": "transfer experiments saved catalogue estimators twins measures labels charts",
    "report_page": (
        "advice transfer quality experiments saved catalogue estimators twins measures labels "
        "charts"
    ),
    "upgrade": "experiments saved catalogue measures labels",
    "drift": "transfer experiments saved catalogue estimators twins measures labels",
    "serving": "experiments saved catalogue estimators twins measures labels",
    "chosen": "catalogue",  # the home that saved heads name
}
DASHBOARD = {
    "launch": "",
    "colors": "",
    "jobs": "launch page_data",
    "worker": "",
    "background": "",
    "page_data": "colors",
    "url_state": "page_data",
    "caches": "url_state page_data launch",
    "gallery": "page_data",
    "scatter": "page_data",
    "start_runs": "caches url_state page_data",
    "widgets": "gallery caches url_state page_data",
    "screens": (
        "widgets hover background start_runs jobs gallery scatter caches url_state page_data"
    ),
    "app": "caches jobs url_state page_data",
    "server": "hover page_data",
    "hover": "page_data",
}
RULES = {
    **{f"featurestore.{room}": _rooms for room, _rooms in FEATURESTORE.items()},
    **{f"heads.{room}": _rooms for room, _rooms in HEADS.items()},
    **{f"dashboard.{room}": _rooms for room, _rooms in DASHBOARD.items()},
}
CLI_SHARED = (
    "embed_parts", "exit_codes", "layout", "next_lines", "options", "printing", "settings",
    "show_results", "watching",
)  # fmt: skip
FREE = {
    "featurestore", "heads", "dashboard", "featurestore.errors", "featurestore.ray",
    "featurestore.torch_data", "featurestore.__main__",
}  # fmt: skip

MODULES = [module_name(path, ROOT) for path in files(ROOT)]


@pytest.fixture(scope="module")
def edges():
    return graph(ROOT, types_too=True)


# package: the files or rooms that alone may import it
OWNERS = {
    "torch": (
        "featurestore/encoders/",
        "featurestore/torch_data.py",
        "heads/estimators/retrain.py",
        "heads/estimators/softmax_gpu.py",
    ),
    "timm": ("featurestore/encoders/",),
    "open_clip": ("featurestore/encoders/",),
    "sentence_transformers": ("featurestore/encoders/",),
    "transformers": ("featurestore/encoders/",),
    "deltalake": ("featurestore/storage/tables.py",),
    "duckdb": ("featurestore/storage/query.py",),
    "obstore": ("featurestore/storage/remote.py",),
    "ray": ("featurestore/workers/on_ray.py",),
    "faiss": ("featurestore/search/exact.py",),
    "streamlit": tuple(  # page data and colors are computed without it
        f"dashboard/{name}"
        for name in (
            "app.py",
            "background.py",
            "caches.py",
            "gallery.py",
            "jobs.py",
            "launch.py",
            "scatter.py",
            "screens/",
            "server.py",
            "start_runs.py",
            "url_state.py",
            "widgets.py",
        )
    ),
    "matplotlib": ("heads/charts/axes.py", "heads/charts/plotted.py"),
    "mlflow": ("heads/saved/on_mlflow.py",),
    "onnx": ("heads/saved/export_onnx.py",),
    "onnxruntime": ("heads/saved/export_onnx.py",),
    "starlette": ("heads/serving/", "dashboard/server.py"),
    "uvicorn": ("heads/serving/",),
    "jinja2": ("heads/report_page/report.py",),
    "lancedb": ("featurestore/publish/lance.py",),
    "psycopg": ("featurestore/publish/postgres.py",),
    "huggingface_hub": ("heads/saved/hub.py", "featurestore/encoders/installed.py"),
    "qdrant_client": ("featurestore/publish/qdrant.py",),
    "pickle": (),
}


def room_of(module):
    return ".".join(module.split(".")[:2])


def is_allowed(room, other):
    if room == other or other in FREE or other == "featurestore.errors":
        return True
    package, below = room.split(".")[0], RULES[room].split()
    if other.split(".")[0] == package:
        return other.split(".")[1] in below
    # heads stand on featurestore, the dashboard on both, the commands on all
    return (
        other.split(".")[0]
        in {
            "featurestore": ("heads", "dashboard") if room == "featurestore.cli" else (),
            "heads": ("featurestore",) if other != "featurestore.cli" else (),
            "dashboard": ("featurestore", "heads"),
        }[package]
    )


@pytest.mark.parametrize("module", MODULES)
def test_rooms_are_entered_from_above_alone(module, edges):
    room = room_of(module)
    if room in FREE:
        return
    assert room in RULES, f"{module} stands in no room: move it into one, or give it a rule"
    for other in sorted(edges[module]):
        assert is_allowed(room, room_of(other)), (
            f"{module} imports {other}, but {room} may only use: {RULES[room] or 'nothing'}; "
            "move what is needed below both, or hand it in as an argument"
        )


def test_a_command_imports_no_other_command(edges):
    """What several commands print or ask stands in files of its own."""
    shared = {f"featurestore.cli.{name}" for name in CLI_SHARED}
    for module in MODULES:
        if room_of(module) == "featurestore.cli" and module != "featurestore.cli":
            others = {one for one in edges[module] if room_of(one) == "featurestore.cli"}
            assert others <= shared | {"featurestore.cli"}, f"{module} imports {others - shared}"


def test_no_circle_of_files_and_none_of_rooms(edges):
    assert circles(graph(ROOT)) == []  # imports for types alone may point back
    assert circles(rooms(edges)) == []


def test_the_rooms_of_the_store_stand_on_seven_floors(edges):
    of_store = {f"featurestore.{room}" for room in FEATURESTORE}
    level = floors({room: rooms(edges)[room] & of_store for room in of_store})
    assert max(level.values()) == 7


@pytest.mark.parametrize("package", sorted(OWNERS))
def test_a_package_is_known_to_its_owner_alone(package):
    for path in files(ROOT):
        place = str(path.relative_to(ROOT))
        if package in imports(path, ROOT, packages=None):
            assert place.startswith(OWNERS[package]), f"{place} imports {package}"


def test_imports_are_absolute():
    for path in files(ROOT):
        assert "\nfrom ." not in path.read_text(), f"{path}: relative import"


def test_the_doors_of_rooms_hold_no_code():
    """``__init__.py`` is a docstring; the packages' own give public names when asked."""
    public = {"featurestore", "heads", "featurestore.cli", "featurestore.encoders"}
    for path in files(ROOT):
        if path.name == "__init__.py" and module_name(path, ROOT) not in public:
            (only,) = parsed(path).body
            assert ast.get_docstring(parsed(path)), f"{path} says nothing: {ast.unparse(only)}"


@pytest.mark.parametrize(
    ("count", "most"),
    [("long-files", 0), ("long-functions", 0), ("parameters", 0), ("nesting", 0), ("any", 59)],
)
def test_the_code_stays_easy_to_read(count, most):
    what, places = COUNTS[count]
    assert len(places(ROOT)) <= most, "\n".join([what, *places(ROOT)])
