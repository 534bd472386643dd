// Decodes and encodes beside the page, so that the page stays alive. One message in, {id, share} while it works, and
// {id, result} or {id, error} out.
import { inflated, pack, unpack } from "./codec/container.js";
import { headsOf } from "./codec/correction.js";
import { networksOf, pictureOf } from "./codec/decoding.js";
import { BadFile } from "./codec/errors.js";
import { buildModel } from "./codec/model.js";
import { analyse, quantise, synthesise, wholeSynthesis } from "./codec/networks.js";
import { readSymbols, scaleIndex, writeTile } from "./codec/symbols.js";

const MAX_PIXELS = 40e6;
const MAX_THREADS = 4;
const asked = new URLSearchParams(self.location.search).get("runtime"); // webgpu or wasm, whatever there is
const loaded = new Map(); // address → promise of what is there
let analysed = null; // {key, name, y} of the latest picture: another quality needs no g_a

self.onmessage = async ({ data: { id, task, input } }) => {
  const report = (share) => self.postMessage({ id, share });
  try {
    const result = await TASKS[task](input, report);
    self.postMessage({ id, result }, transferable(result));
  } catch (error) {
    if (!(error instanceof BadFile)) console.info(error);
    self.postMessage({ id, error: error instanceof BadFile ? error.message : await failure(error) });
  }
};

async function failure(error) {
  const runtime = loaded.has("runtime") ? await loaded.get("runtime").catch(() => null) : null;
  const hint = runtime?.provider === "webgpu" ? " Without the GPU: add ?runtime=wasm to the address." : "";
  const [line] = String(error.message ?? error).split("\n");
  return `The page failed: ${line.replace(/\.$/, "")}.${hint}`;
}

const TASKS = { models: modelList, decode, encode, symbols };

function transferable(result) {
  return Object.values(result)
    .filter((value) => ArrayBuffer.isView(value))
    .map((value) => value.buffer);
}

/** The bytes of a file → its pixels [height, width, 4], what it says of itself, and the seconds that it took. */
async function decode({ bytes }, report) {
  const file = unpack(bytes, MAX_PIXELS);
  const model = await modelOf(file);
  await sessionsFor(model, networksOf(model, file));
  const start = performance.now();
  const found = await pictureOf(runner(model), model, file, report);
  const seconds = (performance.now() - start) / 1000;
  const { width, height, coded, quality, grey, chunks } = file;
  if (chunks.alpha) await addAlpha(found, chunks.alpha, width * height);
  const icc = chunks.icc ? chunks.icc.slice() : null;
  return {
    pixels: found,
    width,
    height,
    coded,
    quality: quality / 256,
    grey,
    icc,
    seconds,
    model: model.name,
    bytes: bytes.length,
    runtime: (await runtime()).provider,
  };
}

/** Pixels → a file of the model, at a quality from 1, and the picture that it decodes to. key: which picture it is. */
async function encode({ key, pixels, width, height, quality, model: name }, report) {
  if (width * height > MAX_PIXELS)
    throw new BadFile(
      `The picture has ${width} × ${height} pixels. This page takes at most ${MAX_PIXELS / 1e6} million.`,
    );
  const model = await modelNamed(name);
  if (model.architecture.specialists > 1)
    throw new BadFile(`Model ${name} has specialists: this page decodes its files, and slimcodec makes them.`);
  await sessionsFor(model, ["g_a", "h_a", ...networksOf(model)]);
  const start = performance.now();
  const [rows, columns] = [Math.ceil(height / 64), Math.ceil(width / 64)];
  const cells = { top: 0, left: 0, rows, columns };
  const file = {
    modelHash: model.modelHash,
    width,
    height,
    quality: Math.round(256 * quality),
    tile: 0,
    longPaths: Boolean(model.nextStates),
    grey: false,
    rows,
    columns,
  };
  if (analysed?.key !== key || analysed.name !== name) {
    analysed = { key, name, y: await analyse(runner(model), model, pixels, file, (share) => report(0.8 * share)) };
  }
  const { symbols, y_hat } = await quantise(runner(model), model, analysed.y, file, (z) =>
    scaleIndex(model, z, cells, file.quality),
  );
  const bytes = pack(file, [writeTile(model, symbols, cells, file.quality)]);
  const seconds = (performance.now() - start) / 1000;
  const synthesis = wholeSynthesis(runner(model), model, headsOf(model, file)[0]);
  const decoded = await synthesise(synthesis, model, y_hat, file, (share) => report(0.8 + 0.2 * share));
  return {
    file: bytes,
    pixels: decoded,
    width,
    height,
    quality: file.quality / 256,
    seconds,
    model: name,
    bytes: bytes.length,
    runtime: (await runtime()).provider,
  };
}

/** The integers of a file: what every decoder must find. */
async function symbols({ bytes }) {
  const file = unpack(bytes, MAX_PIXELS);
  return readSymbols(await modelOf(file), file);
}

async function addAlpha(pixels, chunk, count) {
  const alpha = await inflated(chunk, "alpha", count);
  if (alpha.length !== count)
    throw new BadFile(`The file's alpha chunk has ${alpha.length} bytes for ${count} pixels.`);
  alpha.forEach((value, i) => (pixels[4 * i + 3] = value));
}

async function modelList() {
  return JSON.parse(new TextDecoder().decode(await fetched("models/models.json")));
}

async function modelOf({ modelHash, quality }) {
  const { models } = await modelList();
  const entry = models.find(({ hash }) => hash === modelHash);
  if (!entry) throw new BadFile(`The file was made with model ${modelHash}, which this page does not have.`);
  const model = await modelNamed(entry.name);
  if (quality < 256 || quality > 256 * model.rungs)
    throw new BadFile(`The file is damaged: quality ${quality / 256} is outside its model's range.`);
  return model;
}

function modelNamed(name) {
  return once(`model ${name}`, async () => {
    const manifest = JSON.parse(new TextDecoder().decode(await fetched(`models/${name}/manifest.json`)));
    return { ...buildModel(manifest, await fetched(`models/${name}/tables.safetensors`)), name };
  });
}

/** One after the other: ONNX Runtime makes a GPU's no other way. */
async function sessionsFor(model, names) {
  for (const name of names) await session(model, name);
}

function session(model, name) {
  return once(`session ${model.name} ${name}`, async () => {
    const { ort, provider } = await runtime();
    return ort.InferenceSession.create(await fetched(`models/${model.name}/${name}.onnx`), {
      executionProviders: [provider],
    });
  });
}

function runner(model) {
  return async (name, feeds) => {
    const found = await session(model, name);
    const { ort } = await runtime();
    const tensors = Object.entries(feeds).map(([input, { data, dims }]) => [
      input,
      new ort.Tensor("float32", data, dims),
    ]);
    const results = await found.run(Object.fromEntries(tensors));
    return found.outputNames.map((output) => results[output]);
  };
}

/** ONNX Runtime, and what it computes with: the GPU where there is one, else WebAssembly. */
function runtime() {
  return once("runtime", async () => {
    const provider = (await hasGpu()) ? "webgpu" : "wasm";
    const ort = await import(provider === "webgpu" ? "./ort/ort.jspi.min.mjs" : "./ort/ort.wasm.min.mjs");
    ort.env.wasm.wasmPaths = new URL("./ort/", import.meta.url).href;
    // Threads share memory, which browsers allow where the server says that the page is isolated.
    ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(MAX_THREADS, navigator.hardwareConcurrency) : 1;
    return { ort, provider };
  });
}

/** Whether a GPU can be used. One that the processor stands in for is slower than WebAssembly. */
async function hasGpu() {
  if (asked === "wasm" || !navigator.gpu || !("Suspending" in WebAssembly)) return false;
  const adapter = await navigator.gpu.requestAdapter().catch(() => null);
  return Boolean(adapter) && (asked === "webgpu" || !adapter.info.isFallbackAdapter);
}

function once(key, make) {
  if (!loaded.has(key)) {
    loaded.set(key, make());
    loaded.get(key).catch(() => loaded.delete(key)); // another try may find it
  }
  return loaded.get(key);
}

async function fetched(path) {
  const response = await fetch(new URL(path, import.meta.url));
  if (!response.ok) throw new Error(`${path} is missing; make web`);
  return new Uint8Array(await response.arrayBuffer());
}
