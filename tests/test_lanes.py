"""What a GPU worker keeps loaded: the model that was asked for, and no other."""

from types import SimpleNamespace

import pytest

from wsi_pipeline.errors import ModelError
from wsi_pipeline.pipeline.lanes import Recipe, make_ready


def test_a_file_of_another_model_is_not_kept_for_the_one_that_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    there = ["old", "new", "never loaded"]
    monkeypatch.setattr(Recipe, "open", lambda self: SimpleNamespace(id=there.pop(0)))
    recipe = Recipe("on a shared disk", device="cuda:0", batch=None, resample=False)
    with pytest.raises(ModelError, match="is model old on a worker and new here; give all the same file"):
        make_ready(recipe, "new")
    make_ready(recipe, "new")  # the file is right by now
    make_ready(recipe, "new")
    assert there == ["never loaded"]
