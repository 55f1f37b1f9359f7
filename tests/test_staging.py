"""The stage of a patient from the classes of the nodes."""

import pytest

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.maps.lesions import metastasis_class
from wsi_pipeline.maps.staging import NODE_CLASSES, STAGES, pn_stage


@pytest.mark.parametrize(
    ("nodes", "stage"),
    [
        (["negative"] * 5, "pN0"),
        (["itc", "itc", "negative", "negative", "negative"], "pN0(i+)"),
        (["micro", "itc", "negative", "negative", "negative"], "pN1mi"),
        (["micro"] * 5, "pN1mi"),  # however many: no macrometastasis
        (["macro", "micro", "negative", "negative", "negative"], "pN1"),
        (["macro", "itc", "itc", "itc", "itc"], "pN1"),  # isolated tumour cells are no positive node
        (["macro", "micro", "micro", "negative", "negative"], "pN1"),
        (["macro", "micro", "micro", "micro", "negative"], "pN2"),
        (["macro"] * 9, "pN2"),
        (["macro"], "pN1"),
    ],
)
def test_the_stage_follows_the_nodes_in_any_order(nodes: list[str], stage: str) -> None:
    assert pn_stage(nodes) == pn_stage(nodes[::-1]) == stage
    assert stage in STAGES


def test_every_class_of_a_slide_is_one_of_a_node() -> None:
    assert {metastasis_class(longest) for longest in (None, 100.0, 1000.0, 3000.0)} == set(NODE_CLASSES)


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([], "got no nodes"),
        (["macro", "Makro", ""], r"got \['', 'Makro'\]; give one of negative, itc, micro, macro"),
        (["macro"] * 10, "10 positive nodes; stages are told up to 9"),
    ],
    ids=["none", "unknown", "ten"],
)
def test_what_has_no_stage_is_refused(nodes: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        pn_stage(nodes)
