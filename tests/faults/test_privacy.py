"""A word planted wherever a slide may name a patient: no output, log or message of a run holds it."""

import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
import tifffile
from canary import found_in
from PIL import ImageCms

from wsi_pipeline.cli.group import group
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.slide.reader import open_slide
from wsi_pipeline.slide.synthetic import draw_slide

WORD = "CANARY-DOE-4711"  # 15 letters, inside the slides
NAME = "jane_roe_1961"  # of files, folders, and in the manifest
KNOBS = [
    "--scheduler", "threads", "--workers", "2", "--set", "tiles.shard_tiles=16", "--set", "tiles.stride_px=224",
]  # fmt: skip
TOLD = f"|User = {WORD}|Barcode = {WORD}|Date = {WORD}|Filename = {WORD}"
OME = (
    f'<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><!--{WORD}-->'
    f'<Experimenter ID="Experimenter:0" LastName="{WORD}"/><Image ID="Image:0" Name="{WORD}">'
    f"<Description>{WORD}</Description>"
    '<Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="{w}" SizeY="{h}" SizeC="3" SizeZ="1" SizeT="1" '
    'PhysicalSizeX="0.5" PhysicalSizeY="0.5"><Channel ID="Channel:0:0" SamplesPerPixel="3"/><TiffData/></Pixels>'
    "</Image></OME>"
)


@pytest.fixture(scope="module")
def pixels(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """(1024, 1024, 3) uint8 of drawn tissue."""
    path = tmp_path_factory.mktemp("drawn") / "a.tif"
    draw_slide(path, size_px=(1024, 1024), mpp=0.5, seed=3)
    return tifffile.imread(path, series=0, level=0)


def extra() -> list[tuple]:
    """XMP, artist, host, copyright: tags beside the description."""
    word = WORD.encode()
    return [(700, "B", len(word), word, True), (315, "s", 0, WORD, True), (316, "s", 0, WORD, True), (33432, "s", 0, WORD, True)]  # fmt: skip # noqa: E501


def profile() -> bytes:
    """sRGB with the word for its copyright."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    place = data.index("No copyright".encode("utf-16-be"))
    data[place : place + 2 * len(WORD)] = WORD.encode("utf-16-be")
    return bytes(data)


def tiles(pixels: np.ndarray, px: int = 256) -> Iterator[bytes]:
    """The pixels as JPEG tiles with the word in a comment, in an APP segment, and behind their end."""
    word = WORD.encode()
    length = (len(word) + 2).to_bytes(2, "big")
    for y in range(0, pixels.shape[0], px):
        for x in range(0, pixels.shape[1], px):
            part = np.ascontiguousarray(pixels[y : y + px, x : x + px])
            jpeg = imagecodecs.jpeg8_encode(part, level=85, colorspace="RGB", outcolorspace="YCBCR", subsampling="420")
            yield jpeg[:2] + b"\xff\xfe" + length + word + b"\xff\xe1" + length + word + jpeg[2:] + word


def write_aperio(path: Path, pixels: np.ndarray) -> None:
    """As ImageScope would: description, thumbnail, label and macro, the word in each."""
    about = f"Aperio Image Library v12\n1024x1024 (256x256) JPEG/RGB Q=85|AppMag = 20|MPP = 0.5{TOLD}"
    common = {"metadata": None, "software": WORD, "datetime": "1961:02:03 04:05:06", "photometric": "ycbcr"}
    picture = np.frombuffer((WORD * 4000).encode()[: 96 * 128 * 3], np.uint8).reshape(96, 128, 3)
    with tifffile.TiffWriter(path) as file:
        file.write(
            tiles(pixels), shape=pixels.shape, dtype=np.uint8, tile=(256, 256), compression="jpeg",
            subsampling=(2, 2), description=about, extratags=extra(), iccprofile=profile(),
            jpegtables=b"\xff\xd8\xff\xfe\x00\x11" + WORD.encode() + b"\xff\xd9", **common,
        )  # fmt: skip
        for number, name in enumerate(("", "label 1x1", "macro 1x1")):
            file.write(
                picture, photometric="rgb", metadata=None, subfiletype=(0, 1, 9)[number],
                description=f"Aperio Image Library v12\n{name}{TOLD}",
            )  # fmt: skip


def write_generic(path: Path, pixels: np.ndarray) -> None:
    tifffile.imwrite(
        path, pixels, photometric="rgb", tile=(256, 256), compression="deflate", description=f"{WORD}\nMPP",
        metadata=None, software=WORD, resolution=(20000, 20000), resolutionunit=3, extratags=extra(),
        iccprofile=profile(),
    )  # fmt: skip


def write_ome(path: Path, pixels: np.ndarray) -> None:
    tifffile.imwrite(
        path, pixels, photometric="rgb", rowsperstrip=64, description=OME.format(w=1024, h=1024).encode(),
        metadata=None, software=WORD,
    )  # fmt: skip


def write_all(folder: Path, pixels: np.ndarray) -> list[Path]:
    """Good slides, and bad ones whose words a library may quote."""
    folder.mkdir(parents=True)
    write_aperio(folder / f"{NAME}_1.svs", pixels)
    write_generic(folder / f"{NAME}_2.tif", pixels)
    write_ome(folder / f"{NAME}_3.ome.tif", pixels)
    whole = (folder / f"{NAME}_1.svs").read_bytes()
    (folder / f"{NAME}_4.svs").write_bytes(whole[: len(whole) // 2])
    (folder / f"{NAME}_5.svs").write_bytes(WORD.encode() * 100)
    tifffile.imwrite(folder / f"{NAME}_6.tif", pixels[..., 0], description=f"{WORD}|{TOLD}", metadata=None)
    tifffile.imwrite(folder / f"{NAME}_8.tif", pixels, description=f'{{"shape": [{WORD}', metadata=None)
    (folder / f"{NAME}_7.svs").symlink_to(folder / f"{NAME}_gone.svs")
    return sorted(folder.iterdir())


def run(*arguments: object) -> int:
    return int(group.main([str(argument) for argument in arguments], standalone_mode=False, prog_name="wsi") or 0)


def statuses(out: Path) -> list[str]:
    rows = list(csv.DictReader((out / "slides.csv").read_text(encoding="utf-8").splitlines()))
    return sorted(row["status"] for row in rows)


@pytest.mark.parametrize("store", ["pixels", "jpeg"])
def test_what_slides_tell_of_patients_reaches_no_output_log_or_page(
    tmp_path: Path, pixels: np.ndarray, capfd: pytest.CaptureFixture[str], store: str
) -> None:
    write_all(tmp_path / "slides", pixels)
    assert found_in(tmp_path / "slides", WORD) != []
    assert run("run", tmp_path / "slides", "--out", tmp_path / "out", "--tiles-store", store, *KNOBS) == 3
    assert statuses(tmp_path / "out") == ["ok"] * 3 + ["unreadable"] * 5
    assert found_in(tmp_path / "out", WORD) == []
    said = capfd.readouterr()
    assert WORD not in said.out + said.err and f"{NAME}_1" in said.err


def test_under_pseudonyms_no_name_stands_anywhere_and_the_key_tells_who_is_who(
    tmp_path: Path, pixels: np.ndarray, capfd: pytest.CaptureFixture[str]
) -> None:
    folder, key, out = tmp_path / NAME, tmp_path / "keys" / "key.csv", tmp_path / "out"
    key.parent.mkdir()
    slides = write_all(folder, pixels)
    rows = [f"{NAME}-{n},{path},tumour of {NAME},{NAME},{NAME}" for n, path in enumerate(slides)]
    manifest = folder / f"{NAME}.csv"
    manifest.write_text("\n".join(["slide_id,path,label,patient_id,split", *rows]))
    common = ["--out", out, "--tiles-store", "coordinates", *KNOBS]
    assert run("tile", manifest, "--pseudonymize", key, *common) == 3
    assert run("run", manifest, "--pseudonymize", key, "--resume", *common) == 3
    assert run("map", out, "--set", "maps.threshold=0.4", "--scheduler", "threads") == 3
    said = capfd.readouterr()
    assert statuses(out) == ["ok"] * 3 + ["unreadable"] * 5
    assert found_in(out, WORD, NAME) == [] and NAME not in said.out + said.err
    entries = json.loads((out / "run.json").read_text())["slides"]
    told = {row["pseudonym"]: row["original"] for row in csv.DictReader(key.read_text().splitlines())}
    assert sorted(told[entry["slide_id"]] for entry in entries) == [f"{NAME}-{n}" for n in range(8)]
    assert {told[entry["patient_id"]] for entry in entries} == {NAME}
    assert key.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("again", "words"),
    [(["--pseudonymize", "other.csv"], "made with another key"), ([], "made with pseudonyms")],
    ids=["other key", "no key"],
)
def test_names_and_pseudonyms_are_never_mixed(tmp_path: Path, pixels: np.ndarray, again: list[str], words: str) -> None:
    (tmp_path / "slides").mkdir()
    write_generic(tmp_path / "slides" / "a.tif", pixels[:512, :512])
    again = [str(tmp_path / word) if word.endswith(".csv") else word for word in again]
    common = ["tile", tmp_path / "slides", "--out", tmp_path / "out", "--tiles-store", "coordinates", *KNOBS]
    assert run(*common, "--pseudonymize", tmp_path / "key.csv") == 0
    with pytest.raises(ConfigError, match=words):
        run(*common, "--resume", *again)
    assert run(*common, "--resume", "--pseudonymize", tmp_path / "key.csv") == 0
    assert len(os.listdir(tmp_path / "out" / "tiles")) == 1


@pytest.mark.parametrize(
    ("place", "content", "words"),
    [
        ("out/key.csv", None, "lies in --out"),
        ("slides/key.csv", None, "lies in a folder of slides"),
        ("key.csv", "a,b\n1,2\n", "no header and salt"),
        ("key.csv", f"kind,pseudonym,original,path\nsalt,{'0' * 64},,\nslide,../x,a,b\n", "row 3 is no pseudonym"),
    ],
    ids=["in the run folder", "beside the slides", "another CSV", "a pseudonym that leads elsewhere"],
)
def test_a_key_that_cannot_be_one_is_refused_before_any_work(
    tmp_path: Path, place: str, content: str | None, words: str
) -> None:
    (tmp_path / "slides").mkdir()
    (tmp_path / "slides" / "a.svs").touch()
    if content is not None:
        (tmp_path / place).write_text(content)
    with pytest.raises(ConfigError, match=words):
        run("tile", tmp_path / "slides", "--out", tmp_path / "out", "--pseudonymize", tmp_path / place)
    assert not (tmp_path / "out").exists()


@pytest.mark.real
def test_the_patient_of_a_real_dicom_slide_reaches_no_output(
    real_data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = real_data / "slides" / "dicom" / "highdicom_sm_image" / "highdicom_sm_image.dcm"
    (tmp_path / "slides").mkdir()
    dataset = pydicom.dcmread(source)
    for name in ("PatientName", "PatientID", "ContainerIdentifier", "StudyDescription", "SeriesDescription"):
        setattr(dataset, name, WORD)
    dataset.InstitutionName, dataset.OperatorsName, dataset.PatientComments = WORD, WORD, WORD
    dataset.save_as(tmp_path / "slides" / "a.dcm")
    assert found_in(tmp_path / "slides", WORD) != []
    code = run("run", tmp_path / "slides", "--out", tmp_path / "out", "--mpp-default", "0.5", *KNOBS)
    said = capfd.readouterr()
    slide = open_slide(tmp_path / "slides" / "a.dcm", mpp_default=0.5)
    assert WORD not in repr(slide) + said.out + said.err and code in (0, 1)
    assert found_in(tmp_path / "out", WORD) == []
