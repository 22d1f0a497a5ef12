"""What is counted of items that were embedded: texts nobody knows, pictures without a range."""

import json

import numpy as np
import pytest
from PIL import Image

from featurestore.encoders.images import RANGE_ASSUMED, Undecodable, decode_image

TEXTS = ["a cat", "🙂", "مرحبا", "🙂 cat", "世", "\u200b.", "\u200b🙂"]


def test_texts_without_a_known_token_are_counted(fs, tmp_path):
    table = tmp_path / "t.jsonl"
    table.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    code, out, err = fs("embed", table, "--dataset", "d", "--text", "text", "--json")
    assert code == 0
    (report,) = json.loads(out)
    assert (report["n_encoded"], report["n_unknown"]) == (7, 3)
    assert "  3 of 7 texts have no token that builtin:tiny-text knows: their vectors are" in err
    table.write_text('{"text": "a cat"}\n')
    code, _, err = fs("embed", table, "--dataset", "e", "--text", "text")
    assert "no token" not in err


def test_hf_texts_without_a_known_token_are_counted(tmp_path):
    transformers = pytest.importorskip("transformers")
    import torch

    from featurestore.encoders.loading import load_encoders
    from featurestore.terms.specs import parse_specs

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "cat"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    tokenizer = transformers.BertTokenizer(str(tmp_path / "vocab.txt"))
    tokenizer.save_pretrained(tmp_path / "m")
    with torch.random.fork_rng():
        transformers.BertModel(transformers.BertConfig(
            vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=16,
        )).save_pretrained(tmp_path / "m")  # fmt: skip
    (encoder,) = load_encoders(parse_specs([f"hf:local-dir:{tmp_path / 'm'}"]))
    tokens = encoder.tokenize(["cat", "dog", "cat dog", "dog dog"]).tokens
    assert [encoder.knows_none(one) for one in tokens] == [False, True, False, True]


def tiff(path, pixels, **tags):
    numbers = {int(name[1:]): value for name, value in tags.items()}
    Image.fromarray(pixels).save(path, "TIFF", tiffinfo=numbers)
    return path.read_bytes()


@pytest.mark.parametrize(
    ("kind", "tags", "is_assumed"),
    [
        (np.uint16, {}, True),
        (np.uint16, {"t281": 4095}, False),
        (np.uint16, {"t280": 100}, True),
        (np.uint16, {"t280": 9, "t281": 3}, True),
        (np.int32, {}, True),
        (np.int32, {"t281": 4095}, False),
        (np.uint16, {"t274": 6}, True),  # turned
        (np.uint16, {"t274": 6, "t281": 4095}, False),
        (np.uint8, {}, False),
    ],
)
def test_a_range_that_no_tiff_declares_is_said(kind, tags, is_assumed, tmp_path):
    content = tiff(tmp_path / "x.tif", np.array([[200, 100]], kind), **tags)
    assert (RANGE_ASSUMED in decode_image(content).info) == is_assumed


def test_other_formats_declare_their_range(tmp_path):
    Image.fromarray(np.array([[0, 4095]], np.uint16)).save(tmp_path / "x.png")
    assert RANGE_ASSUMED not in decode_image((tmp_path / "x.png").read_bytes()).info


def test_pixels_beyond_the_range_that_is_taken_say_so(tmp_path):
    content = tiff(tmp_path / "x.tif", np.array([[0, 100_000]], np.int32))
    with pytest.raises(Undecodable, match=r"0 to 100000, and no declared range \(without one, 0"):
        decode_image(content)


def test_pictures_without_a_range_are_counted(fs, tmp_path):
    for at in range(3):
        tags = {"t281": 4095} if at == 2 else {}
        tiff(tmp_path / f"{at}.tif", np.full((9, 9), 1000 + at, np.uint16), **tags)
    code, out, err = fs("embed", tmp_path, "--dataset", "d", "-e", "baseline:pixels", "--json")
    assert code == 0
    assert json.loads(out)[0]["n_range_assumed"] == 2
    assert "  2 pictures of 16 or 32 bits declare no range: 0 to 65,535 was taken; `tiffs" in err
