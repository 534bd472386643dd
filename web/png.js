// A PNG as the browser writes it, with a colour profile.
import { crc32 } from "./codec/container.js";

const HEAD_BYTES = 33; // the signature and IHDR
const OWN_COLOURS = ["sRGB", "gAMA", "cHRM", "iCCP", "cICP"];

/** A canvas → a PNG blob. icc: a profile as a .slim file has it, which is as PNG has it: one zlib stream; or null. */
export async function pngOf(canvas, icc) {
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  if (!icc) return blob;
  const bytes = new Uint8Array(await blob.arrayBuffer());
  const name = [..."icc"].map((letter) => letter.charCodeAt(0));
  const profile = chunk("iCCP", Uint8Array.from([...name, 0, 0, ...icc]));
  return new Blob([bytes.subarray(0, HEAD_BYTES), profile, ...withoutColours(bytes)], { type: "image/png" });
}

function* withoutColours(bytes) {
  const view = new DataView(bytes.buffer);
  for (let at = HEAD_BYTES, next; at < bytes.length; at = next) {
    next = at + 12 + view.getUint32(at);
    if (!OWN_COLOURS.includes(String.fromCharCode(...bytes.subarray(at + 4, at + 8)))) yield bytes.subarray(at, next);
  }
}

function chunk(name, data) {
  const bytes = new Uint8Array(12 + data.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, data.length);
  bytes.set(
    [...name].map((letter) => letter.charCodeAt(0)),
    4,
  );
  bytes.set(data, 8);
  view.setUint32(8 + data.length, crc32(bytes.subarray(4, 8 + data.length)));
  return bytes;
}
