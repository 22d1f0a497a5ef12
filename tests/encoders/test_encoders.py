"""Encoders give what their own libraries give, and know themselves again."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from featurestore.encoders.families import FAMILIES, family_of
from featurestore.encoders.loading import known_encoder, load_encoder
from featurestore.errors import BadName, MissingExtra, UnknownEncoder
from featurestore.storage import user_cache
from featurestore.terms.specs import EncoderSpec, Modality


def load(text):
    return load_encoder(EncoderSpec.parse(text), device="cpu")


def resolve(spec):
    return known_encoder(spec) or load_encoder(spec, device="cpu").resolved


def least_cosine(a, b):
    return float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min())


@pytest.fixture(scope="session")
def photos(shared):
    steel = sorted(shared("data", "neu_steel").glob("*/*_10.jpg"))
    places = sorted(shared("data", "hurricane_damage").glob("*/*.jpeg"))[:4]
    files = [Image.open(path).convert("RGB") for path in [*steel, *places]]
    return [Image.fromarray(image) for image in load_sample_images().images] + files


def test_timm_vectors_are_those_of_timm_with_its_own_transform(mobilenet, photos):
    import timm
    import torch

    name = mobilenet.removeprefix("timm:")
    network = timm.create_model(name, pretrained=True, num_classes=0).eval()
    config = timm.data.resolve_model_data_config(network)
    transform = timm.data.create_transform(**config, is_training=False)
    with torch.inference_mode():
        expected = network(torch.stack([transform(one) for one in photos])).numpy()
    encoder = load(mobilenet)
    found = encoder.encode_images([encoder.prepare_image(one) for one in photos])
    assert encoder.resolved.dim == 1280
    assert least_cosine(found, expected) > 0.9999
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["test_vit.r160_in1k", "test_efficientnet.r160_in1k"])
def test_another_input_size_is_that_of_timm_and_another_encoder(name, photos):
    import timm
    import torch

    plain, small = load(f"random:timm:{name}"), load(f"random:timm:{name}#size=96")
    assert plain.resolved.fingerprint != small.resolved.fingerprint
    assert small.prepare_image(photos[0]).shape == (96, 96, 3)
    takes_size = {"img_size": 96} if "vit" in name else {}
    network = timm.create_model(name, pretrained=False, num_classes=0, **takes_size).eval()
    network.load_state_dict(small.network.module.state_dict())
    config = timm.data.resolve_data_config({"img_size": 96}, model=network)
    transform = timm.data.create_transform(**config, is_training=False)
    with torch.inference_mode():
        expected = network(torch.stack([transform(one) for one in photos[:4]])).numpy()
    found = small.encode_images([small.prepare_image(one) for one in photos[:4]])
    assert least_cosine(found, expected) > 0.9999
    for size, reason in [("95", "multiple of 16"), ("9", "from 16 to 2048"), ("x", "from 16")]:
        if "vit" in name or size != "95":
            with pytest.raises(BadName, match=reason):
                load(f"random:timm:{name}#size={size}")


def test_weights_of_open_clip_run_with_the_activation_that_they_were_trained_with(monkeypatch):
    import open_clip

    asked = []

    def create(name, *, pretrained, force_quick_gelu, weights_only):
        asked.append(force_quick_gelu)
        config = open_clip.get_model_config(name)
        small = {"layers": 1, "width": 64}
        config |= {"quick_gelu": force_quick_gelu or config.get("quick_gelu", False)}
        config["vision_cfg"] |= small | {"head_width": 32}
        config["text_cfg"] |= small | {"heads": 2}
        module = open_clip.CLIP(**{k: v for k, v in config.items() if k != "init_logit_scale"})
        return module, None, open_clip.image_transform(224, is_train=False)

    monkeypatch.setattr(open_clip, "create_model_and_transforms", create)
    specs = ["ViT-B-32/openai", "ViT-B-32-quickgelu/openai", "ViT-B-32/laion2b_s34b_b79k"]
    found = [load(f"open_clip:{one}") for one in specs]
    assert asked == [True, False, False]
    kinds = [type(one.network.module.transformer.resblocks[0].mlp.gelu).__name__ for one in found]
    assert kinds == ["QuickGELU", "QuickGELU", "GELU"]
    assert ["quick_gelu" in one.resolved.chosen for one in found] == [True, False, False]


def test_both_towers_of_open_clip_are_those_of_open_clip(tiny_clip, photos):
    import open_clip
    import torch

    network, _, transform = open_clip.create_model_and_transforms(f"local-dir:{tiny_clip}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{tiny_clip}")
    network.eval()
    texts = ["a photo of a temple", "a flower"]
    with torch.inference_mode():
        images = network.encode_image(torch.stack([transform(one) for one in photos])).numpy()
        words = network.encode_text(tokenizer(texts)).numpy()
    encoder = load(f"open_clip:local-dir:{tiny_clip}")
    assert encoder.resolved.modalities == {Modality.IMAGE, Modality.TEXT}
    prepared = [encoder.prepare_image(one) for one in photos]
    np.testing.assert_allclose(encoder.encode_images(prepared), images, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(encoder.encode_texts(texts), words, rtol=1e-4, atol=1e-5)


def test_sentence_vectors_are_those_of_sentence_transformers(minilm):
    from sentence_transformers import SentenceTransformer

    texts = ["How do I activate my card?", "x", "a much longer question " * 40]
    expected = SentenceTransformer(minilm.removeprefix("st:local-dir:"), device="cpu").encode(texts)
    encoder = load(minilm)
    assert encoder.resolved.dim == 384
    np.testing.assert_allclose(encoder.encode_texts(texts), expected, atol=1e-5)


def test_options_of_sentence_models_change_the_vectors_and_the_fingerprint(minilm):
    plain, short, asked = (
        load(minilm),
        load(f"{minilm}#max_length=8"),
        load(f"{minilm}#prompt='query: '"),
    )
    text = ["the same words again and again and again and again"]
    vectors = [one.encode_texts(text) for one in (plain, short, asked)]
    assert least_cosine(vectors[0], vectors[1]) < 0.999
    assert least_cosine(vectors[0], vectors[2]) < 0.9999
    assert len({one.resolved.fingerprint for one in (plain, short, asked)}) == 3


def test_random_weights_follow_their_seed_and_leave_torch_alone():
    import torch

    name = "random:timm:test_resnet.r160_in1k"
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    one, same, other = (load(f"{name}#seed={seed}") for seed in (0, 0, 1))
    assert torch.equal(torch.rand(1), expected)
    image = [one.prepare_image(Image.new("RGB", (200, 200), (9, 99, 199)))]
    np.testing.assert_array_equal(one.encode_images(image), same.encode_images(image))
    assert one.resolved.fingerprint == same.resolved.fingerprint != other.resolved.fingerprint
    assert not np.array_equal(one.encode_images(image), other.encode_images(image))


def test_random_weights_of_a_two_tower_network(tiny_clip):
    trained = load(f"open_clip:local-dir:{tiny_clip}")
    fresh = load(f"random:open_clip:local-dir:{tiny_clip}#seed=3")
    assert fresh.resolved.dim == trained.resolved.dim == 16
    assert fresh.resolved.chosen["weights"] != trained.resolved.chosen["weights"]


def test_the_fingerprint_does_not_know_where_the_weights_lie(mobilenet, tmp_path):
    folder = Path(mobilenet.removeprefix("timm:local-dir:"))
    shutil.copytree(folder, tmp_path / "copy", copy_function=shutil.copyfile)
    assert (
        resolve(EncoderSpec.parse(f"timm:local-dir:{tmp_path / 'copy'}")).fingerprint
        == resolve(EncoderSpec.parse(mobilenet)).fingerprint
    )


def test_sentence_fingerprints_do_not_know_where_the_weights_lie(minilm, tmp_path):
    folder = Path(minilm.removeprefix("st:local-dir:"))
    shutil.copytree(folder, tmp_path / "copy")
    copy = EncoderSpec.parse(f"st:local-dir:{tmp_path / 'copy'}")
    assert resolve(copy).fingerprint == resolve(EncoderSpec.parse(minilm)).fingerprint


def test_a_resolved_encoder_is_remembered_until_its_files_change(tiny_clip, tmp_path):
    folder = tmp_path / "net"
    shutil.copytree(tiny_clip, folder)
    spec = EncoderSpec.parse(f"open_clip:local-dir:{folder}")
    assert known_encoder(spec) is None
    first = load_encoder(spec).resolved
    assert known_encoder(spec) == first
    config = folder / "open_clip_config.json"
    config.write_text(config.read_text().replace("bicubic", "bilinear"))
    assert known_encoder(spec) is None
    assert load_encoder(spec).resolved.fingerprint != first.fingerprint


def test_half_precision_is_another_encoder_of_nearly_the_same_vectors(mobilenet, photos):
    full, half = load(mobilenet), load(f"{mobilenet}#precision=bf16")
    assert full.resolved.fingerprint != half.resolved.fingerprint
    prepared = [full.prepare_image(one) for one in photos[:2]]
    cosine = least_cosine(full.encode_images(prepared), half.encode_images(prepared))
    assert 0.98 < cosine < 0.999999


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("tim:resnet18", UnknownEncoder, "no encoder family 'tim'.*did you mean 'timm'"),
        ("baseline:pixel", UnknownEncoder, "did you mean 'pixels'"),
        ("timm:resnet188", UnknownEncoder, "timm has no model 'resnet188': did you mean"),
        ("timm:local-dir:/nowhere", UnknownEncoder, "/nowhere is not a folder"),
        ("open_clip:ViT-B-33/openai", UnknownEncoder, "open_clip has no model 'ViT-B-33'"),
        ("open_clip:ViT-B-32/laion", UnknownEncoder, "with one of .*laion2b_s34b_b79k"),
        ("random:st:x", UnknownEncoder, "expected random:timm:…, random:open_clip:… or"),
        ("random:timm:resnet18#seed=one", BadName, "seed=one.*expected a whole number"),
        ("baseline:pixels#size=0", BadName, "size=0.*expected whole pixels"),
        ("baseline:pixels#layer=3", BadName, "baseline encoders have no option 'layer'"),
        ("baseline:pixels@v2", BadName, "have no revisions"),
        ("timm:test_resnet.r160_in1k#precision=int8", BadName, "expected fp32, bf16, fp16"),
    ],
)
def test_what_cannot_be_had_says_what_can(text, error, message, monkeypatch):
    monkeypatch.setattr(
        "timm.create_model", lambda *a, **k: (_ for _ in ()).throw(OSError("offline"))
    )
    if "precision" in text:
        monkeypatch.undo()
        text = text.replace("timm:", "random:timm:")
    with pytest.raises(error, match=message):
        load(text)


def test_weights_that_cannot_be_fetched_say_how_to_get_them(monkeypatch):
    monkeypatch.setattr(
        "timm.create_model", lambda *a, **k: (_ for _ in ()).throw(OSError("offline"))
    )
    with pytest.raises(UnknownEncoder, match=r"offline; download it once .*timm:local-dir:/path"):
        load("timm:resnet18.a1_in1k")


def test_a_package_that_is_missing_is_named(monkeypatch):
    def absent(name):
        raise ModuleNotFoundError("No module named 'timm'", name="timm")

    monkeypatch.setattr("featurestore.encoders.loading.importlib.import_module", absent)
    with pytest.raises(
        MissingExtra, match=r"'timm', which is not installed: pip install 'featurestore\[timm\]'"
    ):
        load("timm:resnet18")


def test_the_configuration_of_a_local_model_is_part_of_its_fingerprint(mobilenet, tmp_path):
    shutil.copytree(mobilenet.removeprefix("timm:local-dir:"), tmp_path / "m")
    spec = EncoderSpec.parse(f"timm:local-dir:{tmp_path / 'm'}")
    before = resolve(spec)
    config = tmp_path / "m" / "config.json"
    config.chmod(0o644)
    text = config.read_text()
    config.write_text(text.replace("{", '{"model_args": {"global_pool": "max"},', 1))
    assert known_encoder(spec) is None
    assert resolve(spec).fingerprint != before.fingerprint


def test_every_family_has_a_readable_example():
    for name, family in FAMILIES.items():
        spec = EncoderSpec.parse(family.example)
        assert spec.family == name
        assert family_of(spec) is family


def test_a_damaged_cache_costs_time_and_nothing_else():
    spec = EncoderSpec.parse("baseline:pixels")
    first = resolve(spec)
    (user_cache.cache_dir() / "encoders.json").write_text("{broken")
    assert resolve(spec) == first
