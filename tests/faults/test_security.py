"""Foreign files: nothing in them is executed, and none may take all memory or an hour, whatever it says of itself."""

import ast
import gzip
import json
import time
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import tifffile

from wsi_pipeline.config import load_config
from wsi_pipeline.errors import ConfigError, ModelError, SlideError
from wsi_pipeline.learn.datasets import table
from wsi_pipeline.learn.model.checkpoint import load_checkpoint
from wsi_pipeline.slide import cohort, manifest, region_files
from wsi_pipeline.slide.reader import open_slide

PACKAGE = Path(__file__).resolve().parents[2] / "wsi_pipeline"
FORBIDDEN = {
    "eval", "exec", "compile", "pickle.load", "pickle.loads", "yaml.load", "yaml.load_all", "yaml.unsafe_load",
    "marshal.load", "marshal.loads", "shelve.open", "os.system", "os.popen", "pd.read_pickle", "joblib.load",
    "dill.load",
}  # fmt: skip
PARSERS = ("fromstring", "fromstringlist", "parse", "iterparse", "XML")
PIXELS = (
    '<?xml version="1.0"?>{doctype}<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">'
    '<Pixels DimensionOrder="XYCZT" Type="uint8" SizeX="{x}" SizeY="64" SizeC="3" SizeZ="{z}" SizeT="1">'
    '<Channel SamplesPerPixel="3"/><TiffData{data}/></Pixels></Image></OME>'
)
LAUGHS = "<!DOCTYPE o [<!ENTITY a 'ha'>" + "".join(
    f"<!ENTITY {name} '{f'&{of};' * 10}'>" for of, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@cache
def calls() -> list[tuple[str, str, ast.Call]]:
    """(file, dotted name, node) of every call in the package."""
    return [
        (path.name, ast.unparse(node.func), node)
        for path in sorted(PACKAGE.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
    ]


def test_nothing_is_unpickled_evaluated_or_given_to_a_shell() -> None:
    assert [(file, name) for file, name, _ in calls() if name in FORBIDDEN] == []
    assert [file for file, _, node in calls() if any(word.arg == "shell" for word in node.keywords)] == []


def test_torch_and_numpy_load_plain_arrays_alone() -> None:
    for file, name, node in calls():
        given = {word.arg: ast.unparse(word.value) for word in node.keywords}
        if name == "torch.load":
            assert given.get("weights_only") == "True", file
        if name in ("np.load", "numpy.load"):
            assert given.get("allow_pickle", "False") == "False", file


def test_xml_is_parsed_by_defusedxml_alone() -> None:
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        parses = any(f"ElementTree.{name}(" in text for name in PARSERS)
        assert not parses or "from defusedxml import ElementTree" in text, path.name
        assert "minidom" not in text and "lxml" not in text and "xml.sax" not in text, path.name


@pytest.mark.parametrize(
    "says",
    [
        {"x": 10**11}, {"z": 10**9}, {"data": ' PlaneCount="999999999"'}, {"doctype": f"{LAUGHS}]>"},
        {"doctype": '<!DOCTYPE o [<!ENTITY e SYSTEM "file:///etc/passwd">]>'},
    ],
    ids=["giant side", "a billion planes", "planes of one file", "a billion laughs", "another file"],
)  # fmt: skip
def test_an_ome_xml_that_would_take_all_memory_is_refused_at_once(tmp_path: Path, says: dict) -> None:
    xml = PIXELS.format(**{"doctype": "", "x": 64, "z": 1, "data": ""} | says)
    path = tmp_path / "a.ome.tif"
    pixels = np.zeros((64, 64, 3), np.uint8)
    tifffile.imwrite(path, pixels, photometric="rgb", rowsperstrip=32, description=xml.encode(), metadata=None)
    began = time.process_time()
    with pytest.raises(SlideError, match="its OME-XML"):
        open_slide(path, mpp_default=0.5)
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.xml", f"<?xml version='1.0'?>{LAUGHS}]><ASAP_Annotations>&i;</ASAP_Annotations>"),
        ("a.xml", "<ASAP_Annotations>" + "<a>" * 50 + "</a>" * 50 + "</ASAP_Annotations>"),
        ("a.json", "[" * 200_000 + "]" * 200_000),
        ("a.json", '{"positive": [{"vertices": [[NaN, 1], [2, 2], [3, 1]]}]}'),
    ],
    ids=["a billion laughs", "elements too deep", "lists too deep", "a number that is none"],
)
def test_annotations_that_are_bombs_are_refused(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=rf"^{name}: "):
        region_files.read_regions(tmp_path / name)


def test_a_file_of_text_beyond_its_limit_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(region_files, "MAX_TEXT_BYTES", 10)
    monkeypatch.setattr(manifest, "MAX_TABLE", 10)
    monkeypatch.setattr(table, "_MAX_BYTES", 2**20)
    (tmp_path / "a.json").write_text('{"positive": []}')
    (tmp_path / "m.csv").write_text("slide_id,path\na,b.svs\n")
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(b"a,b\n" + b"0,0\n" * 2**19))
    with pytest.raises(ConfigError, match="more than 10"):
        region_files.read_regions(tmp_path / "a.json")
    with pytest.raises(ConfigError, match="more than 10 bytes"):
        cohort.find_slides(tmp_path / "m.csv")
    with pytest.raises(ConfigError, match="more than 1,048,576 bytes"):
        table.read_table(tmp_path / "t.csv.gz")


@pytest.mark.parametrize(
    "text",
    [
        "a: &x [1]\nb: *x", "[" * 20_000, "- " * 20_000, "!!python/object/apply:os.system ['true']", "a: " + "9" * 5000,
        "a: 2001-99-99", "x" * 2**21,
    ],
    ids=["aliases", "too deep", "lists too deep", "an object", "a number too long", "no day", "too long"],
)  # fmt: skip
def test_a_configuration_that_is_a_bomb_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    began = time.process_time()
    with pytest.raises(ConfigError, match=r"a\.yaml: ") as refused:
        load_config(tmp_path / "a.yaml")
    assert time.process_time() - began < 2 and len(str(refused.value)) < 600


def test_weights_whose_header_or_card_is_a_bomb_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes((2**62).to_bytes(8, "little") + b"{}")
    with pytest.raises(ModelError, match="cannot be read as safetensors"):
        load_checkpoint(tmp_path)
    header = json.dumps({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 4]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"0000")
    with pytest.raises(ModelError, match="cannot be read as safetensors"):
        load_checkpoint(tmp_path)
    header = b"{}"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    (tmp_path / "card.json").write_text("[" * 200_000)
    with pytest.raises(ModelError, match="cannot be read as JSON"):
        load_checkpoint(tmp_path)
