"""EXIF, XMP and the meaning of colours: what comes with a picture goes with it, into a .slim file and out of it."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from picture_files import png
from PIL import ExifTags, Image, ImageCms, PngImagePlugin, TiffImagePlugin

from slimcodec.codec import bitstream, profiles
from slimcodec.codec.files import compress_file, decompress_file
from slimcodec.codec.pictures import from_picture, open_picture, to_image

XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF/></x:xmpmeta>'
SRGB_PNG = struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
ADOBE_PNG = struct.pack(">8I", 31270, 32900, 64000, 33000, 21000, 71000, 15000, 6000)
COLOURS = np.random.default_rng(3).integers(20, 236, (6, 7, 3)).astype(np.uint8)


def read(data: bytes):
    """The picture and the warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        picture = from_picture(open_picture(io.BytesIO(data)))
    return picture, [str(one.message) for one in caught]


def saved(image: Image.Image, format: str, **settings) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **settings)
    return file.getvalue()


@pytest.fixture
def photo(pictures) -> Image.Image:
    return Image.fromarray(pictures["17x31"])


def camera_tiff(photo: Image.Image, **settings) -> bytes:
    """As a camera writes it: its tags beside the file's own, an EXIF IFD with an interoperability one, and GPS."""
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[271], tags[272], tags[306] = "Maker", "Model 1", "2020:01:02 03:04:05"
    tags[ExifTags.IFD.Exif] = {0x829A: 0.5, 0x9003: "2020:01:02 03:04:05", ExifTags.IFD.Interop: {1: "R98"}}
    tags[ExifTags.IFD.GPSInfo] = {1: "N", 2: (1.0, 2.0, 3.0)}
    return saved(photo, "TIFF", tiffinfo=tags, **settings)


# --- EXIF -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"save_all": True, "append_images": [Image.new("RGB", (31, 17))]}])
def test_exif_and_gps_of_a_tiff_are_kept_without_what_says_how_it_lies_in_its_file(photo, settings):
    picture, _ = read(camera_tiff(photo, **settings))
    exif = to_image(picture).getexif()
    assert {tag: exif[tag] for tag in exif if tag not in profiles.IFDS} == {
        271: "Maker",
        272: "Model 1",
        306: "2020:01:02 03:04:05",
    }
    assert exif.get_ifd(ExifTags.IFD.GPSInfo) == {1: "N", 2: (1.0, 2.0, 3.0)}
    inner = exif.get_ifd(ExifTags.IFD.Exif)
    assert (inner[0x829A], inner[0x9003]) == (0.5, "2020:01:02 03:04:05")
    assert exif.get_ifd(ExifTags.IFD.Interop) == {1: "R98"}


def test_exif_of_a_tiff_that_pillow_opened(photo):
    for image in (Image.open(io.BytesIO(camera_tiff(photo))), Image.open(io.BytesIO(camera_tiff(photo)))):
        assert to_image(from_picture(image)).getexif()[271] == "Maker"
    deep = Image.fromarray(np.full((4, 4), 9, np.uint16))
    with pytest.warns(UserWarning, match="16 bits"):
        assert to_image(from_picture(Image.open(io.BytesIO(camera_tiff(deep))))).getexif()[271] == "Maker"


def test_a_tiff_without_a_camera_has_no_exif(photo):
    for data in (saved(photo, "TIFF"), saved(photo.quantize(), "TIFF", compression="tiff_deflate")):
        assert read(data)[0].exif is None


def test_a_tag_that_cannot_be_written_does_not_cost_the_others(photo):
    tags = photo.getexif()
    tags[271], tags[60001] = "Maker", object()
    photo.format = "TIFF"
    found = Image.Exif()
    found.load(profiles.exif(photo))
    assert dict(found) == {271: "Maker"}


# --- XMP ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF"])
def test_xmp_goes_into_a_slim_file_and_out_of_it(photo, codec, tmp_path, format):
    settings = {"xmp": XMP}
    if format == "TIFF":
        settings = {"tiffinfo": {700: XMP}}
    if format == "PNG":
        settings = {"pnginfo": PngImagePlugin.PngInfo()}
        settings["pnginfo"].add_itxt("XML:com.adobe.xmp", XMP.decode())
    source, slim, target = (tmp_path / name for name in ("source", "photo.slim", f"target.{format.lower()}"))
    source.write_bytes(saved(photo, format, **settings))
    compress_file(source, slim, model=codec)
    assert bitstream.unpack(slim.read_bytes()).chunk("xmp") == XMP
    assert codec.decompress(slim.read_bytes()).info["xmp"] == XMP
    decompress_file(slim, target, model=codec)
    with Image.open(target) as image:
        assert image.format == format and image.info["xmp"] == XMP
    compress_file(source, slim, model=codec, strip=True)
    assert bitstream.unpack(slim.read_bytes()).chunks == {}


def test_a_file_without_xmp_is_what_it_was(photo, codec):
    assert codec.compress(photo)[5] == 0


def test_xmp_does_not_keep_an_orientation_that_was_applied(photo):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    packet = XMP.replace(b"<rdf:RDF/>", b"<tiff:Orientation>6</tiff:Orientation>")
    picture, _ = read(saved(photo, "JPEG", exif=exif, xmp=packet))
    assert picture.pixels.shape[:2] == (31, 17) and b"Orientation" not in picture.xmp


@pytest.mark.parametrize("key, kind", [("xmp", "XMP"), ("icc_profile", "ICC profile")])
def test_what_is_too_large_for_a_slim_file_does_not_cost_the_picture(photo, key, kind):
    photo.info[key] = (b"\0" * 16 + b"RGB ").ljust((8 << 20) + 1, b"\0")
    with pytest.warns(UserWarning, match=f"its {kind} of 8,388,609 bytes is left out, the limit is 8,388,608"):
        picture = from_picture(photo)
    assert picture.icc is None and picture.xmp is None


# --- colours --------------------------------------------------------------------------------------------------------


def seen(image: Image.Image) -> np.ndarray:
    """The colours as a screen of sRGB shows them, by the image's profile."""
    own = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
    return np.asarray(ImageCms.profileToProfile(image, own, ImageCms.createProfile("sRGB"), outputMode="RGB"))


def of_light(light: np.ndarray) -> np.ndarray:
    """Linear 0..1 → sRGB's levels."""
    light = np.clip(light, 0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("chunks", [[], [(b"cHRM", SRGB_PNG)]])
@pytest.mark.parametrize("gamma", [0.55556, 1.0])
def test_gamma_of_a_png_becomes_a_profile(gamma, chunks):
    gama = (b"gAMA", struct.pack(">I", round(gamma * 100_000)))
    for values, colour in ((COLOURS, 2), (COLOURS[:, :, 0], 0)):
        picture, said = read(png(values, 8, colour, gama, *chunks))
        assert said == [] and np.array_equal(picture.pixels[:, :, -1], values if colour == 0 else values[:, :, 2])
        expected = of_light((picture.pixels / 255.0) ** (1 / gamma))
        assert np.abs(seen(to_image(picture)) - expected).max() <= 1.6


def test_primaries_of_a_png_become_a_profile():
    """Adobe RGB's, whose green lies outside sRGB: the matrix of its standard."""
    gama = (b"gAMA", struct.pack(">I", 45470))
    picture, said = read(png(COLOURS, 8, 2, gama, (b"cHRM", ADOBE_PNG)))
    assert said == [] and np.array_equal(picture.pixels, COLOURS)
    to_xyz = np.array([[0.57667, 0.18556, 0.18823], [0.29734, 0.62736, 0.07529], [0.02703, 0.07069, 0.99134]])
    of_xyz = np.array([[3.2406, -1.5372, -0.4986], [-0.9689, 1.8758, 0.0415], [0.0557, -0.2040, 1.0570]])
    expected = of_light((COLOURS / 255.0) ** 2.19921875 @ to_xyz.T @ of_xyz.T)
    assert np.abs(seen(to_image(picture)) - expected).max() <= 2


@pytest.mark.parametrize(
    "chunks",
    [
        [],
        [(b"gAMA", struct.pack(">I", 45455))],
        [(b"gAMA", struct.pack(">I", 45000)), (b"cHRM", SRGB_PNG)],
        [(b"sRGB", b"\0"), (b"gAMA", struct.pack(">I", 100_000)), (b"cHRM", ADOBE_PNG)],
    ],
)
def test_srgb_needs_no_profile(chunks):
    picture, said = read(png(COLOURS, 8, 2, *chunks))
    assert picture.icc is None and said == []


@pytest.mark.parametrize(
    "chunks",
    [
        [(b"gAMA", struct.pack(">I", 0))],
        [(b"gAMA", struct.pack(">I", 2**31))],
        [(b"cHRM", bytes(32))],
        [(b"cHRM", struct.pack(">8I", *[31270, 32900] * 4))],
    ],
)
def test_colours_that_there_are_not_are_said(chunks):
    picture, said = read(png(COLOURS, 8, 2, *chunks))
    assert picture.icc is None
    assert said == ["the picture: its gAMA and cHRM describe no colours that there are, taken as sRGB"]


def test_a_profile_of_its_own_goes_before_gamma():
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    chunks = [(b"gAMA", struct.pack(">I", 100_000)), (b"iCCP", b"s\0\0" + zlib.compress(srgb))]
    assert read(png(COLOURS, 8, 2, *chunks))[0].icc == srgb
