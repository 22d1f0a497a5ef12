import pyarrow as pa
import pytest

from featurestore.errors import BadQuery
from featurestore.query import evaluate, select

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


@pytest.mark.parametrize("expression", ["nme", "unnest([1, 2])", "name) from items --"])
def test_a_bad_expression_is_refused(expression):
    with pytest.raises(BadQuery) as error:
        evaluate(expression, PETS)
    assert len(str(error.value).splitlines()) == 1
