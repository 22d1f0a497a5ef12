import io

import numpy as np
import pytest
from PIL import Image

from featurestore.images import Undecodable, decode_image, thumbnail


def as_bytes(image, kind="PNG", **options):
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


def test_exif_orientation_is_applied():
    image = Image.new("RGB", (4, 2), (255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90° to show
    assert decode_image(as_bytes(image, "JPEG", exif=exif)).size == (2, 4)


def test_an_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    content = as_bytes(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode_image(content).getpixel((0, 0)) == (255, 0, 0)


def test_16_bit_grey_is_scaled_by_its_declared_range():
    ramp = np.array([[0, 32768, 65535]], np.uint16)
    found = np.asarray(decode_image(as_bytes(Image.fromarray(ramp))))
    assert found[0, :, 0].tolist() == [0, 128, 255]


def test_a_tiff_that_declares_12_bits_is_scaled_by_them():
    ramp = np.array([[0, 2048, 4095]], np.uint16)
    content = as_bytes(Image.fromarray(ramp), "TIFF", tiffinfo={281: 4095})
    found = np.asarray(decode_image(content))
    assert found[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "LA"])
def test_every_common_mode_becomes_rgb(mode):
    kind = "TIFF" if mode == "CMYK" else "PNG"
    assert decode_image(as_bytes(Image.new(mode, (3, 3)), kind)).mode == "RGB"


def test_what_cannot_be_read_says_why():
    jpeg = as_bytes(Image.effect_noise((64, 64), 50), "JPEG")
    for content, reason in [
        (b"", "the file is empty"),
        (b"hello, no picture", "not an image that we can read"),
        (jpeg[: len(jpeg) // 2], "truncated"),
        (as_bytes(Image.new("F", (2, 2)), "TIFF"), "no declared range"),
    ]:
        with pytest.raises(Undecodable, match=reason):
            decode_image(content)


def test_a_decompression_bomb_is_refused(monkeypatch):
    content = as_bytes(Image.new("L", (100, 100)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 99 * 100)
    with pytest.raises(Undecodable, match=r"pixels|[Bb]omb"):
        decode_image(content)


def test_a_thumbnail_fits_its_box_and_keeps_the_shape():
    content = thumbnail(as_bytes(Image.new("RGB", (400, 200))), 100)
    assert Image.open(io.BytesIO(content)).size == (100, 50)
