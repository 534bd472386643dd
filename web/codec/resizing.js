// A picture that is coded smaller becomes as large as it is shown: Lanczos in integers (docs/format.md).
import { QUARTERS } from "./container.js";

const LOBES = 3;
const BITS = 22; // of a weight's fraction

/** Pixels [coded.height, coded.width, 4] → [height, width, 4]. */
export function enlarged(pixels, { width, height, coded, quarters }) {
  if (quarters === QUARTERS) return pixels;
  const wide = resized(pixels, coded.height, coded.width, 4, kernels(coded.width, width, quarters));
  return resized(wide, 1, coded.height, 4 * width, kernels(coded.height, height, quarters));
}

/** [outer, length, inner] → [outer, number of kernels, inner]. */
function resized(source, outer, length, inner, { begins, ends, weights }) {
  const found = new Uint8ClampedArray(outer * begins.length * inner);
  let to = 0;
  for (let o = 0; o < outer; o++) {
    for (let i = 0; i < begins.length; i++) {
      const [from, end] = [(o * length + begins[i]) * inner, (o * length + ends[i]) * inner];
      for (let x = 0; x < inner; x++) {
        let sum = 1 << (BITS - 1);
        for (let at = from + x, k = 2 * LOBES * i; at < end; at += inner) sum += weights[k++] * source[at];
        found[to++] = sum >> BITS; // and clamped, by the array
      }
    }
  }
  return found;
}

/** What each of the first `count` pixels of a line is made of: the pixels from `begin` to `end`, and their weights. */
function kernels(length, count, quarters) {
  const [begins, ends] = [new Int32Array(count), new Int32Array(count)];
  const weights = new Int32Array(2 * LOBES * count);
  for (let i = 0; i < count; i++) {
    const centre = ((i + 0.5) * quarters) / QUARTERS;
    begins[i] = Math.max(0, Math.floor(centre - LOBES + 0.5));
    ends[i] = Math.min(length, Math.floor(centre + LOBES + 0.5));
    const own = Array.from({ length: ends[i] - begins[i] }, (_, k) => lanczos(begins[i] + k + 0.5 - centre));
    const total = own.reduce((sum, weight) => sum + weight);
    own.forEach((weight, k) => (weights[2 * LOBES * i + k] = Math.round((2 ** BITS * weight) / total)));
  }
  return { begins, ends, weights };
}

function lanczos(x) {
  return sinc(x) * sinc(x / LOBES);
}

function sinc(x) {
  return x ? Math.sin(Math.PI * x) / (Math.PI * x) : 1;
}
