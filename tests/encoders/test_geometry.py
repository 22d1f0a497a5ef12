import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from featurestore.encoders.geometry import ResizeAndCrop
from featurestore.encoders.loading import load_encoder
from featurestore.terms.specs import EncoderSpec


def steps(size, crop, interpolation=InterpolationMode.BICUBIC, **options):
    return [transforms.Resize(size, interpolation, **options), transforms.CenterCrop(crop)]


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(1, 90), height=st.integers(1, 90), size=st.integers(8, 40),
    less=st.tuples(st.integers(0, 7), st.integers(0, 7)),
    interpolation=st.sampled_from(
        [InterpolationMode.BICUBIC, InterpolationMode.BILINEAR, InterpolationMode.NEAREST]
    ),
)  # fmt: skip
def test_pixels_are_those_of_torchvision(width, height, size, less, interpolation):
    pixels = np.random.default_rng(width * height).integers(0, 256, (height, width, 3), np.uint8)
    image = Image.fromarray(pixels)
    theirs = steps(size, (size - less[0], size - less[1]), interpolation)
    ours = ResizeAndCrop.of(theirs)
    assert ours is not None
    np.testing.assert_array_equal(ours(image), np.asarray(transforms.Compose(theirs)(image)))


@pytest.mark.parametrize(
    "other",
    [
        steps((32, 48), 32),
        steps(32, 48),  # would pad
        steps(32, 32, max_size=40),
        [transforms.CenterCrop(32), transforms.Resize(32)],
        [*steps(32, 32), transforms.Grayscale(3)],
    ],
)
def test_any_other_transform_is_left_to_torchvision(other):
    assert ResizeAndCrop.of(other) is None


def test_timm_and_open_clip_are_understood():
    specs = ("random:timm:test_vit", "random:open_clip:RN50")
    found = [load_encoder(EncoderSpec.parse(spec)).network.preprocessing.geometry for spec in specs]
    bicubic = Image.Resampling.BICUBIC
    assert found == [
        ResizeAndCrop(168, bicubic, (160, 160)),
        ResizeAndCrop(224, bicubic, (224, 224)),
    ]


def test_it_loads_without_torch():
    code = (
        "import sys; import featurestore.encoders.geometry, featurestore.pipeline.decode_ahead;"
        "print(*({'torch', 'torchvision', 'pyarrow', 'joblib'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.split() == []
