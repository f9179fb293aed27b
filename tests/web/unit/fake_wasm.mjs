/** What the package asks of the compiled module, with answers that tests can foresee. */

import { createHash } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";

export default async function init() {}

export class Sha256 {
    #hash = createHash("sha256");
    update(bytes) {
        this.#hash.update(bytes);
    }
    hex() {
        return this.#hash.digest("hex");
    }
    free() {}
}

function error(code, message) {
    return Object.assign(new Error(message), { code });
}

const SAFE = { matmul: "tile", matmulTransposed: "tile", matvec: "tile" };

export class WasmEngine {
    #adapters = new Map();
    #busy = 0;
    device = { name: "fake", isSoftware: true, maxStorageBinding: 1, variants: SAFE };

    static async load(files, name, quantize, tuning, onProgress, signal) {
        const bytes = files.reduce((sum, { blob }) => sum + blob.size, 0);
        for (let loaded = 0; loaded <= bytes; loaded += Math.ceil(bytes / 4)) {
            await sleep(1);
            if (signal?.aborted) throw error("aborted", "aborted");
            onProgress(loaded, bytes);
        }
        const engine = new WasmEngine();
        await engine.#tune(tuning);
        engine.model = { name, bytes, quantize, files: files.map(file => file.name) };
        return engine;
    }

    async #alone(work) {
        if (this.#busy++) throw new Error("recursive use of an object");
        try {
            return await work();
        } finally {
            this.#busy--;
        }
    }

    async #tune(tuning) {
        if (!tuning) return;
        const known = await tuning.recall("fake 1");
        const variants = known?.matmul ? known : { ...SAFE, matvec: "loads" };
        if (variants !== known) {
            tuning.begin();
            await tuning.remember("fake 1", variants);
        }
        this.device = { ...this.device, variants };
    }

    reload(tuning, onProgress) {
        return this.#alone(async () => {
            await this.#tune(tuning);
            onProgress(1, 1);
            this.device = { ...this.device, name: "fake again" };
        });
    }
    bench(what, { runs = 3 }, signal) {
        return this.#alone(async () => {
            if (what === "none") throw error("invalid", "`none` can't be measured");
            for (let run = 0; run < runs; run++) {
                await sleep(1);
                if (signal.aborted) throw error("aborted", "aborted");
            }
            return [{ name: what, unit: "s", median: 1, runs: Array(runs).fill(1) }];
        });
    }
    memory() {
        return { gpu: 3, gpuPeak: 4, wasm: 5 };
    }
    encode(text) {
        return Uint32Array.from(text, letter => letter.codePointAt(0));
    }
    encodePrompt(text) {
        return this.encode(text);
    }
    encodeChat(messages) {
        if (messages.length === 0) throw error("invalid", "no messages");
        return this.encode(messages.map(message => message.content).join("|"));
    }
    decode(tokens) {
        return String.fromCodePoint(...tokens);
    }

    /** Repeats the prompt, letter by letter, after the adapter's name. */
    generate(prompt, { max_tokens = 256, ...others }, adapter, onText, signal) {
        return this.#alone(async () => {
            if (prompt.length > 1000) throw error("context-overflow", "too long");
            const all = `${adapter ?? ""}:${this.decode(prompt)}:${JSON.stringify(others)}`;
            const text = all.slice(0, max_tokens);
            for (const letter of text) {
                await sleep(1);
                if (signal.aborted) throw error("aborted", "aborted");
                if (letter === "!") throw error("device-lost", "the GPU went away");
                if (letter === "?") this.loseDevice();
                if ("?#".includes(letter)) throw error("gpu", "reading back failed");
                onText(letter);
            }
            const finish_reason = text === all ? "stop" : "length";
            return { text, tokens: this.encode(text), finish_reason, usage: { total_tokens: 7 } };
        });
    }

    loadAdapter(name, files) {
        return this.#alone(async () => {
            this.#adapters.set(name, files);
            return { name, rank: 8, parameters: files[0].bytes.length, active: false };
        });
    }
    listAdapters() {
        return [...this.#adapters].map(([name, files]) => {
            return { name, rank: 8, parameters: files[0].bytes.length, active: false };
        });
    }
    removeAdapter(name) {
        this.#adapters.delete(name);
    }
    async exportAdapter(name, format) {
        return [{ name: `${format}.safetensors`, bytes: this.#adapters.get(name)[0].bytes.slice() }];
    }

    async createTrainer(dataset, config) {
        return new WasmTrainer(dataset, config);
    }
    async evaluate(candidates, examples, trainedOn, options, onProgress) {
        onProgress({ candidate: candidates[0].name, phase: "complete", done: 1, total: 1 });
        return { report: { candidates, examples, trainedOn, options }, json: "{}", markdown: "" };
    }
    check() {
        if (this.device.name === "lost") throw error("device-lost", "the GPU went away");
    }
    loseDevice() {
        this.device = { ...this.device, name: "lost" };
    }
    free() {}
}

class WasmTrainer {
    #iteration = 0;
    constructor(dataset, config) {
        this.config = { iters: 3, ...config };
        this.trainableParameters = dataset.train.length;
    }
    async advance() {
        await sleep(5);
        const iterations = this.config.iters;
        if (this.#iteration === iterations) return undefined;
        return { kind: "step", iteration: ++this.#iteration, iterations };
    }
    async exportAdapter(format, checkpoint) {
        const bytes = Uint8Array.of(this.#iteration);
        return [{ name: `${format}.${checkpoint}`, bytes }];
    }
    free() {}
}

export async function checkSupport() {
    return { ok: false, code: "no-webgpu", message: "none here", features: [] };
}
export function parsePatterns(name, text) {
    if (text === "") throw error("data", `${name}:1: nothing there`);
    return [{ input: text, output: "", category: "fact/x" }];
}
/** Takes JSON lines as they are, if they are objects with a text. */
export function parseExamples(name, text) {
    const lines = text.split("\n").filter(Boolean);
    if (lines.length === 0) throw error("format", `${name}: no records in it`);
    return lines.map((line, i) => {
        const record = JSON.parse(line);
        if (record.none) throw error("data", `${name}:${i + 1}: a record has a text`);
        return record;
    });
}
