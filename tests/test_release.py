"""The wheel that is made from the sdist works where only the packages of the core are installed."""

import json
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = "timm open_clip transformers sentence_transformers torchvision streamlit plotly obstore \
datasets umap cleanlab faiss matplotlib"
# As if they were not installed, in each process of the environment.
HIDE = f"""
from importlib.machinery import PathFinder
found = PathFinder.find_spec
PathFinder.find_spec = lambda name, *rest: None if name in {EXTRAS.split()} else found(name, *rest)
"""
JOBS = """
import json, sys
from featurestore.cli import run
print(json.dumps([run(words) for words in json.loads(sys.argv[1])]))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build the sdist from the tree, and the wheel from the sdist; nothing is downloaded."""
    out = tmp_path_factory.mktemp("dist")
    build = "import sys; from setuptools import build_meta as b; print(b.build_{}(sys.argv[1]))"
    for kind, where in (("sdist", ROOT), ("wheel", None)):
        if where is None:
            subprocess.run(["tar", "xf", next(out.glob("*.tar.gz")), "-C", out], check=True)
            (where,) = (one for one in out.iterdir() if one.is_dir())
        command = [sys.executable, "-c", build.format(kind), out]
        subprocess.run(command, cwd=where, check=True, capture_output=True)
    (made,) = out.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def clean(wheel, tmp_path_factory):
    """Make an environment of the wheel and the packages of the core; return its ``bin``."""
    home = tmp_path_factory.mktemp("clean")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
    install = [sys.executable, "-m", "pip", "--python", home / "bin" / "python", "install"]
    said = run([*install, "--quiet", "--no-deps", "--no-index", wheel], home)
    assert said.returncode == 0, said.stderr
    (packages,) = home.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(f"{Path(pytest.__file__).parents[1]}\n")
    (packages / "sitecustomize.py").write_text(HIDE)
    return home / "bin"


def run(words, cwd):
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    return subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, check=False)


def test_the_wheel_holds_weights_pages_and_nothing_of_the_tests(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for name in (
        "featurestore/weights/tiny-image.safetensors",
        "featurestore/weights/tiny-text.tokenizer.json",
        "featurestore/py.typed",
        "dashboard/app.py",
        "dashboard/screens/explore.py",
        "dashboard/.streamlit/config.toml",
        "dashboard/static/vendor/regl-scatterplot.js",
    ):
        assert name in names
    here = {str(one.relative_to(ROOT)) for one in ROOT.glob("[fhd]e*/**/*.py")}
    packed = {name for name in names if name.endswith(".py")}
    assert {one for one in here if one.split("/")[0] in ("featurestore", "heads")} <= packed
    assert {one.split("/")[0] for one in packed} == {"featurestore", "heads", "dashboard"}


def test_the_console_script_runs_from_the_wheel(clean, tmp_path):
    said = run([clean / "featurestore", "--version"], tmp_path)
    assert (said.returncode, said.stdout.split()) == (
        0,
        ["featurestore,", "version", PROJECT["version"]],
    )


def test_without_extras_the_built_in_encoders_do_the_whole_job(clean, tiny_images, tmp_path):
    jobs = [
        ["embed", str(tiny_images), "--dataset", "d", "-e", "builtin:tiny-image"],
        ["embed", "--dataset", "d", "-e", "baseline:pixels#size=8"],
        ["compare", "d", "--head", "ridge", "--head", "knn"],
        ["train", "d", "-e", "builtin:tiny-image", "--head", "ridge", "--save", "bundle"],
        ["predict", "bundle", str(tiny_images)],
        ["encoders"],
        ["embed", "--dataset", "d", "-e", "timm:resnet18"],
        ["embed", "--dataset", "d", "-e", "open_clip:ViT-B-32"],
        ["embed", "--dataset", "d", "-e", "hf:facebook/dinov2-small"],
        ["embed", "--dataset", "d", "-e", "st:all-MiniLM-L6-v2"],
        ["embed", "--dataset", "d", "-e", "random:timm:resnet18"],
        ["dashboard"],
    ]
    said = run([clean / "python", "-c", JOBS, json.dumps(jobs)], tmp_path)
    assert said.returncode == 0, said.stderr
    assert json.loads(said.stdout.splitlines()[-1]) == [0] * 6 + [1] * 6, said.stderr
    missing = [line for line in said.stderr.splitlines() if "pip install" in line]
    for extra in ("timm", "open_clip", "hf", "sentence-transformers", "dashboard"):
        assert extra in PROJECT["optional-dependencies"]
        assert any(f"pip install 'featurestore[{extra}]'" in line for line in missing), said.stderr
    assert "Traceback" not in said.stderr


def test_the_extra_all_has_every_other_but_those_of_gpus_and_clusters(clean):
    extras = PROJECT["optional-dependencies"]
    (words,) = extras["all"]
    named = set(words.removeprefix("featurestore[").removesuffix("]").split(","))
    (families,) = extras["encoders"]
    named |= set(families.removeprefix("featurestore[").removesuffix("]").split(","))
    assert named == extras.keys() - {"all", "gpu", "mlflow", "ray"}
