"""The .slim file: pinned bytes, tiles, chunks, and one clear line for whatever is wrong with a file."""

import tracemalloc
import zlib

import pytest

from slimcodec import InvalidFile, InvalidInput
from slimcodec.codec import bitstream, grid
from slimcodec.codec.bitstream import HEADER_BYTES, Adapted, Contents, Header, pack, unpack

HEADER = Header(model_hash=bytes(range(8)), width=768, height=512, quality=4 * 256 + 128)
PAYLOAD = b"payload"
GOLDEN = bytes.fromhex(
    "534c494d 02 00 0001020304050607"  # SLIM, version, flags, model hash
    "0003 0002 8004 00 a54c4e53"  # 768 x 512, quality 4.5, untiled, checksum
    "07000000 7061796c6f6164"  # the size of the only stream, and it
)

CORRECTION = b"\x2a\x0b\x02"
CORRECTED = bytes.fromhex(
    "534c494d 03 00 0001020304050607"  # version 3
    "0003 0002 8004 00 6e99cc1d"
    "0b000000 03 2a0b02 7061796c6f6164"  # the stream with the length of the correction, and it, at its front
)

SMALLER_HEADER = HEADER._replace(quarters=2)
SMALLER = bytes.fromhex(
    "534c494d 05 00 0001020304050607"  # version 5
    "0003 0002 8004 00 cafc3966 0b"  # two quarters, a correction and a map
    "10000000 03 2a0b02 04 6d617073 7061796c6f6164"  # the correction, the map, each with its length, the stream
)

# Everything there can be, with chunks as zlib "compresses" them at level 0: other zlibs compress to other bytes.
FULL_HEADER = Header(bytes(8), width=3, height=65, quality=256, tile=1, grey=True)
FULL_STREAMS = [b"first", b"second"]
ICC, EXIF, ALPHA = b"icc", b"", bytes(range(195))
FULL = bytes.fromhex(
    "534c494d 02 0f 0000000000000000 0300 4100 0001 01 e0196c73"
    "0e000000 0b000000 ce000000 05000000 06000000"  # sizes of ICC, EXIF, alpha, two streams
    "7801 01 0300fcff 696363 02670130"  # ICC: one stored block
    "7801 01 0000ffff 00000001"  # EXIF: an empty one
    f"7801 01 c3003cff {ALPHA.hex()} dd1549e4"
    "6669727374 7365636f6e64"
)
FIRST_STREAM = len(FULL) - 11

SMALL = HEADER._replace(width=3, height=2)


def with_bytes(data, at, new):
    return data[:at] + new + data[at + len(new) :]


def sealed(data):
    """The same file with the right checksum."""
    checksum = zlib.crc32(data[HEADER_BYTES:], zlib.crc32(data[: HEADER_BYTES - 4]))
    return with_bytes(data, HEADER_BYTES - 4, checksum.to_bytes(4, "little"))


def with_chunk(name, compressed):
    """A picture of 3 x 2 pixels whose chunk holds these bytes, compressed by somebody else."""
    data = pack(SMALL, [b""])
    flag = bytes([{"icc": 2, "exif": 4, "alpha": 8, "xmp": 16, "bit 5": 32, "bit 6": 64, "bit 7": 128}[name]])
    sizes = len(compressed).to_bytes(4, "little") + bytes(4)
    return sealed(with_bytes(data[:HEADER_BYTES], 5, flag) + sizes + compressed)


def peak_bytes(call, *arguments, **keywords):
    """What a call that raises InvalidFile allocates at most."""
    tracemalloc.start()
    try:
        with pytest.raises(InvalidFile):
            call(*arguments, **keywords)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# ---- the format


def test_golden_file():
    assert pack(HEADER, [PAYLOAD]).hex() == GOLDEN.hex()
    assert unpack(GOLDEN) == Contents(HEADER, [PAYLOAD], {}, True)


def test_golden_file_with_a_correction():
    assert pack(HEADER, [PAYLOAD], CORRECTION).hex() == CORRECTED.hex()
    assert unpack(CORRECTED) == Contents(HEADER, [PAYLOAD], {}, True, CORRECTION)


def test_golden_file_of_a_smaller_picture():
    assert pack(SMALLER_HEADER, [PAYLOAD], CORRECTION, b"maps").hex() == SMALLER.hex()
    assert unpack(SMALLER) == Contents(SMALLER_HEADER, [PAYLOAD], {}, True, CORRECTION, b"maps")


@pytest.mark.parametrize("correction", [b"", CORRECTION])
@pytest.mark.parametrize("cell_map", [None, b"", b"maps"])
@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_smaller_picture_has_whatever_others_have(quarters, cell_map, correction):
    header, alpha = FULL_HEADER._replace(quarters=quarters, height=300), bytes(900)
    streams = [b"first", b"second", b"third", b"fourth"][: header.tiles[0]]
    data = pack(header, streams, correction, cell_map, icc=ICC, alpha=alpha)
    contents = unpack(data)
    assert contents[:2] == (header, streams) and contents.complete and contents.adapted == Adapted(correction, cell_map)
    assert data[4] == 5 and data[HEADER_BYTES] == bool(correction) + 2 * (cell_map is not None) + 4 * quarters
    assert contents.chunk("alpha") == alpha  # as many as are shown


def test_features_of_no_smaller_picture_are_read():
    """Nobody writes them so, and they mean what they say."""
    data = sealed(with_bytes(GOLDEN[:HEADER_BYTES], 4, b"\5") + b"\0" + GOLDEN[HEADER_BYTES:])
    assert unpack(data) == unpack(GOLDEN)


@pytest.mark.parametrize("correction", [b"", b"correction"])
@pytest.mark.parametrize("quarters", [1, 4])
def test_long_paths_are_a_feature_of_any_file(quarters, correction):
    header = HEADER._replace(quarters=quarters, long_paths=True)
    data = pack(header, [PAYLOAD], correction, icc=ICC)
    assert data[4] == 5 and data[HEADER_BYTES] == bool(correction) + 4 * (quarters % 4) + 128
    contents = unpack(data)
    assert contents[:2] == (header, [PAYLOAD]) and contents.correction == correction and contents.chunk("icc") == ICC


@pytest.mark.parametrize(("tile", "side"), [(0, 4), (1, 1), (2, 2), (3, 1), (4, 4), (6, 2), (32, 4), (255, 1)])
def test_tiles_are_made_of_blocks(tile, side):
    assert HEADER._replace(tile=tile, long_paths=True).block == side
    assert HEADER._replace(tile=tile).block == 1


@pytest.mark.parametrize("cell_map", [None, b"", b"maps"])
@pytest.mark.parametrize("quarters", [1, 3, 4])
@pytest.mark.parametrize(("corrections", "correction_map"), [(b"\1a\1b", b""), (200 * b"\1a", 300 * b"m"), (b"", b"")])
def test_several_corrections_and_their_map_are_in_front(quarters, cell_map, corrections, correction_map):
    header = HEADER._replace(quarters=quarters)
    data = pack(header, [PAYLOAD], corrections, cell_map, correction_map, icc=ICC)
    contents = unpack(data)
    assert contents[:2] == (header, [PAYLOAD]) and contents.complete
    assert contents.adapted == Adapted(corrections, cell_map, correction_map)
    assert data[4] == 5 and data[HEADER_BYTES] == 16 + 2 * (cell_map is not None) + 4 * (quarters % 4)
    front = len(data) - len(PAYLOAD)
    for length in range(front - len(correction_map) - 1, front - (0 if cell_map is None else 1 + len(cell_map))):
        with pytest.raises(InvalidFile, match=r"it ends before its (map of corrections does|corrections do)$"):
            unpack(data[:length], allow_partial=True)


@pytest.mark.parametrize("correction_map", [None, b"map"])
@pytest.mark.parametrize(("filters", "filter_map"), [(b"ab", b""), (300 * b"q", 300 * b"m")])
def test_several_filters_and_their_map_are_behind_corrections(filters, filter_map, correction_map):
    data = pack(HEADER, [PAYLOAD], b"\1a", None, correction_map, filters, filter_map)
    contents = unpack(data)
    assert contents.streams == [PAYLOAD] and contents.adapted == Adapted(
        b"\1a", None, correction_map, filters, filter_map
    )
    assert data[4] == 5 and data[HEADER_BYTES] == 64 + (1 if correction_map is None else 16)
    front = len(data) - len(PAYLOAD)
    for length in range(front - len(filter_map) - 1, front):
        with pytest.raises(InvalidFile, match=r"it ends before its (map of filters does|filters' coefficients do)$"):
            unpack(data[:length], allow_partial=True)


def test_one_filter_and_several_are_too_many():
    with pytest.raises(InvalidFile, match="one filter, and that it has several"):
        unpack(sealed(with_bytes(SMALLER, HEADER_BYTES, b"\x60")))


def test_one_correction_and_several_are_too_many():
    with pytest.raises(InvalidFile, match="one correction, and that it has several"):
        unpack(sealed(with_bytes(SMALLER, HEADER_BYTES, b"\x11")))


def test_more_corrections_than_a_picture_has_are_refused():
    with pytest.raises(InvalidInput, match="a correction of 4097 bytes, 4096 are possible"):
        pack(HEADER, [PAYLOAD], bytes(4097), None, b"")


@pytest.mark.parametrize("quarters", [0, 5, -1, 2.0, None])
def test_quarters_that_no_file_can_hold_are_refused(quarters):
    with pytest.raises(InvalidInput, match=r"quarters must be an integer in 1\.\.4"):
        pack(HEADER._replace(quarters=quarters), [b""])


def test_golden_file_with_everything():
    contents = unpack(FULL)
    assert contents.header == FULL_HEADER and contents.complete
    assert contents.streams == FULL_STREAMS
    assert [contents.chunk(name) for name in ("icc", "exif", "alpha")] == [ICC, EXIF, ALPHA]
    own = pack(FULL_HEADER, FULL_STREAMS, icc=ICC, exif=EXIF, alpha=ALPHA)
    assert own[:21] == FULL[:21] and unpack(own).header == FULL_HEADER


def test_golden_file_with_xmp():
    """Bit 4, its size after alpha's, its chunk after alpha: two stored blocks, as another zlib may write them."""
    golden = bytes.fromhex(
        "534c494d 02 18 0000000000000000 0100 0100 0001 00 0cdfefe5"
        "0c000000 0f000000 07000000"  # sizes of alpha, XMP, the stream
        "7801 01 0100feff 7f 00800080"
        "7801 01 0400fbff 3c782f3e 02f80122"  # <x/>
        "7061796c6f6164"
    )
    contents = unpack(golden)
    assert contents.header == Header(bytes(8), 1, 1, 256) and contents.streams == [PAYLOAD]
    assert [contents.chunk(name) for name in ("icc", "exif", "alpha", "xmp")] == [None, None, b"\x7f", b"<x/>"]
    assert pack(contents.header, [PAYLOAD], alpha=b"\x7f", xmp=b"<x/>")[:21] == golden[:21]


@pytest.mark.parametrize("name", ["bit 5", "bit 6", "bit 7"])
@pytest.mark.parametrize("chunk", [b"", b"no zlib stream", zlib.compress(bytes(20 << 20))])
def test_ancillary_chunks_without_a_meaning_are_skipped(name, chunk):
    contents = unpack(with_chunk(name, chunk))
    assert contents.header == SMALL and contents.streams == [b""] and contents.chunks == {name: chunk}
    assert contents.chunk("xmp") is None


def test_all_ancillary_chunks_lie_in_the_order_of_their_bits():
    chunks = [b"xmp", b"five", b"", b"seven"]
    sizes = b"".join(len(part).to_bytes(4, "little") for part in [*chunks, PAYLOAD])
    data = sealed(with_bytes(GOLDEN[:HEADER_BYTES], 5, b"\xf0") + sizes + b"".join(chunks) + PAYLOAD)
    contents = unpack(data)
    assert contents.chunks == dict(zip(("xmp", "bit 5", "bit 6", "bit 7"), chunks, strict=True))
    assert contents.streams == [PAYLOAD]


def test_an_untiled_picture_pays_at_most_40_bytes():
    assert len(pack(HEADER, [b""])) == HEADER_BYTES + 4 == 29 <= 40


@pytest.mark.parametrize(
    "present", [(), ("icc",), ("exif", "alpha"), ("icc", "exif", "alpha"), ("xmp",), ("icc", "exif", "alpha", "xmp")]
)
@pytest.mark.parametrize("grey", [False, True])
def test_chunks_round_trip(present, grey):
    given = {"icc": bytes(3000), "exif": b"Exif\0\0", "alpha": bytes(range(6)), "xmp": b"<x:xmpmeta/>"}
    header = SMALL._replace(grey=grey)
    contents = unpack(pack(header, [PAYLOAD], **{name: given[name] for name in present}))
    assert contents.header == header and contents.streams == [PAYLOAD] and tuple(contents.chunks) == present
    for name, data in given.items():
        assert contents.chunk(name) == (data if name in present else None)


def test_the_largest_values_round_trip():
    header = Header(b"\xff" * 8, (1 << 16) - 1, (1 << 16) - 1, (1 << 16) - 1, 255, True)
    streams = [bytes([number]) for number in range(25)]
    assert unpack(pack(header, streams), max_pixels=1 << 32)[:2] == (header, streams)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_whatever_holds_bytes_is_taken(kind):
    contents = unpack(kind(FULL))
    assert contents == unpack(FULL) and all(type(stream) is bytes for stream in contents.streams)


@pytest.mark.parametrize(
    "width, height, tile, cells, tiles",
    [
        (1, 1, 0, (1, 1), (1, 1)),
        (1, 1, 255, (1, 1), (1, 1)),
        (64, 65, 1, (2, 1), (2, 1)),
        (640, 64 * 7, 3, (7, 10), (3, 4)),
        (640, 64 * 7, 0, (7, 10), (1, 1)),
        (1, 65535, 1, (1024, 1), (1024, 1)),
        (65535, 1, 255, (1, 1024), (1, 5)),
        (65535, 65535, 1, (1024, 1024), (1024, 1024)),
        (65535, 65535, 0, (1024, 1024), (1, 1)),
    ],
)
def test_grids(width, height, tile, cells, tiles):
    header = HEADER._replace(width=width, height=height, tile=tile)
    assert (header.cells, header.tiles) == (cells, tiles)


@pytest.mark.parametrize(
    ("width", "height", "quarters", "cells"),
    [
        (1, 1, 1, (1, 1)),
        (256, 257, 1, (2, 1)),
        (129, 128, 2, (1, 2)),
        (85, 86, 3, (2, 2)),
        (84, 84, 3, (1, 1)),
        (65535, 65535, 3, (768, 768)),
    ],
)
def test_grids_of_smaller_pictures(width, height, quarters, cells):
    assert HEADER._replace(width=width, height=height, quarters=quarters).cells == cells


def test_a_column_of_1024_tiles_round_trips():
    header = HEADER._replace(width=1, height=65535, tile=1)
    streams = [str(number).encode() * (number % 3) for number in range(1024)]
    assert unpack(pack(header, streams)) == Contents(header, streams, {}, True)


# ---- what is no file


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "not a .slim file: it begins with b''"),
        (b"\x89PNG" + GOLDEN[4:], "not a .slim file: it begins with b'.x89PNG' instead of b'SLIM'"),
        (GOLDEN[:24], "truncated: 24 bytes, the header alone has 25"),
        (with_bytes(GOLDEN, 4, b"\6"), "format version 6, this slimcodec reads versions 2 to 5"),
        (with_bytes(GOLDEN, 4, b"\1"), "format version 1, this slimcodec reads versions 2 to 5"),
        (with_bytes(GOLDEN, 5, b"\x80"), "truncated: 36 bytes, its table of sizes ends at 33|is truncated: 36 of"),
        (with_bytes(GOLDEN, 14, bytes(2)), "0 x 512 pixels"),
        (with_bytes(GOLDEN, 16, bytes(2)), "768 x 0 pixels"),
        (with_bytes(GOLDEN, 14, b"\xff" * 4), "65535 x 65535 pixels, more than the limit of 200,000,000; pass"),
        (SMALLER[:25], "truncated: 25 bytes, the header alone has 26"),
        (SMALLER[:29], "truncated: 29 bytes, its table of sizes ends at 30"),
        (GOLDEN[:28], "truncated: 28 bytes, its table of sizes ends at 29"),
        (GOLDEN[:30], r"truncated: 30 of 36 bytes; allow_partial=True \(decompress --partial\)"),
        (pack(HEADER, [bytes(5649)])[:1234], "is truncated: 1,234 of 5,678 bytes;"),
        (FULL[:60], "truncated: 60 of 287 bytes, and the picture itself only begins at 276"),
        (GOLDEN + b"\0", "damaged: 37 bytes, 1 more than it says"),
        (with_bytes(GOLDEN, 6, b"\x63"), "damaged: its checksum does not match"),
        (with_bytes(GOLDEN, 35, b"\x63"), "damaged: its checksum does not match"),
    ],
)
def test_what_is_wrong_is_named(data, message):
    with pytest.raises(InvalidFile, match=message) as raised:
        unpack(data)
    assert "\n" not in str(raised.value)


def test_max_pixels_is_inclusive():
    assert unpack(GOLDEN, max_pixels=768 * 512).header == HEADER
    with pytest.raises(InvalidFile, match="max_pixels"):
        unpack(GOLDEN, max_pixels=768 * 512 - 1)


@pytest.mark.parametrize("data", [GOLDEN, FULL, CORRECTED, SMALLER])
def test_every_truncation_is_refused(data):
    for length in range(len(data)):
        with pytest.raises(InvalidFile):
            unpack(data[:length])


@pytest.mark.parametrize("data", [GOLDEN, FULL, CORRECTED, SMALLER])
def test_every_damaged_byte_is_refused(data):
    for at in range(len(data)):
        for value in {data[at] ^ 1 << bit for bit in range(8)} | {0, 255} - {data[at]}:
            with pytest.raises(InvalidFile):
                unpack(with_bytes(data, at, bytes([value])), max_pixels=1 << 32)


@pytest.mark.parametrize("allow_partial", [False, True])
def test_a_huge_grid_in_a_small_file_allocates_nothing(allow_partial):
    header = Header(bytes(8), 65535, 65535, 256, tile=1)
    data = pack(header._replace(width=1, height=1), [b""])
    data = sealed(with_bytes(data, 14, b"\xff" * 4))
    assert peak_bytes(unpack, data, max_pixels=1 << 32, allow_partial=allow_partial) < 100_000


def test_a_stream_that_claims_4_gib_allocates_nothing():
    data = sealed(with_bytes(GOLDEN, HEADER_BYTES, b"\xff" * 4))
    assert peak_bytes(unpack, data) < 100_000
    assert unpack(data, allow_partial=True).streams == [PAYLOAD]


# ---- partial files


def test_every_partial_file_gives_what_is_there():
    stream_bytes = b"".join(FULL_STREAMS)
    for length in range(len(FULL)):
        if length < FIRST_STREAM:
            with pytest.raises(InvalidFile):
                unpack(FULL[:length], allow_partial=True)
            continue
        contents = unpack(FULL[:length], allow_partial=True)
        there = stream_bytes[: length - FIRST_STREAM]
        assert contents.streams == [there[:5], there[5:]] and not contents.complete
        assert contents.header == FULL_HEADER and contents.chunk("alpha") == ALPHA


def test_allow_partial_accepts_a_whole_file_only_if_it_is_intact():
    assert unpack(FULL, allow_partial=True) == unpack(FULL)
    for damaged in (with_bytes(FULL, len(FULL) - 1, b"\0"), FULL + b"\0"):
        with pytest.raises(InvalidFile, match="damaged"):
            unpack(damaged, allow_partial=True)


def test_a_partial_files_damaged_chunk_is_noticed_when_it_is_read():
    at = FULL.index(ALPHA)
    contents = unpack(with_bytes(FULL, at, b"\xff")[:-1], allow_partial=True)
    assert contents.chunk("icc") == ICC
    with pytest.raises(InvalidFile, match="alpha chunk is damaged"):
        contents.chunk("alpha")


def test_a_correction_is_all_there_or_the_file_is_refused():
    begin = HEADER_BYTES + 4
    for length in range(begin, len(CORRECTED)):
        if length < begin + 4:
            with pytest.raises(InvalidFile, match="truncated or damaged: it ends before its correction does") as raised:
                unpack(CORRECTED[:length], allow_partial=True)
            assert "\n" not in str(raised.value)
        else:
            contents = unpack(CORRECTED[:length], allow_partial=True)
            assert contents.correction == CORRECTION and contents.streams == [PAYLOAD[: length - begin - 4]]


# ---- corrections


@pytest.mark.parametrize("size", [1, 2, 255])
@pytest.mark.parametrize("streams", [[b""], [b"first", b"second"]])
def test_a_correction_of_any_size_comes_back(size, streams):
    """With chunks before it and tiles behind it; the sizes of other tiles do not know of it."""
    header, correction = FULL_HEADER._replace(height=64 * len(streams)), bytes(range(size))
    alpha = bytes(3 * header.height)
    data, plain = (pack(header, streams, given, icc=ICC, alpha=alpha) for given in (correction, b""))
    contents = unpack(data)
    assert contents == unpack(plain)._replace(correction=correction) and contents.chunk("alpha") == alpha
    assert len(data) == len(plain) + 1 + size
    assert (data[4], plain[4]) == (3, 2)


def test_a_correction_of_more_than_255_bytes_is_not_written():
    with pytest.raises(InvalidInput, match=r"a correction of 256 bytes, 255 are possible"):
        pack(HEADER, [PAYLOAD], bytes(256))


@pytest.mark.parametrize("stream", [b"", b"\0", b"\0payload", b"\1", b"\x08payload", b"\xffpayload"])
@pytest.mark.parametrize("allow_partial", [False, True])
def test_a_version_3_file_without_a_whole_correction_is_refused(stream, allow_partial):
    """One of no bytes as well: without a correction a file is of version 2."""
    data = sealed(with_bytes(pack(HEADER, [stream]), 4, b"\3"))
    with pytest.raises(InvalidFile, match="it ends before its correction does"):
        unpack(data, allow_partial=allow_partial)


def test_a_correction_lies_in_the_first_tile_alone():
    header = HEADER._replace(width=128, height=64, tile=1)
    data = pack(header, [b"", b"second"], CORRECTION)
    sizes = [int.from_bytes(data[at : at + 4], "little") for at in (HEADER_BYTES, HEADER_BYTES + 4)]
    assert sizes == [4, 6] and data.endswith(b"\3" + CORRECTION + b"second")
    assert unpack(data).streams == [b"", b"second"]


# ---- chunks of others


@pytest.mark.parametrize("name", ["icc", "exif", "alpha", "xmp"])
def test_damaged_chunks_are_refused(name):
    whole = zlib.compress(bytes(6))
    assert unpack(with_chunk(name, whole)).chunk(name) == bytes(6)
    for damaged in (b"", b"no zlib stream", whole[:-1], whole[:-1] + b"\xff", whole + b"\0"):
        with pytest.raises(InvalidFile, match=f"the file's {name} chunk is damaged"):
            unpack(with_chunk(name, damaged)).chunk(name)


@pytest.mark.parametrize("pixels", [0, 5, 7, 600])
def test_alpha_has_one_byte_a_pixel(pixels):
    with pytest.raises(InvalidFile, match="alpha chunk"):
        unpack(with_chunk("alpha", zlib.compress(bytes(pixels)))).chunk("alpha")


@pytest.mark.parametrize("name, most_bytes", [("icc", 8 << 20), ("exif", 8 << 20), ("xmp", 8 << 20), ("alpha", 6)])
def test_a_bomb_does_not_fill_the_memory(name, most_bytes):
    contents = unpack(with_chunk(name, zlib.compress(bytes(64 << 20))))
    assert peak_bytes(contents.chunk, name) < 2.5 * most_bytes + 300_000
    with pytest.raises(InvalidFile, match=f"holds more than {most_bytes:,} bytes"):
        contents.chunk(name)


def test_a_profile_may_have_8_mib():
    profile = bytes(8 << 20)
    assert unpack(pack(HEADER, [b""], icc=profile)).chunk("icc") == profile
    for name in ("icc", "exif", "xmp"):
        with pytest.raises(InvalidInput, match=f"{name} has 8,388,609 bytes, at most 8,388,608"):
            pack(HEADER, [b""], **{name: profile + b"\0"})


# ---- what cannot be written


@pytest.mark.parametrize(
    "field, value",
    [
        ("model_hash", b"short"),
        ("model_hash", "01234567"),
        ("width", 0),
        ("width", 1 << 16),
        ("height", -1),
        ("height", 2.0),
        ("quality", 1 << 16),
        ("quality", -1),
        ("tile", 256),
        ("tile", -1),
        ("tile", None),
        ("grey", 2),
    ],
)
def test_fields_out_of_range_are_refused(field, value):
    with pytest.raises(InvalidInput, match=field):
        pack(HEADER._replace(**{field: value}), [PAYLOAD])


@pytest.mark.parametrize("count", [0, 1, 3])
def test_every_tile_needs_its_stream(count):
    with pytest.raises(InvalidInput, match=f"{count} streams for 1 x 2 tiles"):
        pack(HEADER._replace(height=1, tile=6), [b""] * count)


@pytest.mark.parametrize("size", [0, 5, 7])
def test_alpha_of_another_size_is_not_written(size):
    with pytest.raises(InvalidInput, match=f"alpha has {size} bytes for 6 pixels"):
        pack(SMALL, [b""], alpha=bytes(size))


def test_streams_of_4_gib_are_not_written():
    class Huge(bytes):
        def __len__(self):
            return 1 << 32

    with pytest.raises(InvalidInput, match="4 GiB"):
        pack(HEADER, [Huge()])


def test_the_limits_are_those_documented():
    assert (bitstream.MAGIC, bitstream.VERSION, bitstream.CORRECTED) == (b"SLIM", 2, 3)
    assert bitstream.EXTENSION == ".slim"
    assert (grid.CELL, bitstream.MAX_PIXELS) == (64, 200_000_000)
