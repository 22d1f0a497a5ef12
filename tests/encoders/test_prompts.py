"""Prompts of sentence encoders: items get the document prompt, what looks for them the query's."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from click.testing import CliRunner

import heads
from dashboard import caches
from featurestore.cli import cli
from featurestore.encoders import encode_now
from featurestore.encoders.loading import known_encoder, load_encoder
from featurestore.encoders.prompts import Prompts, prompts_of
from featurestore.errors import BadName
from featurestore.pipeline.options import EmbedOptions
from featurestore.sources.listing import SourceOptions
from featurestore.storage import user_cache
from featurestore.store.store import open_store
from featurestore.terms.specs import EncoderSpec, ResolvedEncoder
from heads.catalogue.words import class_vectors
from heads.saved.serve import encoded_items

WORDS = "query passage : a b c cat dog bird the sat ran on in mat house what is who"
TEXTS = ["the cat sat on the mat", "a dog ran in the house", "who is the bird", "a b c"]
BOTH = {"query": "query: ", "document": "passage: "}


@pytest.fixture(scope="session")
def bert(tmp_path_factory):
    """A folder with a network and its words, small enough to make here."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS.split()]
    tokenizer = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
        sep_token="[SEP]", mask_token="[MASK]", model_max_length=64,
    ).save_pretrained(folder)  # fmt: skip
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=64, initializer_range=0.5,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def saved(bert, tmp_path_factory):
    """Return sentence-transformers folders as the library saves them, by whether they normalize."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    folders = {}
    for normalize in (False, True):
        modules = [Transformer(str(bert)), Pooling(16, "mean"), *([Normalize()] * normalize)]
        folders[normalize] = tmp_path_factory.mktemp("saved")
        SentenceTransformer(modules=modules, device="cpu").save(str(folders[normalize]))
    return folders


@pytest.fixture
def model(saved, tmp_path):
    """Make a sentence-transformers folder with the prompts given, and return it."""

    def make(prompts=None, *, include_prompt=True, normalize=False, **options):
        folder = tmp_path / f"model-{len(list(tmp_path.glob('model-*')))}"
        shutil.copytree(saved[normalize], folder)
        write(folder / "config_sentence_transformers.json", prompts=prompts or {}, **options)
        write(folder / "1_Pooling" / "config.json", include_prompt=include_prompt)
        return folder

    def write(path, **values):
        known = json.loads(path.read_text())
        assert known.keys() >= values.keys() - {"truncate_dim"}
        path.write_text(json.dumps(known | values))

    return make


def library(folder):
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu", local_files_only=True)


def load(folder, options="", **also):
    return load_encoder(EncoderSpec.parse(f"st:local-dir:{folder}{options}"), device="cpu", **also)


def same(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("prompts", "options"),
    [
        (None, {}),
        (BOTH, {}),
        ({"query": "query: ", "passage": "passage: "}, {}),
        ({"query": "query: "}, {"include_prompt": False}),  # as INSTRUCTOR
        (BOTH, {"default_prompt_name": "document"}),
        ({"query": "query: ", "sts": "a b: "}, {"default_prompt_name": "sts"}),
        (BOTH, {"truncate_dim": 6}),
        (BOTH, {"truncate_dim": 6, "normalize": True}),
    ],
)
def test_vectors_are_those_of_encode_document_and_encode_query(model, prompts, options):
    folder = model(prompts, **options)
    theirs, ours = library(folder), load(folder)
    same(ours.encode_texts(TEXTS), theirs.encode_document(TEXTS))
    same(ours.encode_queries(TEXTS), theirs.encode_query(TEXTS))
    if prompts:
        assert not np.allclose(ours.encode_queries(TEXTS), ours.encode_texts(TEXTS), atol=1e-2)
    assert ours.resolved.dim == theirs.encode_document(TEXTS).shape[1]
    assert ours.resolved.chosen.get("truncate_dim") == options.get("truncate_dim")


NAMED = {"query": "q: ", "document": "d: ", "sts": "s: "}


@pytest.mark.parametrize(
    ("options", "named", "items", "queries"),
    [
        ("", NAMED, "d: ", "q: "),
        ("", {"query": "", "document": ""}, None, None),
        ("", {"passage": "p: "}, "p: ", None),  # older libraries have no empty ones
        ("", {"corpus": "c: ", "query": "q: "}, "c: ", "q: "),
        ("#prompt=", NAMED, None, None),
        ("#prompt=''", NAMED, None, None),
        ("#prompt=sts", NAMED, "s: ", "q: "),
        ("#prompt=query", NAMED, "q: ", "q: "),
        ("#prompt=sts", {"sts": "s: ", "query": ""}, "s: ", "s: "),
        ("#prompt='my own: '", NAMED, "my own: ", "q: "),
        ("#prompt='sts'", {}, "sts", "sts"),
        ('#prompt="it\'s: "', {}, "it's: ", "it's: "),
        ("#prompt='a,layer=2,b: ',max_length=8", {}, "a,layer=2,b: ", "a,layer=2,b: "),
    ],
)
def test_a_prompt_is_a_name_a_text_in_quotes_or_none(options, named, items, queries):
    spec = EncoderSpec.parse(f"st:m{options}")
    assert prompts_of(spec, named) == Prompts(items, queries)
    assert EncoderSpec.parse(str(spec)) == spec


def test_two_spellings_of_a_prompt_are_one_encoder():
    spellings = ["st:m#prompt='q: ',max_length=8", 'st:m#max_length=8,prompt="q: "']
    assert len({EncoderSpec.parse(one) for one in spellings}) == 1
    assert str(EncoderSpec.parse("st:m#prompt=''")) == "st:m#prompt="


def test_a_name_that_is_none_is_refused_with_those_there_are(model):
    folder = model({**BOTH, "sts": "a b: "})
    with pytest.raises(
        BadName, match=r"no prompt named 'q: ': expected one of .*sts.*prompt='q: '"
    ):
        load(folder, "#prompt=q: ")
    with pytest.raises(BadName, match=r"no prompt named 'q': it has none"):
        load(model(), "#prompt=q")


def test_named_and_written_prompts_are_those_of_the_library(model):
    folder = model({**BOTH, "sts": "a b: "})
    theirs = library(folder)
    cases = {"sts": {"prompt_name": "sts"}, "'c: '": {"prompt": "c: "}, "": {"prompt": ""}}
    for written, given in cases.items():
        ours = load(folder, f"#prompt={written}")
        same(ours.encode_texts(TEXTS), theirs.encode(TEXTS, **given))
        expected = theirs.encode(TEXTS, prompt="") if written == "" else theirs.encode_query(TEXTS)
        same(ours.encode_queries(TEXTS), expected)


def test_truncate_dim_is_an_option_and_part_of_the_identity(model):
    folder = model(BOTH)
    short, whole = load(folder, "#truncate_dim=5"), load(folder)
    assert short.resolved.dim == 5
    assert short.resolved.fingerprint != whole.resolved.fingerprint
    same(short.encode_texts(TEXTS), library(folder).encode_document(TEXTS, truncate_dim=5))
    same(short.encode_queries(TEXTS), library(folder).encode_query(TEXTS, truncate_dim=5))
    for wrong in ("0", "17", "five"):
        with pytest.raises(BadName, match=r"truncate_dim=.*from 1 to 16"):
            load(folder, f"#truncate_dim={wrong}")


def test_other_routes_for_queries_and_items_are_taken(bert, tmp_path):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Router
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    router = Router.for_query_document(
        query_modules=[Transformer(str(bert)), Pooling(16, "cls")],
        document_modules=[Transformer(str(bert)), Pooling(16, "mean")],
    )
    SentenceTransformer(modules=[router], device="cpu").save(str(tmp_path / "routes"))
    theirs, ours = library(tmp_path / "routes"), load(tmp_path / "routes")
    same(ours.encode_texts(TEXTS), theirs.encode_document(TEXTS))
    same(ours.encode_queries(TEXTS), theirs.encode_query(TEXTS))


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "t.csv"
    rows = [f"{i},{text},{'xy'[i % 2]}" for i, text in enumerate(TEXTS * 3)]
    path.write_text("id,text,label\n" + "\n".join(rows) + "\n")
    return path


def embed(store, table, spec, **options):
    """Embed the table; return the lines about prompts, and the view."""
    said = []
    store.embed(
        [str(table)], dataset="t", encoders=[spec], say=said.append,
        source_options=SourceOptions(text="text", id="id", label=("label",)),
        embed_options=EmbedOptions(device="cpu", **options),
    )  # fmt: skip
    return [one for one in said if "prompt" in one], store.dataset("t").view(spec)


def test_searches_and_zero_shot_ask_with_the_query_prompt(model, table, tmp_path):
    folder, store = model(BOTH), open_store(tmp_path / "s", create=True)
    spec = f"st:local-dir:{folder}"
    said, view = embed(store, table, spec)
    label = EncoderSpec.parse(spec).label
    assert said == [f"{label}: items get the prompt 'passage: ', queries the prompt 'query: '"]
    assert embed(store, table, spec)[0] == []  # said once
    info = json.loads(next((tmp_path / "s").rglob("encoder.json")).read_text())
    assert (info["prompts"]["items"], info["prompts"]["queries"]) == ("passage: ", "query: ")
    assert (info["chosen"]["prompt"], view.info["prompts"]) == ("passage: ", info["prompts"])
    theirs = library(folder)
    query = theirs.encode_query(["a cat"])
    same(view.load().vectors[:1], theirs.encode_document(TEXTS[:1]))
    same(view.encode(["a cat"], as_queries=True), query)
    same(view.encode(["a cat"]), theirs.encode_document(["a cat"]))
    expected = view.search(query, k=12)
    for found in (view.search_text("a cat", k=12), view.like(texts=["a cat"], k=12)):
        assert found.ids.tolist() == expected.ids.tolist()
        same(found.scores, expected.scores)
    out = CliRunner().invoke(
        cli, ["search", "t", "--text", "a cat", "-k", "3", "--json", "--store", str(tmp_path / "s")]
    )
    rows = json.loads(out.stdout)["neighbors"]
    same([one["score"] for one in rows], expected.scores[0][:3])
    same(caches.encode(view, "a cat"), query)  # the dashboard's search
    same(class_vectors(view, [["a cat"]]), query / np.linalg.norm(query))


def test_a_head_reads_new_texts_as_the_items_that_taught_it(model, table, tmp_path):
    folder, store = model(BOTH), open_store(tmp_path / "s", create=True)
    _, view = embed(store, table, f"st:local-dir:{folder}")
    head = heads.fit(view, head="logistic", label="label")
    same(encoded_items(head, TEXTS), library(folder).encode_document(TEXTS))


def as_of_0_1(store_path, prompt, folder, options=""):
    """Rewrite a view's encoder.json as 0.1 wrote it for the vectors of a prompt."""
    (path,) = store_path.rglob("encoder.json")
    info = json.loads(path.read_text())
    del info["prompts"]
    spec = EncoderSpec.parse(f"st:local-dir:{folder}{options}")
    info["spec"] = str(spec)
    assert info["chosen"]["prompt"] == prompt
    path.write_text(json.dumps(info))
    then = ResolvedEncoder(spec, info["dim"], frozenset(), info["chosen"])
    path.parent.rename(path.parent.with_name(then.slug))


@pytest.mark.parametrize(
    ("before", "made_with", "default", "options", "now"),
    [
        # what 0.1 did: the spec as it was written, the prompt that it meant
        (None, "#prompt=", None, "", "means the prompt 'passage: '"),
        ("query: ", "#prompt='query: '", "query", "", "means the prompt 'passage: '"),
        ("c: ", "#prompt='c: '", None, "#prompt=c: ", "no prompt named 'c: '"),
        ("query", "#prompt='query'", None, "#prompt=query", "means the prompt 'query: '"),
    ],
)
def test_a_view_of_before_keeps_the_prompt_that_it_was_made_with(
    model, table, tmp_path, before, made_with, default, options, now
):
    folder = model(BOTH, **({"default_prompt_name": default} if default else {}))
    store = open_store(tmp_path / "s", create=True)
    embed(store, table, f"st:local-dir:{folder}{made_with}")
    as_of_0_1(tmp_path / "s", before, folder, options)
    spec = f"st:local-dir:{folder}{options}"
    with table.open("a") as file:
        file.write("99,who is the cat,x\n")
    store = open_store(tmp_path / "s")
    said, view = embed(store, table, spec)
    assert len(said) == 1
    assert "this view keeps" in said[0]
    assert now in said[0]
    theirs = library(folder)
    same(view.load().vectors[-1:], theirs.encode(["who is the cat"], prompt=before or ""))
    same(view.encode(["a cat"], as_queries=True), theirs.encode_query(["a cat"]))
    parsed = EncoderSpec.parse(spec)
    assert known_encoder(parsed, view.fingerprint).fingerprint == view.fingerprint
    if "no prompt named" in now:
        with pytest.raises(BadName, match="no prompt named"):
            embed(store, table, spec, overwrite=True)
        return
    _, view = embed(store, table, spec, overwrite=True)
    expected = theirs.encode_query if options else theirs.encode_document
    same(view.load().vectors[-1:], expected(["who is the cat"]))


def test_heads_queries_and_verify_keep_the_prompt_of_before(model, table, tmp_path):
    folder, store = model(BOTH), open_store(tmp_path / "s", create=True)
    embed(store, table, f"st:local-dir:{folder}#prompt=")
    as_of_0_1(tmp_path / "s", None, folder)
    view = open_store(tmp_path / "s").dataset("t").views()[0]
    heads.fit(view, head="logistic", label="label").save(tmp_path / "b")
    new = tmp_path / "new.csv"
    new.write_text("text\na cat\n")
    result = CliRunner().invoke(cli, ["predict", str(tmp_path / "b"), str(new), "--text", "text"])
    assert result.exit_code == 0, result.output
    result = CliRunner().invoke(cli, ["verify", "--store", str(tmp_path / "s")])
    assert result.exit_code == 0, result.output
    block = {key: view.info[key] for key in ("spec", "fingerprint", "canary")}
    assert encode_now.open_encoder(block).resolved.fingerprint == view.fingerprint
    moved = shutil.copytree(folder, tmp_path / "elsewhere")
    assert encode_now.open_encoder(block, EncoderSpec.parse(f"st:local-dir:{moved}"))


def test_the_cache_of_before_does_not_tell_what_a_spec_means_now(model):
    spec = EncoderSpec.parse(f"st:local-dir:{model(BOTH)}")
    first = load_encoder(spec, device="cpu").resolved
    assert known_encoder(spec) == first
    entry = dict(user_cache.recall("encoders", str(spec)))
    del entry["prompts"]
    user_cache.remember("encoders", str(spec), entry)
    assert known_encoder(spec) is None
