"""Count what a reader meets: files, floors, circles, long functions, loose types.

Run it as ``python tools/structure.py`` (a table) or with one of the names in `COUNTS`
(``python tools/structure.py circles``) to see the places behind a figure. ``--root DIR`` counts
another checkout, so that two states can be compared.
"""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PACKAGES = ("featurestore", "heads", "dashboard")
LONG_FILE, LONG_TEST_FILE, LONG_FUNCTION, MANY_PARAMETERS, DEEP = 450, 600, 80, 10, 4
SHAPE = re.compile(
    r"\(n\w*,|\(n\)|shape|\(\w+, \w+\)|\(\d+,|dtype|array-like of|length n|one for each"
)


@dataclass(frozen=True)
class Function:
    """A function or method: where it stands, and its syntax tree."""

    path: Path
    name: str
    node: ast.FunctionDef | ast.AsyncFunctionDef
    is_method: bool
    source: str

    @property
    def n_lines(self) -> int:
        """Lines from ``def`` to the last statement."""
        assert self.node.end_lineno is not None
        return self.node.end_lineno - self.node.lineno + 1

    @property
    def parameters(self) -> list[ast.arg]:
        """Its parameters without self and cls."""
        a = self.node.args
        given = [*a.posonlyargs, *a.args, *([a.vararg] if a.vararg else []), *a.kwonlyargs,
                 *([a.kwarg] if a.kwarg else [])]  # fmt: skip
        return given[1:] if self.is_method and given and given[0].arg in ("self", "cls") else given

    @property
    def is_command(self) -> bool:
        """Whether it is a command of the CLI, whose parameters are its options."""
        return any("command" in ast.unparse(one) for one in self.node.decorator_list)

    @property
    def depth(self) -> int:
        """How deep its blocks nest."""
        return _depth(self.node.body)


_BLOCKS = (ast.For, ast.While, ast.If, ast.With, ast.Try, ast.Match, ast.AsyncFor, ast.AsyncWith)


def _depth(body: list[ast.stmt]) -> int:
    deepest = 0
    for one in body:
        if not isinstance(one, _BLOCKS):
            continue
        inner = [getattr(one, name, []) for name in ("body", "finalbody")]
        inner += [handler.body for handler in getattr(one, "handlers", [])]
        inner += [case.body for case in getattr(one, "cases", [])]
        deepest = max(deepest, 1 + max(map(_depth, inner), default=0))
        rest = getattr(one, "orelse", [])
        is_elif = isinstance(one, ast.If) and len(rest) == 1 and isinstance(rest[0], ast.If)
        deepest = max(deepest, _depth(rest) + (0 if is_elif else bool(rest)))
    return deepest


@cache
def parsed(path: Path) -> ast.Module:
    """Return the syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"))


def files(root: Path, folders: tuple[str, ...] = PACKAGES) -> list[Path]:
    """Return the Python files of these folders, sorted."""
    return sorted(path for folder in folders for path in (root / folder).rglob("*.py"))


def module_name(path: Path, root: Path) -> str:
    """Return what a file is called when it is imported."""
    name = ".".join(path.relative_to(root).with_suffix("").parts)
    return name.removesuffix(".__init__")


def imports(
    path: Path,
    root: Path,
    *,
    types_too: bool = False,
    packages: Collection[str] | None = PACKAGES,
) -> Iterator[str]:
    """Yield the modules that a file imports, lazy imports included.

    Imports for type checkers alone are left out unless ``types_too``. ``from featurestore.sources
    import table`` gives ``featurestore.sources.table``; a name that is no module gives its module.
    ``packages`` are those whose modules are wanted; None gives all top-level names.
    """
    for name in _imported(path, root, types_too):
        top = name.split(".")[0]
        if packages is None:
            yield top
        elif top in packages:
            yield name


@cache
def _imported(path: Path, root: Path, types_too: bool) -> tuple[str, ...]:
    known = set(_modules(root))
    found: list[str] = []
    for node in _walk(parsed(path), types_too):
        if isinstance(node, ast.Import):
            found += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = (f"{node.module}.{alias.name}" for alias in node.names)
            found += (one if one in known else node.module for one in inner)
    return tuple(found)


def _walk(node: ast.AST, types_too: bool) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            if types_too:
                yield from _walk(child, types_too)
            continue
        yield child
        yield from _walk(child, types_too)


@cache
def _modules(root: Path) -> tuple[str, ...]:
    return tuple(module_name(path, root) for path in files(root))


def graph(root: Path, *, types_too: bool = False) -> dict[str, set[str]]:
    """Return which module imports which, without the packages' lazy doors (``__init__``)."""
    edges: dict[str, set[str]] = {}
    for path in files(root):
        name = module_name(path, root)
        edges[name] = {one for one in imports(path, root, types_too=types_too) if one != name}
    return edges


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Return groups of modules that import each other, by way of others or directly (Tarjan)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(edges.get(node, ())):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            at = stack.index(node)
            group = sorted(stack[at:])
            del stack[at:]
            if len(group) > 1:
                found.append(group)

    for node in sorted(edges):
        if node not in index:
            visit(node)
    return sorted(found)


def floors(edges: dict[str, set[str]]) -> dict[str, int]:
    """Return the floor of each module: one above the highest that it imports, circles as one."""
    home = {one: group[0] for group in circles(edges) for one in group}

    @cache
    def floor(name: str) -> int:
        members = [one for one in edges if home.get(one, one) == name]
        below = {home.get(b, b) for one in members for b in edges[one] if b in edges} - {name}
        return 1 + max(map(floor, below), default=0)

    return {one: floor(home.get(one, one)) for one in edges}


def rooms(edges: dict[str, set[str]]) -> dict[str, set[str]]:
    """Return which room imports which: a room is a folder, or a file that stands loose."""

    def room(name: str) -> str:
        return ".".join(name.split(".")[:2])

    found: dict[str, set[str]] = {}
    for name, others in edges.items():
        found.setdefault(room(name), set()).update(room(o) for o in others)
    return {name: others - {name} for name, others in found.items()}


def functions(root: Path, folders: tuple[str, ...] = PACKAGES) -> list[Function]:
    """Return all functions and methods, nested ones included."""
    found = []
    for path in files(root, folders):
        source = path.read_text(encoding="utf-8")

        def visit(
            node: ast.AST, prefix: str, in_class: bool, path: Path = path, source: str = source
        ) -> None:
            for child in ast.iter_child_nodes(node):
                if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                    name = prefix + child.name
                    found.append(Function(path, name, child, in_class, source))
                    visit(child, name + ".", False)
                elif isinstance(child, ast.ClassDef):
                    visit(child, prefix + child.name + ".", True)
                else:
                    visit(child, prefix, in_class)

        visit(parsed(path), "", False)
    return found


def any_parameters(root: Path) -> list[str]:
    """Return parameters that are of type ``Any``, one line each."""
    return [
        f"{place(one, root)} {parameter.arg}"
        for one in functions(root)
        for parameter in one.parameters
        if parameter.annotation is not None
        and ast.unparse(parameter.annotation) in ("Any", "Any | None")
    ]


def without_shapes(root: Path) -> list[str]:
    """Return public functions with arrays in or out of which nothing says the shape."""
    found = []
    for one in functions(root):
        parts = one.name.split(".")
        if any(part.startswith("_") for part in parts) or _is_overridden(one):
            continue
        hints = [p.annotation for p in one.parameters] + [one.node.returns]
        arrays = [h for h in hints if h is not None and "NDArray" in ast.unparse(h)]
        signature = one.source.splitlines()[one.node.lineno - 1 : one.node.body[0].lineno]
        text = (ast.get_docstring(one.node) or "") + "\n".join(signature)
        if arrays and not SHAPE.search(text):
            found.append(place(one, root))
    return found


def _is_overridden(one: Function) -> bool:
    """Whether scikit-learn's own pages say what goes in and out."""
    known = ("fit", "predict", "predict_proba", "transform", "score", "decision_function")
    return one.is_method and one.node.name in known


def place(one: Function, root: Path) -> str:
    """Return where a function stands."""
    return f"{one.path.relative_to(root)}:{one.node.lineno} {one.name}"


def _lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def _files(root: Path) -> list[str]:
    return [str(path.relative_to(root)) for path in files(root)]


def _map(root: Path) -> list[str]:
    """Return each file with the first line of its docstring."""
    lines = []
    for path in files(root):
        doc = ast.get_docstring(parsed(path)) or ""
        if path.name != "__init__.py":
            lines.append(f"{path.relative_to(root)!s:45} {doc.partition(chr(10))[0]}")
    return lines


def _loose(root: Path) -> list[str]:
    return [
        str(p.relative_to(root)) for name in PACKAGES for p in sorted((root / name).glob("*.py"))
    ]


def _floors(root: Path) -> list[str]:
    by_room = rooms(graph(root))
    level = floors(by_room)
    return [f"{floor:3} {name}" for name, floor in sorted(level.items(), key=lambda e: (-e[1], e))]


def _circles(root: Path) -> list[str]:
    return [" ↔ ".join(group) for group in circles(graph(root, types_too=False))]


def _room_circles(root: Path) -> list[str]:
    return [" ↔ ".join(group) for group in circles(rooms(graph(root, types_too=True)))]


def _long_files(root: Path) -> list[str]:
    found = [(path, LONG_FILE) for path in files(root)]
    found += [(path, LONG_TEST_FILE) for path in files(root, ("tests",))]
    return [
        f"{_lines(path):5} {path.relative_to(root)}"
        for path, most in sorted(found, key=lambda each: -_lines(each[0]))
        if _lines(path) > most
    ]


def _long_functions(root: Path) -> list[str]:
    found = sorted(functions(root), key=lambda one: -one.n_lines)
    return [f"{one.n_lines:5} {place(one, root)}" for one in found if one.n_lines > LONG_FUNCTION]


def _many_parameters(root: Path) -> list[str]:
    found = sorted(functions(root), key=lambda one: -len(one.parameters))
    return [
        f"{len(one.parameters):5} {place(one, root)}"
        for one in found
        if len(one.parameters) > MANY_PARAMETERS and not one.is_command
    ]


def _deep(root: Path) -> list[str]:
    found = sorted(functions(root), key=lambda one: -one.depth)
    return [f"{one.depth:5} {place(one, root)}" for one in found if one.depth > DEEP]


def _probes(root: Path) -> list[str]:
    """Return ``getattr(x, "name", default)``: what a type could have said."""
    return [
        f"{path.relative_to(root)}:{node.lineno} {ast.unparse(node)}"
        for path in files(root)
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) == "getattr"
        and len(node.args) == 3
    ]


# name → (what it counts, the places)
COUNTS: dict[str, tuple[str, Callable[[Path], list[str]]]] = {
    "map": ("files with what they are for", _map),
    "files": ("Python files of the packages", _files),
    "loose": ("files that stand in no room", _loose),
    "floors": ("rooms and loose files, highest floor first", _floors),
    "circles": ("circles of files", _circles),
    "room-circles": ("circles of rooms, imports for types included", _room_circles),
    "long-files": (f"files over {LONG_FILE} lines (tests: {LONG_TEST_FILE})", _long_files),
    "long-functions": (f"functions over {LONG_FUNCTION} lines", _long_functions),
    "parameters": (f"functions with over {MANY_PARAMETERS} parameters", _many_parameters),
    "nesting": (f"functions nested over {DEEP} deep", _deep),
    "any": ("parameters of type Any", any_parameters),
    "shapes": ("public functions with arrays and no word of their shape", without_shapes),
    "probes": ("getattr with a default", _probes),
}  # fmt: skip


def main() -> None:
    """Print a table, or the places behind one figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", nargs="?", choices=sorted(COUNTS))
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[1])
    chosen = parser.parse_args()
    root = chosen.root.resolve()
    if chosen.count:
        print("\n".join(COUNTS[chosen.count][1](root)))
        return
    for name, (what, places) in COUNTS.items():
        found = places(root)
        worst = found[0].strip() if found and name not in ("map", "files", "loose", "any") else ""
        print(f"{name:15} {len(found):5}  {what}" + (f"; first: {worst}" if worst else ""))


if __name__ == "__main__":
    main()
