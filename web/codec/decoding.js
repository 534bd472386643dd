// A file becomes a picture. `run` is that of networks.js.
import { filtersOf } from "./bilateral.js";
import { headsOf } from "./correction.js";
import { layersOf } from "./maps.js";
import { latents, synthesise, wholeSynthesis } from "./networks.js";
import { regionalSynthesis } from "./regions.js";
import { enlarged } from "./resizing.js";
import { readSymbols } from "./symbols.js";

/** The names of the networks that a file takes. */
export function networksOf({ architecture, manifest }, { correctionMap = null } = {}) {
  const { stages, specialists = 1 } = architecture;
  const segments = (k) => manifest.segments.map((_, number) => `g_s.${k}.${number}`);
  const whole = correctionMap ? "features" : "g_s";
  const g_s = specialists === 1 ? [whole] : [...Array(specialists).keys()].flatMap(segments).concat("last_layer");
  return ["h_mean", ...stages.map((_, stage) => `context.${stage}`), ...g_s];
}

/** The pixels of a file, Uint8ClampedArray [height, width, 4], opaque. report(share done). */
export async function pictureOf(run, model, file, report) {
  const symbols = readSymbols(model, file);
  const who = layersOf(model, file);
  const heads = headsOf(model, file);
  const filters = filtersOf(model, file);
  const y_hat = await latents(run, model, symbols, file);
  const synthesis = who ? regionalSynthesis(run, model, heads, who, file) : wholeSynthesis(run, model, heads[0]);
  const coded = await synthesise({ ...synthesis, filters }, model, y_hat, file.coded, report);
  const pixels = enlarged(coded, file);
  return file.grey ? greyed(pixels) : pixels;
}

/** Every colour becomes the mean of the three. */
function greyed(pixels) {
  for (let at = 0; at < pixels.length; at += 4) {
    pixels.fill(Math.floor((pixels[at] + pixels[at + 1] + pixels[at + 2] + 1) / 3), at, at + 3);
  }
  return pixels;
}
