import json
import signal
import subprocess
import sys
import time

import psutil
import pyarrow as pa
import pytest

from featurestore.cli import run
from featurestore.cli.printing import json_text
from featurestore.errors import BadQuery
from featurestore.storage import query
from featurestore.storage.query import evaluate, select

PETS = pa.table({"name": ["b", "a", "c"], "legs": [4, 2, 4], "odd name": [1, 2, 3]})


def test_one_select_answers():
    found = select("with x as (select legs, count(*) n from pets group by 1) from x order by 1",
                   {"pets": PETS})  # fmt: skip
    assert found.to_pylist() == [{"legs": 2, "n": 1}, {"legs": 4, "n": 2}]


@pytest.mark.parametrize(
    "statement",
    [
        "copy pets to '/tmp/out.csv'",
        "select 1; select 2",
        "attach '/tmp/x.db'",
        "install httpfs",
        "load httpfs",
        "pragma version",
        "set memory_limit = '1GB'",
        "create table t as select 1",
        "select * from read_csv('/etc/passwd')",
        "select * from '/etc/passwd'",
        "select * from glob('/*')",
        "select * from read_text('/etc/passwd')",
        "select * from elsewhere",
        "selec",
        "",
    ],
)
def test_everything_else_is_refused(statement):
    elsewhere = PETS  # a Python variable is no table
    assert len(elsewhere) == 3
    with pytest.raises(BadQuery):
        select(statement, {"pets": PETS})


def test_an_expression_keeps_the_order_of_rows():
    assert evaluate("upper(name)", PETS).to_pylist() == ["B", "A", "C"]


def test_a_plain_column_name_needs_no_quotes():
    assert evaluate("odd name", PETS).to_pylist() == [1, 2, 3]


HOSTILE = [
    "__row",
    "__ROW",
    "value",
    "items",
    'quo"te',
    "o'clock",
    "../x",
    "Größe 💡",
    "a" * 300,
    ";",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_column_of_any_name_gives_the_rows_in_their_order(name):
    table = pa.table({name: [3, 1, 2], "__row_": [9, 8, 7]})
    quoted = '"' + name.replace('"', '""') + '"'
    assert evaluate(f"{quoted} < 2", table).to_pylist() == [False, True, False]
    assert evaluate(name, table).to_pylist() == [3, 1, 2]


@pytest.mark.parametrize("expression", ["nme", "unnest([1, 2])", "name) from items --"])
def test_a_bad_expression_is_refused(expression):
    with pytest.raises(BadQuery) as error:
        evaluate(expression, PETS)
    assert len(str(error.value).splitlines()) == 1


ENDLESS = "select count(*) from range(100000000) a, range(100000000) b"


def test_what_takes_too_long_is_stopped(monkeypatch, texts_view, capsys):
    with pytest.raises(BadQuery, match=r"stopped after 0\.2 s: select count"):
        select(ENDLESS, {}, limit_s=0.2)
    with pytest.raises(BadQuery, match="stopped after"):
        select(ENDLESS, {}, limit_s=1e-9)  # before it runs
    monkeypatch.setattr(query, "EXPRESSION_S", 0.2)
    with pytest.raises(BadQuery, match="stopped after"):
        evaluate(f"legs > ({ENDLESS})", PETS)
    monkeypatch.undo()
    assert (
        run(["sql", ENDLESS, "--timeout", "0.2", "--store", str(texts_view.dataset.store.path)])
        == 1
    )
    assert "stopped after 0.2 s" in capsys.readouterr().err


def test_a_query_ends_with_ctrl_c(texts_view):
    command = [sys.executable, "-m", "featurestore.cli", "sql", ENDLESS]
    command += ["--store", str(texts_view.dataset.store.path)]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True,
        # A suite that a shell runs with & inherits an ignored SIGINT, and hands it on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as child:  # fmt: skip
        try:
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline and cpu_s(child.pid) < 6:  # its start needs two
                time.sleep(0.1)
            child.send_signal(signal.SIGINT)
            _, said = child.communicate(timeout=60)
        finally:
            child.kill()
    assert child.returncode == 130
    assert "interrupted; " in said
    assert "Traceback" not in said


def cpu_s(pid):
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


def test_a_store_answers_over_items_vectors_and_predictions(empty_store, tiny_images):
    import heads

    spec = "baseline:pixels#size=1"
    empty_store.embed([tiny_images], dataset="tiny", encoders=[spec])
    view = empty_store.view("tiny", spec)
    head = heads.fit(view, "prototype")
    found = empty_store.sql(
        "select tiny.label, count(*) n, avg(vector[1]) red, count_if(p.predicted = p.label) hits "
        f'from tiny join "tiny@{spec}" using (item_id) '
        f'join "tiny/{head.head_id}" p using (item_id) group by tiny.label order by tiny.label'
    ).to_pylist()
    assert [(row["label"], row["n"]) for row in found] == [("dark", 3), ("light", 3)]
    assert found[0]["red"] == pytest.approx(20 / 255)
    similar = empty_store.sql(
        f'select item_id from "tiny@{spec}" order by array_cosine_similarity(vector, '
        "[0.1, 0, 0]::FLOAT[3]) desc limit 3"
    )
    assert {one["item_id"] for one in similar.to_pylist()} == {f"dark/{i}.png" for i in range(3)}


@pytest.mark.parametrize(
    "statement",
    [
        "copy tiny to '/tmp/x.parquet'",
        "attach '/tmp/x.db'",
        "install httpfs",
        "load httpfs",
        "pragma database_list",
        "set enable_external_access = true",
        "select * from read_csv('/etc/passwd')",
        "select * from '/etc/passwd'",
        "select * from glob('/etc/*')",
        "select 1; select 2",
        "create table x as select 1",
        "drop table tiny",
        "delete from tiny",
        "export database '/tmp/x'",
        "call pragma_version()",
        "explain analyze select 1",
        "",
    ],
)
def test_nothing_but_one_select_gets_through(statement, empty_store, tiny_images):
    empty_store.embed([tiny_images], dataset="tiny", encoders=["baseline:pixels#size=1"])
    with pytest.raises(BadQuery):
        empty_store.sql(statement)


NAMES = [
    (["a", "b"], ["a", "b"]),
    (["label", "label"], ["label", "label_1"]),
    (["label", "label", "label"], ["label", "label_1", "label_2"]),
    (["label", "label", "label_1"], ["label", "label_2", "label_1"]),
    (["label_1", "label", "label"], ["label_1", "label", "label_2"]),
    (["x", "X"], ["x", "X_1"]),
    ([], []),
]


@pytest.mark.parametrize(("given", "expected"), NAMES)
def test_columns_of_one_name_get_names_of_their_own(given, expected):
    assert query.distinct(given) == expected


def test_every_column_of_an_answer_is_there():
    found = select(
        "select p.name, q.name, p.legs as name from pets p join pets q on p.legs = q.legs + 2 "
        "order by p.name",
        {"pets": PETS},
    )
    assert found.column_names == ["name", "name_1", "name_2"]
    assert found.to_pylist()[0] == {"name": "b", "name_1": "a", "name_2": 4}


# expression, its value in JSON, its text in a table
VALUES = [
    ("sum(legs)", 10, "10"),
    ("sum(legs) * 1000000000000000000", 10**19, str(10**19)),
    ("sum(legs * 1.5)", 15.0, "15.0"),
    ("avg(legs)", 10 / 3, str(10 / 3)),
    ("1.50::decimal(5, 2)", 1.5, "1.50"),
    ("true", True, "true"),
    ("null", None, None),
    ("''", "", ""),
    ("'nan'::double", None, "nan"),
    ("date '2024-01-05'", "2024-01-05", "2024-01-05"),
    ("timestamp '2024-01-05 10:00:00.5'", "2024-01-05 10:00:00.5", "2024-01-05 10:00:00.5"),
    ("time '10:30'", "10:30:00", "10:30:00"),
    ("interval 3 day", "3 days", "3 days"),
    ("{'a': 1, 'd': date '2024-01-05'}", {"a": 1, "d": "2024-01-05"}, "{'a': 1, 'd': 2024-01-05}"),
    ("[1, null]", [1, None], "[1, NULL]"),
    ("map([1], ['a'])", {"1": "a"}, "{1=a}"),
    ("[{'x': 1.5::decimal(3, 1)}]", [{"x": 1.5}], "[{'x': 1.5}]"),
    ("date 'infinity'", "infinity", "infinity"),
    ("timestamp '-infinity'", "-infinity", "-infinity"),
    ("date '0044-03-15 (BC)'", "0044-03-15 (BC)", "0044-03-15 (BC)"),
    ("date '290000-01-01'", "290000-01-01", "290000-01-01"),
    ("interval 1000000000 month", "83333333 years 4 months", "83333333 years 4 months"),
    ("'12:00:00+02'::timetz", "12:00:00+02", "12:00:00+02"),
    ("'101'::bit", "101", "101"),
    (f"{2**128 - 1}::uhugeint", 2**128 - 1, str(2**128 - 1)),
    (f"{-(2**127) + 1}::hugeint", -(2**127) + 1, str(-(2**127) + 1)),
    ("{'a': date 'infinity', 'b': [1, null]}", {"a": "infinity", "b": [1, None]},
     "{'a': infinity, 'b': [1, NULL]}"),
    ("map(['a'], [timestamp 'infinity'])", {"a": "infinity"}, "{a=infinity}"),
    ("row(1, 2)", [1, 2], "(1, 2)"),
    ("json('{\"a\": 1}')", {"a": 1}, '{"a":1}'),
    ("union_value(k := 1)", {"k": 1}, "1"),
]  # fmt: skip


def test_what_arrow_cannot_hold_comes_as_text():
    found = select(
        f"select {2**128 - 1}::uhugeint u, '101'::bit b, '12:00:00+02'::timetz z, 1 n", {}
    )
    assert found.to_pylist() == [{"u": str(2**128 - 1), "b": "101", "z": "12:00:00+02", "n": 1}]


def test_no_setting_tells_a_path_of_this_machine():
    settings = select("select name, value from duckdb_settings()", {}).to_pylist()
    told = {row["name"] for row in settings if "/" in (row["value"] or "")}
    assert told <= {"duckdb_api", "TimeZone"}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit is Linux's")
@pytest.mark.parametrize("expression", ["length(repeat('a', 3000000000))", "len(range(300000000))"])
def test_one_call_that_asks_for_too_much_memory_is_one_line(expression, texts_view, capsys):
    store = str(texts_view.dataset.store.path)
    assert run(["sql", f"select {expression}", "--memory", "0.5", "--store", store]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"out of memory: select {expression}; ask for fewer rows or shorter values" in line
    assert len(bytes(2**30)) == 2**30  # and the limit is gone


@pytest.mark.parametrize("memory", ["inf", "nan", "1e300"])
def test_more_memory_than_there_is_means_what_there_is(memory, texts_view, capsys):
    store = str(texts_view.dataset.store.path)
    assert run(["sql", "select 1 as one", "--memory", memory, "--store", store, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"one": 1}]


def test_a_call_that_is_not_cut_short_says_how_long_it_took(monkeypatch):
    def ends_late(*_):
        raise TimeoutError

    monkeypatch.setattr(query, "_interruptible", ends_late)
    monkeypatch.setattr(query.time, "monotonic", iter([0.0, 43.0]).__next__)
    with pytest.raises(BadQuery, match=r"stopped after 0\.2 s \(it took 43 s: a single function"):
        select("select length(repeat('a', 3000000000))", {}, limit_s=0.2)


@pytest.mark.parametrize(("expression", "in_json", "in_table"), VALUES)
def test_values_come_out_as_duckdb_prints_them(expression, in_json, in_table):
    statement = f"select {expression} as v from pets limit 1"
    written = query.select_values(statement, {"pets": PETS}, query.AS_TEXT)
    assert written == (["v"], [(in_table,)])
    _, ((value,),) = query.select_values(statement, {"pets": PETS}, query.AS_JSON)
    value = None if value is None else json.loads(value)
    assert json.loads(json_text(value)) == in_json


def test_the_command_shows_every_column(texts_view, capsys):
    store = str(texts_view.dataset.store.path)
    name = texts_view.dataset.name
    twice = f"select a.item_id, b.item_id, 1 as n from {name} a join {name} b using (item_id)"
    assert run(["sql", f"{twice} limit 1", "--store", store, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert list(row) == ["item_id", "item_id_1", "n"]
    assert row["n"] == 1
    many = ", ".join(f"{i} as column_{i}" for i in range(60))
    assert run(["sql", f"select {many}", "--store", store]) == 0
    header, _, values, *_ = filter(str.strip, capsys.readouterr().out.splitlines())
    assert header.split() == [f"column_{i}" for i in range(60)]
    assert values.split() == [str(i) for i in range(60)]
