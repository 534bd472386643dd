// The page's side of worker.js: a call returns a promise, and is given up by `stop`.

let worker = null;
let calls = new Map(); // id → {resolve, reject, report}
let latest = 0;

export function call(task, input = {}, report = () => {}) {
  worker ??= start();
  const id = ++latest;
  return new Promise((resolve, reject) => {
    calls.set(id, { resolve, reject, report });
    worker.postMessage({ id, task, input });
  });
}

/** Give up whatever is going on. */
export function stop(reason = "Stopped.") {
  worker?.terminate();
  worker = null;
  const given_up = calls;
  calls = new Map();
  for (const { reject } of given_up.values()) reject(new Error(reason));
}

function start() {
  const made = new Worker(new URL(`./worker.js${location.search}`, import.meta.url), { type: "module" });
  made.onmessage = ({ data: { id, share, result, error } }) => {
    const waiting = calls.get(id);
    if (!waiting) return;
    if (share !== undefined) return waiting.report(share);
    calls.delete(id);
    if (error === undefined) waiting.resolve(result);
    else waiting.reject(new Error(error));
  };
  made.onerror = (event) => {
    event.preventDefault();
    stop(`The page failed: ${event.message || "its files are incomplete; make web"}`);
  };
  return made;
}
