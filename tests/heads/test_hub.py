"""Bundles on the Hub: sent with a card, fetched again, and nothing else on the way."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import yaml
from huggingface_hub import close_session
from markdown_it import MarkdownIt

import heads
from featurestore.cli import run
from featurestore.errors import BadBundle, BadName, StoreBusy, StoreUnreachable, UnknownHead
from featurestore.sources.listing import SourceOptions
from featurestore.store.store import open_store
from heads.measures.card import TwinsInTest
from heads.saved import hub as on_hub
from heads.saved.handover import pull, push
from heads.saved.hub import MAY_BE, HubPlace, cached
from heads.saved.model_card import model_card, plain, tells, training_data_in
from tests.heads.hub_server import TOKEN, hub
from tests.heads.serving_world import TEXTS, TOPICS, write_world

# of huggingface_hub's own upload
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """Heads on texts, by name: one whose class is a piece of HTML, and one that keeps vectors."""
    folder = tmp_path_factory.mktemp("hub")
    table, _ = write_world(folder)
    store = open_store(folder / "store", create=True)
    options = SourceOptions(id="id", text="words", label=("topic",))
    store.embed([table], dataset="t", source_options=options, encoders=["baseline:hashing"])
    view = store.dataset("t").views()[0]
    for name in ("ridge", "knn", "tfidf"):
        heads.fit(view, name, coverage=0.8 if name == "ridge" else None).save(folder / name)
    return folder


@pytest.fixture
def head(bundles):
    return heads.load_bundle(bundles / "ridge")


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setenv("FEATURESTORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with hub() as found:
        monkeypatch.setenv("HF_ENDPOINT", found.address)
        yield found


@pytest.fixture
def fs(capsys):
    def call(*words):
        code = run([str(word) for word in words])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def files_of(bundle):
    return {one.name: one.read_bytes() for one in bundle.iterdir()}


# -- the card ------------------------------------------------------------------------------------


def test_names_with_scripts_reach_the_page_as_text(head):
    page = model_card(head, "hf://me/it")
    assert "<b>" not in page.split("---")[2]
    assert r"&lt;b&gt;travel&lt;/b&gt;" in page
    assert plain("<script>x</script> [a](b) `c`\n# d") == (
        r"&lt;script&gt;x&lt;/script&gt; \[a\](b) \`c\` \# d"
    )


def test_the_front_matter_is_yaml_with_what_is_known_alone(head):
    found = yaml.safe_load(model_card(head, "hf://me/it").split("---")[1])
    assert found["license"] == "unknown"
    assert found["pipeline_tag"] == "text-classification"
    assert found["library_name"] == "featurestore"
    assert "base_model" not in found  # of our own
    (result,) = found["model-index"][0]["results"]
    assert result["dataset"]["name"] == "t"
    scores = {one["type"]: one["value"] for one in result["metrics"]}
    assert scores["accuracy"] == pytest.approx(head.card.metrics["accuracy"].value, abs=1e-4)
    assert yaml.safe_load(model_card(head, "x", licence="mit").split("---")[1])["license"] == "mit"


def test_the_page_says_scores_with_intervals_limits_and_lines_to_type(head):
    page = model_card(head, "hf://me/it")
    one = head.card.metrics["accuracy"]
    assert f"{100 * one.low:.4g} to {100 * one.high:.4g} %" in page
    assert head.card.fingerprint in page
    assert "featurestore predict hf://me/it new.csv --text COLUMN" in page
    assert 'heads.load_bundle("hf://me/it")' in page
    assert "prediction sets hold the truth in 80%" in page
    assert "unlike" in page
    assert "Of the head: nobody has said" in page
    assert "licence of its own (not known here)" in page
    at = head.card.snapshot
    assert f"Snapshot: items {at.items}, vectors {at.view}." in page
    assert "No groups" not in page  # equal texts were kept together
    evaluation = replace(head.card.evaluation, n_leaked=3)
    twins = TwinsInTest(2, 9, 0.9, {})
    card = replace(head.card, evaluation=evaluation, twins=twins, encoder="builtin:tiny-text",
                   n_blocks=head.card.n_items)  # fmt: skip
    page = model_card(replace(head, card=card), "hf://me/it")
    assert "3 test items also stood among the items that it learned from" in page
    assert "2 of 9 test items have a near-duplicate" in page
    assert "- No groups (patients, places, authors) were kept apart" in page
    assert r"licence of its own (apache\-2.0)" in page


def test_what_the_files_give_away_is_named(bundles, head):
    said = " ".join(tells(head))
    assert "the name of the data set (t)" in said
    assert "single items" not in said
    knn = heads.load_bundle(bundles / "knn")
    assert "of single items: KnnHead keeps all training vectors" in " ".join(tells(knn))
    texts = heads.load_bundle(bundles / "tfidf")
    assert training_data_in(texts.estimator).endswith("keeps words of the training texts")


class Marks(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text = set(), ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add((tag, *(name for name, _ in attrs)))

    def handle_data(self, data):
        self.text += data


ODD = ["<script>alert(1)</script>", "[x](javascript:alert(1))", "`</code><img src=x onerror=y>",
       "a|b\n# title\n---\nlicense: mit", "**b** _i_ ~~n~~ &lt;b&gt;", "![i](http://evil/a.png)",
       "<http://evil>", "x\n```\n<b>", "\u202egnp.exe"]  # fmt: skip


def test_no_name_marks_anything_up_once_it_is_rendered(head):
    card = replace(head.card, classes=ODD, dataset=ODD[0], label=ODD[1], head=ODD[2], notes=ODD,
                   never_part=ODD, estimand=ODD[3], slice=ODD[6])  # fmt: skip
    pages = [
        model_card(one, "hf://me/it", licence="mit") for one in (head, replace(head, card=card))
    ]
    renderer = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    usual, odd = (Marks(renderer.render(page.split("---\n", 2)[2])) for page in pages)
    assert odd.tags <= usual.tags
    for name in (ODD[0], ODD[1], ODD[4], ODD[5], ODD[6]):
        assert name in odd.text
    assert "\u202e" not in pages[1].split("---\n", 2)[2]
    found = yaml.safe_load(pages[1].split("---\n", 2)[1])
    assert found["license"] == "mit"
    assert found["model-index"][0]["results"][0]["dataset"]["name"] == ODD[0]
    assert len(plain("x" * 10_000)) < 1100


# -- push and pull -------------------------------------------------------------------------------


def test_a_bundle_comes_back_as_it_was_sent(server, head, tmp_path):
    done = push(head, "hf://me/it", licence="mit")
    repo = server.repos["me/it"]
    assert (repo.private, done.private, done.revision) == (True, True, repo.commits[-1][0])
    sent = repo.commits[-1][1]
    assert set(sent) == {*MAY_BE, ".gitattributes"} - {"top.safetensors"}
    back = heads.load_bundle(pull("hf://me/it", tmp_path / "b"))
    assert back.card.card_sha256 == heads.load_bundle(tmp_path / "b").card.card_sha256
    assert np.array_equal(back.predict(TEXTS), head.predict(TEXTS))
    assert sorted(one.name for one in (tmp_path / "b").iterdir()) == sorted(
        set(sent) - {".gitattributes"}
    )
    with pytest.raises(FileExistsError):
        pull("hf://me/it", tmp_path / "b")


def test_sent_again_it_is_a_commit_and_public_only_if_asked(server, head):
    first = push(head, "hf://me/it", private=False)
    with pytest.raises(BadName, match="is public, so everyone would see it"):
        push(head, "hf://me/it")
    again = push(head, "hf://me/it", private=False)
    assert (first.private, again.private) == (False, None)
    assert not server.repos["me/it"].private
    assert first.revision != again.revision


def test_a_dry_run_asks_nobody(server, head, monkeypatch):
    def refuse(*_):
        raise AssertionError("a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    found = push(head, "hf://me/it", dry_run=True)
    assert server.asked == []
    assert {"card.json", "README.md"} < set(found.files)


def test_training_and_predicting_connect_to_nobody(bundles, monkeypatch, head):
    def refuse(*_):
        raise AssertionError("a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    view = open_store(bundles / "store").dataset("t").views()[0]
    heads.fit(view, "ridge", save=False)
    assert len(heads.load_bundle(bundles / "ridge").predict(TEXTS)) == len(TEXTS)


def test_the_token_goes_to_the_address_that_was_named_alone(server, head):
    push(head, "hf://me/it")
    assert {auth for _, _, auth in server.asked if auth} == {f"Bearer {TOKEN}"}
    heads.load_bundle("hf://me/it")
    large = server.storage.asked  # at another address, to which the Hub sends
    assert {method for method, _, _ in large} == {"PUT", "GET"}
    assert {auth for _, _, auth in large} == {None}


def test_a_token_stands_in_no_message(server, head, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrongSECRET")
    with pytest.raises(StoreUnreachable) as caught:
        push(head, "hf://me/it")
    assert "SECRET" not in str(caught.value)
    assert on_hub._reason(ValueError("no: hf_wrongSECRET")) == "no: …"


def test_of_two_that_push_at_once_one_is_refused(server, head):
    push(head, "hf://me/it")
    files = server.repos["me/it"].commits[-1][1]
    server.before_commit = lambda: server.put("me/it", {**files, "README.md": b"theirs"})
    with pytest.raises(StoreBusy, match="push again"):
        push(head, "hf://me/it", licence="mit")
    assert server.repos["me/it"].at("main")[1]["README.md"] == b"theirs"


def test_a_branch_is_made_and_the_main_one_stays(server, head):
    first = push(head, "hf://me/it")
    trial = push(head, "hf://me/it@trial", licence="mit")
    branches = server.repos["me/it"].branches
    assert branches == {"main": first.revision, "trial": trial.revision}
    push(replace(head, familiar=None), "hf://me/it@trial")
    assert "unlike.safetensors" not in server.repos["me/it"].at("trial")[1]  # deleted there
    assert heads.load_bundle("hf://me/it@trial").familiar is None
    assert heads.load_bundle("hf://me/it").familiar is not None
    push(head, "hf://me/new@trial")
    assert set(server.repos["me/new"].branches) == {"main", "trial"}


def test_the_folder_of_an_encoder_is_not_named(server, minilm, tmp_path):
    home = tmp_path / "home" / "ann" / "minilm"
    shutil.copytree(str(minilm).partition("local-dir:")[2].partition("#")[0], home)
    table, _ = write_world(tmp_path)
    store = open_store(tmp_path / "store", create=True)
    options = SourceOptions(id="id", text="words", label=("topic",))
    spec = f"st:local-dir:{home}"
    store.embed([table], dataset="t", source_options=options, encoders=[spec])
    head = heads.fit(store.view("t", spec), "ridge", save=False)
    found = push(head, "hf://me/it")
    assert not any("your machine" in one for one in found.tells)
    sent = server.repos["me/it"].commits[-1][1]
    assert [name for name, content in sent.items() if b"/ann/" in content] == []
    other = heads.load_bundle("hf://me/it")
    assert other.card.encoder == "st:local-dir:minilm"
    answers = other.ask(TEXTS[:3], encoder=str(home))
    assert answers.predicted.tolist() == head.predict(TEXTS[:3]).tolist()


def test_a_download_that_ends_early_leaves_nothing(server, head, tmp_path):
    push(head, "hf://me/it")
    server.storage.cut = 1000
    with pytest.raises(StoreUnreachable):
        pull("hf://me/it", tmp_path / "b")
    assert list(tmp_path.glob("[!c]*")) == []
    server.storage.cut = None
    assert heads.load_bundle(pull("hf://me/it", tmp_path / "b")).card.head == "ridge"


KILLED = """
import sys
from heads.saved import hub
from heads.saved.handover import pull
def stop(*_):
    print("fetched", flush=True)
    sys.stdin.read()
hub.sealed.check_sums = stop
pull("hf://me/it", sys.argv[1])
"""


def test_a_kill_leaves_no_bundle_and_the_next_pull_makes_one(server, head, tmp_path):
    push(head, "hf://me/it")
    target = tmp_path / "out" / "bundle"
    child = subprocess.Popen([sys.executable, "-c", KILLED, str(target)],
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
    try:
        assert child.stdout.readline() == b"fetched\n"
    finally:
        child.kill()
        child.communicate(timeout=20)
    assert not target.exists()
    assert heads.load_bundle(pull("hf://me/it", target)).card.head == "ridge"


def test_a_head_that_keeps_training_vectors_is_sent_only_if_asked(server, bundles):
    knn = heads.load_bundle(bundles / "knn")
    with pytest.raises(BadName, match="keeps all training vectors"):
        push(knn, "hf://me/knn")
    assert server.repos == {}
    assert push(knn, "hf://me/knn", training_data=True).revision
    with pytest.raises(BadName, match="keeps words of the training texts"):
        push(heads.load_bundle(bundles / "tfidf"), "hf://me/words")


def test_predict_takes_it_from_the_hub_and_next_time_from_here(server, head, fs, bundles, tmp_path):
    push(head, "hf://me/it", private=False)
    words = (bundles / "texts.csv", "--text", "words", "-o", tmp_path / "a.csv", "--overwrite")
    code, _, err = fs("predict", "hf://me/it", *words)
    assert code == 0
    sha = server.repos["me/it"].commits[-1][0]
    assert f"hf://me/it@{sha}" in err
    first, server.asked[:] = list(server.asked), []
    assert fs("predict", f"hf://me/it@{sha}", *words)[0] == 0
    assert server.asked == []  # a commit that is here
    assert fs("predict", "hf://me/it", *words)[0] == 0
    assert [path for _, path, _ in server.asked] == ["/api/models/me/it"]
    assert sum("/resolve/" in path for _, path, _ in first) > 3
    assert heads.load_bundle("hf://me/it").card.head_id == head.card.head_id


def test_where_the_hub_is_away_the_last_commit_is_taken_and_said(server, head, monkeypatch):
    push(head, "hf://me/it", private=False)
    folder = cached("hf://me/it")
    close_session()  # its open connection would be answered still
    server.shutdown()
    server.server_close()
    said = []
    assert cached("hf://me/it", said.append) == folder
    assert "cannot be reached" in said[0]
    assert "as it was fetched last" in said[0]
    with pytest.raises(StoreUnreachable):
        cached("hf://me/other")


def test_files_that_no_bundle_has_are_left_there(server, head, bundles, tmp_path):
    strange = {"evil.pkl": b"cos\nsystem\n", "setup.py": b"raise SystemExit"}
    server.put("me/it", {**files_of(bundles / "ridge"), **strange})
    said = []
    folder = pull("hf://me/it", tmp_path / "b", say=said.append)
    assert not {one.name for one in folder.iterdir()} & set(strange)
    assert "evil.pkl, setup.py" in said[0]
    assert not any("evil" in path for _, path, _ in server.asked)
    with pytest.raises(BadName, match="something else than a bundle"):
        push(head, "hf://me/it")


@pytest.mark.parametrize("name", ["head.skops", "card.json", "encoder.json"])
def test_what_is_damaged_or_newer_leaves_nothing_behind(server, bundles, tmp_path, name):
    files = files_of(bundles / "ridge")
    server.put("me/bad", {**files, name: files[name].replace(b"a", b"b", 1)})
    with pytest.raises(BadBundle):
        pull("hf://me/bad", tmp_path / "b")
    with pytest.raises(BadBundle):
        cached("hf://me/bad")
    assert list(tmp_path.glob("b*")) == []
    assert list((tmp_path / "cache").rglob("*.skops")) == []
    card = json.loads(files["card.json"])
    server.put("me/new", {**files, "card.json": json.dumps({**card, "format": 2}).encode()})
    with pytest.raises(BadBundle, match="newer release"):
        pull("hf://me/new", tmp_path / "c")


def test_what_is_not_there_says_so(server, head, tmp_path, monkeypatch):
    for place in ("hf://me", "hf://me/it/more", "hf://../x", "me/it", "hf://a/..", "hf://a/b@../c"):
        with pytest.raises(BadName, match="expected hf://"):
            HubPlace.parse(place)
    with pytest.raises(UnknownHead, match="has no me/none"):
        pull("hf://me/none", tmp_path / "b")
    server.put("me/empty", {"config.json": b"{}"})
    with pytest.raises(UnknownHead, match=r"lacks card\.json"):
        pull("hf://me/empty", tmp_path / "b")
    push(head, "hf://me/it")
    with pytest.raises(UnknownHead, match="no revision 'v9'"):
        pull("hf://me/it@v9", tmp_path / "b")
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    with pytest.raises(UnknownHead, match="hf auth login"):
        pull("hf://me/it", tmp_path / "b")  # private
    with pytest.raises(StoreUnreachable):
        push(head, "hf://me/mine")


def test_a_folder_gets_the_card_and_gives_the_bundle_again(head, tmp_path):
    push(head, str(tmp_path / "there"), licence="cc-by-4.0")
    page = (tmp_path / "there" / "README.md").read_text()
    assert "cc\\-by\\-4.0" in page
    assert str(tmp_path) not in page  # where it lies here is nobody's affair
    push(head, str(tmp_path / "there"))  # over itself
    folder = pull(str(tmp_path / "there"), tmp_path / "here")
    assert np.array_equal(heads.load_bundle(folder).predict(TEXTS), head.predict(TEXTS))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.doc").write_text("x")
    with pytest.raises(FileExistsError):
        push(head, str(tmp_path / "other"))


def test_the_commands(server, bundles, fs, tmp_path):
    code, out, err = fs("store", "push", bundles / "ridge", "hf://me/it", "--dry-run")
    assert code == 0
    assert "head.skops" in out
    assert "# topic: a head on" in out
    assert "nothing was sent" in err
    assert server.asked == []
    code, out, err = fs("bundle", "push", bundles / "ridge", "hf://me/it", "--licence", "mit")
    assert (code, ", private" in err) == (0, True)
    assert "it tells the name of the data set" in err
    assert re.search(r"featurestore predict hf://me/it NEW", out)
    assert TOKEN not in out + err
    code, out, _ = fs("bundle", "pull", "hf://me/it", "-o", tmp_path / "b")
    assert (code, f"featurestore predict {tmp_path / 'b'} NEW" in out) == (0, True)
    assert fs("push", bundles / "ridge", "hf://me/open", "--public")[0] != 0  # nobody said yes
    assert "me/open" not in server.repos
    assert fs("push", bundles / "ridge", "hf://me/open", "--public", "--yes")[0] == 0
    assert not server.repos["me/open"].private


def test_an_interrupted_fetch_leaves_no_bundle(server, head, monkeypatch, tmp_path):
    push(head, "hf://me/it", private=False)

    def cut(*_args, **_keywords):
        raise KeyboardInterrupt

    monkeypatch.setattr(on_hub.sealed, "check_sums", cut)
    with pytest.raises(KeyboardInterrupt):
        cached("hf://me/it")
    assert [one for one in (tmp_path / "cache").rglob("*") if one.is_file()
            and one.name in MAY_BE] == []  # fmt: skip
    assert len(TOPICS) == 3
