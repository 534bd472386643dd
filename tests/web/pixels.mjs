// node pixels.mjs MODEL FILE OUT: the picture of a .slim file as raw bytes, red, green, blue and opacity.
import { readFileSync, writeFileSync } from "node:fs";
import { unpack } from "../../web/codec/container.js";
import { headOf } from "../../web/codec/correction.js";
import { buildModel } from "../../web/codec/model.js";
import { latents, synthesise } from "../../web/codec/networks.js";
import { readSymbols } from "../../web/codec/symbols.js";
import * as ort from "../../web/node_modules/onnxruntime-web/dist/ort.wasm.min.mjs";

const [directory, name, out] = process.argv.slice(2);
const bytes = (path) => new Uint8Array(readFileSync(path));
const model = buildModel(
  JSON.parse(readFileSync(`${directory}/manifest.json`)),
  bytes(`${directory}/tables.safetensors`),
);

async function run(network, feeds) {
  const session = await ort.InferenceSession.create(bytes(`${directory}/${network}.onnx`));
  const tensors = Object.entries(feeds).map(([input, { data, dims }]) => [
    input,
    new ort.Tensor("float32", data, dims),
  ]);
  const [result] = Object.values(await session.run(Object.fromEntries(tensors)));
  return result;
}

ort.env.wasm.numThreads = 1;
const file = unpack(bytes(name), 1e8);
const y_hat = await latents(run, model, readSymbols(model, file), file);
const pixels = await synthesise(run, model, y_hat, headOf(model, file), file);
writeFileSync(out, pixels);
console.log(JSON.stringify({ width: file.width, height: file.height }));
