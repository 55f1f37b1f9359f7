"""Every data set obeys one contract; each reads its own tables, and names file and row of what is wrong."""

import gzip
import pickle
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from wsi_pipeline.errors import ConfigError, SlideError
from wsi_pipeline.learn.data.labels import LabelledImages
from wsi_pipeline.learn.datasets import DATASETS, open_dataset
from wsi_pipeline.learn.datasets.table import read_table

Made = tuple[str, dict[str, Any]]

NIH = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position"
FINDINGS_OF_CHEXPERT = (
    "No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,Edema,Consolidation,Pneumonia,"
    "Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices"
)
CHEXPERT = f"Path,Sex,Age,Frontal/Lateral,AP/PA,{FINDINGS_OF_CHEXPERT}"
HAM = "lesion_id,image_id,dx,dx_type,age,sex,localization"


def write_table(path: Path, header: str, *rows: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def write_images(folder: Path, names: Sequence[str]) -> None:
    """A plain picture each, its grey ten times its number."""
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (12, 8), (10 * number,) * 3).save(folder / name)


def make_nih(folder: Path) -> Made:
    names = ["00000001_000.png", "00000001_001.png", "00000002_000.png"]
    write_images(folder / "images_001" / "images", names)
    findings = ("Cardiomegaly|Effusion", "No Finding", "Pleural_Thickening")
    rows = [f"{name},{found},0,{name[7]},058Y,M,PA" for name, found in zip(names, findings, strict=True)]
    write_table(folder / "Data_Entry_2017.csv", NIH, *rows)
    return "chest_xray", {}


def make_chexpert(folder: Path) -> Made:
    paths = [f"train/patient0000{patient}/study1/view1_frontal.jpg" for patient in (1, 2)]
    paths += ["valid/patient00003/study1/view1_lateral.jpg"]
    write_images(folder, paths)
    cells = [",,1.0,-1.0,0.0" + "," * 9, "1.0" + "," * 13, "0.0,1.0" + ",0.0" * 12]
    views = ["Frontal,AP", "Frontal,PA", "Lateral,"]
    rows = [f"CheXpert-v1.0-small/{p},Male,60,{v},{c}" for p, v, c in zip(paths, views, cells, strict=True)]
    write_table(folder / "train.csv", CHEXPERT, *rows[:2])
    write_table(folder / "valid.csv", CHEXPERT, rows[2])
    return "chest_xray", {}


def make_idrid(folder: Path) -> Made:
    truth, pictures = "2. Groundtruths", "1. Original Images"
    header = "Image name,Retinopathy grade,Risk of macular edema ,,,"
    write_table(folder / truth / "a.csv", header, "IDRiD_001,3,2,,,", "IDRiD_002,0,0,,,", ",,,,,")
    write_table(folder / truth / "b.csv", header, "IDRiD_001,4,1,,,")
    write_images(folder / pictures / "a", ["IDRiD_001.jpg", "IDRiD_002.jpg"])
    write_images(folder / pictures / "b", ["IDRiD_001.jpg"])
    labels = {"train": f"{truth}/a.csv", "test": f"{truth}/b.csv"}
    return "retina", {"labels": labels, "images": {"train": f"{pictures}/a", "test": f"{pictures}/b"}}


def make_aptos(folder: Path) -> Made:
    write_images(folder / "train_images", ["000c1434d8d7.png", "001639a390f0.png"])
    write_table(folder / "train.csv", "id_code,diagnosis", "000c1434d8d7,2", "001639a390f0,4")
    return "retina", {"images": "train_images"}


def make_eyepacs(folder: Path) -> Made:
    write_images(folder, ["10_left.jpeg", "10_right.jpeg", "13_left.jpeg"])
    write_table(folder / "trainLabels.csv", "image,level", "10_left,0", "10_right,1", "13_left,2")
    return "retina", {}


def make_ham(folder: Path) -> Made:
    write_images(folder / "HAM10000_images_part_1", ["ISIC_1.jpg", "ISIC_2.jpg", "ISIC_3.jpg"])
    rows = ["HAM_1,ISIC_1,mel,histo,80.0,male,scalp", "HAM_1,ISIC_2,mel,histo,80.0,male,scalp"]
    write_table(folder / "HAM10000_metadata.csv", HAM, *rows, "HAM_2,ISIC_3,nv,follow_up,,female,ear")
    return "skin", {}


def make_isic_2018(folder: Path) -> Made:
    write_images(folder, ["ISIC_1.jpg", "ISIC_2.jpg"])
    header = "image,MEL,NV,BCC,AKIEC,BKL,DF,VASC"
    write_table(folder / "GroundTruth.csv", header, "ISIC_1,0.0,0.0,0.0,1.0,0.0,0.0,0.0", "ISIC_2,0,1,0,0,0,0,0")
    write_table(folder / "LesionGroupings.csv", "image,lesion_id,diagnosis_confirm_type", "ISIC_2,L9,x", "ISIC_1,L8,x")
    return "skin", {}


def make_isic_2019(folder: Path) -> Made:
    write_images(folder, ["ISIC_1.jpg", "ISIC_2.jpg"])
    header = "image,MEL,NV,BCC,AK,BKL,DF,VASC,SCC,UNK"
    write_table(folder / "GroundTruth.csv", header, "ISIC_1,0,0,0,0,0,0,0,1,0", "ISIC_2,1,0,0,0,0,0,0,0,0")
    metadata = "image,age_approx,anatom_site_general,lesion_id,sex"
    write_table(folder / "Metadata.csv", metadata, "ISIC_1,55.0,anterior torso,,female", "ISIC_2,,,BCN_1,")
    return "skin", {}


def make_folder(folder: Path) -> Made:
    write_images(folder, ["normal/s1_0_0.png", "normal/s2_0_0.png", "tumor/s1_0_9.png"])
    options = {"patient_pattern": r"([^/]+)_\d+_\d+$", "kind": "histology", "positive": ["tumor"], "mpp": 0.5}
    return "folder", options


def make_folder_of_parts(folder: Path) -> Made:
    write_images(folder, ["train/a/1.png", "train/b/2.png", "val/a/3.png", "test/b/sub/4.png"])
    return "folder", {}


def make_pcam(folder: Path) -> Made:
    for split, labels in (("train", [1, 0, 1]), ("valid", [0]), ("test", [1, 0])):
        begin = folder / f"camelyonpatch_level_2_split_{split}"
        with h5py.File(f"{begin}_x.h5", "w") as file:
            pixels = np.arange(len(labels), dtype=np.uint8).reshape(-1, 1, 1, 1) + len(split)
            file["x"] = np.broadcast_to(pixels, (len(labels), 96, 96, 3))
        with h5py.File(f"{begin}_y.h5", "w") as file:
            file["y"] = np.array(labels, np.uint8).reshape(-1, 1, 1, 1)
        rows = [f"{n},1,2,True,True,camelyon16_{split}_{n // 2}" for n in range(len(labels))]
        write_table(Path(f"{begin}_meta.csv"), ",coord_y,coord_x,tumor_patch,center_tumor_patch,wsi", *rows)
    return "pcam", {}


MAKERS: Mapping[str, Callable[[Path], Made]] = {
    "ChestX-ray14": make_nih,
    "CheXpert": make_chexpert,
    "IDRiD": make_idrid,
    "APTOS": make_aptos,
    "EyePACS": make_eyepacs,
    "HAM10000": make_ham,
    "ISIC 2018": make_isic_2018,
    "ISIC 2019": make_isic_2019,
    "folder": make_folder,
    "folder of parts": make_folder_of_parts,
    "pcam": make_pcam,
}


def opened(maker: Callable[[Path], Made], folder: Path, **options: Any) -> LabelledImages:
    name, needed = maker(folder)
    return open_dataset(name, folder, **{**needed, **options})


@pytest.fixture(params=MAKERS)
def images(request: pytest.FixtureRequest, tmp_path: Path) -> LabelledImages:
    """One of the data sets, small."""
    return opened(MAKERS[request.param], tmp_path)


def test_every_row_has_labels_an_id_and_a_patient(images: LabelledImages) -> None:
    assert images.labels.shape == (len(images), len(images.class_names)) and images.labels.dtype == np.float32
    assert len(set(images.ids)) == len(images) > 1
    assert all(isinstance(patient, str) and patient for patient in images.patients)


def test_labels_are_present_absent_or_unknown(images: LabelledImages) -> None:
    assert set(images.labels[~np.isnan(images.labels)]) <= {0, 1}
    assert images.kind != "plain" or images.name == "folder"


def test_every_image_is_rgb(images: LabelledImages) -> None:
    for row in range(len(images)):
        pixels = images.image(row)
        assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3


def test_a_copy_in_another_process_reads_the_same(images: LabelledImages) -> None:
    images.image(0)  # handles that are open do not travel
    copy = pickle.loads(pickle.dumps(images))
    np.testing.assert_array_equal(copy.image(1), images.image(1))


def test_a_subset_keeps_the_order_it_is_asked_for(images: LabelledImages) -> None:
    rows = [len(images) - 1, 0]
    part = images.subset(np.array(rows))
    assert part.ids.tolist() == images.ids[rows].tolist()
    np.testing.assert_array_equal(part.labels, images.labels[rows])
    np.testing.assert_array_equal(part.image(0), images.image(rows[0]))


def test_parts_are_of_the_three_names(images: LabelledImages) -> None:
    assert images.official is None or set(images.official) <= {"train", "val", "test", ""}
    assert not len(images.columns) or len(images.columns) == len(images)
    assert "dx_type" not in images.columns


def test_opening_twice_gives_the_same_rows(images: LabelledImages, tmp_path: Path, request: Any) -> None:
    again = opened(MAKERS[request.node.callspec.params["images"]], tmp_path)
    assert again.ids.tolist() == images.ids.tolist()
    np.testing.assert_array_equal(again.labels, images.labels)


def test_findings_become_labels_and_no_finding_none(tmp_path: Path) -> None:
    images = opened(make_nih, tmp_path)
    named = [[c for c, y in zip(images.class_names, row, strict=True) if y] for row in images.labels]
    assert named == [["Cardiomegaly", "Effusion"], [], ["Pleural_Thickening"]]
    assert images.patients.tolist() == ["1", "1", "2"]
    assert images.columns.iloc[0].to_dict() == {"view": "PA", "sex": "M", "age": 58.0}


def test_a_packed_table_and_copies_of_another_ending_are_found(tmp_path: Path) -> None:
    make_nih(tmp_path)
    table = tmp_path / "Data_Entry_2017.csv"
    (tmp_path / "Data_Entry_2017_v2020.csv.gz").write_bytes(gzip.compress(table.read_bytes()))
    table.unlink()
    for path in tmp_path.rglob("*.png"):
        Image.open(path).save(path.with_suffix(".jpg"))
        path.unlink()
    assert len(open_dataset("chest_xray", tmp_path)) == 3


def test_the_lists_of_chest_xray14_are_its_official_parts(tmp_path: Path) -> None:
    make_nih(tmp_path)
    (tmp_path / "train_val_list.txt").write_text("00000001_000.png\n00000001_001.png\n")
    (tmp_path / "test_list.txt").write_text("00000002_000.png\n")
    official = open_dataset("chest_xray", tmp_path).official
    assert official is not None and official.tolist() == ["train", "train", "test"]


def test_an_unknown_word_of_a_column_of_parts_is_kept(tmp_path: Path) -> None:
    name, _ = make_ham(tmp_path)
    table = tmp_path / "HAM10000_metadata.csv"
    cells = ["split", "Training ", "Holdout", ""]
    table.write_text("".join(f"{row},{c}\n" for row, c in zip(table.read_text().splitlines(), cells, strict=True)))
    official = open_dataset(name, tmp_path).official
    assert official is not None and official.tolist() == ["train", "Holdout", ""]


def test_chosen_classes_come_in_the_order_asked_for(tmp_path: Path) -> None:
    images = opened(make_nih, tmp_path, classes=["Effusion", "cardiomegaly"])
    assert images.class_names == ("Effusion", "Cardiomegaly")
    assert images.labels.tolist() == [[1, 1], [0, 0], [0, 0]]


@pytest.mark.parametrize(("uncertain", "expected"), [("ignore", np.nan), ("zeros", 0.0), ("ones", 1.0)])
def test_uncertain_findings_of_chexpert_follow_their_policy(tmp_path: Path, uncertain: str, expected: float) -> None:
    images = opened(make_chexpert, tmp_path, uncertain=uncertain)
    np.testing.assert_equal(images.labels[0, images.class_names.index("Lung Opacity")], np.float32(expected))


@pytest.mark.parametrize(("blank", "expected"), [("absent", 0.0), ("unknown", np.nan)])
def test_blank_findings_of_chexpert_are_a_second_choice(tmp_path: Path, blank: str, expected: float) -> None:
    images = opened(make_chexpert, tmp_path, blank=blank)
    np.testing.assert_equal(images.labels[0, images.class_names.index("Edema")], np.float32(expected))
    assert images.labels[0, images.class_names.index("Lung Lesion")] == 0  # a written 0 is no blank


def test_chexperts_patient_view_and_part_are_read(tmp_path: Path) -> None:
    images = opened(make_chexpert, tmp_path)
    assert images.patients.tolist() == ["patient00001", "patient00002", "patient00003"]
    assert images.columns["view"].tolist() == ["AP", "PA", "Lateral"]
    assert images.official is not None and images.official.tolist() == ["train", "train", "val"]


def test_a_grade_becomes_its_cumulative_tasks(tmp_path: Path) -> None:
    images = opened(make_idrid, tmp_path)
    assert images.class_names == ("grade>=1", "grade>=2", "grade>=3", "grade>=4") and images.ordinal
    assert images.labels.tolist() == [[1, 1, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]]
    assert images.columns["grade"].tolist() == [3, 0, 4]


def test_two_parts_that_count_from_one_keep_their_images_apart(tmp_path: Path) -> None:
    images = opened(make_idrid, tmp_path)
    assert images.ids.tolist() == ["train/IDRiD_001", "train/IDRiD_002", "test/IDRiD_001"]
    assert images.official is not None and images.official.tolist() == ["train", "train", "test"]
    np.testing.assert_allclose([images.image(row).mean() for row in range(3)], [0, 10, 0], atol=2)


def test_both_eyes_are_one_patient(tmp_path: Path) -> None:
    images = opened(make_eyepacs, tmp_path)
    assert images.patients.tolist() == ["10", "10", "13"]
    assert images.columns["eye"].tolist() == ["left", "right", "left"]


def test_photographs_of_one_lesion_are_one_patient(tmp_path: Path) -> None:
    images = opened(make_ham, tmp_path)
    assert images.patients.tolist() == ["HAM_1", "HAM_1", "HAM_2"]
    assert images.exclusive and images.class_names == ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
    assert images.columns.columns.tolist() == ["age", "sex", "site", "dx"]
    np.testing.assert_array_equal(images.columns["age"], [80, 80, np.nan])


@pytest.mark.parametrize(
    ("maker", "expected"), [(make_ham, [1, 1, 0]), (make_isic_2018, [1, 0]), (make_isic_2019, [1, 1])],
    ids=["mel, mel, nv", "akiec, nv", "scc, mel"],
)  # fmt: skip
def test_malignant_is_one_task(tmp_path: Path, maker: Callable[[Path], Made], expected: list) -> None:
    images = opened(maker, tmp_path, task="malignant")
    assert images.class_names == ("malignant",) and not images.exclusive
    assert images.labels[:, 0].tolist() == expected


def test_lesions_of_isic_come_from_their_own_table(tmp_path: Path) -> None:
    images = opened(make_isic_2018, tmp_path)
    assert images.patients.tolist() == ["L8", "L9"]
    assert images.columns["dx"].tolist() == ["akiec", "nv"]


def test_an_image_of_isic_2019_without_a_lesion_stands_for_itself(tmp_path: Path) -> None:
    images = opened(make_isic_2019, tmp_path)
    assert images.patients.tolist() == ["ISIC_1", "BCN_1"]
    assert images.class_names[-1] == "scc" and images.labels[0, -1] == 1


def test_a_table_of_other_lesions_is_refused(tmp_path: Path) -> None:
    make_isic_2018(tmp_path)
    write_table(tmp_path / "LesionGroupings.csv", "image,lesion_id", "ISIC_2,L9", "ISIC_0000001,L8")
    said = (
        r"LesionGroupings.csv: 1 of 2 images have no row, the first 'ISIC_1' \(GroundTruth.csv row 2\); .*lesions=FILE"
    )
    with pytest.raises(ConfigError, match=said):
        open_dataset("skin", tmp_path)


def test_isic_without_lesions_must_say_so(tmp_path: Path) -> None:
    make_isic_2018(tmp_path)
    (tmp_path / "LesionGroupings.csv").unlink()
    with pytest.raises(ConfigError, match="lesions=FILE, or lesions=none"):
        open_dataset("skin", tmp_path)
    assert open_dataset("skin", tmp_path, lesions="none").patients.tolist() == ["ISIC_1", "ISIC_2"]


def test_slides_are_found_in_file_names(tmp_path: Path) -> None:
    images = opened(make_folder, tmp_path)
    assert images.patients.tolist() == ["s1", "s2", "s1"]
    assert (images.kind, images.positive, images.mpp) == ("histology", ("tumor",), 0.5)
    assert images.labels.tolist() == [[1, 0], [1, 0], [0, 1]]


def test_folders_named_after_parts_are_official_parts(tmp_path: Path) -> None:
    images = opened(make_folder_of_parts, tmp_path)
    assert images.class_names == ("a", "b") and images.official is not None
    assert dict(zip(images.ids.tolist(), images.official.tolist(), strict=True)) == {
        "train/a/1.png": "train", "train/b/2.png": "train", "val/a/3.png": "val", "test/b/sub/4.png": "test",
    }  # fmt: skip


def test_an_image_beside_the_class_folders_of_a_part_is_no_class(tmp_path: Path) -> None:
    name, options = make_folder_of_parts(tmp_path)
    write_images(tmp_path, ["train/montage.png", "overview.png"])
    assert open_dataset(name, tmp_path, **options).class_names == ("a", "b")


def test_a_folder_beside_those_of_parts_makes_no_classes_of_them(tmp_path: Path) -> None:
    name, options = make_folder_of_parts(tmp_path)
    write_images(tmp_path, ["unlabelled/1.png"])
    with pytest.raises(ConfigError, match=r"'unlabelled' lies beside folders of parts \(test, train, val\); move it"):
        open_dataset(name, tmp_path, **options)


def test_one_name_is_a_list_of_it_and_a_number_is_a_name(tmp_path: Path) -> None:
    write_images(tmp_path, ["0/1.png", "1/2.png"])
    images = open_dataset("folder", tmp_path, classes=[1, 0], positive=1)
    assert images.class_names == ("1", "0") and images.positive == ("1",)


def test_groups_of_duplicates_come_from_a_table(tmp_path: Path) -> None:
    write_images(tmp_path, ["a/1.png", "b/2.png", "b/3.png"])
    write_table(tmp_path / "groups.csv", "file,group", "b/3.png,g1", "a/1.png,g1", "b/2.png,g2")
    assert open_dataset("folder", tmp_path, groups="groups.csv").patients.tolist() == ["g1", "g2", "g1"]


def test_an_image_without_a_group_is_named(tmp_path: Path) -> None:
    write_images(tmp_path, ["a/1.png", "b/2.png"])
    write_table(tmp_path / "groups.csv", "file,group", "a/1.png,g1")
    with pytest.raises(ConfigError, match=r"groups.csv: 1 images have no row, the first 'b/2.png'"):
        open_dataset("folder", tmp_path, groups="groups.csv")


def test_patches_of_all_parts_follow_each_other(tmp_path: Path) -> None:
    images = opened(make_pcam, tmp_path)
    assert images.labels[:, 0].tolist() == [1, 0, 1, 0, 1, 0]
    assert [int(images.image(row)[0, 0, 0]) for row in range(6)] == [5, 6, 7, 5, 4, 5]  # number + letters of the part
    assert images.ids[3] == "valid_000000" and images.patients[:3].tolist() == ["camelyon16_train_0"] * 2 + [
        "camelyon16_train_1"
    ]
    assert images.official is not None and images.official.tolist() == ["train"] * 3 + ["val"] + ["test"] * 2


def test_some_parts_of_pcam_are_enough(tmp_path: Path) -> None:
    make_pcam(tmp_path)
    for path in tmp_path.glob("*train*"):
        path.unlink()
    images = open_dataset("pcam", tmp_path, parts=["val", "test"])
    assert len(images) == 3 and images.mpp == 0.972
    with pytest.raises(ConfigError, match=r"split_train_y.h5: no such file; get it, or leave its part out"):
        open_dataset("pcam", tmp_path)


def test_packed_files_of_pcam_are_to_be_unpacked(tmp_path: Path) -> None:
    make_pcam(tmp_path)
    path = tmp_path / "camelyonpatch_level_2_split_test_x.h5"
    path.rename(f"{path}.gz")
    with pytest.raises(ConfigError, match=r"split_test_x.h5: no such file; unpack its .gz"):
        open_dataset("pcam", tmp_path)


def test_a_pcam_file_cut_short_is_named(tmp_path: Path) -> None:
    make_pcam(tmp_path)
    path = tmp_path / "camelyonpatch_level_2_split_test_x.h5"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ConfigError, match=r"split_test_x.h5, .*cannot be read"):
        open_dataset("pcam", tmp_path)


WRONG = {
    "a finding that is none": (make_nih, "Data_Entry_2017.csv", "Pleural_Thickening", "Pleural Thickening",
                               r"Data_Entry_2017.csv row 4: finding 'Pleural Thickening' .* mean 'pleural_thickening'"),
    "no finding beside one": (make_nih, "Data_Entry_2017.csv", "Cardiomegaly|", "No Finding|",
                              r"Data_Entry_2017.csv row 2: No Finding beside a finding"),
    "no finding column": (make_nih, "Data_Entry_2017.csv", "Finding Labels", "Findig Lables",
                          r"0 tables with columns Image Index \+ Finding Labels or Path"),
    "an image twice": (make_nih, "Data_Entry_2017.csv", "00000002_000.png", "00000001_000.png",
                       r"row 4: '00000001_000.png' stands already in Data_Entry_2017.csv row 2"),
    "no patient column": (make_nih, "Data_Entry_2017.csv", "Patient ID", "Patient IDs",
                          r"Data_Entry_2017.csv: no column 'Patient ID'; did you mean 'Patient IDs'"),
    "an empty patient": (make_nih, "Data_Entry_2017.csv", "000.png,Pleural_Thickening,0,2,", "000.png,Mass,0,,",
                         r"row 4: no Patient ID; fill it in"),
    "an image that is missing": (make_nih, "Data_Entry_2017.csv", "00000002_000", "00000003_000",
                                 r"1 of 3 images are not below .*'00000003_000.png' \(Data_Entry_2017.csv row 4\)"),
    "a cell that is no label": (make_chexpert, "train.csv", ",,1.0,-1.0,", ",,2.0,-1.0,",
                                r"train.csv row 2: Cardiomegaly is 2; give 1, 0, -1"),
    "a cell that is no number": (make_chexpert, "train.csv", ",,1.0,-1.0,", ",,yes,-1.0,",
                                 r"train.csv row 2: Cardiomegaly 'yes' is no number"),
    "a path without a patient": (make_chexpert, "valid.csv", "patient00003", "p3", r"valid.csv row 2: no patientNNNNN"),
    "a grade that is none": (make_aptos, "train.csv", ",4", ",5", r"train.csv row 3: dr_grade '5' is not known"),
    "a diagnosis that is none": (make_ham, "HAM10000_metadata.csv", ",nv,", ",nevus,",
                                 r"HAM10000_metadata.csv row 4: dx 'nevus' is not known"),
    "two diagnoses": (make_isic_2018, "GroundTruth.csv", "ISIC_2,0,1,0", "ISIC_2,0,1,1",
                      r"GroundTruth.csv row 3: diagnoses .*; give 1 for one"),
}  # fmt: skip


@pytest.mark.parametrize(("maker", "file", "right", "wrong", "message"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_in_a_table_is_named_with_its_row(
    tmp_path: Path, maker: Callable[[Path], Made], file: str, right: str, wrong: str, message: str
) -> None:
    name, options = maker(tmp_path)
    text = (tmp_path / file).read_text()
    assert right in text
    (tmp_path / file).write_text(text.replace(right, wrong))
    with pytest.raises(ConfigError, match=message):
        open_dataset(name, tmp_path, **options)


def test_missing_images_may_be_skipped(tmp_path: Path) -> None:
    make_nih(tmp_path)
    next(tmp_path.rglob("00000001_001.png")).unlink()
    images = open_dataset("chest_xray", tmp_path, missing="skip")
    assert images.ids.tolist() == ["00000001_000.png", "00000002_000.png"]
    assert len(images.columns) == 2 and images.image(1).mean() == 20


def test_skipping_every_image_is_an_error(tmp_path: Path) -> None:
    make_nih(tmp_path)
    for path in tmp_path.rglob("*.png"):
        path.unlink()
    with pytest.raises(ConfigError, match="3 of 3 images are not below"):
        open_dataset("chest_xray", tmp_path, missing="skip")


def test_a_link_that_leads_back_up_is_followed_once(tmp_path: Path) -> None:
    name, options = make_folder(tmp_path)
    (tmp_path / "tumor" / "again").symlink_to(tmp_path)
    assert len(open_dataset(name, tmp_path, **options)) == 3


def test_two_files_of_one_name_are_told_apart_by_the_user(tmp_path: Path) -> None:
    make_nih(tmp_path)
    write_images(tmp_path / "small", ["00000002_000.png"])
    with pytest.raises(ConfigError, match=r"row 4: '00000002_000.png' is .* or small/.*; name the folder by images"):
        open_dataset("chest_xray", tmp_path)
    assert len(open_dataset("chest_xray", tmp_path, images="images_001")) == 3


def test_two_tables_in_a_folder_are_told_apart_by_the_user(tmp_path: Path) -> None:
    make_nih(tmp_path)
    (tmp_path / "copy.csv").write_bytes((tmp_path / "Data_Entry_2017.csv").read_bytes())
    with pytest.raises(ConfigError, match=r"2 tables with columns .*Data_Entry_2017.csv, copy.csv; give labels=FILE"):
        open_dataset("chest_xray", tmp_path)
    assert len(open_dataset("chest_xray", tmp_path, labels="copy.csv")) == 3


@pytest.mark.parametrize("content", [b"", b"not a picture"], ids=["zero bytes", "text"])
def test_an_unreadable_image_is_named_with_its_row(tmp_path: Path, content: bytes) -> None:
    images = opened(make_nih, tmp_path)
    next(tmp_path.rglob("00000001_001.png")).write_bytes(content)
    with pytest.raises(SlideError, match=r"Data_Entry_2017.csv row 3: 00000001_001.png: "):
        images.image(1)


def test_a_missing_table_names_the_nearest_one(tmp_path: Path) -> None:
    make_nih(tmp_path)
    with pytest.raises(ConfigError, match=r"Data_Entry.csv: no such file; did you mean 'Data_Entry_2017.csv'"):
        open_dataset("chest_xray", tmp_path, labels="Data_Entry.csv")


@pytest.mark.parametrize("name", sorted(set(DATASETS) - {"tiles"}))
def test_a_missing_folder_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="no such f"):
        open_dataset(name, tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("chest-xray", {}, "data set 'chest-xray': did you mean 'chest_xray'"),
        ("chest_xray", {"uncertainty": "ones"}, "option 'uncertainty' does not exist; did you mean 'uncertain'"),
        ("chest_xray", {"missing": "drop"}, "missing 'drop': give error or skip"),
        ("chest_xray", {"classes": ["Efusion"]}, "class 'Efusion' is not known"),
        ("skin", {"task": "eight"}, "task 'eight': give seven or malignant"),
        ("pcam", {"parts": ["holdout"]}, r"parts \['holdout'\]: give some of train, valid, test"),
        ("folder", {"groups": "g.csv", "patient_pattern": "x"}, "give one of them"),
        ("folder", {"kind": "photo"}, "kind 'photo': give histology, chest_xray, retina, skin or plain"),
        ("folder", {"mpp": "0.5um"}, "mpp '0.5um': give a valid number"),
        ("folder", {"mpp": 50}, r"mpp 50: give 0.05 to 20.0 um/px"),
        ("retina", {"images": ["a"]}, r"images \['a'\]: give a valid string"),
    ],
)
def test_options_that_do_not_exist_are_refused(tmp_path: Path, name: str, options: dict, message: str) -> None:
    if name == "chest_xray":
        make_nih(tmp_path)
    with pytest.raises(ConfigError, match=message):
        open_dataset(name, tmp_path, **options)


@pytest.mark.parametrize(("option", "value"), [("uncertain", "maybe"), ("blank", "zeros")])
def test_a_policy_that_does_not_exist_is_refused(tmp_path: Path, option: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"{option} '{value}': give"):
        opened(make_chexpert, tmp_path, **{option: value})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patient_pattern": "("}, "give a regular expression"),
        ({"patient_pattern": "slide_(x)"}, "normal/s1_0_0.png: patient_pattern .* finds no patient"),
        ({"positive": ["tumour"]}, "positive class 'tumour'; folders are normal, tumor"),
        ({"classes": ["normal", "tumour"]}, "'tumor' is a folder or one of classes, not both"),
    ],
    ids=["no expression", "no match", "no such class", "another class"],
)
def test_options_of_a_folder_that_do_not_fit_are_refused(tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        opened(make_folder, tmp_path, **options)


def test_one_class_folder_is_not_enough(tmp_path: Path) -> None:
    write_images(tmp_path, ["a/1.png"])
    with pytest.raises(ConfigError, match="images in 1 class folders; give at least two"):
        open_dataset("folder", tmp_path)


def test_rows_are_counted_as_a_spreadsheet_does(tmp_path: Path) -> None:
    table = read_table(write_table(tmp_path / "a.csv", "name,grade", "x,1", "", "y,2"))
    assert table.places == ["a.csv row 2", "a.csv row 4"]


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "cannot be read as CSV"), ("a,b\n", "no rows below its header"), ("a,b\n1,2,3,4\n5,6,7,8\n", "more values")],
    ids=["empty", "header alone", "values beyond the header"],
)
def test_a_table_that_is_none_is_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(ConfigError, match=rf"a\.csv: {message}|a\.csv: .*{message}"):
        read_table(tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("text", "years"), [("58", 58), ("058Y", 58), ("006M", 0.5), ("", np.nan), ("412", np.nan), ("old", np.nan)]
)
def test_ages_come_in_years(tmp_path: Path, text: str, years: float) -> None:
    table = read_table(write_table(tmp_path / "a.csv", "name,Patient Age", f"x,{text}"))
    np.testing.assert_equal(table.optional(age="Patient Age")["age"].tolist(), [years])


REAL = {
    "xray": ("chest_xray", "xray", {}, 572, 568),
    "xray, whole table": (
        "chest_xray", "xray",
        {"labels": "labels/Data_Entry_2017_v2020.csv.gz", "images": "nih_320", "missing": "skip"}, 572, 568,
    ),
    "retina": ("retina", "retina/idrid", {}, 413, 413),
    "skin": ("skin", "skin", {}, 862, None),
    "lung": ("folder", "histology/lc25000_lung", {"groups": "labels.csv", "kind": "histology"}, 1212, 606),
    "camelyon16": ("folder", "histology/camelyon16_256", {"patient_pattern": r"([^/]+)_\d+_\d+$"}, 89, 4),
}  # fmt: skip


@pytest.mark.real
@pytest.mark.parametrize(("name", "below", "options", "rows", "patients"), REAL.values(), ids=REAL)
def test_real_data_sets_open(
    real_data: Path, name: str, below: str, options: dict, rows: int, patients: int | None
) -> None:
    images = open_dataset(name, real_data / below, **options)
    assert len(images) == rows and patients in (None, len(set(images.patients)))
    assert (np.nansum(images.labels, axis=0) > 0).all() and (images.labels == 0).any(axis=0).all()
    assert images.image(rows - 1).std() > 5


@pytest.mark.real
def test_both_tables_of_the_radiographs_agree(real_data: Path) -> None:
    small, whole = (open_dataset(*REAL[key][:1], real_data / "xray", **REAL[key][2]) for key in list(REAL)[:2])
    order = np.argsort(small.ids), np.argsort(whole.ids)
    np.testing.assert_array_equal(small.labels[order[0]], whole.labels[order[1]])
    assert small.patients[order[0]].tolist() == whole.patients[order[1]].tolist()


def test_a_packed_table_with_damage_inside_is_told(tmp_path) -> None:
    packed = bytearray(gzip.compress(b"Image Index,Finding Labels,Patient ID\n" + b"a.png,Mass,1\n" * 50))
    packed[10] = 0x07  # a block of no type that there is
    (tmp_path / "l.csv.gz").write_bytes(packed)
    with pytest.raises(ConfigError, match=r"l.csv.gz: cannot be read as CSV \(Error -3 while decompressing"):
        read_table(tmp_path / "l.csv.gz")
