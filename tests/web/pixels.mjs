// node pixels.mjs EXPORTED MODEL FILE OUT: the picture of a .slim file as raw bytes, red, green, blue and opacity.
// EXPORTED has the model's tensors, MODEL, its directory, the graphs.
import { readFileSync, writeFileSync } from "node:fs";
import { unpack } from "../../web/codec/container.js";
import { pictureOf } from "../../web/codec/decoding.js";
import { buildModel } from "../../web/codec/model.js";
import * as ort from "../../web/node_modules/onnxruntime-web/dist/ort.wasm.min.mjs";

const [exported, directory, name, out] = process.argv.slice(2);
const bytes = (path) => new Uint8Array(readFileSync(path));
const model = buildModel(
  JSON.parse(readFileSync(`${exported}/manifest.json`)),
  bytes(`${exported}/tables.safetensors`),
);
const WEIGHTS = "weights.safetensors";
const externalData = [{ path: WEIGHTS, data: bytes(`${directory}/${WEIGHTS}`) }];

async function run(network, feeds) {
  const session = await ort.InferenceSession.create(bytes(`${directory}/${network}.onnx`), { externalData });
  const tensors = Object.entries(feeds).map(([input, { data, dims }]) => [
    input,
    new ort.Tensor("float32", data, dims),
  ]);
  const results = await session.run(Object.fromEntries(tensors));
  return session.outputNames.map((output) => results[output]);
}

ort.env.wasm.numThreads = 1;
const file = unpack(bytes(name), 1e8);
writeFileSync(out, await pictureOf(run, model, file));
console.log(JSON.stringify({ width: file.width, height: file.height }));
