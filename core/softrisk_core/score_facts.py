"""What a manifest says about the score: which one, what it was fitted to, and among what it was chosen."""

from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from softrisk_core.errors import CalibrationError
from softrisk_core.part import Part, Positive
from softrisk_core.probes import PROBES
from softrisk_core.scores.catalogue import find_score


class GatePoint(Part):
    """What probing a share of the traffic costs and brings."""

    passes: Annotated[float, Field(ge=1)]
    """Forward passes for a clean input, nominally: 1 + share · P for the share that the gate was made to leave
    undecided, and P probes."""
    worst: Annotated[float, Field(ge=0, le=1)]
    """Detected share of an attack at 5 % false alarms: of the attack where it is least, and …"""
    mean: Annotated[float, Field(ge=0, le=1)]
    """… on average."""


class ProbeFacts(Part):
    """When and how inputs are probed."""

    mode: Literal["auto", "always"]
    """`auto`: where the score without probes is undecided."""
    names: Annotated[tuple[str, ...], Field(min_length=1)]
    """Some of `softrisk_core.probes.PROBES`: declared to keep the labels of this model's inputs."""
    passes: Annotated[float, Field(ge=1)]
    """Forward passes for a clean input, on average over the calibration rows."""
    curve: tuple[GatePoint, ...] = ()
    """Among which gates `auto` was chosen, on rows of their own, each attack judged without its family.

    With one family there is none to leave out: then the curve says nothing about attacks of another.
    """

    @field_validator("names")
    @classmethod
    def _probes_are_known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if names != tuple(name for name in PROBES if name in names):
            raise ValueError(f"probes are some of {', '.join(PROBES)}, in this order, got {', '.join(names)}")
        return names


class Candidate(Part):
    """A score that could have been chosen."""

    score: str
    worst: Annotated[float, Field(ge=0, le=1)]
    """Detected share of an attack at 5 % false alarms: of the attack where it is least."""
    attack: str
    """That attack."""
    mean: Annotated[float, Field(ge=0, le=1)]
    """The same on average over all attacks."""


class Choice(Part):
    """Among what a score was chosen, and by what.

    Each attack was judged by scores that were fitted without any of its family, on rows that fitted nothing; the score
    with the largest `worst` was taken, among equal ones that with the largest `mean`. In the mode `auto` the score
    `probed` was judged behind its gate.
    """

    rows: Positive
    """Clean ones that fixed the limit of each score."""
    families: tuple[str, ...]
    candidates: Annotated[tuple[Candidate, ...], Field(min_length=1)]


class Nonconformity(Part):
    """The score whose rank is the risk. What was fitted for it is in `score.npz`.

    One side of one diagnostic is written as `{"diagnostic": …, "strange": "low" | "high"}`, as in format 1; any other
    score as `{"score": …}`, from format 3 on with what it was fitted to and chosen among, and its probes.
    """

    score: str
    families: tuple[str, ...] = ()
    """Of the attacks that it was fitted to; none for what needs no attacks."""
    probes: ProbeFacts | None = None
    choice: Choice | None = None
    """None where somebody named the score."""
    features: Annotated[str, Field(min_length=1)] | None = None
    """The classifier's own name for the tensor whose values the score reads; None where it reads logits."""

    @model_validator(mode="before")
    @classmethod
    def _one_side_of_a_diagnostic(cls, fields: Any) -> Any:
        if isinstance(fields, dict) and {"diagnostic", "strange"} <= fields.keys():
            if fields["strange"] not in ("low", "high"):
                raise ValueError(f"strange must be 'low' or 'high', got {fields['strange']!r}")
            score = f"{fields['diagnostic']}:{fields['strange']}"
            return {"score": score, **{key: fields[key] for key in fields.keys() - {"diagnostic", "strange"}}}
        return fields

    @field_validator("score")
    @classmethod
    def _score_is_known(cls, name: str) -> str:
        try:
            find_score(name)
        except CalibrationError as error:
            raise ValueError(str(error)) from error
        return name

    @model_validator(mode="after")
    def _probes_belong_to_the_score(self) -> "Nonconformity":
        if (self.probes is not None) != (self.score == "probed"):
            raise ValueError("the score 'probed' has probes, and no other")
        return self

    @model_validator(mode="after")
    def _features_belong_to_the_score(self) -> "Nonconformity":
        if (self.features is not None) != (find_score(self.score).needs == "features"):
            raise ValueError("scores of features name their tensor, and no other does")
        return self

    @model_serializer(mode="wrap")
    def _fields(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # One side of a diagnostic as in format 1, and nothing that is not there.
        fields: dict[str, Any] = {name: value for name, value in handler(self).items() if value}
        diagnostic, _, side = self.score.partition(":")
        if side in ("low", "high"):
            del fields["score"]
            return {"diagnostic": diagnostic, "strange": side, **fields}
        return fields

    @property
    def format_version(self) -> Literal[1, 2, 3]:
        """The oldest format that can say it."""
        if self.families or self.probes or self.choice or find_score(self.score).needs in ("features", "attacks"):
            return 3
        return 1 if self.score.endswith((":low", ":high")) else 2

    def __str__(self) -> str:
        diagnostic, _, side = self.score.partition(":")
        name = {"low": f"−{diagnostic}", "high": diagnostic}.get(side, self.score)
        if self.features is not None:
            return f"{name} of {self.features}"
        return name if self.probes is None else f"{name}, {self.probes.mode}: {', '.join(self.probes.names)}"
