"""report.html: one offline page that shows every slide, whatever its name, status and number."""

from dataclasses import replace
from html.parser import HTMLParser
from math import nan
from urllib.parse import unquote

import numpy as np
import pytest
from map_samples import a_result, a_slide, a_tissue, an_extent
from PIL import Image

from wsi_pipeline.maps.overlay import draw_overlay
from wsi_pipeline.maps.report import write_report
from wsi_pipeline.maps.result import SlideResult

VOID = {"meta", "img", "input", "br", "link"}
RUN = {"name": "cohort", "model": "demo (3f9a)", "model_note": "knows only synthetic tissue", "config_hash": "c0ffee"}


class Page(HTMLParser):
    """Elements with their attributes, the visible words, and whether every tag is closed in order."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.words, self.open, self.fields = [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def report(folder, rows, *, pictures=None, run=RUN) -> Page:
    return Page(write_report(folder, rows, pictures=pictures or {}, run=run).read_text(encoding="utf-8"))


def a_picture(path, size=(900, 600)):
    Image.new("RGB", size, (180, 90, 140)).save(path)
    return path


def test_no_slides_make_a_page_too(tmp_path):
    page = report(tmp_path, [], run={})
    assert "This run holds no slides" in page.text and "Research use only" in page.text


def test_a_row_tells_numbers_with_units_and_intervals(tmp_path):
    text = report(tmp_path, [a_result("s1")]).text
    for words in ("s1", "12.1 mm²", "9.7 to 14.2 mm²", "159 mm²", "7.65 %", "6.1 to 8.9 %", "2.97 mm"):
        assert words in text
    assert "macro, 4 lesions" in text and "0.997" in text and "0.25 µm/px (vendor)" in text


def test_tissue_that_was_not_scored_stands_below_the_area_where_it_is_much(tmp_path):
    little = a_result("a", unread_mm2=2.5, unscored_mm2=0.9)
    much = replace(little, unscored_mm2=20.0)
    assert "2.5 mm² not read" in report(tmp_path, [little]).text
    assert "mm² under no tile" not in report(tmp_path, [little]).text
    assert "2.5 mm² not read, 20 mm² under no tile" in report(tmp_path, [much]).text


def test_head_tells_the_run_and_counts(tmp_path):
    text = report(tmp_path, [a_result("a"), a_result("b"), SlideResult("c", "failed")]).text
    for words in ("cohort", "demo (3f9a)", "knows only synthetic tissue", "c0ffee", "2 done", "1 failed"):
        assert words in text


def test_a_negative_slide_has_no_longest_lesion(tmp_path):
    row = a_result(cancer_mm2=0.0, lesions=0, longest_um=nan, metastasis_class="negative")
    text = report(tmp_path, [row]).text
    assert "0 mm²" in text and "none negative" in text


def test_numbers_that_do_not_exist_are_dashes_and_sort_last(tmp_path):
    page = report(tmp_path, [SlideResult("a", "no_tissue", tissue_mm2=0.0, cancer_mm2=0.0)])
    numbers = [cell["data-order"] for cell in page.all("td") if cell.get("class") == "number"]
    assert numbers == ["", "0.0", "", "", ""] and "nan" not in page.text


@pytest.mark.parametrize(
    ("status", "message", "shown"),
    [
        ("no_mpp", "a.svs: no mpp; give --mpp-default", "a.svs: no mpp; give --mpp-default"),
        ("unreadable", "", "copy or export it again"),
        ("failed", "boom", "boom See the slide's log"),
        ("brand_new", "", "brand new"),
    ],
    ids=["its own words", "what to do", "both", "unknown status"],
)
def test_a_slide_without_result_says_why_and_what_to_do(tmp_path, status, message, shown):
    assert shown in report(tmp_path, [SlideResult("a", status, message=message)]).text


@pytest.mark.parametrize(
    "name",
    ["<script>alert(1)</script>", 'a" onload="x', "&amp; 'b' `c`", "🧬 切片", "{{ 7 * 7 }}"],
    ids=["script", "quote", "entity", "emoji", "template"],
)
def test_any_name_is_shown_as_it_is(tmp_path, name):
    row = a_result(name, message=name, warnings=(name,), patient_id=name)
    page = report(tmp_path, [row], run={"name": name}, pictures={name: {"overlay": a_picture(tmp_path / "o.png")}})
    assert page.text.count(" ".join(name.split())) >= 5 and len(page.all("script")) == 1
    assert page.all("img")[0]["alt"] == f"Probability map of {name}"
    assert not [key for _, attributes in page.elements for key in attributes if key.startswith("on")]


def test_a_name_that_is_no_text_does_not_stop_the_page(tmp_path):
    name = "a\udcff"
    pictures = {name: {"overlay": a_picture(tmp_path / "o.png")}}
    assert "a?" in report(tmp_path, [a_result(name)], pictures=pictures).text


def test_the_page_needs_no_network_and_links_only_beside_itself(tmp_path):
    (tmp_path / "maps").mkdir()
    path = a_picture(tmp_path / "maps" / "a #1 100%_overlay.png")
    page = report(tmp_path, [a_result()], pictures={"a": {"overlay": path, "tissue": path}})
    assert all(image["src"].startswith("data:image/jpeg;base64,") for image in page.all("img"))
    assert all((tmp_path / unquote(link["href"])).samefile(path) for link in page.all("a"))
    assert not page.all("link") and all("src" not in script for script in page.all("script"))
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "http:" not in text and "https:" not in text and "url(" not in text


def test_pictures_are_small_and_named(tmp_path):
    pictures = {"a": {"tissue": a_picture(tmp_path / "t.png"), "overlay": a_picture(tmp_path / "o.png", (600, 900))}}
    images = report(tmp_path, [a_result()], pictures=pictures).all("img")
    assert [(image["width"], image["height"]) for image in images] == [("320", "213"), ("213", "320")]
    assert [image["alt"] for image in images] == ["Thumbnail of a", "Probability map of a"]


def test_a_thumbnail_goes_before_the_tissue_picture(tmp_path):
    pictures = {"thumbnail": a_picture(tmp_path / "n.png"), "tissue": a_picture(tmp_path / "t.png")}
    links = report(tmp_path, [a_result()], pictures={"a": pictures}).all("a")
    assert [link["href"] for link in links] == ["n.png"]


def test_an_overlay_is_shown_without_the_page_around_it(tmp_path):
    tissue = a_tissue(np.ones((4, 8)))
    slide, extent = a_slide((128, 64)), an_extent(np.ones((2, 4)))
    path = draw_overlay(tmp_path / "o.png", tissue.thumbnail, tissue, extent, (), slide, title="a")
    image = report(tmp_path, [a_result()], pictures={"a": {"overlay": path}}).all("img")[0]
    assert (image["width"], image["height"]) == ("320", "160")


def test_a_picture_that_cannot_be_read_is_left_out(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    pictures = {"a": {"overlay": tmp_path / "broken.png", "tissue": tmp_path / "absent.png"}}
    page = report(tmp_path, [a_result()], pictures=pictures)
    assert not page.all("img") and "12.1 mm²" in page.text


def test_a_picture_with_a_hole_in_it_is_left_out(tmp_path):
    random = np.random.default_rng(0)
    Image.fromarray(random.integers(0, 256, (60, 90, 3), dtype=np.uint8)).save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    for start in range(8, len(whole), 509):
        (tmp_path / "holed.png").write_bytes(whole[:start] + bytes(256) + whole[start + 256 :])
        assert "12.1 mm²" in report(tmp_path, [a_result()], pictures={"a": {"overlay": tmp_path / "holed.png"}}).text


def test_a_thousand_slides_stay_within_ten_megabytes(tmp_path):
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(120, 240, (20, 20, 3), dtype=np.uint8)).resize((330, 330))
    noise.save(tmp_path / "o.png")
    rows = [a_result(f"s{k}") for k in range(1000)]
    both = {"overlay": tmp_path / "o.png", "tissue": tmp_path / "o.png"}
    bare, fifty = (
        write_report(tmp_path, rows, pictures={row.slide_id: both for row in rows[:n]}, run=RUN).stat().st_size
        for n in (0, 50)
    )
    assert bare < fifty and bare + 20 * (fifty - bare) < 10e6


def test_a_report_is_replaced_whole_and_leaves_nothing_beside_it(tmp_path):
    for _ in range(2):
        report(tmp_path, [a_result()])
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
