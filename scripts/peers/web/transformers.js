/** transformers.js on onnxruntime-web's WebGPU. */

import { AutoModelForCausalLM, AutoTokenizer, BaseStreamer, Tensor, env } from "@huggingface/transformers";

env.allowRemoteModels = false;
env.allowLocalModels = true;
env.localModelPath = "/models/";
env.useBrowserCache = false;
env.backends.onnx.wasm.wasmPaths = "/node_modules/onnxruntime-web/dist/";

const NAME = "smollm2";

const load = dtype =>
    AutoModelForCausalLM.from_pretrained(NAME, { device: "webgpu", dtype, use_external_data_format: true });

/** When tokens come: the prompt first, then each new one. */
class Clock extends BaseStreamer {
    times = [];
    put() {
        this.times.push(performance.now());
    }
    end() {}
}

export async function decode({ prompt, new_tokens, dtype }) {
    const tokenizer = await AutoTokenizer.from_pretrained(NAME);
    const model = await load(dtype);
    // The first run compiles the kernels.
    await model.generate({ ...tokenizer("Once upon a time"), do_sample: false, max_new_tokens: 2 });
    const inputs = tokenizer(prompt);
    const streamer = new Clock();
    const options = { do_sample: false, max_new_tokens: new_tokens, streamer };
    const ids = await model.generate({ ...inputs, ...options });
    const [begin, first] = streamer.times;
    const last = streamer.times.at(-1);
    const length = inputs.input_ids.dims[1];
    const fresh = ids.slice(null, [length, null]);
    return {
        text: tokenizer.batch_decode(fresh)[0],
        prompt_tokens: length,
        prefill: (length / (first - begin)) * 1e3,
        decode: ((streamer.times.length - 2) / (last - first)) * 1e3,
    };
}

const tensor = values => new Tensor("int64", BigInt64Array.from(values, BigInt), [1, values.length]);

/** Milliseconds, and what came out. */
async function forward(model, ids) {
    const begin = performance.now();
    const { logits } = await model({ input_ids: tensor(ids), attention_mask: tensor(ids.map(() => 1)) });
    const values = logits.data ?? (await logits.getData());
    return { ms: performance.now() - begin, values, vocab: logits.dims[2] };
}

/** Mean cross-entropy of the targets. */
function meanLoss({ values, vocab }, targets) {
    let loss = 0;
    targets.forEach((target, position) => {
        const row = values.subarray(position * vocab, (position + 1) * vocab);
        const largest = row.reduce((a, b) => Math.max(a, b));
        const sum = row.reduce((total, logit) => total + Math.exp(logit - largest), 0);
        loss += Math.log(sum) + largest - row[target];
    });
    return loss / targets.length;
}

export async function inferena({ inputs, targets, dtype }) {
    const model = await load(dtype);
    // The first run compiles the kernels; at this pace the longer one is not run twice.
    await forward(model, inputs.slice(0, 2));
    await forward(model, inputs.slice(0, 1));
    const one = await forward(model, inputs.slice(0, 1));
    const whole = await forward(model, inputs);
    return { forward_ms: [whole.ms], one_token_ms: [one.ms], loss: meanLoss(whole, targets) };
}
