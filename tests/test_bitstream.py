"""The .slim header: pinned bytes, and one clear line for whatever is wrong with a file."""

import pytest

from slimcodec import InvalidFile, InvalidInput
from slimcodec.codec.bitstream import HEADER_BYTES, Header, pack, unpack

HEADER = Header(model_hash=bytes(range(8)), width=768, height=512, quality=4 * 256 + 128)
PAYLOAD = b"payload"
GOLDEN = bytes.fromhex("534c494d01000001020304050607000300000002000080044684c1107061796c6f6164")


def with_byte(at, value):
    return GOLDEN[:at] + bytes([value]) + GOLDEN[at + 1 :]


def test_golden_file():
    assert pack(HEADER, PAYLOAD).hex() == GOLDEN.hex()
    assert unpack(GOLDEN) == (HEADER, PAYLOAD)


def test_header_is_at_most_40_bytes():
    assert len(pack(HEADER, b"")) == HEADER_BYTES <= 40
    assert unpack(pack(HEADER, b"")) == (HEADER, b"")


def test_the_largest_values_round_trip():
    header = Header(b"\xff" * 8, (1 << 32) - 1, (1 << 32) - 1, (1 << 16) - 1)
    assert unpack(pack(header, PAYLOAD), max_pixels=1 << 64) == (header, PAYLOAD)


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "0 bytes, the header alone has 28"),
        (GOLDEN[:27], "27 bytes, the header alone has 28"),
        (b"\x89PNG" + GOLDEN[4:], "not a .slim file"),
        (with_byte(4, 9), "format version 9, this slimcodec reads version 1"),
        (with_byte(5, 0x80), "flags 0x80"),
        (GOLDEN[:14] + bytes(4) + GOLDEN[18:], "0 x 512 pixels"),
        (GOLDEN[:18] + bytes(4) + GOLDEN[22:], "768 x 0 pixels"),
        (with_byte(17, 1), "16777984 x 512 pixels.*pass a larger max_pixels"),
        (with_byte(6, 99), "checksum"),
        (GOLDEN + b"\0", "checksum"),
    ],
)
def test_what_is_wrong_is_named(data, message):
    with pytest.raises(InvalidFile, match=message) as raised:
        unpack(data)
    assert "\n" not in str(raised.value)


def test_max_pixels_is_inclusive():
    assert unpack(GOLDEN, max_pixels=768 * 512) == (HEADER, PAYLOAD)
    with pytest.raises(InvalidFile, match="max_pixels"):
        unpack(GOLDEN, max_pixels=768 * 512 - 1)


def test_every_truncation_is_refused():
    for length in range(len(GOLDEN)):
        with pytest.raises(InvalidFile):
            unpack(GOLDEN[:length])


def test_every_damaged_bit_is_refused():
    for at in range(len(GOLDEN)):
        for bit in range(8):
            with pytest.raises(InvalidFile):
                unpack(with_byte(at, GOLDEN[at] ^ 1 << bit), max_pixels=1 << 64)


@pytest.mark.parametrize(
    "field, value",
    [
        ("model_hash", b"short"),
        ("model_hash", "01234567"),
        ("width", 0),
        ("width", 1 << 32),
        ("height", -1),
        ("height", 2.0),
        ("quality", 1 << 16),
        ("quality", -1),
    ],
)
def test_fields_out_of_range_are_refused(field, value):
    with pytest.raises(InvalidInput, match=field):
        pack(HEADER._replace(**{field: value}), PAYLOAD)
