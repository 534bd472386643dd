"""Every width that can be pruned, and what it costs: arithmetic on architectures, for which PyTorch is not needed.

Every prunable width has a path, and `Architecture` and layers agree on them:

    g_a.1       trunk of the second level of g_a        h_mean.2     the third width of h_mean, P
    g_s.0.2     hidden width of the third block there   context.3    hidden width of the fourth context stage
    latent      M                                       hyper        N
"""

import dataclasses
import math
from collections.abc import Sequence

from slimcodec.codec.architecture import Architecture, Level
from slimcodec.codec.blocks import GROUPS, QUARTERS, is_grouped
from slimcodec.codec.complexity import decoder_macs_per_pixel, encoder_macs_per_pixel

LOWEST_SHARE_OF_WIDTH = 0.5  # that one round leaves of any width
COUNTS = {"decoder": decoder_macs_per_pixel, "encoder": encoder_macs_per_pixel}
# What each scope may prune. Latents cost on both sides; they belong to the decoder, whose context they fill.
PARTS = {"decoder": ("g_s", "h_mean", "context", "h_scale", "latent", "hyper"), "encoder": ("g_a", "h_a")}
DEFAULT_FLOOR = 8


def widths(architecture: Architecture) -> dict[str, int]:
    """Path → width, of everything that can be pruned."""
    found = {"latent": architecture.latents, "hyper": architecture.hypers}
    for part in ("g_a", "g_s"):
        for number, level in enumerate(getattr(architecture, part)):
            found[f"{part}.{number}"] = level.channels
            found |= {f"{part}.{number}.{block}": spec.hidden for block, spec in enumerate(level.blocks)}
    for part in ("h_a", "h_scale", "h_mean", "context"):
        found |= {f"{part}.{number}": width for number, width in enumerate(getattr(architecture, part))}
    return found


def resized(architecture: Architecture, new: dict[str, int]) -> Architecture:
    """The architecture with these widths. Of latents and hyper-latents the first channels are kept."""
    values = widths(architecture) | new

    def levels(part: str) -> tuple[Level, ...]:
        return tuple(
            dataclasses.replace(
                level,
                channels=values[f"{part}.{number}"],
                blocks=tuple(
                    dataclasses.replace(spec, hidden=values[f"{part}.{number}.{block}"])
                    for block, spec in enumerate(level.blocks)
                ),
            )
            for number, level in enumerate(getattr(architecture, part))
        )

    lists = {
        part: tuple(values[f"{part}.{number}"] for number in range(len(getattr(architecture, part))))
        for part in ("h_a", "h_scale", "h_mean", "context")
    }
    return dataclasses.replace(
        architecture,
        g_a=levels("g_a"),
        g_s=levels("g_s"),
        latent_channels=architecture.latent_channels[: values["latent"]],
        hyper_channels=architecture.hyper_channels[: values["hyper"]],
        **lists,
    )


def multiple(architecture: Architecture, path: str) -> int:
    """What a width is a multiple of: 8 at 1/16 and 1/8 of the resolution, which suits vector units, and 4 elsewhere."""
    part, *place = path.split(".")
    at_eighth = part in ("g_a", "g_s") and getattr(architecture, part)[int(place[0])].scale in (8, 16)
    return 8 if at_eighth or part == "latent" else 4


def equal_parts(architecture: Architecture, path: str) -> int:
    """Into how many parts a width falls that must lose equally many channels: grouped convolutions see halves."""
    part, *place = path.split(".")
    if part not in ("g_a", "g_s"):
        return 1
    level = getattr(architecture, part)[int(place[0])]
    if len(place) == 2:
        return QUARTERS if is_grouped(level.blocks[int(place[1])].kind) else 1
    return GROUPS if any(is_grouped(block.kind) for block in level.blocks) else 1


def lowest_macs_per_pixel(
    architecture: Architecture,
    *,
    scope: str,
    floors: dict[str, int],
    pruned: Sequence[str] = (),
    lowest_share: float = 0.0,
) -> float:
    """The least MAC/pixel that pruning can bring the scope's side to above the floors, in any number of rounds.

    pruned        scopes that are pruned before this one, down to their own floors
    lowest_share  of each width that is left at least; LOWEST_SHARE_OF_WIDTH gives the least of a single round
    """
    parts = [part for each in (scope, *pruned) for part in PARTS[each]]
    lowest = {}
    for path, width in widths(architecture).items():
        if path.split(".")[0] in parts:
            chunk = multiple(architecture, path)
            least = max(1, floor(path, floors), lowest_share * width)
            lowest[path] = min(width, chunk * math.ceil(least / chunk))  # as many whole chunks, or not pruned at all
    return COUNTS[scope](resized(architecture, lowest))


def floor(path: str, floors: dict[str, int]) -> int:
    """The least that a width may become: the floor of its own path, or else of its part."""
    return floors.get(path, floors.get(path.split(".")[0], DEFAULT_FLOOR))
