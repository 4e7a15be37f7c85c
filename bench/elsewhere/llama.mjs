// llama.cpp by node-llama-cpp: node llama.mjs NODE_MODULES. A line of JSON on stdin, {model, ids,
// texts}, gives one on stdout: {logits} (float32, a row a position) and {tokens} (ids a text).
import {createInterface} from "node:readline";
import {pathToFileURL} from "node:url";
import {join} from "node:path";

const module = join(process.argv[2], "node-llama-cpp", "dist", "index.js");
const {getLlama, LlamaLogLevel} = await import(pathToFileURL(module));
const said = [];
const llama = await getLlama({
    gpu: false, build: "never", maxThreads: 1, logLevel: LlamaLogLevel.warn,
    logger: (level, message) => said.push(message.trim())
});

async function computed({model: modelPath, ids, texts = []}) {
    const model = await llama.loadModel({modelPath, checkTensors: true});
    const tokens = texts.map((text) => model.tokenize(text, true));
    const context = await model.createContext({contextSize: Math.max(256, ids.length + 1)});
    const sequence = context.getSequence();
    const asked = ids.map((id) => [id, {generateNext: {logits: true}}]);
    const answers = ids.length ? await sequence.controlledEvaluate(asked) : [];
    const logits = answers.map(({next}) => {
        const row = [];
        for (const [id, value] of next.logits) row[id] = value;
        return row;
    });
    await context.dispose();
    await model.dispose();
    return {logits, tokens};
}

for await (const line of createInterface({input: process.stdin})) {
    said.length = 0;
    let answer;
    try {
        answer = await computed(JSON.parse(line));
    } catch (error) {
        answer = {error: [error.message, ...said].join(" | ")};
    }
    process.stdout.write(JSON.stringify(answer) + "\n");
}
process.exit(0);
