"""Boxes as items, from COCO, Pascal VOC, YOLO and tables: each is what a file of it would be."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from featurestore.encoders.images import decode_image
from featurestore.errors import BadSource, Undecodable
from featurestore.pipeline.options import EmbedOptions
from featurestore.sources.annotations import read_annotations
from featurestore.sources.listing import SourceOptions
from featurestore.sources.locations import Location
from featurestore.store.store import open_store
from featurestore.terms.boxes import Box, box_uri, boxed, split_box, unboxed

N_PICTURES, N_EACH = 4, 6


@pytest.fixture(scope="module")
def real(tmp_path_factory, shared):
    """Real photographs pasted on canvases, JPEG and PNG, and what COCO says of them."""
    folder = tmp_path_factory.mktemp("real")
    (folder / "images" / "sub").mkdir(parents=True)
    photographs = [
        path
        for name in ("damage", "no_damage")
        for path in sorted(shared("data", "hurricane_damage").glob(f"{name}/*.jpeg"))[:12]
    ]
    pictures, annotations = [], []
    for number in range(N_PICTURES):
        canvas = Image.new("RGB", (420, 260), (90, 120, 60))
        name = f"c{number}.jpg" if number % 2 else f"sub/c{number}.png"
        for i in range(N_EACH):
            path = photographs[number + N_PICTURES * i]
            patch = Image.open(path).convert("RGB").resize((100 + 5 * i, 110))
            x, y = 5 + 140 * (i % 3), 7 + 125 * (i // 3)
            canvas.paste(patch, (x, y))
            annotations.append({
                "id": len(annotations) + 1, "image_id": number, "iscrowd": 0, "area": 1.5,
                "category_id": int(path.parent.name == "damage"),
                "bbox": [x, y, patch.width, patch.height], "attributes": {"roof": "flat"},
            })  # fmt: skip
        canvas.save(folder / "images" / name)
        pictures.append({"id": number, "file_name": name, "width": 420, "height": 260})
    coco = {
        "images": pictures,
        "annotations": annotations,
        "categories": [{"id": 0, "name": "whole"}, {"id": 1, "name": "damaged"}],
    }
    (folder / "coco.json").write_text(json.dumps(coco))
    return folder


def coco_of(folder, annotations, **pictures):
    """Write a COCO file of annotations that may lack an id, in pictures of no declared size."""
    names = [{"id": name, "file_name": file} for name, file in pictures.items()]
    numbered = [{"id": 100 + n, "category_id": 1, **one} for n, one in enumerate(annotations)]
    said = {"images": names, "annotations": numbered, "categories": [{"id": 1, "name": "cell"}]}
    path = folder / "boxes.json"
    path.write_text(json.dumps(said))
    return path


@pytest.fixture
def stripes(tmp_path):
    """A folder with one picture of 40 × 30 pixels, none of which is like another."""
    folder = tmp_path / "stripes"
    folder.mkdir()
    Image.fromarray(noise(30, 40)).save(folder / "a.png")
    return folder


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def crop_of(path, uri):
    """Return the pixels that the part of a picture has which a uri names."""
    picture, box = split_box(uri)
    return np.asarray(decode_image(boxed((path / picture).read_bytes(), box)))


# -- the same vectors as of files ------------------------------------------------------------


@pytest.mark.parametrize("encoder", ["builtin:tiny-image", "baseline:pixels"])
def test_vectors_of_boxes_are_those_of_crops_saved_as_files(real, tmp_path, encoder):
    store = open_store(tmp_path / "store", create=True)
    options, one_batch = SourceOptions(boxes=str(real / "coco.json")), EmbedOptions(batch_size=24)
    said = []
    store.embed([real / "images"], dataset="boxes", encoders=[encoder], embed_options=one_batch,
                source_options=options, say=said.append)  # fmt: skip
    view = store.dataset("boxes").view()
    items = view.dataset.items().sort_by("item_id").to_pylist()
    assert len(items) == N_PICTURES * N_EACH
    crops = tmp_path / "crops"
    crops.mkdir()
    for number, one in enumerate(items):
        left, upper, wide, high = (one[name] for name in ("box_x", "box_y", "box_w", "box_h"))
        box = (left, upper, left + wide, upper + high)
        Image.open(real / "images" / one["picture"]).crop(box).save(crops / f"{number:03}.png")
    store.embed([crops], dataset="crops", encoders=[encoder], embed_options=one_batch)
    both = [one.load() for one in (view, store.dataset("crops").view())]
    assert both[0].ids.tolist() == [one["item_id"] for one in items]
    np.testing.assert_allclose(both[0].vectors, both[1].vectors, atol=1e-6)
    assert "24 boxes: 2 classes from the annotations (sizes 12); 4 groups (6 items) by picture: " \
        "boxes of one stay together in evaluation" in said  # fmt: skip
    first = items[0]
    assert first == first | {
        "item_id": "c1.jpg#xywh=145,132,120,110", "label": "whole", "group": "c1.jpg",
        "picture": "c1.jpg", "roof": "flat", "annotation_id": 11,
    }  # fmt: skip


def test_a_picture_is_decoded_once_for_all_its_boxes(real, tmp_path, monkeypatch):
    from featurestore.encoders import images

    decoded = []
    whole = images._whole
    monkeypatch.setattr(
        images, "_whole", lambda content, px: decoded.append(len(content)) or whole(content, px)
    )
    store = open_store(tmp_path / "store", create=True)
    options = SourceOptions(boxes=str(real / "coco.json"))
    (report,) = store.embed([real / "images"], dataset="d", source_options=options)
    sizes = [one.stat().st_size for one in (real / "images").rglob("*.*")]
    assert report.n_encoded == N_PICTURES * N_EACH
    # Probes of the encoder are decoded, too; pictures of another test may still be held.
    assert max(decoded.count(size) for size in sizes) <= 1


# -- what the store does with them -----------------------------------------------------------


def test_a_box_keeps_its_vector_when_others_come_and_a_margin_is_another_content(stripes, tmp_path):
    store = open_store(tmp_path / "store", create=True)

    def embed(*boxes, **options):
        path = coco_of(tmp_path, [{"image_id": "a", "bbox": one} for one in boxes], a="a.png")
        given = SourceOptions(boxes=str(path), **options)
        (report,) = store.embed([stripes], dataset="d", source_options=given)
        return report.n_encoded, report.n_unchanged

    assert embed([2, 3, 10, 11], [20, 5, 9, 8]) == (2, 0)
    assert embed([5.5, 1, 12, 12], [20, 5, 9, 8], [2, 3, 10, 11]) == (1, 2)
    before = store.dataset("d").view().load()
    assert before.ids.tolist() == [
        "a.png#xywh=2,3,10,11", "a.png#xywh=20,5,9,8", "a.png#xywh=5.5,1,12,12",
    ]  # fmt: skip
    assert embed([2, 3, 10, 11], box_margin=0.1) == (1, 0)  # the two others are kept as they are
    after = store.dataset("d").view().load()
    same = (before.vectors == after.vectors).all(axis=1)
    assert (after.ids.tolist(), same.tolist()) == (before.ids.tolist(), [False, True, True])
    uri = store.dataset("d").items().sort_by("item_id")["uri"][0].as_py()
    assert uri == "a.png#xywh=2,3,10,11&margin=0.1"
    pixels = np.asarray(Image.open(stripes / "a.png"))
    np.testing.assert_array_equal(crop_of(stripes, uri), pixels[2:15, 1:13])
    # Without SOURCES, the data set is read as before, with its boxes.
    (report,) = store.embed([], dataset="d")
    assert (report.n_encoded, report.n_unchanged) == (0, 1)
    Image.fromarray(noise(30, 40, seed=1)).save(stripes / "a.png")
    (report,) = store.embed([], dataset="d")
    assert report.n_encoded == 1


def test_thumbnails_verify_and_exports_take_the_crop(real, fs, tmp_path):
    code, _, err = fs("embed", real / "images", "--boxes", real / "coco.json", "--dataset", "d")
    assert code == 0, err
    dataset = open_store(tmp_path / "store").dataset("d")
    one = "c1.jpg#xywh=5,132,115,110"
    expected = Image.open(real / "images" / "c1.jpg").crop((5, 132, 120, 242))
    crop = Image.open(io.BytesIO(dataset.read_bytes(one)))
    np.testing.assert_array_equal(np.asarray(crop), np.asarray(expected))
    assert Image.open(io.BytesIO(dataset.thumbnail(one, size_px=64))).size == (64, 61)
    assert fs("store", "verify", "d", "--sample", 24)[0] == 0
    assert fs("export", "d", tmp_path / "out.parquet", "--pictures", "bytes")[0] == 0
    import pyarrow.parquet as pq

    rows = pq.read_table(tmp_path / "out.parquet").to_pylist()
    images = {row["item_id"]: row["image"]["bytes"] for row in rows}
    np.testing.assert_array_equal(
        np.asarray(Image.open(io.BytesIO(images[one]))), np.asarray(expected)
    )
    code, _, err = fs("export", "d", tmp_path / "paths.parquet", "--pictures", "path")
    assert (code, "is not a file of its own; --pictures bytes takes its bytes" in err) == (1, True)


def test_a_head_of_boxes_predicts_boxes(real, fs, tmp_path):
    boxes = ("--boxes", real / "coco.json")
    assert fs("embed", real / "images", *boxes, "--dataset", "d")[0] == 0
    assert fs("train", "d", "--head", "prototype", "--save", tmp_path / "bundle")[0] == 0
    code, out, err = fs("predict", tmp_path / "bundle", real / "images", *boxes, "--json")
    assert code == 0, err
    rows = json.loads(out)
    assert len(rows) == N_PICTURES * N_EACH
    assert {row["label"] for row in rows} == {row["predicted"] for row in rows}
    assert rows[0]["path"] == str(real / "images" / "c1.jpg")
    table = tmp_path / "t.csv"
    row = rows[3]
    table.write_text(
        "file,x,y,w,h,who\n"
        f"{row['path']},{row['box_x']},{row['box_y']},{row['box_w']},{row['box_h']},7\n"
    )
    columns = ("--image", "file", "--box", "x,y,w,h")
    code, out, err = fs("predict", tmp_path / "bundle", table, *columns, "--json")
    (said,) = json.loads(out)
    assert (said["who"], said["predicted"]) == ("7", row["predicted"])
    assert said["confidence"] == pytest.approx(row["confidence"], abs=1e-6)


def test_workers_embed_boxes_as_one_process_does(real, fs, tmp_path):
    boxes = ("--boxes", real / "coco.json", "--box-margin", "0.05", "-e", "baseline:pixels")
    assert fs("embed", real / "images", *boxes, "--dataset", "one")[0] == 0
    code, _, err = fs("embed", real / "images", *boxes, "--dataset", "parts", "--plan-only",
                      "--part-items", 8)  # fmt: skip
    assert code == 0, err
    code, _, err = fs("embed", "--dataset", "parts", "--shard", "0/1", "--commit")
    assert code == 0, err
    store = open_store(tmp_path / "store")
    one, parts = (store.dataset(name).view().load() for name in ("one", "parts"))
    np.testing.assert_array_equal(one.ids, parts.ids)
    np.testing.assert_allclose(one.vectors, parts.vectors, atol=1e-6)


# -- boxes that are none, and pictures that are not there -------------------------------------


def test_each_odd_annotation_of_coco_is_said(stripes, fs, tmp_path):
    Image.fromarray(noise(9, 9)).save(stripes / "bare.png")
    odd = [
        {"bbox": [2, 3, 10, 11]},
        {"bbox": [2, 3, 10, 11], "category_id": 9},  # at the same place, of no known category
        {"bbox": [30, 20, 20, 20]},  # reaches over the edge
        {"bbox": [35, 2, 3, 9]},  # tiny
        {"bbox": [40, 2, 3, 9]},  # outside
        {"bbox": [5, 5, 0, 4]},
        {"bbox": [5, 5, -2, 4]},
        {"bbox": [5.2, 5.2, 0.2, 0.2]},
        {"bbox": [1, 2, 3]},
        {"bbox": [1, 2, float("nan"), 4]},
        {"segmentation": {"counts": [3, 4], "size": [30, 40]}},
        {"bbox": [1, 1, 9, 9], "iscrowd": 1},
        {"bbox": [1, 1, 9, 9], "image_id": "nowhere"},
        {"bbox": [1, 1, 9, 9], "image_id": "gone"},
    ]
    path = coco_of(tmp_path, [{"image_id": "a", **one} for one in odd], a="a.png", gone="b.png")
    code, out, err = fs("embed", stripes, "--boxes", path, "--dataset", "d", "--json")
    assert code == 3
    (report,) = json.loads(out)
    counts = [report[name] for name in ("n_items", "n_encoded", "n_copied", "n_failed")]
    assert counts == [11, 3, 1, 7]
    assert [report[name] for name in ("n_clipped", "n_tiny", "n_on_turned")] == [1, 1, 0]
    for line in (
        "left out of boxes.json: 1 marked iscrowd, which hold several objects each",
        "left out of boxes.json: 1 whose picture has no file_name in it (first id: 112)",
        "left out of boxes.json: 1 boxes whose picture is not in the folder, or whose file name "
        "several have (first: b.png)",
        "without a label: 1, as boxes.json has no name of their category",
        "pictures without a box in boxes.json, which give no item: 1 of 2 (first: bare.png)",
        "boxes that stand more than once, each of which is an item: 1 (first: "
        "a.png#xywh=2,3,10,11)",
    ):
        assert line in err.splitlines()
    dataset = open_store(tmp_path / "store").dataset("d")
    failed = {row["item_id"]: row["error"] for row in dataset.failures().to_pylist()}
    assert failed == {
        "a.png#xywh=40,2,3,9": "the box xywh=40,2,3,9 lies outside of the picture, which has "
        "40 × 30 pixels",
        "a.png#xywh=5,5,0,4": "the box is empty: 0 wide and 4 high",
        "a.png#xywh=5,5,-2,4": "the box is empty: -2 wide and 4 high",
        "a.png#xywh=5.2,5.2,0.2,0.2": "the box xywh=5.2,5.2,0.2,0.2 has no whole pixel of the "
        "picture, which has 40 × 30 pixels",
        "a.png#annotation=108": "a box has four numbers (x, y, width, height), not [1, 2, 3]",
        "a.png#xywh=1,2,nan,4": "a box has four numbers: x, y, width and height",
        "a.png#annotation=110": "the annotation has no bbox, which a crop needs",
    }
    ids = dataset.view().load().ids.tolist()
    assert "a.png#xywh=2,3,10,11&n=2" in ids
    code, out, _ = fs("embed", "--dataset", "d", "--json", "--where", "box_w >= 8 and box_h >= 8")
    assert json.loads(out)[0]["n_unchanged"] == 3


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "as JSON"),
        ("[1]", "found list"),
        ('{"images": [], "annotations": {}}', "found images, annotations"),
        ('{"images": [{"id": 1}, {"id": 1}], "annotations": []}', "ids stand more than once"),
        ('{"images": [{"name": 1}], "annotations": []}', "not all of its images have an id"),
        ('{"images": [], "annotations": [7]}', "expected an object for each annotation, found 7"),
        ('{"images": [], "annotations": []}', "has no box in these pictures: it names none"),
        ("[" * 100_000, "as JSON"),
    ],
)
def test_what_is_no_coco_file_is_refused(stripes, tmp_path, content, reason):
    (tmp_path / "x.json").write_text(content)
    store = open_store(tmp_path / "store", create=True)
    with pytest.raises(BadSource, match=reason):
        store.embed([stripes], dataset="d",
                    source_options=SourceOptions(boxes=str(tmp_path / "x.json")))  # fmt: skip


def test_options_that_do_not_fit_say_what_does(stripes, real, fs, tmp_path):
    (tmp_path / "t.csv").write_text("file,x,y,w,h\nstripes/a.png,1,2,3,4\n")
    (tmp_path / "nothing").mkdir()
    boxes = ("--boxes", real / "coco.json")
    for given, reason in (
        ((tmp_path / "t.csv", "--image", "file", *boxes), "--boxes is for a folder of pictures"),
        ((stripes, "--box", "x,y,w,h"), "--box is for a table"),
        ((tmp_path / "t.csv", "--image", "file", "--box", "x,y,w"), "expected four columns"),
        ((tmp_path / "t.csv", "--image", "file", "--box", "x,y,w,hh"), "did you mean 'h'?"),
        ((stripes, "--box-margin", "0.1"), "name them with --boxes or --box"),
        ((stripes, *boxes, "--box-margin", "-1"), "expected a share of the box's sides"),
        ((stripes, *boxes), "has no box in these pictures: it names sub/c0.png"),
        ((stripes, "--boxes", tmp_path / "no.json"), "does not exist: --boxes names"),
        ((stripes, "--boxes", tmp_path / "t.csv"), "--image COLUMN --box x,y,w,h"),
        ((stripes, "--boxes", tmp_path / "nothing"), "holds no annotations"),
    ):
        code, _, err = fs("embed", *given, "--dataset", "d")
        assert (code, reason in err) == (1, True), err
    assert fs("embed", stripes, "--dataset", "d")[0] == 0
    path = coco_of(tmp_path, [{"image_id": "a", "bbox": [1, 2, 9, 9]}], a="a.png")
    code, _, err = fs("embed", stripes, "--boxes", path, "--dataset", "d")
    assert (code, "was embedded with no --boxes" in err) == (1, True)


# -- Pascal VOC, YOLO, tables ------------------------------------------------------------------

VOC = """<annotation><folder>x</folder><filename>{name}</filename>
<size><width>40</width><height>30</height><depth>3</depth></size>{objects}</annotation>"""
OBJECT = """<object><name>{label}</name><truncated>1</truncated><difficult>0</difficult>
<bndbox><xmin>{0}</xmin><ymin>{1}</ymin><xmax>{2}</xmax><ymax>{3}</ymax></bndbox></object>"""


def test_pascal_voc_counts_from_one_and_the_last_pixel_belongs_to_the_box(stripes, fs, tmp_path):
    folder = tmp_path / "voc"
    folder.mkdir()
    objects = OBJECT.format(1, 1, 10, 12, label="cat") + OBJECT.format(21, 6, 40, 30, label="dog")
    (folder / "a.xml").write_text(VOC.format(name="a.png", objects=objects))
    Image.fromarray(noise(30, 40)).save(stripes / "b.png")
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><annotation>&b;</annotation>'
    (folder / "b.xml").write_text(bomb)
    code, _, err = fs("embed", stripes, "--boxes", folder, "--dataset", "d")
    assert code == 3
    assert "declares a document type, which no annotation needs: refused" in err
    items = open_store(tmp_path / "store").dataset("d").items().sort_by("item_id").to_pylist()
    names = ("uri", "label", "truncated", "difficult", "group")
    assert [tuple(one[name] for name in names) for one in items] == [
        ("a.png#xywh=0,0,10,12&of=40,30", "cat", 1, 0, "a.png"),
        ("a.png#xywh=20,5,20,25&of=40,30", "dog", 1, 0, "a.png"),
        (None, None, None, None, "b.png"),
    ]
    pixels = np.asarray(Image.open(stripes / "a.png"))
    np.testing.assert_array_equal(crop_of(stripes, items[0]["uri"]), pixels[:12, :10])


def test_odd_files_of_pascal_voc_are_said(tmp_path):
    folder = tmp_path / "voc"
    folder.mkdir()
    (folder / "a.xml").write_text(VOC.format(name="", objects=OBJECT.format(0, 1, 9, 9, label="")))
    (folder / "b.xml").write_text(VOC.format(name="b.png", objects="<object></object>"))
    (folder / "c.xml").write_text("<annotation><object>")
    (folder / "d.xml").write_text("<html></html>")
    said = read_annotations(Location.of(folder))
    assert [(one.picture, one.label, one.name, one.wrong[:24]) for one in said.found] == [
        ("a", None, "object=0", ""),
        ("b.png", None, "object=0", "the object has no bndbox"),
        ("c", None, "file", f"cannot read {folder}/c.xml"[:24]),
    ]
    assert [note.partition(": ")[2][:28] for note in said.notes] == [
        "1 .xml files that are not Pa", "1. Pascal VOC counts pixels ",
    ]  # fmt: skip


def test_yolo_is_relative_to_the_picture(stripes, fs, tmp_path):
    folder = tmp_path / "labels"
    folder.mkdir()
    (folder / "classes.txt").write_text("cat\ndog\n")
    lines = ["1 0.5 0.5 0.25 0.4", "0 0.1 0.2 0.6 0.2 0.6 0.8 0.1 0.8", "7 0.2 0.2 0.4 0.4 0.93",
             "1 0.5", "one 1 1 1 1"]  # fmt: skip
    (folder / "a.txt").write_text("\n".join(lines))
    code, _, err = fs("embed", stripes, "--boxes", folder, "--dataset", "d")
    assert code == 3
    assert "outlines in labels, of which the boxes around them were taken: 1" in err
    assert "without a label: 1, as their class has no name" in err
    items = open_store(tmp_path / "store").dataset("d").items().sort_by("item_id").to_pylist()
    assert [(one["item_id"], one["label"], one["confidence"]) for one in items] == [
        ("a.png#line=4", None, None),
        ("a.png#line=5", None, None),
        ("a.png#xywh=percent:0,0,40,40", None, 0.93),
        ("a.png#xywh=percent:10,20,50,60", "cat", None),
        ("a.png#xywh=percent:37.5,30,25,40", "dog", None),
    ]
    pixels = np.asarray(Image.open(stripes / "a.png"))
    np.testing.assert_array_equal(crop_of(stripes, items[4]["uri"]), pixels[9:21, 15:25])
    np.testing.assert_array_equal(crop_of(stripes, items[3]["uri"]), pixels[6:24, 4:24])


def test_rows_of_a_table_are_boxes(stripes, fs, tmp_path):
    table = tmp_path / "cells.csv"
    table.write_text(
        "file,x,y,w,h,kind\nstripes/a.png,1,2,10,11,red\nstripes/a.png,20,5,9,8,white\n"
        "stripes/a.png,20,5,,8,white\nstripes/a.png,20,5,9,8,red\n,1,2,3,4,red\n"
    )
    code, _, err = fs("embed", table, "--image", "file", "--box", "x,y,w,h", "--label", "kind",
                      "--dataset", "d")  # fmt: skip
    assert code == 3
    assert "5 boxes: 2 classes in kind (sizes 2–3); 1 group (4 items, 1 items in none) by " in err
    dataset = open_store(tmp_path / "store").dataset("d")
    items = dataset.items().sort_by("item_id").to_pylist()
    assert [(one["item_id"], one["group"], one["kind"]) for one in items] == [
        ("cells.csv:2", "stripes/a.png", "white"),
        ("cells.csv:4", None, "red"),
        ("stripes/a.png#xywh=1,2,10,11", "stripes/a.png", "red"),
        ("stripes/a.png#xywh=20,5,9,8", "stripes/a.png", "white"),
        ("stripes/a.png#xywh=20,5,9,8&n=2", "stripes/a.png", "red"),
    ]
    assert sorted(dataset.failures()["error"].to_pylist()) == [
        "a box has four numbers (x, y, width, height), not [20, 5, None, 8]",
        "no path in this row",
    ]


# -- pictures that EXIF turns ------------------------------------------------------------------


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_a_box_drawn_on_the_stored_pixels_turns_with_them(tmp_path, orientation):
    stored = Image.fromarray(noise(30, 40))
    exif = Image.Exif()
    exif[0x112] = orientation
    stored.save(tmp_path / "a.png", exif=exif)
    turned = {5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270,
              7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90}[orientation]  # fmt: skip
    on_stored = Box(3, 4, 10, 12, drawn_on=(40, 30))
    expected = stored.crop((3, 4, 13, 16)).transpose(turned)
    found = crop_of(tmp_path, box_uri("a.png", on_stored))
    np.testing.assert_array_equal(found, np.asarray(expected))
    upright = stored.transpose(turned).crop((3, 4, 13, 16))
    for box in (Box(3, 4, 10, 12, drawn_on=(30, 40)), Box(3, 4, 10, 12)):
        found = crop_of(tmp_path, box_uri("a.png", box))
        np.testing.assert_array_equal(found, np.asarray(upright))
    with pytest.raises(Undecodable, match="drawn on a picture of 80 × 60 pixels, and this one has"):
        crop_of(tmp_path, box_uri("a.png", Box(3, 4, 10, 12, drawn_on=(80, 60))))


def test_boxes_of_turned_pictures_are_counted_where_nothing_says_how_they_lie(fs, tmp_path):
    folder = tmp_path / "turned"
    folder.mkdir()
    exif = Image.Exif()
    exif[0x112] = 6
    Image.fromarray(noise(30, 40)).save(folder / "a.jpg", exif=exif)
    path = coco_of(tmp_path, [{"image_id": "a", "bbox": [1, 2, 9, 9]}], a="a.jpg")
    code, out, _ = fs("embed", folder, "--boxes", path, "--dataset", "d", "--json")
    assert (code, json.loads(out)[0]["n_on_turned"]) == (0, 1)
    said = json.loads(path.read_text())
    said["images"][0] |= {"width": 30, "height": 40}
    path.write_text(json.dumps(said))
    code, out, _ = fs("embed", folder, "--boxes", path, "--dataset", "e", "--json")
    assert (code, json.loads(out)[0]["n_on_turned"]) == (0, 0)


# -- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "box",
    [
        Box(1, 2, 3, 4),
        Box(0.1 + 0.2, -5, 1e6, 0.000001),
        Box(12.5, 0, 25, 100, is_percent=True, margin=0.15),
        Box(1, 2, 3, 4, drawn_on=(640, 480), margin=1),
    ],
)
def test_a_box_is_read_from_the_uri_that_names_it(box):
    assert split_box(box_uri("a b#c.jpg", box)) == ("a b#c.jpg", box)
    assert unboxed(boxed(b"picture", box)) == (b"picture", box)


def test_contents_that_only_look_like_a_box_are_refused():
    with pytest.raises(Undecodable, match="names none"):
        decode_image(b"featurestore box xywh=1,2,3\n")
    inner = boxed(b"", Box(1, 1, 2, 2))
    with pytest.raises(Undecodable, match="not an image"):
        decode_image(boxed(inner, Box(1, 1, 2, 2)))
