"""The encoders in the package: their files, their vectors, and where they are used unasked."""

import hashlib
import subprocess
import sys
import tomllib

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load as load_tensors
from sklearn.datasets import load_sample_images

from featurestore.encoders import weights
from featurestore.encoders.base import LoadOptions
from featurestore.encoders.families import BUILTIN
from featurestore.encoders.loading import load_encoder, load_encoders
from featurestore.errors import BadName, UnknownEncoder
from featurestore.sources.listing import SourceOptions
from featurestore.terms.specs import EncoderSpec, Modality, parse_specs

IMAGE, TEXT = BUILTIN[Modality.IMAGE], BUILTIN[Modality.TEXT]


@pytest.fixture(scope="module")
def tiny_text():
    return load_encoder(EncoderSpec.parse(TEXT))


@pytest.fixture(scope="module")
def tiny_image():
    return load_encoder(EncoderSpec.parse(IMAGE), device="cpu")


def images_by(encoder, pictures):
    return encoder.encode_images([encoder.prepare_image(one) for one in pictures])


def test_the_files_are_those_that_were_made_and_small():
    names = {path.name for path in weights.FOLDER.iterdir()}
    assert names == set(weights.SHA256)
    sizes = {name: len(weights.read_weights(name)) for name in names}
    for name in names:
        content = (weights.FOLDER / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == weights.SHA256[name]
    assert sizes.pop("tiny-image.safetensors") <= 4_000_000
    assert sum(sizes.values()) <= 8_000_000


def test_the_wheel_has_them_and_the_notices():
    """By the patterns that setuptools packs; one wheel takes longer than all tests here."""
    root = weights.FOLDER.parents[1]
    project = tomllib.loads((root / "pyproject.toml").read_text())
    packed = {
        path
        for pattern in project["tool"]["setuptools"]["package-data"]["featurestore"]
        for path in weights.FOLDER.parent.glob(pattern)
    }
    assert packed >= {weights.FOLDER / name for name in weights.SHA256}
    notice = (root / "NOTICE").read_text()
    assert set(project["project"]["license-files"]) == {"LICENSE", "NOTICE"}
    assert "WordNet 3.0 Copyright 2006 by Princeton University" in notice
    assert "all-MiniLM-L6-v2" in notice
    assert "tf2_mobilenet_v2_1.0_224_ptq.tflite" in notice


@pytest.mark.parametrize("damage", [b"", b"{}", None])
@pytest.mark.parametrize("spec", [IMAGE, TEXT])
def test_a_damaged_or_absent_file_is_refused(spec, damage, tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "FOLDER", tmp_path)
    if damage is not None:
        for name in weights.SHA256:
            (tmp_path / name).write_bytes(damage)
    with pytest.raises(UnknownEncoder, match="install featurestore again"):
        load_encoder(EncoderSpec.parse(spec), device="cpu")


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("builtin:tiny-imag", UnknownEncoder, "did you mean 'tiny-image'"),
        ("builtin:tiny-text#layer=2", BadName, "tiny-text has no options"),
        ("builtin:tiny-image#layer=7", BadName, "layer=7.*expected 1 to 6"),
        ("builtin:tiny-image#size=32", BadName, "builtin encoders have no option 'size'"),
        ("random:builtin:tiny-text", UnknownEncoder, "expected random:timm:…"),
    ],
)
def test_names_and_options_that_there_are_not(text, error, message):
    with pytest.raises(error, match=message):
        load_encoder(EncoderSpec.parse(text), device="cpu")


# Images


def test_parameters_are_counted(tiny_image, tiny_text):
    """1.32 M, as the card says; a vector for each token."""
    n_stored = sum(
        tensor.size
        for name, tensor in load_tensors(weights.read_weights("tiny-image.safetensors")).items()
        if name.startswith(("stem", "stages"))  # mean and std are of the pooled features
    )
    assert tiny_image.resolved.n_parameters == pytest.approx(1.32e6, rel=0.01)
    assert n_stored == tiny_image.resolved.n_parameters
    assert tiny_text.resolved.n_parameters == tiny_text.vectors.size
    assert load_encoder(EncoderSpec.parse("baseline:pixels")).resolved.n_parameters == 0


def test_layers_come_from_one_pass_and_are_the_pools_of_the_stages():
    import torch

    pictures = [Image.fromarray(one) for one in load_sample_images().images]
    specs = parse_specs([f"{IMAGE}#layer=3", f"{IMAGE}#layer=6", IMAGE])
    third, sixth, whole = load_encoders(specs, LoadOptions("cpu"))
    assert third.network is sixth.network is whole.network
    prepared = [whole.prepare_image(one) for one in pictures]
    assert [one.shape for one in prepared] == [(128, 128, 3)] * 2
    pixels = torch.from_numpy(np.stack(prepared)).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.inference_mode():
        pools = whole.network.module(pixels)
        joined = whole.network.module.embed(pools).numpy()
        pools = [one.numpy() for one in pools]
    for encoder, expected in ((third, pools[2]), (sixth, pools[5]), (whole, joined)):
        assert encoder.resolved.dim == expected.shape[1]
        found = encoder.encode_images(prepared)
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_its_stages_are_those_of_its_teacher(mobilenet, tiny_image):
    """Folded convolutions give the stages of the network that they come from."""
    import timm
    import torch

    from featurestore.encoders.tiny_image import TinyImage
    from tools.cut_image import take_convolutions

    teacher = timm.create_model(mobilenet.removeprefix("timm:"), pretrained=True).eval()
    student = TinyImage().eval()
    take_convolutions(student, teacher)
    pixels = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        x, found = teacher.bn1(teacher.conv_stem(pixels)), student(pixels)
        for stage, pool in zip(teacher.blocks, found, strict=False):
            x = stage(x)
            np.testing.assert_allclose(x.mean((2, 3)), pool, atol=1e-4)
    shipped = tiny_image.network.module.state_dict()
    for name, values in student.state_dict().items():
        if name in ("mean", "std"):
            assert torch.isfinite(shipped[name]).all()
        else:
            assert torch.equal(values.half().float(), shipped[name]), name
    assert (shipped["std"] > 0).all()


def test_random_weights_have_the_same_shape_and_other_vectors(tiny_image):
    pictures = [Image.fromarray(one) for one in load_sample_images().images]
    fresh = load_encoder(EncoderSpec.parse(f"random:{IMAGE}#seed=1"), device="cpu")
    assert fresh.resolved.dim == tiny_image.resolved.dim
    found = images_by(fresh, pictures)
    assert np.isfinite(found).all()
    assert not np.allclose(found, images_by(tiny_image, pictures), atol=0.1)


def test_tiny_image_tells_hand_signs_apart_where_pixels_do_not(shared, tiny_image):
    """A tenth of the benchmark: 10 pictures a class taught, 10 tested."""
    from heads.estimators.ridge import RidgeHead

    paths = [
        path
        for digit in range(10)
        for path in sorted(shared("data", "sign_digits", str(digit)).iterdir())[:20]
    ]
    labels = np.array([path.parent.name for path in paths])
    pictures = [Image.open(path).convert("RGB") for path in paths]
    pixels = load_encoder(EncoderSpec.parse("baseline:pixels"))
    taught = np.arange(len(paths)) % 20 < 10
    shares = {}
    for name, encoder in (("ours", tiny_image), ("pixels", pixels)):
        X = images_by(encoder, pictures)
        predicted = RidgeHead().fit(X[taught], labels[taught]).predict(X[~taught])
        shares[name] = float(np.mean(predicted == labels[~taught]))
    assert shares["ours"] > shares["pixels"] + 0.1


# Texts


def test_a_text_is_the_sum_of_its_tokens(tiny_text):
    token_of = tiny_text.tokenizer.token_to_id
    expected = tiny_text.vectors[[token_of(one) for one in ("lost", "my", "card")]].sum(axis=0)
    (found,) = tiny_text.encode_texts(["Lost my card"])
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected), rtol=1e-5, atol=1e-6)


def test_order_case_and_company_do_not_matter_and_length_is_one(tiny_text):
    texts = ["The card was lost", "lost the CARD was", "Zürich", "", " \n", "a" * 100_000, "😀"]
    together = tiny_text.encode_texts(texts)
    alone = np.concatenate([tiny_text.encode_texts([one]) for one in texts])
    np.testing.assert_allclose(together, alone, atol=1e-6)
    np.testing.assert_allclose(together[0], together[1], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(together[3], together[4])  # no token: the unknown one


def test_meanings_are_near_each_other(tiny_text):
    texts = [
        "I lost my credit card",
        "someone stole my debit card",
        "play some jazz music",
        "listen to a song",
        "will it rain tomorrow",
        "what is the weather forecast",
    ]
    vectors = tiny_text.encode_texts(texts)
    cosines = vectors @ vectors.T - 2 * np.eye(len(texts))
    assert cosines.argmax(axis=1).tolist() == [1, 0, 3, 2, 5, 4]


def test_tiny_text_needs_no_torch():
    script = (
        "import sys\n"
        "from featurestore.encoders import load_encoder\n"
        "from featurestore.terms.specs import EncoderSpec\n"
        f"load_encoder(EncoderSpec.parse({TEXT!r})).encode_texts(['a'])\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


# Unasked


def test_embed_without_an_encoder_uses_the_one_of_the_modality_and_says_so(
    empty_store, tiny_images, tmp_path
):
    table = tmp_path / "t.csv"
    table.write_text("text,label\ngood morning,a\ngood night,b\n")
    for source, name, spec, options in (
        (tiny_images, "pictures", IMAGE, SourceOptions()),
        (table, "texts", TEXT, SourceOptions(text="text")),
    ):
        said = []
        (estimate,) = empty_store.estimate([source], dataset=name, source_options=options)
        (report,) = empty_store.embed(
            [source], dataset=name, source_options=options, say=said.append
        )
        assert estimate.encoder == report.encoder == spec
        assert report.n_encoded == report.n_items > 0
        assert [line for line in said if f"using {spec}" in line and "a larger one" in line]
        assert empty_store.view(name, spec).n_rows == report.n_items
