// What is special about a decoder in integers (docs/format.md): its rounding, and what no network file holds.
import { BadFile } from "./errors.js";
import { INDEX_STEP, gainShift } from "./model.js";

const SUM_LIMIT = 2 ** 24; // which no sum reaches: float32 holds what is below

/** The nearest integer, halves to the even one. */
export function nearest(value) {
  const floor = Math.floor(value);
  const rest = value - floor;
  return rest > 0.5 || (rest === 0.5 && floor % 2) ? floor + 1 : floor;
}

/** → (mu, r, its scale index, channel) → y_hat. */
export function integerRestorer(model, quality) {
  const steps = Float64Array.from(gainShift(model, quality), (shift) =>
    nearest(65536 * Math.exp((-shift * INDEX_STEP) / 16)),
  );
  return (mu, r, index, channel) => {
    const limit = model.latentLimits[channel];
    const added = nearest(((256 * r - Math.sign(r) * model.offsets[index]) * steps[channel]) / 2 ** 24);
    return Math.min(Math.max(mu + added, -limit), limit);
  };
}

/** Add to the last layer's rows [O, I] what a correction's sums of integers come to. Doubles hold all of it.
 *
 * Raises BadFile where a sum of that layer could be more than float32 holds.
 */
export function addIntegers({ headShift, basisExponent, featureLimits }, rows, sums, step) {
  const [factor, exponent] = fixedPoint(step);
  const inputs = rows.length / headShift.length;
  const taps = (inputs - 1) / featureLimits.length;
  headShift.forEach((shift, o) => {
    const scale = factor * 2 ** (shift - basisExponent - exponent);
    let most = 0;
    for (let i = 0; i < inputs; i++) {
      const at = o * inputs + i;
      rows[at] += nearest(scale * sums[at]);
      most += Math.abs(rows[at]) * (i < inputs - 1 ? featureLimits[Math.floor(i / taps)] : 1);
    }
    if (most >= SUM_LIMIT) throw new BadFile("The file is damaged: its correction is larger than any that is written.");
  });
}

/** A number of up to 1 as [factor, exponent]: it is factor / 2^exponent, with 16 bits of factor. */
function fixedPoint(value) {
  let exponent = 16;
  while (value < 0.5) (value *= 2), exponent++;
  return [nearest(65536 * value), exponent];
}
