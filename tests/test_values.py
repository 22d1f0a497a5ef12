import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.errors import BadName, MissingColumn, ShapeMismatch
from featurestore.terms.embeddings import Embeddings
from featurestore.terms.specs import SPEC_OPTIONS, EncoderSpec, Modality, ResolvedEncoder


@pytest.mark.parametrize(
    ("text", "family", "model", "revision", "options"),
    [
        (
            "open_clip:ViT-B-32/laion2b_s34b_b79k",
            "open_clip",
            "ViT-B-32/laion2b_s34b_b79k",
            None,
            (),
        ),
        ("timm:vit_small.lvd142m@abc", "timm", "vit_small.lvd142m", "abc", ()),
        (
            "hf:facebook/dinov2-small#layer=9",
            "hf",
            "facebook/dinov2-small",
            None,
            (("layer", "9"),),
        ),
        ("timm:local-dir:/a@b/c#seed=1", "timm", "local-dir:/a@b/c", None, (("seed", "1"),)),
        ("random:timm:resnet18#seed=0", "random", "timm:resnet18", None, (("seed", "0"),)),
    ],
)
def test_a_spec_has_its_parts(text, family, model, revision, options):
    assert EncoderSpec.parse(text) == EncoderSpec(family, model, revision, options)


def test_two_spellings_of_one_encoder_are_one_spec():
    a = EncoderSpec.parse("st:m#prompt=q,max_length=8")
    b = EncoderSpec.parse("st:m#max_length=8,prompt=q")
    assert a == b
    assert str(a) == "st:m#max_length=8,prompt=q"


def test_a_relative_folder_becomes_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert str(EncoderSpec.parse("timm:local-dir:m")) == f"timm:local-dir:{tmp_path / 'm'}"


@pytest.mark.parametrize("text", ["", "timm", "timm:", ":x", "timm:a#speed=1", "timm:a#layer"])
def test_what_is_no_spec_is_refused(text):
    with pytest.raises(BadName):
        EncoderSpec.parse(text)


_word = st.text("abcXYZ019_-./", min_size=1).filter(lambda s: "local-dir:" not in s)


@given(
    _word.filter(lambda s: ":" not in s),
    _word,
    st.none() | st.text("abc019", min_size=1),
    st.dictionaries(st.sampled_from(SPEC_OPTIONS), st.text("abc019", min_size=1)),
)
def test_a_spec_reads_back_what_it_writes(family, model, revision, options):
    ordered = tuple((key, options[key]) for key in SPEC_OPTIONS if key in options)
    written = EncoderSpec(family, model, revision, ordered)
    spec = EncoderSpec.parse(str(written))
    assert EncoderSpec.parse(str(spec)) == spec
    if spec.local_file is None:  # of a path, `..`, `.` and `//` go when it is read
        assert spec == written


def test_the_fingerprint_hashes_what_is_chosen_and_not_where_or_with_what():
    spec = EncoderSpec.parse("timm:local-dir:/a/net")
    moved = EncoderSpec.parse("timm:local-dir:/b/net")
    one = ResolvedEncoder(spec, 4, frozenset({Modality.IMAGE}), {"w": "1"}, {"torch": "1"})
    same = ResolvedEncoder(moved, 4, frozenset({Modality.IMAGE}), {"w": "1"}, {"torch": "2"})
    other = ResolvedEncoder(spec, 4, frozenset({Modality.IMAGE}), {"w": "2"}, {"torch": "1"})
    assert one.fingerprint == same.fingerprint != other.fingerprint
    assert one.slug == f"timm-net-{one.fingerprint[:8]}"


def embeddings(n=3):
    ids = np.array([f"i{i}" for i in range(n)], object)
    columns = {"label": np.array(["a", "b", None], object)}
    return Embeddings(ids, np.arange(n * 2, dtype=np.float32).reshape(n, 2), "f", columns, "label")


def test_taking_rows_takes_them_everywhere():
    taken = embeddings().take(np.array([2, 0]))
    assert taken.ids.tolist() == ["i2", "i0"]
    assert taken.vectors.tolist() == [[4, 5], [0, 1]]
    assert taken.labels.tolist() == [None, "a"]


def test_embeddings_refuse_what_does_not_fit():
    good = embeddings()
    with pytest.raises(ShapeMismatch, match="3 ids, but vectors of shape"):
        Embeddings(good.ids, good.vectors[:2], "f", {})
    with pytest.raises(ShapeMismatch, match="2 values of 'label'"):
        Embeddings(good.ids, good.vectors, "f", {"label": good.labels[:2]})
    with pytest.raises(MissingColumn, match="no column 'group'; known: label"):
        _ = good.groups


def test_a_prompt_may_hold_commas_and_end_with_a_space():
    spec = EncoderSpec.parse("st:x#prompt=Instruct: given a query, retrieve: ,max_length=64")
    assert dict(spec.options) == {
        "max_length": "64", "prompt": "Instruct: given a query, retrieve: ",
    }  # fmt: skip
    assert EncoderSpec.parse(str(spec)) == spec


@pytest.mark.parametrize(("text", "key", "value", "expected"), [
    ("timm:resnet18", "layer", 2, "timm:resnet18#layer=2"),
    ("timm:a@main#size=96,seed=1", "pool", "cls", "timm:a@main#pool=cls,size=96,seed=1"),
    ("timm:resnet18#layer=2,pool=cls", "layer", -1, "timm:resnet18#layer=-1,pool=cls"),
    ("timm:resnet18#layer=2,pool=cls", "layer", None, "timm:resnet18#pool=cls"),
    ("timm:resnet18", "pool", None, "timm:resnet18"),
])  # fmt: skip
def test_an_option_of_a_spec_can_be_set_and_taken_out(text, key, value, expected):
    changed = EncoderSpec.parse(text).with_option(key, value)
    assert str(changed) == expected
    assert EncoderSpec.parse(expected) == changed


def test_an_option_that_no_encoder_has_is_refused():
    with pytest.raises(BadName, match="'layers=3' in 'timm:resnet18' is no"):
        EncoderSpec.parse("timm:resnet18").with_option("layers", 3)
