"""What is counted and learned on photos once a student's networks stand, and is in its tables then.

    tables of r    how often each residual comes, as its encoder chooses them (training/calibrate)
    banks of z     tables that the neighbours choose (training/banks)
    corrections    what pictures may change about g_s.head (training/corrections)
    filters        how pictures may be filtered once they are decoded with these (training/bilateral)

The networks stay as they are. Only the gains of a model that is to quantise dependently become other ones. A model
that is trained on begins without banks, corrections and filters, which follow them. Only where it is trained on as its
files are (training.as_in_files=both or all) does it keep a second quantiser.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from slimcodec import InvalidInput
from slimcodec.codec.adapt import BASIS
from slimcodec.codec.grid import CELL
from slimcodec.codec.models import Model
from slimcodec.training import bilateral
from slimcodec.training.banks import hyper_latents, with_banks
from slimcodec.training.calibrate import calibrated
from slimcodec.training.corrections import learned
from slimcodec.training.names import TABLES
from slimcodec.training.photos import Photo, centre_crops

CORRECTED = "corrections", "corrections of parts"  # what is learned in turn
Tell = Callable[[str, int, int], None]


def with_everything(
    model: Model,
    crops: Tensor,
    photos: Sequence[np.ndarray],
    corrections: int,
    filters: int,
    tell: Tell,
    kinds: Sequence[str] = TABLES,
) -> Model:
    """A model with tables of all kinds, for dependent quantisation if it has any for that.

    crops        [B, 3, H, W] in [0, 1], which residuals are counted on
    photos       uint8 [H, W, 3], sides multiples of 64: for all but residuals
    corrections  how many
    filters      how many, or 0 for none
    tell         tell(what, photos so far, photos in all)
    kinds        those that are made anew

    Raises InvalidInput for filters of a model that has no corrections: they are learned for pictures with these.
    """
    if filters and "filters" in kinds and "corrections" not in kinds and BASIS not in model.tables:
        raise InvalidInput(f"finish.tables.kinds: {model.directory.name} has no corrections; add them to the kinds")
    if "residuals" in kinds:
        model = model._replace(tables=calibrated(model.codec, model.tables, crops))
    if "banks" in kinds:
        model = model._replace(tables=with_banks(model.tables, hyper_latents(model.codec, _tensors(photos, tell))))
    if "corrections" in kinds:
        model = model._replace(tables=learned(model, *(_told(what, photos, tell) for what in CORRECTED), corrections))
    if "filters" in kinds:
        model = model._replace(tables={name: table for name, table in model.tables.items() if name != bilateral.BASIS})
        if filters:
            model = model._replace(tables=bilateral.learned(model, _told("filters", photos, tell), filters))
    return model


def crops_to_learn_from(photos: Sequence[Photo], side: int, limit: int | None) -> list[np.ndarray]:
    """The middle of photos that are evenly spaced, uint8 [H, W, 3], as large as `side` and the photo allow."""
    large = [photo for photo in photos if min(photo.pixels.shape[:2]) >= CELL]
    chosen = large if limit is None else large[:: max(1, len(large) // limit)][:limit]
    cropped = [pixels for _, pixels in centre_crops(chosen, side)]
    return [pixels[: len(pixels) // CELL * CELL, : pixels.shape[1] // CELL * CELL] for pixels in cropped]


def _tensors(photos: Sequence[np.ndarray], tell: Tell) -> Iterator[Tensor]:
    for pixels in _told("banks", photos, tell):
        yield torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None] / 255


def _told(what: str, photos: Sequence[np.ndarray], tell: Tell) -> Iterator[np.ndarray]:
    for done, pixels in enumerate(photos, start=1):
        yield pixels
        tell(what, done, len(photos))
