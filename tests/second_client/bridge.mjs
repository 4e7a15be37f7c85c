// `@huggingface/hub` for the tests: a call on each line of standard input, its answer on a line
// of standard output.
//
//   {"function": "downloadFile", "parameters": {…}, "slice": [0, 10]}  →  {"value": …}
//                                                   or {"error": {"status": 404, "message": …}}
//
// Blobs are {"base64": …} and URLs {"url": …} in both directions; what a function yields one by
// one comes as a list. `slice` reads only these bytes of the Blob that the function returns.
import { Console } from "node:console";
import { createInterface } from "node:readline";
import * as hub from "@huggingface/hub";

const SECONDS = 30;

globalThis.console = new Console(process.stderr); // the package logs; standard output is ours

function revive(_key, value) {
  if (typeof value?.base64 === "string") return new Blob([Buffer.from(value.base64, "base64")]);
  if (typeof value?.url === "string") return new URL(value.url);
  return value;
}

async function collected(result, slice) {
  if (result instanceof Blob) {
    const bytes = await (slice ? result.slice(...slice) : result).arrayBuffer();
    return { base64: Buffer.from(bytes).toString("base64") };
  }
  if (result?.[Symbol.asyncIterator]) {
    const items = [];
    for await (const item of result) items.push(item);
    return items;
  }
  return result ?? null;
}

async function called(line) {
  const { function: name, parameters, slice } = JSON.parse(line, revive);
  return { value: await collected(await hub[name](parameters), slice) };
}

function overdue() {
  return new Promise((_resolve, reject) => {
    setTimeout(() => reject(new Error(`no answer in ${SECONDS} s`)), SECONDS * 1000).unref();
  });
}

for await (const line of createInterface({ input: process.stdin })) {
  const answer = await Promise.race([called(line), overdue()]).catch((error) => ({
    error: { status: error.statusCode ?? null, message: String(error.message) },
  }));
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
