"""What holds for whatever comes: hypothesis makes it up, the same examples every time."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from PIL import Image

from slimcodec import InvalidFile, InvalidInput
from slimcodec.codec import bitstream, entropy, handful
from slimcodec.codec.bitstream import Header

INT16 = st.integers(-(2**15), 2**15 - 1)
LIMIT = 1 << 16  # pixels, where bytes that say anything are decoded


def examples(count):
    """A slow machine must not fail a test, and a test must not depend on what an earlier run found."""
    return settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


# --- entropy coder --------------------------------------------------------------------------------------------------


@st.composite
def tables(draw):
    escape = draw(st.booleans())
    weights = draw(st.lists(st.lists(st.integers(0, 10**6), min_size=1, max_size=40), min_size=1, max_size=5))
    frequencies = [entropy.quantise(np.array(row) + 1e-9) for row in weights]
    sizes = [len(row) for row in weights]
    minimum = draw(st.lists(st.integers(-(2**15), 2**15 - 40), min_size=len(sizes), max_size=len(sizes)))
    skip = draw(st.integers(0, len(sizes)))
    return entropy.build_tables(np.concatenate(frequencies), sizes, minimum, escape=escape, skip=skip)


@st.composite
def coded(draw):
    """Tables, indices into them, and symbols that they can code."""
    made = draw(tables())
    index = draw(st.lists(st.integers(0, len(made.minimum) - 1), max_size=60))
    symbols = []
    for table in index:
        first, count = int(made.minimum[table]), int(made.start[table + 1] - made.start[table]) - 1
        inside = st.integers(first, first + count - 1)
        symbols.append(0 if table < made.skip else draw(INT16 if made.escape else inside))
    return made, np.array(index, np.uint8), np.array(symbols, np.int16)


@examples(100)
@given(coded(), st.lists(st.integers(0, 60), max_size=3))
def test_symbols_come_back_in_whatever_pieces_they_are_read(what, cuts):
    made, index, symbols = what
    encoder = entropy.Encoder()
    encoder.put(symbols, index, made)
    data = encoder.finish()
    decoder = entropy.Decoder(data)
    pieces = [decoder.get(piece, made) for piece in np.split(index, sorted(cuts))]
    decoder.finish()
    assert np.array_equal(np.concatenate(pieces), symbols)
    assert len(data) <= entropy.information_bits(symbols, index, made) / 8 + 20


@examples(100)
@given(coded(), st.integers(0, 400))
def test_any_beginning_of_a_stream_gives_a_beginning_of_its_symbols(what, length):
    made, index, symbols = what
    encoder = entropy.Encoder()
    encoder.put(symbols, index, made)
    data = encoder.finish()
    decoder = entropy.Decoder(data[:length], partial=True)
    found = decoder.get(index, made)
    decoder.finish()
    wrong = np.flatnonzero(found != symbols)
    assert not found[wrong[0] :].any() if len(wrong) else True
    assert decoder.exhausted or length >= len(data)


@examples(100)
@given(coded(), st.binary(max_size=120), st.booleans())
def test_any_bytes_give_symbols_or_a_refusal(what, data, partial):
    made, index, _ = what
    try:
        decoder = entropy.Decoder(data, partial=partial)
        assert decoder.get(index, made).shape == index.shape
        decoder.finish()
    except InvalidFile as error:
        assert "\n" not in str(error)


@examples(100)
@given(coded())
def test_a_handful_comes_back(what):
    made, index, symbols = what
    data = handful.encode(symbols, index, made)
    assert np.array_equal(handful.decode(data, index, made), symbols)
    assert len(data) <= entropy.information_bits(symbols, index, made) / 8 + 3


@examples(200)
@given(coded(), st.binary(max_size=120))
def test_any_bytes_are_a_handful_or_refused(what, data):
    made, index, _ = what
    try:
        found = handful.decode(data, index, made)
    except InvalidFile as error:
        assert "\n" not in str(error)
    else:
        assert found.dtype == np.int16 and found.shape == index.shape and not found[index < made.skip].any()


# --- file -----------------------------------------------------------------------------------------------------------


@st.composite
def file_parts(draw):
    """A header, its streams, its corrections and filters with their maps, and chunks."""
    header = Header(
        model_hash=draw(st.binary(min_size=8, max_size=8)),
        width=draw(st.integers(1, 300) | st.just(65535)),
        height=draw(st.integers(1, 200)),
        quality=draw(st.integers(0, 65535)),
        tile=draw(st.sampled_from([0, 1, 2, 255])),
        grey=draw(st.booleans()),
    )
    rows, columns = header.tiles
    some = draw(st.lists(st.binary(max_size=12), min_size=1, max_size=9))
    streams = [some[number % len(some)] for number in range(rows * columns)]
    chunks = {name: draw(st.none() | st.binary(max_size=60)) for name in ("icc", "exif")}
    pixels = header.width * header.height
    alpha = st.binary(min_size=1, max_size=20).map(lambda some: (some * pixels)[:pixels])
    chunks["alpha"] = draw(st.none() | alpha) if pixels < 1e5 else None
    some, maps = st.just(b"") | st.binary(min_size=1, max_size=200), st.none() | st.binary(max_size=200)
    adapted = {"correction": some, "correction_map": maps, "filtering": some, "filter_map": maps}
    return header, streams, {name: draw(values) for name, values in adapted.items()}, chunks


@examples(60)
@given(file_parts())
def test_any_file_comes_back(parts):
    header, streams, adapted, chunks = parts
    contents = bitstream.unpack(bitstream.pack(header, streams, **adapted, **chunks))
    assert contents.header == header and contents.streams == streams and contents.complete
    assert {name: getattr(contents, name) for name in adapted} == adapted
    assert {name: contents.chunk(name) for name in chunks} == chunks


@examples(60)
@given(file_parts(), st.floats(0, 1))
def test_any_beginning_of_a_file_gives_what_is_there_or_a_refusal(parts, share):
    header, streams, adapted, chunks = parts
    data = bitstream.pack(header, streams, **adapted, **chunks)
    length = int(share * (len(data) - 1))
    with pytest.raises(InvalidFile):
        bitstream.unpack(data[:length])
    try:
        contents = bitstream.unpack(data[:length], allow_partial=True)
    except InvalidFile:
        return
    there = b"".join(streams)[: max(0, length - len(data) + sum(map(len, streams)))]
    assert b"".join(contents.streams) == there and not contents.complete
    assert {name: getattr(contents, name) for name in adapted} == adapted
    assert {name: contents.chunk(name) for name in chunks} == chunks


HEADERS = st.tuples(
    st.sampled_from([b"SLIM\2", b"SLIM\3", b"SLIM\4", b"SLIM\5"]),
    st.integers(0, 15).map(lambda flags: bytes([flags])),
    st.binary(max_size=60),
).map(b"".join)


@examples(300)
@given(st.binary(max_size=80) | HEADERS, st.booleans())
def test_any_bytes_are_taken_apart_or_refused(data, allow_partial):
    try:
        contents = bitstream.unpack(data, allow_partial=allow_partial)
        for name in contents.chunks:
            contents.chunk(name)
    except InvalidFile as error:
        assert "\n" not in str(error)


@examples(150)
@given(
    head=st.integers(0, 29),
    tail=st.binary(max_size=200),
    size=st.tuples(*2 * [st.integers(1, 300)]),
    correction=st.sampled_from([b"", b"\0"]),
)
def test_any_bytes_under_a_good_header_are_decoded_or_refused(codec, head, tail, size, correction):
    """As a partial file, which has no checksum."""
    header = Header(codec.model_hash, *size, quality=700)
    data = bitstream.pack(header, [bytes(1 << 16)], correction)[: head if head < 25 else 29] + tail
    try:
        picture = codec.decompress(data, allow_partial=True, max_pixels=LIMIT)
    except InvalidFile as error:
        assert "\n" not in str(error)
    else:
        assert picture.size == size


# --- pictures -------------------------------------------------------------------------------------------------------


@st.composite
def images(draw, largest=70):
    """A PIL picture of mode L, LA, RGB or RGBA: noise, one colour, or stripes."""
    mode = draw(st.sampled_from(["L", "LA", "RGB", "RGBA"]))
    height, width = draw(st.integers(1, largest)), draw(st.integers(1, largest))
    shape = height, width, len(mode)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    kind = draw(st.sampled_from(["noise", "colour", "rows", "columns"]))
    varying = {"noise": shape, "colour": (1, 1, len(mode)), "rows": (height, 1, len(mode)), "columns": (1, width, 1)}
    pixels = np.broadcast_to(rng.integers(0, 256, varying[kind], dtype=np.uint8), shape)
    return Image.fromarray(np.ascontiguousarray(pixels[:, :, 0] if mode == "L" else pixels))


QUALITIES = st.floats(1, 8)
SCALES = st.sampled_from([None, 1, 0.75, 0.5, 0.25, "best"])
TILES = st.sampled_from([None, 0, 1, 2, 255])


@examples(60)
@given(images(), QUALITIES, TILES, SCALES)
def test_any_picture_comes_back_in_its_size_and_mode_with_its_alpha(codec, picture, quality, tile, scale):
    back = codec.decompress(codec.compress(picture, quality, tile=tile, scale=scale))
    assert (back.size, back.mode) == (picture.size, picture.mode)
    if picture.mode.endswith("A"):
        assert back.getchannel("A").tobytes() == picture.getchannel("A").tobytes()


@examples(40)
@given(images(largest=200), TILES, SCALES, st.data())
def test_any_region_is_the_crop(codec, picture, tile, scale, data):
    file = codec.compress(picture, 5, tile=tile, scale=scale)
    x, y = (data.draw(st.integers(0, side - 1)) for side in picture.size)
    width, height = (data.draw(st.integers(1, side - at)) for side, at in zip(picture.size, (x, y), strict=True))
    part = codec.decompress(file, region=(x, y, width, height))
    crop = codec.decompress(file).crop((x, y, x + width, y + height))
    assert (part.size, part.mode) == (crop.size, crop.mode)
    # Floats may round differently, which a filter makes larger.
    assert np.abs(np.asarray(part, np.int16) - np.asarray(crop, np.int16)).max() <= (1 if scale in (None, 1) else 2)


ANY_REGION = st.tuples(*4 * [st.integers(-3, 90) | st.integers(-(2**70), 2**70)])


@examples(100)
@given(ANY_REGION)
def test_any_region_is_decoded_or_refused(codec, region):
    file = codec.compress(np.zeros((60, 80), np.uint8), 3)
    try:
        assert codec.decompress(file, region=region).size == region[2:]
    except InvalidInput as error:
        assert "region" in str(error) and "\n" not in str(error)


ANY_ARRAY = arrays_of.arrays(
    arrays_of.scalar_dtypes() | st.just(np.dtype(np.uint8)),
    arrays_of.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=9)
    | st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(2, 5)),
)


@examples(150)
@given(ANY_ARRAY)
def test_any_array_becomes_a_file_or_is_refused(codec, array):
    try:
        data = codec.compress(array)
    except InvalidInput as error:
        assert "picture" in str(error) and "\n" not in str(error)
    else:
        assert array.dtype == np.uint8 and codec.decompress(data).size == array.shape[1::-1]


ANYTHING = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=5)


@examples(80)
@given(st.sampled_from(["quality", "target_bpp", "max_bytes", "target_psnr_db", "scale", "effort", "tile"]), ANYTHING)
def test_any_setting_gives_a_file_or_is_refused(codec, name, value):
    if name == "effort" and isinstance(value, int) and value:
        return  # refinement takes its time
    try:
        data = codec.compress(np.full((9, 7), 99, np.uint8), **{name: value})
    except InvalidInput as error:
        assert name in str(error) and "\n" not in str(error)
    else:
        assert codec.decompress(data).size == (7, 9)
