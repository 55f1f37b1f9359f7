"""evaluation.html: one offline page, whatever the labels are called, with plots, mistakes and intervals."""

from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from answer_samples import NAMES, an_evaluation, some_answers

from wsi_pipeline.errors import SlideError
from wsi_pipeline.learn.evaluation.compare import compare
from wsi_pipeline.learn.evaluation.evaluate import evaluate
from wsi_pipeline.learn.evaluation.figures import Estimate, Evaluation
from wsi_pipeline.learn.evaluation.mistakes import Mistake, thumbnail, worst_mistakes
from wsi_pipeline.learn.evaluation.page import Material, say_p, write_page
from wsi_pipeline.learn.evaluation.plots import draw_interval, precision_recall_points, reliability_groups, roc_points

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Elements with their attributes, the visible words, and whether every tag is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements, self.words, self.open = [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def page(folder, evaluation: Evaluation | None = None, *, comparison=None, **given: object) -> Page:
    labels, probs, _ = some_answers()
    plain = {"labels": labels, "probs": probs, "ids": np.arange(60).astype(str)}
    found = evaluation or an_evaluation()
    write_page(folder / "e.html", found, Material(**(plain | given)), name="model on set", comparison=comparison)
    return Page((folder / "e.html").read_text(encoding="utf-8"))


def test_the_page_tells_its_figures_with_intervals_and_how_these_were_made(tmp_path) -> None:
    found = an_evaluation()
    text = page(tmp_path, found).text
    area = found.labels[0].figures["auroc"]
    for words in (f"{area.value:.3f} {area.low:.3f} to {area.high:.3f}", "Research use only", "model on set",
                  "Bootstrap by patient", "30 patients", "95 % interval"):  # fmt: skip
        assert words.replace("30 patients", "30") in text


def test_the_page_needs_no_network_and_no_other_file(tmp_path) -> None:
    found = page(tmp_path, mistakes=[Mistake(0, "missed", "mass", "no mass", 0.1, "data:image/jpeg;base64,AA")])
    links = [value for _, attributes in found.elements for name, value in attributes.items() if name in ("src", "href")]
    assert links and all(link.startswith(("#", "data:")) for link in links)
    policy = next(attributes["content"] for tag, attributes in found.elements if "http-equiv" in attributes)
    assert "default-src 'none'" in policy and not any(tag in ("script", "link") for tag, _ in found.elements)


def test_subgroups_have_patients_only_where_patients_are_known(tmp_path) -> None:
    given = {"columns": pd.DataFrame({"sex": ["f", "m"] * 30}), "by": ["sex"]}
    assert "30 images, 30 patients" in page(tmp_path, an_evaluation(**given)).text
    assert ", 30 patients" not in page(tmp_path, an_evaluation(**given, patients=None)).text


def test_each_label_has_a_roc_a_precision_recall_and_a_reliability_plot(tmp_path) -> None:
    text = page(tmp_path, raw=np.full((60, 2), 0.7)).text
    for name in NAMES:
        for plot in ("ROC curve of", "Precision-recall curve of", "Reliability of"):
            assert f"{plot} {name}" in text


def test_a_label_of_one_class_has_a_note_in_place_of_its_plots(tmp_path) -> None:
    labels, probs, patients = some_answers()
    labels[:, 1] = 0
    text = page(tmp_path, evaluate(labels, probs, class_names=NAMES, patients=patients, rounds=20), labels=labels).text
    assert "not defined: only one class" in text and "ROC curve of edema" not in text and "nan" not in text


def test_names_with_marks_of_html_are_only_words(tmp_path) -> None:
    labels, probs, _ = some_answers()
    text = page(tmp_path, evaluate(labels, probs, class_names=["grade >= 1", "<b>&"], rounds=20)).text
    assert "grade >= 1" in text and "<b>&" in text


def test_confusion_subgroups_and_comparison_are_shown_where_there_are_any(tmp_path) -> None:
    labels, probs, _ = some_answers()
    labels = np.column_stack([labels[:, 0], 1 - labels[:, 0]])
    columns = pd.DataFrame({"view": ["AP", "PA"] * 30})
    found = evaluate(labels, probs, class_names=NAMES, exclusive=True, columns=columns, by=["view"], rounds=20)
    both = compare(labels, probs, probs[::-1], class_names=NAMES, names=("this", "other.csv"), rounds=20)
    text = page(tmp_path, found, labels=labels, other=probs[::-1], comparison=both).text
    for words in ("What was taken for what", "By view", "AP 30 images", "other.csv", "DeLong's p", "balanced accuracy"):
        assert words in text
    assert "Subgroups" not in page(tmp_path).text and "DeLong's p" not in page(tmp_path).text


def test_the_page_says_by_what_exclusive_classes_are_called(tmp_path) -> None:
    labels, probs, _ = some_answers()
    labels = np.column_stack([labels[:, 0], 1 - labels[:, 0]])
    for raw in (None, probs):
        found = evaluate(labels, probs, class_names=NAMES, exclusive=True, raw=raw, rounds=20)
        text = page(tmp_path, found, labels=labels, raw=raw).text
        assert "called the class of its largest probability" in text
        for words in ("balanced accuracy before calibration", "by the largest raw output"):
            assert (words in text) == (raw is not None)


def test_a_difference_is_bold_only_where_its_interval_leaves_out_0(tmp_path) -> None:
    labels, probs, patients = some_answers()
    both = compare(labels, probs, probs, class_names=NAMES, patients=patients, rounds=20)
    clear = replace(both.labels[0], auroc=Estimate(0.1234, 0.1, 0.2))
    page(tmp_path, comparison=replace(both, labels=(clear, both.labels[1])))
    html = (tmp_path / "e.html").read_text()
    assert "<b>+0.123</b>" in html and "<b>+0.000</b>" not in html and "+0.000" in html


def test_the_worst_of_each_label_come_first_with_as_many_missed_as_false_alarms() -> None:
    labels = np.array([[1], [1], [0], [0], [1]])
    probs = np.array([[0.1], [0.3], [0.9], [0.7], [0.8]])
    found = worst_mistakes(labels, probs, class_names=["x"], thresholds=np.array([0.5]), exclusive=False, count=2)
    assert [(one.row, one.kind, one.probability) for one in found] == [(2, "false alarm", 0.9), (0, "missed", 0.1)]


def test_of_exclusive_classes_the_surest_confusions_come_first() -> None:
    labels, probs = np.eye(2)[[0, 0, 1]], np.array([[0.4, 0.6], [0.1, 0.9], [0.2, 0.8]])
    found = worst_mistakes(labels, probs, class_names="ab", thresholds=np.full(2, 0.5), exclusive=True, count=9)
    assert [(one.row, one.true, one.said) for one in found] == [(1, "a", "b"), (0, "a", "b")]


def test_a_thumbnail_is_inline_and_an_unreadable_image_has_none() -> None:
    def torn(row: int) -> np.ndarray:
        raise SlideError("gone")

    assert thumbnail(lambda row: np.zeros((900, 300, 3), np.uint8), 0).startswith("data:image/jpeg;base64,")
    assert thumbnail(torn, 0) == ""


def test_curves_of_many_images_are_thinned_but_keep_their_ends() -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random(20_000) < 0.1).astype(float)
    x, y = roc_points(labels, rng.random(20_000))
    assert len(x) <= 250 and (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
    recall, precision = precision_recall_points(labels, rng.random(20_000))
    assert recall[-1] == 1 and precision[-1] == pytest.approx(labels.mean())


def test_reliability_groups_hold_about_equally_many_images() -> None:
    probs = np.arange(100) / 1000
    mean, share, count = reliability_groups((np.arange(100) % 2).astype(float), probs)
    assert count.tolist() == [10] * 10 and share.tolist() == [0.5] * 10
    assert mean[0] == pytest.approx(probs[:10].mean())


def test_reliability_of_one_constant_probability_is_one_group() -> None:
    _, share, count = reliability_groups(np.array([1.0, 0, 0, np.nan]), np.full(4, 0.2))
    assert count.tolist() == [3] and share[0] == pytest.approx(1 / 3)


def test_an_interval_on_a_line_is_clipped_and_empty_for_nan() -> None:
    assert draw_interval(Estimate(), low_end=0, high_end=1, middle=0.5) == ""
    assert "M4.0 9H146.0" in draw_interval(Estimate(0.5, -1, 2), low_end=0, high_end=1, middle=0.5)


@pytest.mark.parametrize(("p", "said"), [(0.0001, "under 0.001"), (0.0499, "0.050"), (float("nan"), "–")])
def test_p_values_have_three_decimals(p: float, said: str) -> None:
    assert say_p(p).replace("\N{NO-BREAK SPACE}", " ") == said
