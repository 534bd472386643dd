// A model's integers and what is derived from them once: the files that `slimcodec export --onnx` writes.
import { buildTables } from "./rans.js";
import { parseTensors } from "./safetensors.js";
import { buildScaleNetwork } from "./scale.js";

export const INDEX_STEP = Math.log(256 / 0.11) / 63; // natural logarithm of the scale per step of the index
const MANIFEST_VERSIONS = [1, 2]; // 2: of a model with specialists

/** manifest: manifest.json; bytes: tables.safetensors. */
export function buildModel(manifest, bytes) {
  if (!MANIFEST_VERSIONS.includes(manifest.format_version))
    throw new Error("the model's files are of another version; make web");
  const tensors = parseTensors(bytes);
  const { architecture } = manifest;
  const table = (name) => tensors[`tables.${name}`]?.data;
  const residuals = (name) => [...table(`r_${name}`), ...(table(`r_odd_${name}`) ?? [])]; // of both quantisers
  const [sizes, skip] = [residuals("sizes"), table("r_skip")[0]];
  const escapes = sizes.map((size) => -(size - 2) / 2);
  const banked = table("z_banks") !== undefined;
  const zFrequencies = table(banked ? "z_bank_frequencies" : "z_frequencies");
  const zTables = zFrequencies.length / 256;
  return {
    manifest,
    architecture,
    modelHash: manifest.weights_sha256.slice(0, 16),
    M: architecture.latent_channels.length,
    N: architecture.hyper_channels.length,
    rungs: architecture.quality_ladder.length,
    features: architecture.h_mean[2],
    logGain: tensors.log_gain.data,
    scaleLayers: buildScaleNetwork(tensors),
    rTables: buildTables(residuals("frequencies"), sizes, escapes, { escape: true, skip }),
    zTables: buildTables(zFrequencies, Array(zTables).fill(256), Array(zTables).fill(-128), { escape: false }),
    banks: banked ? buildBanks(tensors) : null,
    nextStates: table("r_next_states") ?? null, // of a model with two quantisers
    offsets: Int16Array.from(residuals("offsets")),
    errorBits: table("r_error_bits") ? table("r_error_bits")[0] / 16 : 30,
    heads: Array.from({ length: architecture.specialists ?? 1 }, (_, k) => headOf(tensors, k)),
    basis: tensors["tables.head_basis"] ?? null,
    filterBasis: tensors["tables.bilateral_basis"] ?? null,
    basisScales: table("head_scales") ?? null,
    ...(architecture.decoder === "integer" ? integersOf(architecture, tensors) : {}),
  };
}

/** g_s's last layer, of a specialist. */
function headOf(tensors, specialist) {
  const name = `${specialist ? `specialists.${specialist}.` : ""}g_s.head.conv`;
  return { weight: tensors[`${name}.weight`], bias: tensors[`${name}.bias`] };
}

/** What a decoder in integers needs besides. */
function integersOf({ g_s: levels }, tensors) {
  const last = levels.length - 1;
  const blocks = levels[last].blocks.length;
  const limit = `g_s.levels.${last}.${blocks ? `blocks.${blocks - 1}.total` : "entered"}.limit`;
  return {
    inIntegers: true,
    headShift: tensors["g_s.head.conv.shift"].data,
    basisExponent: tensors["tables.head_exponent"]?.data[0],
    latentLimits: tensors["latents.limit"].data,
    featureLimits: tensors[limit].data, // of what the last layer sees
  };
}

function buildBanks(tensors) {
  const [, , sums, activities] = tensors["tables.z_banks"].shape;
  const names = ["z_banks", "z_weights", "z_sum_edges", "z_activity_edges"];
  const [banks, weights, sumEdges, activityEdges] = names.map((name) => tensors[`tables.${name}`].data);
  return { banks, weights, sumEdges, activityEdges, sums, activities };
}

/** The rung nearest to a quality (8.8 fixed point), from 0. */
export function nearestRung(model, quality) {
  return Math.min((quality + 128) >> 8, model.rungs) - 1;
}

/** By how much the gain moves the scale index of each latent channel, in 1/16 steps. */
export function gainShift({ logGain, M, rungs }, quality) {
  const fraction = quality & 255;
  const lower = M * ((quality >> 8) - 1);
  const upper = M * Math.min(quality >> 8, rungs - 1);
  return Int32Array.from(
    { length: M },
    (_, c) => (logGain[lower + c] * (256 - fraction) + logGain[upper + c] * fraction + 128) >> 8,
  );
}

/** What multiplies the residuals of each latent channel. */
export function gains(model, quality) {
  return Float32Array.from(gainShift(model, quality), (shift) => Math.exp((shift * INDEX_STEP) / 16));
}
