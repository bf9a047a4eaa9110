"""The families, by the name that a config's `family` field gives."""

from __future__ import annotations

from gen.families.base import Family
from gen.families.flow_scale import FlowScale
from gen.families.masked import Masked
from gen.families.next_neighbour import NextNeighbour
from gen.families.next_scale import NextScale
from gen.families.next_token import NextToken

FAMILIES: dict[str, type[Family]] = {
    "flow_scale": FlowScale,
    "masked": Masked,
    "next_neighbour": NextNeighbour,
    "next_scale": NextScale,
    "next_token": NextToken,
}
