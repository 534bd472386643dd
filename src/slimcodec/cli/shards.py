"""slimcodec shards: a folder of photos → shards, for training on more photos than fit into memory."""

import argparse
import sys
from pathlib import Path
from typing import Any

from slimcodec.cli.options import add_verb, count
from slimcodec.cli.streams import write
from slimcodec.cli.studies import extra_packages

MEGABYTE = 10**6
EXAMPLES = """examples:
  slimcodec shards photos/ shards/
  slimcodec shards photos/ shards/ --store pixels --max-pixels 1000000

Stopped, the same command goes on. Training reads what it wrote with
  python run.py experiment=photos data=shards data.root=shards/"""


def add(verbs: Any) -> None:
    help = "a folder of photos → shards, for training on more photos than fit into memory"
    verb = add_verb(verbs, "shards", run, help=help, examples=EXAMPLES)
    verb.add_argument("data", metavar="PHOTOS", help="a folder of photos, with all its folders")
    verb.add_argument("out", metavar="OUT", help="the folder that the shards go to")
    verb.add_argument(
        "--store",
        choices=("files", "pixels"),
        default="files",
        help="files as they are (default), or decoded pixels: 3 bytes each, and much faster to train on",
    )
    verb.add_argument("--max-pixels", type=count, metavar="N", help="downscale larger photos to so many pixels")
    verb.add_argument(
        "--shard-size", type=count, default=1000, metavar="MB", help="megabytes of a shard (default: %(default)s)"
    )
    verb.add_argument("--jobs", type=count, metavar="N", help="photos that are decoded at a time (default: one a core)")


def run(options: argparse.Namespace) -> int:
    with extra_packages("writing shards"):
        from slimcodec.training.sharding import write_shards
        from slimcodec.training.shards import open_shards

        progress = write_shards(
            options.data,
            options.out,
            store=options.store,
            max_pixels=options.max_pixels,
            shard_bytes=options.shard_size * MEGABYTE,
            threads=options.jobs,
        )
        for shard in progress:
            if not sys.stderr.isatty():  # a terminal shows a bar
                of_shard = f"{shard.shard}  {shard.photos:,} photos  {shard.bytes / MEGABYTE:,.1f} MB"
                write(f"{of_shard}  {shard.done:,} of {shard.source_photos:,} done")
                sys.stdout.flush()
        write(f"{Path(options.out)}: {len(open_shards(options.out)):,} photos")
        return 0
