"""The file of a picture without its metadata, for pictures whose pixels alone are whole.

What decides pixels stays byte for byte; texts, profiles, EXIF and XMP are left out, whatever is
wrong with them. Of these only the orientation is read, by a reader that skips what is broken.
"""

from __future__ import annotations

import re
import struct
import zlib
from contextlib import suppress

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_PIXELS = {b"IHDR", b"PLTE", b"IDAT", b"IEND"}
_BY_PALETTE = 3  # type of color
_PNG_TEXTS = {b"tEXt", b"zTXt", b"iTXt"}
_WEBP_PIXELS = {b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF"}
_WEBP_METADATA = 0x20 | 0x08 | 0x04  # the flags of ICC, EXIF and XMP
# Tags of a TIFF that say where its pixels are and what they mean, its orientation among them.
_TIFF_PIXELS = {
    254, 256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 280, 281, 284, 292, 293, 317, 320,
    *range(322, 326), 332, 338, 339, 340, 341, 347, *range(512, 522), *range(529, 533),
}  # fmt: skip
_ORIENTATION = 0x112
_WHOLE_NUMBERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i"}  # types of an EXIF value
_LARGEST_TEXT = 1 << 20  # of a compressed text: the EXIF data that we look for is smaller


def without_metadata(content: bytes) -> tuple[bytes, int | None] | None:
    """Return a picture's file without metadata, and the orientation (1 to 8) that they gave.

    Returns
    -------
    tuple or None
        None for formats whose metadata we cannot tell from their pixels.
    """
    with suppress(struct.error, IndexError):
        if content.startswith(_PNG):
            return _bare_png(content)
        if content.startswith(b"\xff\xd8\xff"):
            return _bare_jpeg(content)
        if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
            return _bare_webp(content)
        if content[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            return _bare_tiff(content), None  # it has the orientation still
        if content[4:12] in (b"ftypavif", b"ftypavis"):
            return _bare_avif(content), None  # turned by a property of its own
    return None


def orientation_of(exif: bytes, xmp: bytes = b"") -> int | None:
    """Return the orientation (1 to 8) that EXIF data, or else XMP, give; None where none is found.

    Entries of any kind are skipped, whatever they claim: each is twelve bytes long.
    """
    exif = re.sub(rb"^(Exif\0\0)+", b"", exif)
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    with suppress(struct.error):
        if order is not None:
            (at,) = struct.unpack_from(f"{order}I", exif, 4)
            (n,) = struct.unpack_from(f"{order}H", exif, at)
            for entry in range(at + 2, at + 2 + 12 * n, 12):
                tag, kind = struct.unpack_from(f"{order}HH", exif, entry)
                if tag == _ORIENTATION and kind in _WHOLE_NUMBERS:
                    (value,) = struct.unpack_from(order + _WHOLE_NUMBERS[kind], exif, entry + 8)
                    return int(value) if 1 <= value <= 8 else None
    found = re.search(rb'tiff:Orientation(?:="|>)([1-8])', xmp)
    return int(found[1]) if found else None


def _bare_png(content: bytes) -> tuple[bytes, int | None] | None:
    kept, exif, xmp = [_PNG], b"", b""
    at = len(_PNG)
    while at + 8 <= len(content):
        size, kind = struct.unpack_from(">I4s", content, at)
        body = content[at + 8 : at + 8 + size]
        if kind in _PNG_PIXELS:
            kept.append(content[at : at + 12 + size])
        elif kind == b"eXIf":
            exif = body
        elif kind in _PNG_TEXTS:
            keyword, _, text = body.partition(b"\0")
            if keyword == b"XML:com.adobe.xmp":
                xmp = _text(kind, text)
            elif keyword == b"Raw profile type exif" and not exif:  # as ImageMagick writes it
                lines = _text(kind, text).split(b"\n")
                with suppress(ValueError):
                    exif = bytes.fromhex(b"".join(lines[3:]).decode("latin-1"))
        at += 12 + size
    has_colors = content[25] != _BY_PALETTE or any(one[4:8] == b"PLTE" for one in kept)
    return (b"".join(kept), orientation_of(exif, xmp)) if has_colors else None


def _text(kind: bytes, text: bytes) -> bytes:
    """Return what stands behind the keyword of a PNG's text, no longer than what we look for."""
    if kind == b"iTXt":
        flags, rest = text[:2], text[2:].split(b"\0", 2)
        text = rest[-1]
        if flags[:1] != b"\1":
            return text
    elif kind == b"zTXt":
        text = text[1:]
    else:
        return text
    with suppress(zlib.error):
        return zlib.decompressobj().decompress(text, _LARGEST_TEXT)
    return b""


def _bare_jpeg(content: bytes) -> tuple[bytes, int | None] | None:
    kept, exif, xmp = [content[:2]], b"", b""
    at = 2
    while (at := content.find(b"\xff", at)) >= 0:  # junk between segments is skipped by decoders
        marker = content[at + 1]
        if marker == 0xFF:
            at += 1
        elif marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD8:  # these have no length
            at += 2
        elif marker in (0xDA, 0xD9):
            kept.append(content[at:])  # the scans
            return b"".join(kept), orientation_of(exif, xmp)
        else:
            (size,) = struct.unpack_from(">H", content, at + 2)
            body = content[at + 4 : at + 2 + size]
            if _decides_pixels(marker, body):
                kept.append(content[at : at + 2 + size])
            elif marker == 0xE1 and body.startswith(b"Exif\0\0"):
                exif += body[6:] if exif else body
            elif marker == 0xE1 and body.startswith(b"http://ns.adobe.com/xap/1.0/\0"):
                xmp = body
            at += 2 + max(size, 2)
    return None


def _decides_pixels(marker: int, body: bytes) -> bool:
    """Whether libjpeg needs a segment: tables and frames, and the two that name the colors."""
    if marker == 0xE0:
        return body.startswith(b"JFIF\0") and len(body) >= 14
    if marker == 0xEE:
        return body.startswith(b"Adobe") and len(body) >= 12
    return not (0xE0 <= marker <= 0xEF or marker == 0xFE)


def _bare_webp(content: bytes) -> tuple[bytes, int | None]:
    kept, exif, xmp = [], b"", b""
    at = 12
    while at + 8 <= len(content):
        kind, size = struct.unpack_from("<4sI", content, at)
        padded = size + size % 2
        chunk = content[at : at + 8 + padded]
        if kind == b"VP8X":
            chunk = chunk[:8] + bytes([chunk[8] & ~_WEBP_METADATA]) + chunk[9:]
        if kind in _WEBP_PIXELS:
            kept.append(chunk)
        elif kind == b"EXIF":
            exif = chunk[8:]
        elif kind == b"XMP ":
            xmp = chunk[8:]
        at += 8 + padded
    body = b"WEBP" + b"".join(kept)
    return b"RIFF" + struct.pack("<I", len(body)) + body, orientation_of(exif, xmp)


def _bare_tiff(content: bytes) -> bytes:
    """Shorten the first directory in its place, and let none follow."""
    order = "<" if content[:2] == b"II" else ">"
    is_big = content[2:4] in (b"+\0", b"\0+")  # BigTIFF
    offset, count, size = ("Q", "Q", 20) if is_big else ("I", "H", 12)
    (start,) = struct.unpack_from(order + offset, content, 8 if is_big else 4)
    (n,) = struct.unpack_from(order + count, content, start)
    first = start + struct.calcsize(order + count)
    n = min(n, (len(content) - first) // size)
    entries = [content[at : at + size] for at in range(first, first + n * size, size)]
    kept = [one for one in entries if struct.unpack_from(f"{order}H", one)[0] in _TIFF_PIXELS]
    table = struct.pack(order + count, len(kept)) + b"".join(kept) + struct.pack(order + offset, 0)
    return content[:start] + table + content[start + len(table) :]


def _bare_avif(content: bytes) -> bytes:
    """Give the metadata items a type that readers ignore."""
    entry = rb"(infe[\x02\x03].{3}.{4}(?:.{2})??)(?:Exif|mime)"
    return re.sub(entry, rb"\1none", content, flags=re.DOTALL)
