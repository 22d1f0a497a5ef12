"""A picture whose pixels are whole is embedded, whatever stands beside them in its file."""

import io
import json
import struct
import subprocess
import sys
import threading
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, features

from featurestore.encoders.bare_files import orientation_of, without_metadata
from featurestore.encoders.images import METADATA_UNREAD, Undecodable, decode_image

PIXELS = np.random.default_rng(3).integers(0, 256, (24, 33, 3), np.uint8)


def data(kind, image=None, **options):
    sink = io.BytesIO()
    (image or Image.fromarray(PIXELS)).save(sink, kind, **options)
    return sink.getvalue()


def segment(marker, body):
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


JPEG = data("JPEG", quality=92)
PNG = data("PNG")
WEBP = data("WEBP", lossless=True)
PALETTE = data("PNG", Image.fromarray(PIXELS).convert("P"))


def jpeg(*segments):
    return JPEG[:2] + b"".join(segments) + JPEG[2:]


def ifd(*entries, order="<", n=None, after=0, first=8):
    """EXIF data of entries (tag, type, count, four bytes), which may claim another number."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", first)
    body = struct.pack(f"{order}H", len(entries) if n is None else n)
    for tag, kind, count, value in entries:
        body += struct.pack(f"{order}HHI", tag, kind, count) + value.ljust(4, b"\0")
    return b"Exif\0\0" + head + body + struct.pack(f"{order}I", after)


TURNED = (0x112, 3, 1, struct.pack("<H", 6))
TURNED_BE = (0x112, 3, 1, struct.pack(">H", 6))
FAR = struct.pack("<I", 0xFFFFFF0)
XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/>'
XMP_OF_JPEG = b"http://ns.adobe.com/xap/1.0/\0"


def chunk(kind, body, crc=None, size=None):
    crc = zlib.crc32(kind + body) if crc is None else crc
    return (
        struct.pack(">I", len(body) if size is None else size)
        + kind
        + body
        + struct.pack(">I", crc)
    )


def png(*chunks):
    return PNG[:33] + b"".join(chunks) + PNG[33:]


def bomb(n=3 << 20):
    return zlib.compress(b"z" * n)


def webp(*chunks):
    """WebP with an extended header that announces metadata."""
    body = WEBP[12:]
    width, height = PIXELS.shape[1] - 1, PIXELS.shape[0] - 1
    header = struct.pack("<I", 0x0C) + width.to_bytes(3, "little") + height.to_bytes(3, "little")
    body = riff(b"VP8X", header) + body + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def riff(kind, body, size=None):
    return (
        kind
        + struct.pack("<I", len(body) if size is None else size)
        + body
        + b"\0" * (len(body) % 2)
    )


def tiff(*entries, compression=None, more=b""):
    """Our pixels as TIFF with additional entries, whatever these say."""
    whole = data("TIFF", compression=compression)
    (at,) = struct.unpack_from("<I", whole, 4)
    (n,) = struct.unpack_from("<H", whole, at)
    old = [whole[at + 2 + 12 * i :][:12] for i in range(n)]
    new = [struct.pack("<HHI", t, k, c) + v.ljust(4, b"\0") for t, k, c, v in entries]
    tags = {struct.unpack_from("<H", one)[0]: one for one in old + new}
    table = struct.pack("<H", len(tags)) + b"".join(tags[t] for t in sorted(tags)) + b"\0\0\0\0"
    whole += b"\0" * (len(whole) % 2)
    return whole[:4] + struct.pack("<I", len(whole)) + whole[8:] + table + more


UPRIGHT = {
    "JPEG, ICC profile that is none": jpeg(segment(0xE2, b"ICC_PROFILE\0" + b"\xff" * 9)),
    "JPEG, ICC profile without numbers": jpeg(segment(0xE2, b"ICC_PROFILE\0")),
    "JPEG, MPF of nothing": jpeg(segment(0xE2, b"MPF\0" + b"II*\0" + FAR)),
    "JPEG, MPF of two pictures that are not there": jpeg(
        segment(0xE2, b"MPF\0" + ifd((0xB001, 4, 1, b"\2"), (0xB002, 7, 32, FAR))[6:])
    ),
    "JPEG, MPF without a header": jpeg(segment(0xE2, b"MPF\0\1")),
    "JPEG, short JFIF": jpeg(segment(0xE0, b"JFIF")),
    "JPEG, short Adobe": jpeg(segment(0xEE, b"Adobe")),
    "JPEG, Photoshop block cut off": jpeg(
        segment(0xED, b"Photoshop 3.0\08BIM\x03\xed\0\0\0\0\0\x03abc")
    ),
    "JPEG, Photoshop resolution cut off": jpeg(
        segment(0xED, b"Photoshop 3.0\08BIM\x03\xed\0\0\0\0\0\2ab")
    ),
    "JPEG, comment of junk": jpeg(segment(0xFE, b"\xff\xd8\xff\xda\xff\xd9" * 40)),
    "JPEG, EXIF of no byte order": jpeg(segment(0xE1, b"Exif\0\0XX*\0\0\0\0\x08")),
    "JPEG, EXIF of nothing": jpeg(segment(0xE1, b"Exif\0\0")),
    "JPEG, EXIF directory that begins nowhere": jpeg(segment(0xE1, ifd(first=0xFFFFFFF))),
    "JPEG, EXIF that loops": jpeg(segment(0xE1, ifd((0x8769, 4, 1, b"\x08"), after=8))),
    "JPEG, resolution of zero": jpeg(segment(0xE1, ifd((0x11A, 5, 1, FAR), (0x128, 3, 1, b"\2")))),
    "JPEG, orientation of 9": jpeg(segment(0xE1, ifd((0x112, 3, 1, b"\x09")))),
    "PNG, text with a wrong checksum": png(chunk(b"tEXt", b"a\0b", crc=1)),
    "PNG, private chunk with a wrong checksum": png(chunk(b"prVt", b"abc", crc=1)),
    "PNG, time with a wrong checksum": png(chunk(b"tIME", b"1234567", crc=1)),
    "PNG, wrong checksum behind the pixels": PNG[:-12] + chunk(b"tEXt", b"a\0b", crc=1) + PNG[-12:],
    "PNG, cut off in a text behind the pixels": PNG[:-12] + chunk(b"tEXt", b"a\0b" * 99)[:40],
    "PNG, bomb of compressed text": png(chunk(b"zTXt", b"a\0\0" + bomb())),
    "PNG, bomb of international text": png(chunk(b"iTXt", b"a\0\1\0\0\0" + bomb())),
    "PNG, many texts that fill the memory": png(
        *[chunk(b"zTXt", b"a%d\0\0" % i + bomb(1 << 20)) for i in range(70)]
    ),
    "PNG, compressed text that is none": png(chunk(b"zTXt", b"a\0\0nothing")),
    "PNG, text of an unknown compression": png(chunk(b"zTXt", b"a\0\x07abc")),
    "PNG, large profile": png(chunk(b"iCCP", b"p\0\0" + bomb())),
    "PNG, profile of an unknown compression": png(chunk(b"iCCP", b"p\0\x05abc")),
    "PNG, short colours": png(chunk(b"cHRM", b"12"), chunk(b"gAMA", b""), chunk(b"sRGB", b"")),
    "PNG, short resolution": png(chunk(b"pHYs", b"12")),
    "PNG, animation of nothing": png(chunk(b"acTL", b"")),
    "PNG, EXIF of junk": png(chunk(b"eXIf", b"\0\1\2")),
    "PNG, raw profile that is no hexadecimal": png(
        chunk(b"tEXt", b"Raw profile type exif\0\nexif\n 4\nxyz")
    ),
    "WebP, EXIF of junk": webp(riff(b"EXIF", b"\0\1\2\3")),
    "WebP, EXIF cut off": webp(riff(b"EXIF", ifd(TURNED)[:9])),
    "WebP, EXIF longer than the file": webp(riff(b"EXIF", b"abcd", size=9999)),
    "WebP, XMP of junk": webp(riff(b"XMP ", b"\xff\xfe<x")),
    "TIFF, resolution as text": tiff((282, 2, 3, b"72\0")),
    "TIFF, resolution over zero": tiff((282, 5, 1, b"\x08\0\0\0"), (283, 5, 1, b"\x04\0\0\0")),
    "TIFF, description beyond the file": tiff((270, 2, 500, FAR)),
    "TIFF, unknown type": tiff((33_550, 99, 7, FAR)),
    "TIFF, EXIF beyond the file": tiff((34_665, 4, 1, FAR)),
    "TIFF, EXIF that loops": tiff((34_665, 4, 1, struct.pack("<I", len(data("TIFF")) // 2 * 2))),
    "TIFF, profile of no bytes": tiff((34_675, 7, 0, b"")),
    "TIFF, compressed, with tags that libtiff does not know": tiff(
        (42_112, 2, 900, FAR), (50_000, 5, 1, b"\x08"), compression="tiff_lzw"
    ),
}

# The orientation is still applied where it can be read.
TURNED_FILES = {
    "JPEG, resolution as text": jpeg(segment(0xE1, ifd(TURNED, (0x11A, 2, 3, b"72\0")))),
    "JPEG, more entries than there are": jpeg(segment(0xE1, ifd(TURNED, n=999)[:-4])),
    "JPEG, behind a value beyond the file": jpeg(segment(0xE1, ifd((0x10F, 2, 90, FAR), TURNED))),
    "JPEG, behind a value of an unknown type": jpeg(
        segment(0xE1, ifd((0x10F, 77, 9, FAR), TURNED))
    ),
    "JPEG, negative width": jpeg(segment(0xE1, ifd((0x100, 9, 1, b"\xfb\xff\xff\xff"), TURNED))),
    "JPEG, big-endian": jpeg(segment(0xE1, ifd((0x11A, 2, 3, b"72\0"), TURNED_BE, order=">"))),
    "JPEG, beside a broken MPF": jpeg(segment(0xE1, ifd(TURNED)), segment(0xE2, b"MPF\0\1")),
    "JPEG, as a long number": jpeg(segment(0xE1, ifd((0x112, 4, 1, b"\6")))),
    "JPEG, as a byte": jpeg(segment(0xE1, ifd((0x112, 1, 1, b"\6")))),
    "JPEG, in XMP beside a short JFIF": jpeg(
        segment(0xE0, b"JFIF"), segment(0xE1, XMP_OF_JPEG + XMP)
    ),
    "PNG, beside a wrong checksum": png(
        chunk(b"eXIf", ifd(TURNED)[6:]), chunk(b"tEXt", b"a\0b", crc=1)
    ),
    "PNG, of a wrong checksum": png(chunk(b"eXIf", ifd(TURNED)[6:], crc=1)),
    "PNG, as ImageMagick writes it": png(
        chunk(
            b"zTXt",
            b"Raw profile type exif\0\0"
            + zlib.compress(b"\nexif\n  36\n" + ifd(TURNED).hex().encode()),
        ),
        chunk(b"tEXt", b"a\0b", crc=1),
    ),
    "PNG, in XMP": png(
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(XMP)),
        chunk(b"tEXt", b"a\0b", crc=1),
    ),
    "WebP, behind a value beyond the file": webp(
        riff(b"EXIF", ifd((0x10F, 2, 90, FAR), TURNED)[6:])
    ),
    "WebP, beside XMP longer than the file": webp(
        riff(b"EXIF", ifd(TURNED)), riff(b"XMP ", b"a", size=999)
    ),
    "TIFF, beside a value beyond the file": tiff((270, 2, 500, FAR), TURNED),
    "TIFF, beside EXIF beyond the file": tiff((34_665, 4, 1, FAR), TURNED),
}


def clean(name):
    return np.asarray(Image.open(io.BytesIO(JPEG))) if name.startswith("JPEG") else PIXELS


@pytest.mark.parametrize("name", UPRIGHT)
def test_metadata_cost_nothing(name):
    assert (np.asarray(decode_image(UPRIGHT[name])) == clean(name)).all()


@pytest.mark.parametrize("name", TURNED_FILES)
def test_the_orientation_is_applied_where_it_can_be_read(name):
    assert (np.asarray(decode_image(TURNED_FILES[name])) == np.rot90(clean(name), -1)).all()


def test_a_sound_picture_is_read_the_plain_way_and_the_bare_one_is_equal():
    exif = Image.Exif()
    exif[0x112] = 3
    for kind in ("JPEG", "PNG", "WEBP", "TIFF"):
        content = data(kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
        plain = decode_image(content)
        assert METADATA_UNREAD not in plain.info
        bare, orientation = without_metadata(content)
        assert b"Exif" not in bare
        assert orientation == (None if kind == "TIFF" else 3)
        again = np.rot90(np.asarray(decode_image(bare)), 0 if kind == "TIFF" else 2)
        assert (again == np.asarray(plain)).all(), kind


@pytest.mark.parametrize("mode", ["L", "P", "LA", "RGBA", "CMYK", "1"])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_colours_of_every_mode_need_none_of_what_is_left_out(kind, mode):
    image = Image.fromarray(PIXELS)
    image = image.convert("L").convert("LA") if mode == "LA" else image.convert(mode)
    try:
        content = data(kind, image, **({"transparency": 3} if (kind, mode) == ("PNG", "P") else {}))
    except OSError:
        pytest.skip(f"{kind} has no {mode}")
    bare, _ = without_metadata(content)
    assert (np.asarray(decode_image(bare)) == np.asarray(decode_image(content))).all()


def test_avif_is_read_without_exif():
    if not features.check("avif"):
        pytest.skip("this Pillow was built without avif")
    content = data("AVIF", exif=ifd((0x10F, 2, 4, b"abc\0"), TURNED)[6:])
    broken = content.replace(b"II*\0", b"XX*\0")
    assert broken != content
    assert METADATA_UNREAD in decode_image(broken).info
    assert sorted(decode_image(broken).size) == sorted(decode_image(content).size)


def test_what_a_bare_file_may_not_hide():
    """Damaged pixels and bombs are failures as they were, with the reason of the plain way."""
    wrong = bytearray(png(chunk(b"tEXt", b"a\0b", crc=1)))
    at = wrong.index(b"IDAT") + 30
    wrong[at] ^= 0xFF
    large = chunk(b"IHDR", struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0))
    damaged = {
        bytes(wrong): ".",
        png(chunk(b"tEXt", b"a\0b", crc=1))[:-200]: ".",
        PNG[: PNG.index(b"IDAT") + 900]: "truncated",
        PNG[:8] + chunk(b"IHDR", PNG[16:29], crc=1) + PNG[33:]: "not an image that we can read",
        PALETTE[:37] + b"pLTE" + PALETTE[41:]: ".",  # without it, gray of another meaning
        jpeg(segment(0xE2, b"MPF\0\1"))[:-300]: ".",
        PNG[:8] + large + chunk(b"tEXt", b"a\0b", crc=1) + PNG[33:]: "30000 × 30000 pixels: over",
        webp(riff(b"EXIF", b"abcd", size=9999))[:400]: ".",
        tiff((34_665, 4, 1, FAR))[:1000]: ".",
        b"\x89PNG\r\n\x1a\n": "not an image",
        b"\xff\xd8\xff": ".",
        b"RIFF\0\0\0\0WEBP": ".",
        b"II*\0\xff\xff\xff\xff": ".",
    }
    for content, reason in damaged.items():
        with pytest.raises(Undecodable, match=reason):
            decode_image(content)


@pytest.mark.parametrize(
    "content", [b"", b"II", b"XX*\0", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff"]
)
def test_no_exif_gives_no_orientation(content):
    assert orientation_of(b"Exif\0\0" + content) is None


def test_any_damage_to_metadata_leaves_the_pixels():
    """Bytes of the metadata turned at random: never other pixels, never an error."""
    rng = np.random.default_rng(0)
    exif = (
        ifd((0x100, 4, 1, b"\1"), (0x11A, 5, 1, b"\x40"), (0x8769, 4, 1, b"\x30"), n=3) + b"\1" * 40
    )
    whole = (
        PNG[:33]
        + chunk(b"eXIf", exif[6:])
        + chunk(b"zTXt", b"a\0\0" + zlib.compress(b"b" * 99))
        + PNG[33:]
    )
    behind = whole.index(b"IDAT") - 4
    for _ in range(150):
        content = bytearray(whole)
        for at in rng.integers(41, behind, 3):
            content[at] = rng.integers(0, 256)
        sizes = (33, whole.index(b"zTXt") - 4)  # a damaged length hides where a chunk ends
        for at in sizes:
            content[at : at + 8] = whole[at : at + 8]
        found = np.asarray(decode_image(bytes(content)))
        if found.shape == PIXELS.shape and (found == PIXELS).all():
            continue
        assert any(  # an orientation came about
            found.shape == turned.shape and (found == turned).all()
            for k in range(4) for turned in (np.rot90(PIXELS, k), np.rot90(PIXELS[:, ::-1], k))
        )  # fmt: skip


def test_threads_do_not_meet():
    """Nothing of the process is switched while one thread reads a damaged file."""
    names = list(UPRIGHT)
    wrong = []

    def work(offset):
        for i in range(len(names)):
            name = names[(i + offset) % len(names)]
            if not (np.asarray(decode_image(UPRIGHT[name])) == clean(name)).all():
                wrong.append(name)

    filters = list(warnings.filters)
    threads = [threading.Thread(target=work, args=(7 * i,)) for i in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert not wrong
    assert warnings.filters == filters


def test_embed_says_how_many_and_pillow_says_nothing(tmp_path):
    for i, content in enumerate((*UPRIGHT.values(), *TURNED_FILES.values())):
        (tmp_path / "set").mkdir(exist_ok=True)
        (tmp_path / "set" / f"{i:02}").write_bytes(content)
        (tmp_path / "set" / f"{i:02}").rename(tmp_path / "set" / f"{i:02}.png")
    words = ["embed", "set", "--dataset", "d", "-e", "baseline:pixels", "--store", "s", "--json"]
    code = "import sys; from featurestore.cli import run; sys.exit(run(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (report,) = json.loads(done.stdout)
    assert report["n_encoded"] + report["n_copied"] == len(UPRIGHT) + len(TURNED_FILES)
    assert report["n_metadata_unread"] > 10
    assert f"{report['n_metadata_unread']} with metadata that cannot be read" in done.stderr
    for word in ("PIL", "Warning", "warn", "TIFF", "tag"):
        assert word not in done.stderr
