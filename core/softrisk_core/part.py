"""What every part of a manifest is: unchangeable, without unknown fields, and silent about what older readers lack."""

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

Positive = Annotated[int, Field(gt=0)]


class Part(BaseModel):
    """A part of `manifest.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    unsaid: ClassVar[frozenset[str]] = frozenset()
    """Fields younger than their part, left out while they say nothing new: a reader from before them refuses the
    field, but can read every bundle that has none."""

    @model_serializer(mode="wrap")
    def _fields(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = handler(self)
        for name in self.unsaid:
            if getattr(self, name) == type(self).model_fields[name].default:
                del fields[name]
        return fields
