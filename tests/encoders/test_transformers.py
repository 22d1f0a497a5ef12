"""hf: gives what transformers gives, on tiny networks made here."""

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from featurestore.encoders.base import LoadOptions
from featurestore.encoders.loading import load_encoders
from featurestore.errors import BadName, NotTrusted, UnknownEncoder
from featurestore.terms.specs import Modality, parse_specs

TOWER = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 64,
}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "cat", "dog", "long", "text"]


@pytest.fixture(scope="module")
def photos():
    return [Image.fromarray(one) for one in load_sample_images().images]


@pytest.fixture(scope="module", autouse=True)
def quiet():
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def networks():
    import transformers as t

    imagenet = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    crop = {"size": {"shortest_edge": 80}, "crop_size": {"height": 70, "width": 70}}
    square = {"size": {"height": 64, "width": 64}}
    patches = TOWER | {"patch_size": 14}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return {
            "vit": (
                t.ViTModel(t.ViTConfig(**TOWER, patch_size=16)), t.ViTImageProcessor(**square),
                lambda out: out.last_hidden_state[:, 0],
            ),
            "dinov2": (
                t.Dinov2Model(t.Dinov2Config(**patches)),
                t.BitImageProcessor(**crop, **imagenet, do_convert_rgb=True, resample=3),
                lambda out: out.last_hidden_state[:, 0],
            ),
            "dinov2-registers": (
                t.Dinov2WithRegistersModel(
                    t.Dinov2WithRegistersConfig(**patches, num_register_tokens=4)
                ),
                t.BitImageProcessor(**crop, **imagenet, do_convert_rgb=True, resample=3),
                lambda out: out.last_hidden_state[:, 0],
            ),
            "siglip-vision": (
                t.SiglipVisionModel(t.SiglipVisionConfig(**TOWER, patch_size=16)),
                t.SiglipImageProcessor(**square), lambda out: out.pooler_output,
            ),
            "convnext": (
                t.ConvNextModel(t.ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1] * 4)),
                t.ConvNextImageProcessor(size={"shortest_edge": 64}, **imagenet),
                lambda out: out.pooler_output,
            ),
        }  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("hf")


@pytest.mark.parametrize("name", sorted(networks()))
def test_image_vectors_are_those_of_transformers_with_its_own_processor(name, folder, photos):
    network, processor, pooled = networks()[name]
    network.save_pretrained(folder / name)
    processor.save_pretrained(folder / name)
    spec = f"hf:local-dir:{folder / name}"
    encoders = load_encoders(
        parse_specs([spec, *(f"{spec}#layer={n},pool=mean" for n in (0, 1, -1))])
    )
    prepared = [encoders[0].prepare_image(one) for one in photos]
    assert prepared[0].dtype == np.uint8  # a quarter of the bytes, normalised on the device
    stage, launch, fetch = encoders[0].runner(encoders, Modality.IMAGE)
    found = fetch(launch(stage(prepared)))
    with torch.inference_mode():
        inputs = processor(images=photos, return_tensors="pt")
        out = network.eval()(**inputs, output_hidden_states=True)
    n_prefix = {"vit": 1, "dinov2": 1, "dinov2-registers": 5}.get(name, 0)

    def mean(hidden):
        return hidden.mean((2, 3)) if hidden.ndim == 4 else hidden[:, n_prefix:].mean(1)

    layers = [out.hidden_states[i] for i in (0, 1, len(out.hidden_states) - 1)]
    expected = [pooled(out), *map(mean, layers)]
    for one, vectors, tensor in zip(encoders, found, expected, strict=True):
        reference = tensor.numpy()
        norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(reference, axis=1)
        assert ((vectors * reference).sum(1) / norms).min() > 0.9999
        assert one.resolved.dim == vectors.shape[1]
        assert one.resolved.modalities == {Modality.IMAGE}


@pytest.fixture(scope="module")
def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate(WORDS)}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]",
        sep_token="[SEP]", model_max_length=16,
    )  # fmt: skip


@pytest.fixture(scope="module")
def bert(folder, tokenizer):
    from transformers import BertConfig, BertModel

    sizes = {name: TOWER[name] for name in TOWER if name != "image_size"}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = BertModel(BertConfig(vocab_size=20, max_position_embeddings=16, **sizes))
    network.save_pretrained(folder / "bert")
    tokenizer.save_pretrained(folder / "bert")
    return network.eval(), f"hf:local-dir:{folder / 'bert'}"


def test_text_vectors_do_not_depend_on_who_shares_the_batch(bert, tokenizer):
    network, spec = bert
    texts = ["a cat", "a dog long text", "cat " * 40]
    pools = ("mean", "cls", "pooler")
    encoders = load_encoders(parse_specs([*(f"{spec}#pool={p}" for p in pools), f"{spec}#layer=2"]))
    found = [one.encode_texts(texts) for one in encoders]
    for i, text in enumerate(texts):
        with torch.inference_mode():
            tokens = tokenizer(text, truncation=True, max_length=16, return_tensors="pt")
            out = network(**tokens, output_hidden_states=True)
        expected = [
            out.last_hidden_state[0].mean(0), out.last_hidden_state[0, 0], out.pooler_output[0],
            out.hidden_states[2][0].mean(0),
        ]  # fmt: skip
        for vectors, tensor in zip(found, expected, strict=True):
            np.testing.assert_allclose(vectors[i], tensor.numpy(), atol=1e-5)
    _, lengths, is_cut = encoders[0].tokenize(texts)
    assert (lengths, is_cut) == ([2, 4, 16], [False, False, True])


def test_max_length_is_another_encoder(bert):
    _, spec = bert
    plain, short = load_encoders(parse_specs([spec, f"{spec}#max_length=2"]))
    assert plain.resolved.fingerprint != short.resolved.fingerprint
    a, b = plain.encode_texts(["a dog"]), short.encode_texts(["a dog long text"])
    np.testing.assert_allclose(a, b, atol=1e-6)


def test_both_towers_of_siglip(folder, tokenizer, photos):
    from transformers import SiglipConfig, SiglipImageProcessor, SiglipModel

    sizes = {name: TOWER[name] for name in TOWER if name != "image_size"}
    text = sizes | {"vocab_size": 50, "max_position_embeddings": 16}
    config = SiglipConfig(
        text_config=text | {"bos_token_id": 2, "eos_token_id": 3},
        vision_config=TOWER | {"patch_size": 16},
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = SiglipModel(config).eval()
    processor = SiglipImageProcessor(size={"height": 64, "width": 64})
    for part in (network, tokenizer, processor):
        part.save_pretrained(folder / "siglip")
    spec = f"hf:local-dir:{folder / 'siglip'}"
    encoder, layer = load_encoders(parse_specs([spec, f"{spec}#layer=2"]))
    assert encoder.resolved.modalities == {Modality.IMAGE, Modality.TEXT}
    assert layer.resolved.modalities == {Modality.IMAGE}

    def features(out):
        return (out if isinstance(out, torch.Tensor) else out.pooler_output).numpy()

    with torch.inference_mode():
        images = features(
            network.get_image_features(**processor(images=photos, return_tensors="pt"))
        )
        words = features(
            network.get_text_features(
                **tokenizer(["a cat"], padding="max_length", max_length=16, return_tensors="pt")
            )
        )
    prepared = [encoder.prepare_image(one) for one in photos]
    np.testing.assert_allclose(encoder.encode_images(prepared), images, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(encoder.encode_texts(["a cat"]), words, rtol=1e-4, atol=1e-5)
    # The tower's own vectors and a layer of it come from one pass.
    passes = []
    for module in _modules_of(encoder):
        if type(module).__name__ == "SiglipVisionEmbeddings":
            module.register_forward_hook(lambda *_: passes.append(1))
    stage, launch, fetch = encoder.runner([encoder, layer], Modality.IMAGE)
    both = fetch(launch(stage(prepared)))
    assert len(passes) == 1
    np.testing.assert_allclose(both[0], images, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(both[1], layer.encode_images(prepared), rtol=1e-4, atol=1e-5)
    with pytest.raises(BadName, match="a two-tower model pools by itself"):
        load_encoders(parse_specs([f"{spec}#pool=mean"]))


def _modules_of(encoder):
    return encoder.network.module.modules()


def test_a_pooler_that_was_never_trained_is_refused(folder):
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    ViTModel(ViTConfig(**TOWER, patch_size=16), add_pooling_layer=False).save_pretrained(
        folder / "bare"
    )
    ViTImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder / "bare")
    with pytest.raises(BadName, match="have no trained pooler; use cls or mean"):
        load_encoders(parse_specs([f"hf:local-dir:{folder / 'bare'}#pool=pooler"]))


def test_code_that_comes_with_a_model_runs_only_where_asked(folder, tmp_path):
    where = tmp_path / "evil"
    where.mkdir()
    (where / "config.json").write_text(
        '{"model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"}}'
    )
    (where / "evil.py").write_text("raise RuntimeError('it ran')\n")
    spec = parse_specs([f"hf:local-dir:{where}"])
    with pytest.raises(NotTrusted, match=r"names evil\.Evil \(auto_map of config\.json\), which"):
        load_encoders(spec)
    with pytest.raises(UnknownEncoder, match="it ran"):
        load_encoders(spec, LoadOptions(trust=True))


def test_a_name_that_is_not_cached_says_how_to_get_it(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(
        "featurestore.encoders.transformers_models.AutoModel.from_pretrained",
        lambda *a, **k: (_ for _ in ()).throw(OSError("offline mode is enabled")),
    )
    with pytest.raises(UnknownEncoder, match=r"offline mode is enabled; download it once .*hf:"):
        load_encoders(parse_specs(["hf:facebook/dinov2-small"]))


def test_what_makes_no_batch_or_has_no_pooler_is_refused_at_load(folder, tokenizer):
    from transformers import (
        DistilBertConfig,
        DistilBertModel,
        ViTConfig,
        ViTImageProcessor,
        ViTModel,
    )

    ViTModel(ViTConfig(**TOWER, patch_size=16)).save_pretrained(folder / "loose")
    loose = ViTImageProcessor(size={"shortest_edge": 64})
    loose.save_pretrained(folder / "loose")
    with pytest.raises(UnknownEncoder, match="which make no batch"):
        load_encoders(parse_specs([f"hf:local-dir:{folder / 'loose'}"]))
    config = DistilBertConfig(vocab_size=20, dim=32, n_layers=1, n_heads=2, hidden_dim=64)
    DistilBertModel(config).save_pretrained(folder / "distil")
    tokenizer.save_pretrained(folder / "distil")
    with pytest.raises(BadName, match="this network has no pooler"):
        load_encoders(parse_specs([f"hf:local-dir:{folder / 'distil'}#pool=pooler"]))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_a_sentence_encoder_of_16_bits_runs_in_fp32(kind, bert, folder):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    network, _ = bert
    first = Transformer(str(folder / "bert"), max_seq_length=16)
    pooling = Pooling(network.config.hidden_size)
    path = str(folder / f"sentences-{kind}".replace(".", "-"))
    SentenceTransformer(modules=[first, pooling], device="cpu").to(kind).save(path)
    (encoder,) = load_encoders(parse_specs([f"st:local-dir:{path}"]))
    texts = ["a cat", "a dog long text"]
    expected = SentenceTransformer(path, device="cpu").float().encode(texts)
    assert encoder.resolved.chosen["precision"] == "fp32"
    np.testing.assert_allclose(encoder.encode_texts(texts), expected, rtol=1e-4, atol=1e-5)
