"""IDRiD, APTOS or EyePACS, a table of grades 0-4 and a folder of fundus photographs -> LabelledImages, cumulative."""

import re
from pathlib import Path

import numpy as np

from wsi_pipeline.learn.data.labels import LabelledImages
from wsi_pipeline.learn.datasets.lookup import Missing, find_images, image_ids
from wsi_pipeline.learn.datasets.table import Places, official_parts, open_labels

GRADES = 5  # 0 none, 1 mild, 2 moderate (from here on referable), 3 severe, 4 proliferative retinopathy

_IMAGE = ("file", "Image name", "id_code", "image")
_GRADE = ("dr_grade", "Retinopathy grade", "diagnosis", "level", "grade")
_EYE = re.compile(r"(.+)_(left|right)", re.IGNORECASE)


def open_retina(
    folder: Path, *, labels: Places = None, images: Places = None, missing: Missing = "error"
) -> LabelledImages:
    """The photographs of `folder` with the tasks grade >= 1 ... grade >= 4 (ordinal).

    Patients: a column of them; else of "10_left" (EyePACS) the number, so that both eyes stay together; else each
    image is a patient, as IDRiD and APTOS name none. IDRiD's own layout, where both parts count from 001, wants
    `labels` and `images` as {train: ..., test: ...}. Raises ConfigError naming file and row.
    """
    table = open_labels(folder, labels, needs=[(_IMAGE, _GRADE)])
    names = table.required(_IMAGE)
    ids = image_ids(table, names, images)
    table.refuse_repeats(ids)
    grades = table.choices(_GRADE, {str(grade): grade for grade in range(GRADES)})
    stems = [Path(name).stem for name in ids]
    eyes = [_EYE.fullmatch(stem) for stem in stems]
    patients = [eye[1] if eye else name for eye, name in zip(eyes, ids, strict=True)]
    if table.has(("patient_id", "patient")):
        patients = table.required(("patient_id", "patient"))
    columns = table.optional(macular_edema=("dme_risk", "Risk of macular edema"), age="age", sex="sex", site="site")
    columns["grade"] = grades
    if any(eyes):
        columns["eye"] = [eye[2].lower() if eye else "" for eye in eyes]
    found, read = find_images(table, names, folder, images=images, missing=missing)
    official = official_parts(table, "split")
    return LabelledImages(
        name="retina",
        class_names=tuple(f"grade>={grade}" for grade in range(1, GRADES)),
        labels=(grades[:, None] >= np.arange(1, GRADES)).astype(np.float32)[found],
        ids=np.array(ids)[found],
        patients=np.array(patients)[found],
        read=read,
        kind="retina",
        ordinal=True,
        official=None if official is None else official[found],
        columns=columns[found].reset_index(drop=True),
    )
