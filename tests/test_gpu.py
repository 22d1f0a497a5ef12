"""What only a CUDA GPU can show; all of it is skipped where torch sees none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_images

from featurestore.encoders.base import LoadOptions
from featurestore.encoders.loading import load_encoders
from featurestore.pipeline.job import EmbedRequest
from featurestore.pipeline.listing_run import Selection
from featurestore.pipeline.options import EmbedOptions
from featurestore.pipeline.several_devices import embed_on
from featurestore.search.exact import ExactIndex, load_faiss
from featurestore.search.gpu import has_gpu
from featurestore.terms.specs import EncoderSpec
from heads.estimators.logistic import LogisticHead

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]

VIT = "random:timm:vit_tiny_patch16_224"
IMAGE_ENCODERS = [
    "builtin:tiny-image", "random:timm:resnet18", VIT, f"{VIT}#layer=6", "random:open_clip:RN50",
]  # fmt: skip


def load(spec, device, **options):
    return load_encoders([EncoderSpec.parse(spec)], LoadOptions(device, **options))[0]


def cosines(a, b):
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


@pytest.fixture(scope="module")
def pictures():
    """Crops of scikit-learn's two photographs."""
    from PIL import Image

    photos = load_sample_images().images
    return [
        Image.fromarray(photo[top : top + 200, left : left + 300])
        for photo in photos for top in (0, 100, 220) for left in (0, 160, 330)
    ]  # fmt: skip


@pytest.fixture
def photo_folder(tmp_path, pictures):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, picture in enumerate(pictures * 20):
        path = folder / f"{number:04}.jpg"
        picture.save(path)
        with path.open("ab") as file:
            file.write(str(number).encode())  # other bytes, so that each is encoded
    return folder


@pytest.mark.parametrize("spec", IMAGE_ENCODERS)
def test_a_gpu_gives_the_vectors_of_a_cpu(pictures, spec):
    cpu, gpu = load(spec, "cpu"), load(spec, "cuda")
    expected = cpu.encode_images([cpu.prepare_image(one) for one in pictures])
    found = gpu.encode_images([gpu.prepare_image(one) for one in pictures])
    assert cosines(found, expected).min() > 0.9999
    assert cpu.resolved.fingerprint == gpu.resolved.fingerprint


def test_texts_too(tiny_clip):
    spec = f"open_clip:local-dir:{tiny_clip}"
    texts = ["a photo of a dog", "ein Haus", "", "crazing on a steel plate " * 3]
    cpu, gpu = (load(spec, device).encode_texts(texts) for device in ("cpu", "cuda"))
    assert cosines(gpu, cpu).min() > 0.9999


def test_half_precision_is_near(pictures):
    full, half = load(VIT, "cuda"), load(f"{VIT}#precision=bf16", "cuda")
    prepared = [full.prepare_image(one) for one in pictures]
    assert cosines(half.encode_images(prepared), full.encode_images(prepared)).min() > 0.999


# torch's own, at the import of its compiler
@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")
@pytest.mark.parametrize("spec", [VIT, f"{VIT}#layer=6", "random:open_clip:RN50"])
def test_compiled_networks_give_the_same_vectors(pictures, spec):
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    plain, compiled = load(spec, "cuda"), load(spec, "cuda", compile=True)
    prepared = [plain.prepare_image(one) for one in pictures]
    for n in (len(prepared), 5):  # another batch size must not need another network
        a, b = plain.encode_images(prepared[:n]), compiled.encode_images(prepared[:n])
        assert cosines(a, b).min() > 0.9999
    assert counters["stats"]["unique_graphs"] > 0  # it was compiled, whichever way is called


def test_a_view_begun_on_a_gpu_goes_on_on_a_cpu(empty_store, photo_folder):
    def embed(device, limit):
        (report,) = empty_store.embed(
            [photo_folder], dataset="d", encoders=[VIT],
            embed_options=EmbedOptions(device=device), selection=Selection(limit=limit),
        )  # fmt: skip
        return report.n_encoded

    assert embed("cuda", 8) == 8
    assert embed("cpu", 12) == 4  # its canary holds


def test_memory_that_runs_out_halves_the_batch_and_loses_nothing(empty_store, photo_folder):
    spec = "random:open_clip:ViT-L-14"
    load(spec, "cuda")  # whatever loading takes is taken and freed before
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info()
    hog = torch.empty(free - 3 * 2**30, dtype=torch.uint8, device="cuda")  # 3 GiB are left
    try:
        (report,) = empty_store.embed(
            [photo_folder], dataset="d", encoders=[spec],
            embed_options=EmbedOptions(device="cuda", batch_size=360),
        )  # fmt: skip
    finally:
        del hog
        torch.cuda.empty_cache()
    assert report.n_encoded == 360
    assert report.n_failed == 0
    assert report.batch_size < 360
    vectors = empty_store.dataset("d").view(spec).load().vectors
    (again,) = empty_store.embed(
        [photo_folder], dataset="e", encoders=[spec],
        embed_options=EmbedOptions(device="cuda", batch_size=60),
    )  # fmt: skip
    assert again.batch_size == 60
    assert cosines(vectors, empty_store.dataset("e").view(spec).load().vectors).min() > 0.9999


def test_two_processes_share_a_data_set(empty_store, photo_folder):
    request = EmbedRequest([photo_folder], [VIT])
    (report,) = embed_on(["cuda:0", "cuda:0"], empty_store.path, "d", request)
    assert report.n_encoded == 360
    assert report.device == "cuda:0,cuda:0"
    whole = empty_store.dataset("d").view(VIT).load()
    assert len(set(whole.ids)) == 360


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
def test_faiss_on_a_gpu_finds_what_it_finds_on_a_cpu(metric):
    if not has_gpu(load_faiss()):
        pytest.skip("this FAISS was built without GPUs: install the extra gpu")
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(50, 128))
    vectors = (centres[rng.integers(50, size=30_000)] + rng.normal(size=(30_000, 128))).astype("f4")
    index = ExactIndex.build(np.arange(30_000).astype(str), vectors, metric)
    assert len(vectors[:4096]) * vectors.size > 1e10  # enough to be worth the GPU
    found = index.search(vectors[:4096], k=21)
    assert "_on_gpu" in vars(index)
    assert "_flat" not in vars(index)
    few = index.search(vectors[:300], k=21)  # on the CPU: too little for the GPU
    assert "_flat" in vars(index)
    # FAISS takes distances from inner products on a GPU: those near 0 are squares of rounding.
    atol = 0.05 if metric == "l2" else 1e-4
    np.testing.assert_allclose(found.scores[:300], few.scores, rtol=1e-4, atol=atol)
    assert (found.rows[:300] == few.rows).mean() > 0.999  # near ties may change places


def test_logistic_regression_on_a_gpu_is_that_of_the_cpu():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(20, 64))
    y = rng.integers(20, size=6000)
    X = (centres[y] + 2 * rng.normal(size=(6000, 64))).astype(np.float32)
    torch.set_float32_matmul_precision("high")  # as an encoder leaves it
    cpu, gpu = (LogisticHead(device=device).fit(X[:4000], y[:4000]) for device in ("cpu", "cuda"))
    assert torch.get_float32_matmul_precision() == "high"
    assert cpu.C_ == gpu.C_
    np.testing.assert_allclose(gpu.predict_proba(X[4000:]), cpu.predict_proba(X[4000:]), atol=0.005)
