"""How patches are cut and put back: what a stage needs to know."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast, get_args

from bpr.refiner.model_config import ModelConfig, PatchSize

MAX_PATCH_SIZE = 1024  # pixels; the suppression of larger ones would take gigabytes

PASSES_NMS_IOU = 0.3
"""`nms_iou` of weights that refine in several passes, where nothing is set: with 0.45 they need
four tenths more patches and make no better masks (LOG.md, 2026-12-01)."""

Overlaps = Literal["avoid", "keep", "resolve"]
"""What becomes of pixels that several refined masks claim; see `PatchSettings.overlaps`."""


@dataclass(frozen=True, kw_only=True)
class PatchSettings:
    """Size, density and rule of boundary patches."""

    patch_size: PatchSize = None
    """P, side in image pixels, even; None lets it follow the object (`patch_size_for`), "passes"
    refines in several passes from wide to narrow (pipeline/chain.py), for weights made for it."""
    padding: int = 0
    """Context in image pixels added around a patch for the network, cut off afterwards."""
    nms_iou: float = 0.45
    """Overlap (intersection over union) from which on the weaker patch is dropped, in (0, 1]."""
    compat: bool = False
    """Reproduce the reference implementation bit for bit, accidents included."""
    overlaps: Overlaps = "avoid"
    """avoid: masks that did not overlap before refining do not overlap after it (not with compat,
    where they may); resolve: each pixel belongs to one mask; keep: masks may overlap."""
    soft: bool = False
    """Give refined instances their probabilities (`Instance.soft`) too."""

    @classmethod
    def chosen(
        cls,
        patch_size: int | str | None,
        padding: int | None,
        *,
        default_size: PatchSize,
        default_padding: int,
        nms_iou: float | None,
        compat: bool,
    ) -> PatchSettings:
        """The settings that a user asks for, with the defaults of the weights.

        Args:
            patch_size: pixels; "auto" follows the object; None takes `default_size`.
            padding: pixels; None takes `default_padding`.
            default_size: of the weights.
            default_padding: of the weights.
            nms_iou: see the field; None takes PASSES_NMS_IOU where there are several passes, else
                the field's default.
            compat: see the field.

        Raises:
            ValueError: a value out of range.
        """
        asked = default_size if patch_size is None else patch_size
        if nms_iou is None:
            nms_iou = PASSES_NMS_IOU if asked == "passes" else cls.nms_iou
        return cls(
            patch_size=None if asked == "auto" else cast(PatchSize, asked),
            padding=default_padding if padding is None else padding,
            nms_iou=nms_iou,
            compat=compat,
        )

    @classmethod
    def of_weights(cls, config: ModelConfig, nms_iou: float | None = None) -> PatchSettings:
        """What weights were made for; `nms_iou` as for `chosen`."""
        return cls.chosen(
            None,
            None,
            default_size=config.patch_size,
            default_padding=config.padding,
            nms_iou=nms_iou,
            compat=False,
        )

    def __post_init__(self) -> None:
        size = self.patch_size
        if size not in (None, "passes") and (
            not isinstance(size, int) or not 0 < size <= MAX_PATCH_SIZE or size % 2
        ):
            raise ValueError(f"patch_size: expected an even int in 2..{MAX_PATCH_SIZE}, got {size}")
        if not isinstance(size, int) and self.compat:
            raise ValueError(
                "patch_size: expected a number with compat (--patch-size 64), got "
                f"{'auto' if size is None else size}"
            )
        if not 0 <= self.padding <= MAX_PATCH_SIZE:
            raise ValueError(f"padding: expected an int in 0..{MAX_PATCH_SIZE}, got {self.padding}")
        if self.overlaps not in get_args(Overlaps):
            names = ", ".join(get_args(Overlaps))
            raise ValueError(f"overlaps: expected one of {names}, got {self.overlaps!r}")
        if not 0 < self.nms_iou <= 1:
            raise ValueError(f"nms_iou: expected a number in (0, 1], got {self.nms_iou}")
