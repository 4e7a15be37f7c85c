// transformers.js: node transformers.mjs NODE_MODULES. A line of JSON on stdin, {model, ids}, where
// model is a folder with onnx/model.onnx, gives one on stdout: {logits} (a row a position).
import {createInterface} from "node:readline";
import {pathToFileURL} from "node:url";
import {dirname, basename, join} from "node:path";

const module = join(process.argv[2], "@huggingface", "transformers", "dist", "transformers.node.mjs");
const {AutoModelForCausalLM, Tensor, env} = await import(pathToFileURL(module));
env.allowRemoteModels = false;

function integers(values) {
    return new Tensor("int64", BigInt64Array.from(values, BigInt), [1, values.length]);
}

async function computed({model: path, ids}) {
    env.localModelPath = dirname(path);
    const model = await AutoModelForCausalLM.from_pretrained(basename(path), {dtype: "fp32"});
    const mask = integers(ids.map(() => 1));
    const {logits} = await model({input_ids: integers(ids), attention_mask: mask});
    const rows = logits.tolist()[0];
    await model.dispose();
    return {logits: rows};
}

for await (const line of createInterface({input: process.stdin})) {
    let answer;
    try {
        answer = await computed(JSON.parse(line));
    } catch (error) {
        answer = {error: error.message};
    }
    process.stdout.write(JSON.stringify(answer) + "\n");
}
process.exit(0);
