"""Card: what gives a checkpoint's weights their meaning, as the text of `card.json`."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from wsi_pipeline.errors import ModelError
from wsi_pipeline.learn.model.architectures import MIN_INPUT_PX

RESEARCH_USE = "Research use only. Not a medical device; not for diagnosis."
Kind = Literal["histology", "chest_xray", "retina", "skin", "plain"]  # of images
Fit = Literal["pad", "crop", "circle"]  # how an image is brought to a square
_Share = Annotated[float, Field(gt=0, lt=1)]
_Positive = Annotated[float, Field(gt=0)]
_Probability = Annotated[float, Field(ge=0, le=1)]


class Card(BaseModel):
    """card.json: every field but `note` and `about` is part of the checkpoint's id, unless at its default.

    A new field needs a default that means what cards without it meant: their ids then stay as they were.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    version: Literal[1] = 1
    arch: str
    class_names: tuple[Annotated[str, Field(min_length=1)], ...] = Field(min_length=1)
    positive: tuple[str, ...]
    exclusive: bool
    input_px: int = Field(ge=MIN_INPUT_PX, le=4096)
    in_channels: Literal[1, 3] = 3
    mpp: Annotated[float, Field(ge=0.05, le=20)] | None
    mean: tuple[float, ...]
    std: tuple[_Positive, ...]
    prior: tuple[_Share, ...] | None = None
    temperature: float = Field(1.0, gt=0)
    threshold: _Probability = 0.5
    thresholds: tuple[_Probability, ...] | None = None
    kind: Kind = "plain"
    fit: Fit = "pad"
    ordinal: bool = False
    ranges: dict[str, tuple[float, float]] | None = None
    note: str = Field("", pattern=r"^[^\r\n]*$")
    about: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _agree(self) -> "Card":
        names, unknown = self.class_names, sorted(set(self.positive) - set(self.class_names))
        if len(set(names)) < len(names):
            raise ValueError(f"class_names {list(names)} has a name twice")
        if unknown:
            raise ValueError(f"positive names {unknown}, which are not in class_names {list(names)}")
        if self.exclusive and len(names) < 2:
            raise ValueError("exclusive needs two classes: a softmax over one is always 1")
        if not len(self.mean) == len(self.std) == self.in_channels:
            raise ValueError(f"{len(self.mean)} means, {len(self.std)} stds for {self.in_channels} channels")
        if self.exclusive and self.ordinal:
            raise ValueError("exclusive and ordinal: grades are learned as cumulative tasks, a sigmoid each")
        if any(low > high for low, high in (self.ranges or {}).values()):
            raise ValueError("ranges has one whose least value is above its most")
        for field in ("prior", "thresholds"):
            values = getattr(self, field)
            if values is not None and len(values) != len(names):
                raise ValueError(f"{field} has {len(values)} values for {len(names)} classes")
        return self


def parse_card(fields: Mapping[str, Any]) -> Card:
    """The card of these fields; ModelError names each field that is missing, unknown or out of range."""
    try:
        return Card.model_validate(fields)
    except ValidationError as error:
        words = (f"{'.'.join(map(str, e['loc'])) or 'card'}: {e['msg']}" for e in error.errors())
        raise ModelError(f"the card does not hold: {'; '.join(words)}") from None
