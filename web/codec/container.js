// The .slim file: its header, chunks and streams. docs/format.md describes it.
import { BadFile } from "./errors.js";

const HEADER_BYTES = 25;
const CHECKSUM_AT = 21;
const CHUNKS = ["icc", "exif", "alpha", "xmp", "bit 5", "bit 6", "bit 7"]; // of flag bits 1 to 7
const VERSION = 2;
const FEATURED = 5;
const CORRECTION = 1; // bits of the features
const MAP = 2;
const SEVERAL = 16; // corrections
const FILTER = 32;
const FILTERS = 64;
const LONG_PATHS = 128;
const FEATURES = { 2: 0, 3: CORRECTION, 4: CORRECTION | MAP }; // of versions that do not say them
const MAPPED = 4;
const CELL = 64;
export const QUARTERS = 4; // the side of a block of the shown picture
const MOST_SIZE_BYTES = 4; // of a map
const MOST_CORRECTIONS = 16;
export const MAX_PROFILE_BYTES = 8 << 20;

/** A whole file → {grey, modelHash, width, height, quarters, coded, quality, tile, rows, columns, chunks,
 * longPaths, streams, corrections, correctionMap, map, filtering, filterMap}.
 *
 * coded: {width, height} of the picture in it, `quarters` of the shown one. rows and columns are those of its cells.
 * Raises BadFile, before anything large is allocated, for a file that is not complete and intact, and for a picture of
 * more than maxPixels.
 */
export function unpack(data, maxPixels) {
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const header = readHeader(data, view);
  if (header.width * header.height > maxPixels) {
    throw new BadFile(
      `The picture has ${header.width} × ${header.height} pixels. This page takes at most ${maxPixels / 1e6} million; ` +
        "slimcodec decompress takes more.",
    );
  }
  const tiles = tilesOf(header);
  const names = CHUNKS.filter((_, bit) => (header.flags >> (bit + 1)) & 1);
  const begin = HEADER_BYTES + (header.version === FEATURED ? 1 : 0);
  const sizes = readSizes(data, view, begin, names.length + tiles.length);
  requireChecksum(data, view);
  const parts = split(data, begin + 4 * sizes.length, sizes);
  const chunks = Object.fromEntries(names.map((name, number) => [name, parts[number]]));
  const streams = parts.slice(names.length);
  let [corrections, correctionMap, map, filtering, filterMap] = [[], null, null, null, null];
  if (header.features & CORRECTION) {
    let one;
    [one, streams[0]] = takeShort(streams[0], "its correction does", header.version === MAPPED ? 0 : 1);
    corrections = one.length ? [one] : [];
  }
  if (header.features & SEVERAL) {
    let all;
    [all, streams[0]] = takeSized(streams[0], "its corrections do");
    [correctionMap, streams[0]] = takeSized(streams[0], "its map of corrections does");
    corrections = takeSeveral(all);
  }
  if (header.features & MAP) [map, streams[0]] = takeSized(streams[0], "its map of specialists does");
  if (header.features & FILTER) [filtering, streams[0]] = takeShort(streams[0], "its filter's coefficients do", 1);
  if (header.features & FILTERS) {
    [filtering, streams[0]] = takeSized(streams[0], "its filters' coefficients do");
    [filterMap, streams[0]] = takeSized(streams[0], "its map of filters does");
  }
  return { ...header, tiles, chunks, streams, corrections, correctionMap, map, filtering, filterMap };
}

function readHeader(data, view) {
  if (String.fromCharCode(...data.subarray(0, 4)) !== "SLIM") throw new BadFile("This is not a .slim file.");
  if (data.length < HEADER_BYTES) throw new BadFile(`The file is truncated: it has ${data.length} bytes.`);
  const version = data[4];
  if (!(version in FEATURES) && version !== FEATURED)
    throw new BadFile(`The file has format version ${version}. This page reads versions ${VERSION} to ${FEATURED}.`);
  const [width, height, quality] = [14, 16, 18].map((at) => view.getUint16(at, true));
  if (!width || !height) throw new BadFile(`The file says that its picture has ${width} × ${height} pixels.`);
  const features = FEATURES[version] ?? readFeatures(data);
  const quarters = (features >> 2) % QUARTERS || QUARTERS;
  const coded = codedSize(width, height, quarters);
  return {
    version,
    features,
    flags: data[5],
    grey: Boolean(data[5] & 1),
    modelHash: hex(data.subarray(6, 14)),
    width,
    height,
    quarters,
    coded,
    quality,
    tile: data[20],
    longPaths: Boolean(features & LONG_PATHS),
    rows: Math.ceil(coded.height / CELL),
    columns: Math.ceil(coded.width / CELL),
  };
}

function readFeatures(data) {
  if (data.length === HEADER_BYTES) throw new BadFile(`The file is truncated: it has ${data.length} bytes.`);
  const features = data[HEADER_BYTES];
  if (features & CORRECTION && features & SEVERAL)
    throw new BadFile("The file is damaged: it says that it has one correction, and that it has several.");
  return features;
}

/** Blocks of 4 × 4 pixels that are shown are coded as blocks of quarters × quarters. */
export function codedSize(width, height, quarters) {
  if (quarters === QUARTERS) return { width, height };
  const side = (length) => quarters * Math.ceil(length / QUARTERS);
  return { width: side(width), height: side(height) };
}

/** The tiles in raster order, {top, left, rows, columns} in cells: counted first, for a header can promise a million. */
export function tilesOf({ tile, rows, columns }) {
  const side = tile || Math.max(rows, columns);
  const found = [];
  for (let top = 0; top < rows; top += side) {
    for (let left = 0; left < columns; left += side) {
      found.push({ top, left, rows: Math.min(side, rows - top), columns: Math.min(side, columns - left) });
    }
  }
  return found;
}

function readSizes(data, view, begin, count) {
  const end = begin + 4 * count;
  if (data.length < end)
    throw new BadFile(`The file is truncated: ${data.length} bytes, its table of sizes ends at ${end}.`);
  const sizes = Array.from({ length: count }, (_, number) => view.getUint32(begin + 4 * number, true));
  const expected = sizes.reduce((sum, size) => sum + size, end);
  if (data.length < expected) throw new BadFile(`The file is truncated: ${data.length} of ${expected} bytes.`);
  if (data.length > expected)
    throw new BadFile(`The file is damaged: it has ${data.length - expected} bytes too many.`);
  return sizes;
}

function requireChecksum(data, view) {
  const found = crc32(data.subarray(CHECKSUM_AT + 4), crc32(data.subarray(0, CHECKSUM_AT)));
  if (found !== view.getUint32(CHECKSUM_AT, true))
    throw new BadFile("The file is damaged: its checksum does not match.");
}

function split(data, begin, sizes) {
  return sizes.map((size) => data.subarray(begin, (begin += size)));
}

/** What a stream begins with, whose size is a byte in front of it, and the rest. what: "its … does". */
function takeShort(stream, what, least) {
  const size = stream.length ? stream[0] : -1;
  if (size < least || 1 + size > stream.length) throw new BadFile(`The file is damaged: it ends before ${what}.`);
  return [stream.subarray(1, 1 + size), stream.subarray(1 + size)];
}

/** Several corrections, each with its size in front of it. */
function takeSeveral(bytes) {
  const found = [];
  for (let at = 0; at < bytes.length; at += 1 + bytes[at]) {
    if (!bytes[at] || at + 1 + bytes[at] > bytes.length || found.length === MOST_CORRECTIONS)
      throw new BadFile("The file's corrections are damaged: they do not end where they should.");
    found.push(bytes.subarray(at + 1, at + 1 + bytes[at]));
  }
  if (found.length < 2)
    throw new BadFile(`The file is damaged: it says that it has several corrections, but has ${found.length}.`);
  return found;
}

/** The same, with 7 bits of the size in a byte. */
function takeSized(stream, what) {
  let [size, at, more] = [0, 0, true];
  for (; more && at < Math.min(MOST_SIZE_BYTES, stream.length); at++) {
    size += (stream[at] & 127) * 128 ** at;
    more = stream[at] > 127;
  }
  if (more || at + size > stream.length)
    throw new BadFile(`The file is damaged: it ends before ${what}.`);
  return [stream.subarray(at, at + size), stream.subarray(at + size)];
}

/** The bytes of a file of one stream a tile and no chunks. */
export function pack({ modelHash, width, height, quality, tile, grey, longPaths }, streams) {
  const begin = HEADER_BYTES + (longPaths ? 1 : 0);
  const size = begin + 4 * streams.length + streams.reduce((sum, stream) => sum + stream.length, 0);
  const data = new Uint8Array(size);
  const view = new DataView(data.buffer);
  data.set([..."SLIM"].map((letter) => letter.charCodeAt(0)));
  data[4] = longPaths ? FEATURED : VERSION;
  data[5] = grey ? 1 : 0;
  data.set(
    modelHash.match(/../g).map((byte) => parseInt(byte, 16)),
    6,
  );
  [width, height, quality].forEach((value, number) => view.setUint16(14 + 2 * number, value, true));
  data[20] = tile;
  if (longPaths) data[HEADER_BYTES] = LONG_PATHS;
  let at = begin;
  for (const stream of streams) at = (view.setUint32(at, stream.length, true), at + 4);
  for (const stream of streams) at = (data.set(stream, at), at + stream.length);
  const checksum = crc32(data.subarray(CHECKSUM_AT + 4), crc32(data.subarray(0, CHECKSUM_AT)));
  view.setUint32(CHECKSUM_AT, checksum, true);
  return data;
}

/** A chunk's bytes; BadFile if it is damaged or has more than `limit`. */
export async function inflated(chunk, name, limit) {
  const stream = new Blob([chunk]).stream().pipeThrough(new DecompressionStream("deflate"));
  const parts = [];
  let length = 0;
  try {
    for (const reader = stream.getReader(); ;) {
      const { done, value } = await reader.read();
      if (done) break;
      parts.push(value);
      length += value.length;
      if (length > limit) {
        reader.cancel().catch(() => {});
        break;
      }
    }
  } catch {
    throw new BadFile(`The file's ${name} chunk is damaged.`);
  }
  if (length > limit) throw new BadFile(`The file's ${name} chunk holds more than ${limit} bytes.`);
  const bytes = new Uint8Array(length);
  let at = 0;
  for (const part of parts) at = (bytes.set(part, at), at + part.length);
  return bytes;
}

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? 0xedb88320 ^ (crc >>> 1) : crc >>> 1;
  return crc;
});

/** The CRC-32 of zlib and PNG; `before` is that of the bytes in front. */
export function crc32(data, before = 0) {
  let crc = ~before;
  for (let i = 0; i < data.length; i++) crc = CRC_TABLE[(crc ^ data[i]) & 255] ^ (crc >>> 8);
  return ~crc >>> 0;
}

export function hex(bytes) {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
