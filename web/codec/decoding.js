// A file becomes a picture. `run` is that of networks.js.
import { headOf } from "./correction.js";
import { latents, synthesise } from "./networks.js";
import { enlarged } from "./resizing.js";
import { readSymbols } from "./symbols.js";

/** The pixels of a file, Uint8ClampedArray [height, width, 4], opaque. report(share done). */
export async function pictureOf(run, model, file, report) {
  const symbols = readSymbols(model, file);
  const head = headOf(model, file);
  const y_hat = await latents(run, model, symbols, file);
  const pixels = enlarged(await synthesise(run, model, y_hat, head, file.coded, report), file);
  return file.grey ? greyed(pixels) : pixels;
}

/** Every colour becomes the mean of the three. */
function greyed(pixels) {
  for (let at = 0; at < pixels.length; at += 4) {
    pixels.fill(Math.floor((pixels[at] + pixels[at + 1] + pixels[at + 2] + 1) / 3), at, at + 3);
  }
  return pixels;
}
