import io
import struct

import numpy as np
import pytest
from PIL import Image, features

from featurestore.encoders.images import Undecodable, decode_image, thumbnail


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


def test_a_tiff_may_declare_where_it_begins_and_that_white_is_zero():
    ramp = np.array([[1000, 2000, 3000]], np.uint16)
    declared = {280: 1000, 281: 3000}
    for more, expected in [({}, [0, 128, 255]), ({262: 0}, [255, 128, 0])]:
        content = as_bytes(Image.fromarray(ramp), "TIFF", tiffinfo=declared | more)
        assert np.asarray(decode_image(content))[0, :, 0].tolist() == expected
    outside = as_bytes(Image.fromarray(ramp), "TIFF", tiffinfo={281: 2500})
    with pytest.raises(Undecodable, match="1000 to 3000: outside the 0 to 2500 that it declares"):
        decode_image(outside)


def tiff(pixels, **tags):
    """Write an uncompressed TIFF of any number of bands, which Pillow cannot."""
    height, width, n_bands = pixels.shape
    bits = pixels.dtype.itemsize * 8
    entries = {
        256: (4, [width]), 257: (4, [height]), 258: (3, [bits] * n_bands), 259: (3, [1]),
        262: (3, [2]), 273: (4, [0]), 277: (3, [n_bands]), 278: (4, [height]),
        279: (4, [pixels.nbytes]),
    } | {int(name[1:]): (3, value) for name, value in tags.items()}  # fmt: skip
    data = struct.pack("<2sHI", b"II", 42, 8)
    after = 8 + 2 + 12 * len(entries) + 4
    table, extra = struct.pack("<H", len(entries)), b""
    long = {number: v for number, (kind, v) in entries.items() if len(v) * 2 > 4}
    at = after + sum(2 * len(v) for v in long.values())
    for number, (kind, value) in sorted(entries.items()):
        packed = struct.pack(f"<{len(value)}{'HI'[kind == 4]}", *([at] if number == 273 else value))
        if len(packed) > 4:
            packed, extra = struct.pack("<I", after + len(extra)), extra + packed
        table += struct.pack("<HHI", number, kind, len(value)) + packed.ljust(4, b"\0")
    return data + table + struct.pack("<I", 0) + extra + pixels.tobytes()


def test_bands_are_never_left_out_in_silence():
    pixels = np.arange(2 * 3 * 5, dtype=np.uint8).reshape(2, 3, 5)
    rgb = np.ascontiguousarray(pixels[:, :, :3])
    assert (np.asarray(decode_image(tiff(rgb))) == rgb).all()
    with_alpha = np.ascontiguousarray(pixels[:, :, :4])
    assert (np.asarray(decode_image(tiff(with_alpha, t338=[2]))) == rgb).all()
    assert (np.asarray(decode_image(tiff(with_alpha))) == rgb).all()  # the tag is often left out
    for n_bands in (4, 5):
        bands = np.ascontiguousarray(pixels[:, :, :n_bands])
        with pytest.raises(Undecodable, match=f"{n_bands} bands, 3 of them colors.*gdal_transl"):
            decode_image(tiff(bands, t338=[0] * (n_bands - 3)))


def test_colours_of_twelve_bits_are_no_near_black():
    pixels = np.full((2, 2, 3), 4095, np.uint16)
    with pytest.raises(Undecodable, match=r"16-bit colors from 0 to 4095.*write it with 8 bits"):
        decode_image(tiff(pixels, t281=[4095] * 3))
    assert np.asarray(decode_image(tiff(pixels * 16))).max() == 255
    assert np.asarray(decode_image(tiff(pixels * 16, t281=[60_000] * 3))).max() == 255


def test_a_program_is_never_started_to_read_a_picture(tmp_path, monkeypatch):
    script = tmp_path / "gs"
    script.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    content = as_bytes(Image.new("RGB", (8, 8)), "EPS")
    with pytest.raises(Undecodable, match="not an image that we can read"):
        decode_image(content)
    assert not (tmp_path / "started").exists()


def test_a_line_is_no_picture():
    decode_image(as_bytes(Image.new("L", (1, 500))))
    with pytest.raises(Undecodable, match=r"1 × 501 pixels: over 500 times as long as wide"):
        decode_image(as_bytes(Image.new("L", (1, 501))))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "LA"])
def test_every_common_mode_becomes_rgb(mode):
    kind = "TIFF" if mode == "CMYK" else "PNG"
    assert decode_image(as_bytes(Image.new(mode, (3, 3)), kind)).mode == "RGB"


@pytest.mark.parametrize(
    ("kind", "feature"), [("JPEG2000", "jpg_2000"), ("AVIF", "avif"), ("WEBP", "webp")]
)
def test_newer_formats_are_read_where_this_pillow_has_them(kind, feature):
    if not features.check(feature):
        pytest.skip(f"this Pillow was built without {feature}")
    found = np.asarray(decode_image(as_bytes(Image.new("RGB", (32, 32), (200, 30, 90)), kind)))
    assert np.abs(found.astype(int) - [200, 30, 90]).max() <= 6


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
    for limit in (99 * 100, 49 * 100):  # Pillow itself refuses twice its limit
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(Undecodable, match=f"100 × 100 pixels: over the limit of {limit}"):
            decode_image(content)


def test_a_thumbnail_fits_its_box_and_keeps_the_shape():
    content = thumbnail(as_bytes(Image.new("RGB", (400, 200))), 100)
    assert Image.open(io.BytesIO(content)).size == (100, 50)
