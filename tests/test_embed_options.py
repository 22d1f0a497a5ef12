"""Each option of `featurestore embed`, as somebody types it."""

import json
from pathlib import Path

import pytest

from featurestore.cli.embed import embed
from featurestore.store.store import open_store

HASHING, PIXELS = "baseline:hashing", "baseline:pixels#size=1"


@pytest.fixture
def table(tmp_path):
    """Texts with a label, a split, a group, an id and free columns."""
    path = tmp_path / "t.csv"
    rows = [f"k{i},text number {i},{'ab'[i % 2]},{'train' if i else 'test'},p{i // 2},{i}"
            for i in range(8)]  # fmt: skip
    path.write_text("\n".join(["key,body,kind,part,patient,age", *rows]))
    return path


def report_of(fs, *words, code=0):
    found, out, err = fs("embed", *words, "--json")
    assert found == code, err
    return json.loads(out)[0]


def ids_of(tmp_path, encoder=HASHING):
    return sorted(open_store(tmp_path / "store").view("d", encoder).load().ids.tolist())


TABLE = ("--dataset", "d", "-e", HASHING, "--text", "body", "--id", "key")


def test_columns_say_what_an_item_is(fs, table, tmp_path):
    words = (*TABLE, "--label", "kind", "--split", "part", "--group", "patient")
    assert report_of(fs, table, *words)["n_encoded"] == 8
    items = open_store(tmp_path / "store").dataset("d").items().sort_by("item_id").to_pylist()
    first = {k: items[0][k] for k in ("item_id", "text", "kind", "split", "group", "age")}
    assert first == {"item_id": "k0", "text": "text number 0", "kind": "a", "split": "test",
                     "group": "p0", "age": 0}  # fmt: skip
    assert fs("embed", table, *TABLE, "--group", "upper(patient) || kind")[0] == 0
    items = open_store(tmp_path / "store").dataset("d").items().sort_by("item_id")
    assert items.column("group").to_pylist()[:2] == ["P0a", "P0b"]


def test_columns_name_those_of_a_table_without_a_header(fs, tmp_path):
    (tmp_path / "bare.tsv").write_text("spam\tbuy now\nham\tsee you\n")
    words = ("--dataset", "d", "-e", HASHING, "--columns", "label,body", "--text", "body")
    assert report_of(fs, tmp_path / "bare.tsv", *words, "--label", "label")["n_encoded"] == 2
    items = open_store(tmp_path / "store").dataset("d").items(["text", "label"]).to_pylist()
    assert {"text": "see you", "label": "ham"} in items


def test_where_limit_and_sample_choose_for_one_run(fs, table, tmp_path):
    assert report_of(fs, table, *TABLE, "--limit", "2")["n_encoded"] == 2
    assert ids_of(tmp_path) == ["k0", "k1"]
    assert report_of(fs, table, *TABLE, "--where", "age >= 6 and kind = 'b'")["n_encoded"] == 1
    assert ids_of(tmp_path) == ["k0", "k1", "k7"]
    drawn = []
    for seed in ("1", "1", "2"):
        words = ("--dataset", f"s{len(drawn)}", *TABLE[2:], "--sample", "3", "--seed", seed)
        assert report_of(fs, table, *words)["n_encoded"] == 3
        view = open_store(tmp_path / "store").view(f"s{len(drawn)}", HASHING)
        drawn.append(set(view.load().ids.tolist()))
    assert drawn[0] == drawn[1] != drawn[2]
    assert fs("embed", table, *TABLE, "--limit", "0")[0] == 2
    code, _, err = fs("embed", table, *TABLE, "--where", "lable = 'b'")
    assert (code, "columns: item_id" in err) == (1, True)


def test_a_dry_run_counts_and_writes_nothing(fs, table, tmp_path):
    code, out, err = fs("embed", table, *TABLE, "--dry-run", "--json")
    assert code == 0
    assert json.loads(out)[0]["n_todo"] == 8
    assert "8 of 8 to embed, about" in err
    assert not (tmp_path / "store" / "datasets" / "d").exists()


def test_a_dry_run_says_which_stage_limits_and_what_to_type(fs, tiny_images, monkeypatch):
    def of_stages(*, encode, decode):
        def seconds_an_item(rows, lane, given, clock):
            clock.seconds |= {"read": 0.1, "decode": decode, "encode": encode}
            return 0.5

        monkeypatch.setattr("featurestore.pipeline.estimate.seconds_an_item", seconds_an_item)
        words = ("embed", tiny_images, "--dataset", "d", "-e", "baseline:pixels", "--num-workers")
        code, out, err = fs(*words, 3, "--dry-run", "--json")
        assert code == 0
        (one,) = json.loads(out)
        return one, err

    one, err = of_stages(encode=0.2, decode=2.0)  # of 6 pictures; 3 threads decode, 6 read
    assert one["rates"] == {"read": 360.0, "decode": 9.0, "encode": 30.0}
    assert one["limit"] == "decode"
    assert "items/s here, each stage by itself: read 360, decode 9, encode 30\n" in err
    assert "decode sets the pace: more cores lift it (--num-workers)" in err
    one, err = of_stages(encode=2.0, decode=0.1)
    assert one["limit"] == "encode"
    assert "encode sets the pace: a smaller encoder is faster (see `featurestore encoders`)" in err


def test_the_stages_of_a_dry_run_are_measured(fs, tiny_images):
    code, out, _ = fs("embed", tiny_images, "--dataset", "d", "-e", PIXELS, "--dry-run", "--json")
    (one,) = json.loads(out)
    assert code == 0
    assert set(one["rates"]) == {"read", "decode", "encode"}
    assert one["limit"] == min(one["rates"], key=one["rates"].get)


def test_prune_drops_what_is_gone_and_nothing_else_does(fs, tiny_images, tmp_path):
    words = (tiny_images, "--dataset", "d", "-e", PIXELS)
    assert report_of(fs, *words)["n_encoded"] == 6
    (tiny_images / "dark" / "0.png").unlink()
    assert report_of(fs, *words)["n_items"] == 5
    assert len(ids_of(tmp_path, PIXELS)) == 6
    assert fs("embed", *words, "--prune")[0] == 0
    assert "dark/0.png" not in ids_of(tmp_path, PIXELS)


def test_failed_items_are_tried_again_where_asked_and_may_stop_a_run(fs, tiny_images, tmp_path):
    words = (tiny_images, "--dataset", "d", "-e", PIXELS)
    bad = tiny_images / "dark" / "bad.png"
    bad.write_bytes(b"garbage")
    code, _, err = fs("embed", *words, "--max-failures", "0")
    assert (code, "more than --max-failures 0; first: dark/bad.png" in err) == (1, True)
    assert report_of(fs, *words)["n_known_failures"] == 1
    assert report_of(fs, *words, "--retry-failed", code=3)["n_failed"] == 1
    (tiny_images / "dark" / "0.png").rename(bad)
    assert report_of(fs, *words, "--rehash")["n_failed"] == 0
    _, out, _ = fs("info", "d")
    assert "failed (" not in out


def test_overwrite_embeds_again_and_profile_says_where_the_time_went(fs, tiny_images):
    words = (tiny_images, "--dataset", "d", "-e", PIXELS, "--device", "cpu")
    assert report_of(fs, *words)["n_encoded"] == 6
    more = ("--overwrite", "--profile", "--num-workers", "1", "--batch-size", "2")
    code, out, err = fs("embed", *words, *more, "--json")
    assert (code, json.loads(out)[0]["n_encoded"], json.loads(out)[0]["batch_size"]) == (0, 6, 2)
    assert all(stage in err for stage in ("decode", "encode", "commit", "limit: "))
    assert report_of(fs, *words, "--rehash")["n_unchanged"] == 6
    code, out, err = fs("embed", *words, "--rehash", "--dry-run", "--json")
    assert (code, json.loads(out)[0]["n_todo"]) == (0, 0)
    assert "--rehash also reads all pictures" in err


def test_several_encoders_take_one_pass_and_an_unknown_device_is_refused(fs, tiny_images):
    words = (tiny_images, "--dataset", "d", "-e", PIXELS, "--encoder", "baseline:pixels#size=2")
    code, out, _ = fs("embed", *words, "--decode-in", "threads", "--json")
    assert (code, [row["n_encoded"] for row in json.loads(out)]) == (0, [6, 6])
    code, _, err = fs("embed", *words, "--overwrite", "--device", "gpu")
    assert (code, "'gpu'" in err) == (1, True)


@pytest.mark.parametrize("content", [b"caf\xe9", b"", b"   "])
def test_a_text_that_is_none_is_a_failed_item_with_exit_code_3(content, fs, tmp_path):
    (tmp_path / "t.csv").write_bytes(b'body,x\ngood,1\n"' + content + b'",2\n')
    words = (tmp_path / "t.csv", "--dataset", "d", "-e", HASHING, "--text", "body")
    report = report_of(fs, *words, code=3)
    assert (report["n_encoded"], report["n_failed"]) == (1, 1)
    assert report_of(fs, *words)["n_known_failures"] == 1
    assert ids_of(tmp_path) == ["t.csv:0"]


def test_every_option_is_tried_here_or_said_where_else():
    elsewhere = {
        "--all-items",
        "--image",
        "--follow-links",
        "--trust",
        "--compile",
        "--store",
        "--name",
        "--group-from",
        "--log",
        "--quiet",
        *(
            "--on",
            "--plan-only",
            "--shard",
            "--commit",
            "--part-items",
            "--drop-plan",
        ),  # test_workers.py
        *("--box", "--boxes", "--box-margin"),  # sources/test_boxes.py
    }
    text = Path(__file__).read_text(encoding="utf-8")
    names = {name for option in embed.params for name in option.opts if name.startswith("--")}
    assert {name for name in names - elsewhere if f'"{name}"' not in text} == set()
