"""Measurements as text: three digits, units, no exponent, a dash where there is nothing."""

from math import nan

import pytest

from wsi_pipeline.maps.wording import say_area, say_length, say_number, say_share, say_span, say_time


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (6e-5, "0.00006"), (0.09996, "0.1"), (1, "1"), (12.14, "12.1"), (1234, "1,234"), (nan, "–")],
)
def test_numbers_have_three_digits_and_no_exponent(value, text):
    assert say_number(value) == text


@pytest.mark.parametrize(("um", "text"), [(416.2, "416 µm"), (1000, "1 mm"), (2974, "2.97 mm"), (nan, "–")])
def test_lengths_turn_to_millimetres_at_a_thousand_micrometres(um, text):
    assert say_length(um).replace("\N{NO-BREAK SPACE}", " ") == text


def test_units_never_part_from_their_number():
    assert say_area(1.5) == "1.5\N{NO-BREAK SPACE}mm²" and say_share(0.0765) == "7.65\N{NO-BREAK SPACE}%"


def test_areas_smaller_than_any_cell_are_not_counted_out_in_digits():
    assert say_area(1.6e-12) == "0\N{NO-BREAK SPACE}mm²"
    assert say_area(3.64e-9).replace("\N{NO-BREAK SPACE}", " ") == "< 0.0001 mm²"
    assert say_span(0, 3.64e-9, unit="mm²").replace("\N{NO-BREAK SPACE}", " ") == "0 to < 0.0001 mm²"


def test_an_interval_with_an_unknown_end_is_not_said():
    assert say_span(1, nan, unit="mm²") == "" and say_span(1, 2, unit="%").startswith("1 to 2")


@pytest.mark.parametrize(("seconds", "text"), [(42, "42 s"), (180, "3 min"), (9000, "2.5 h"), (nan, "–")])
def test_times_are_said_in_a_unit_of_their_size(seconds, text):
    assert say_time(seconds).replace("\N{NO-BREAK SPACE}", " ") == text
