// Times model files interleaved with WebAssembly engines in node, without a browser.
//
//   node web_benchmark.mjs ENGINE FOLDER THREADS BATCH WARMUP REPEATS MAX_SECONDS reference a b ...
//
// ENGINE is onnxruntime-web or litert; FOLDER holds node_modules with that npm package. The last line printed is JSON:
// samples of every file in ms (the first is the reference, whose batch stays 1), and the environment.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import os from "node:os";
import path from "node:path";
import { pathToFileURL } from "node:url";
import vm from "node:vm";

const LEAST_ROUNDS = 6;
const [engine, folder, threads, batch, warmup, repeats, maxSeconds, ...files] = process.argv.slice(2);
const require = createRequire(path.resolve(folder) + "/");

function randomValues(count) {
  let state = 1;
  return Float32Array.from({ length: count }, () => {
    state = (1103515245 * state + 12345) % 2147483648;
    return state / 1073741824 - 1;
  });
}

async function onnxRuntimeWeb() {
  const entry = require.resolve("onnxruntime-web");
  const module = await import(pathToFileURL(entry));
  const ort = module.default ?? module;
  ort.env.wasm.numThreads = Number(threads);
  ort.env.logLevel = "error";
  const open = async (file, n) => {
    const session = await ort.InferenceSession.create(readFileSync(file), { executionProviders: ["wasm"] });
    const feeds = {};
    for (const input of session.inputMetadata) {
      if (input.type !== "float32") throw new Error(`input ${input.name} must be float32, but is ${input.type}`);
      const shape = input.shape.map((size, i) => (typeof size === "number" && i > 0 ? size : n));
      feeds[input.name] = new ort.Tensor("float32", randomValues(shape.reduce((a, b) => a * b, 1)), shape);
    }
    return () => session.run(feeds);
  };
  return { open, version: ort.env.versions.web };
}

async function liteRt() {
  const root = path.dirname(path.dirname(require.resolve("@litertjs/core")));
  // The package loads its WebAssembly as a browser's worker does.
  globalThis.self = globalThis;
  globalThis.require = require;
  globalThis.__dirname = path.join(root, "wasm");
  globalThis.importScripts = (file) => {
    globalThis.__filename = file;
    vm.runInThisContext(readFileSync(file, "utf8"), { filename: file });
  };
  const core = await import(pathToFileURL(path.join(root, "dist", "index.js")));
  if (Number(threads) !== 1 || Number(batch) !== 1) throw new Error("litert runs one thread and batch 1 in node");
  await core.loadLiteRt(path.join(root, "wasm"));
  const open = async (file) => {
    const model = await core.loadAndCompile(new Uint8Array(readFileSync(file)), { accelerator: "wasm" });
    const inputs = model.getInputDetails().map(({ dtype, shape }) => {
      if (dtype !== "float32") throw new Error(`inputs must be float32, but one is ${dtype}`);
      const sizes = [...shape];
      return new core.Tensor(randomValues(sizes.reduce((a, b) => a * b, 1)), sizes);
    });
    return async () => {
      for (const output of Object.values(await model.run(inputs))) output.delete();
    };
  };
  const version = JSON.parse(readFileSync(path.join(root, "package.json"), "utf8")).version;
  return { open, version };
}

async function main() {
  console.log = () => {}; // the engines' own remarks; the answer is written below
  const { open, version } = await { "onnxruntime-web": onnxRuntimeWeb, litert: liteRt }[engine]();
  const calls = [];
  for (const [i, file] of files.entries()) calls.push(await open(file, i === 0 ? 1 : Number(batch)));
  for (const call of calls) for (let i = 0; i < Math.max(1, Number(warmup)); i += 1) await call();
  const samples = calls.map(() => []);
  const end = performance.now() + 1000 * Number(maxSeconds) * (calls.length - 1);
  const rounds = Math.max(LEAST_ROUNDS, Number(repeats));
  for (let round = 0; round < rounds && (round < LEAST_ROUNDS || performance.now() < end); round += 1) {
    for (let k = 0; k < calls.length; k += 1) {
      // Rotated, and every second round backwards: nobody always follows the same net.
      const place = (round + k) % calls.length;
      const i = round % 2 === 0 ? place : calls.length - 1 - place;
      const start = performance.now();
      await calls[i]();
      samples[i].push(performance.now() - start);
    }
  }
  const environment = {
    runtime_version: version,
    node: process.version,
    cpu_model: os.cpus()[0]?.model ?? "",
    architecture: process.arch,
  };
  process.stdout.write(`\n${JSON.stringify({ samples_ms: samples, environment })}\n`);
}

main().then(
  () => process.exit(0),
  (error) => {
    process.stderr.write(`${String(error?.message ?? error).split(/\s+/).join(" ")}\n`);
    process.exit(1);
  },
);
