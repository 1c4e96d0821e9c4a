"""Choices of the matching queries: parameters, or proposals of the encoder."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, Tag, model_validator

from dabdetr.config.base import Section, kinds


class LearnedQueries(Section):
    """Queries that are parameters: an anchor each (or a plain positional query), and content."""

    kind: Literal["learned"] = "learned"
    count: int = Field(default=300, ge=1, description="number of queries: most objects found")
    anchor: Literal["box", "point"] | None = Field(
        default="box", description="point or null: the positional query is learned as such"
    )
    point_layers: int = Field(default=2, ge=1, description="of the map: positional query → point")
    content: Literal["zeros", "learned", "unknown"] = Field(
        default="zeros", description="unknown: the row of denoising's label table for no class"
    )
    patterns: int = Field(default=0, ge=0, description="contents tried at every anchor; 0: none")
    start: Literal["normal", "uniform", "uniform_small"] = Field(
        default="normal",
        description="initial anchors: N(0,1) logits; uniform centres; and small sizes too",
    )
    fixed_centres: bool = Field(
        default=False, description="anchors keep their first centres; sizes are learned"
    )

    @model_validator(mode="after")
    def _boxes(self) -> Self:
        if self.fixed_centres and self.anchor != "box":
            raise ValueError(
                f"queries.fixed_centres is true and queries.anchor is {self.anchor!r}: only boxes "
                "have a centre and a size; set queries.anchor to 'box' or fixed_centres to false"
            )
        return self

    @model_validator(mode="after")
    def _one_content(self) -> Self:
        if self.patterns and self.anchor != "box":
            raise ValueError(
                f"queries.patterns is {self.patterns} and queries.anchor is {self.anchor!r}: only "
                "boxes are asked with several patterns; set queries.anchor to 'box'"
            )
        if self.patterns and self.content == "learned":
            raise ValueError(
                f"queries.patterns is {self.patterns} and queries.content is {self.content!r}: "
                "patterns are the content; set queries.content to 'zeros' or queries.patterns to 0"
            )
        return self


class EncoderQueries(Section):
    """Queries that the encoder proposes: its best tokens, each with a box (two-stage)."""

    kind: Literal["from_encoder"] = "from_encoder"
    count: int = Field(default=900, ge=1, description="number of proposals that become queries")
    content: Literal["learned", "box", "token"] = Field(
        default="learned",
        description="learned: a table (mixed query selection); box: made, as the positional query "
        "is, of the proposed box; token: the token that proposes",
    )
    rank: Literal["classes", "objectness", "object"] = Field(
        default="classes",
        description="what makes a token good: its best class; the first logit alone, which then "
        "learns of any object from all tokens; or a head of one class, object, that learns from "
        "the chosen tokens and serves any set of classes",
    )
    distinct: bool = Field(
        default=False,
        description="tokens that score less than a neighbour of their level propose only where "
        "there are too few others: proposals do not start as twins",
    )

    @property
    def anchor(self) -> Literal["box"]:
        """Proposals are boxes."""
        return "box"

    @property
    def patterns(self) -> int:
        """Proposals are asked once each."""
        return 0


QueriesKind = Annotated[
    Annotated[LearnedQueries, Tag("learned")] | Annotated[EncoderQueries, Tag("from_encoder")],
    kinds("learned", "from_encoder"),
]
