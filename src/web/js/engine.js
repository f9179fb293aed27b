// @ts-check
/** The engine as a program sees it, in this thread or in a worker. */

/**
 * @import {
 *     Adapters, BenchOptions, BenchPart, DataStats, DeviceInfo, EngineInterface, Figure, Generated,
 *     GenerateOptions, LoadOptions, LoadProgress, MemoryInfo, Message, ModelInfo, NamedFile, Source, Splits,
 *     TrainConfig
 * } from "./engram"
 * @import { Call } from "./local.js"
 */

import { Completions } from "./chat.js";
import { EngramError } from "./errors.js";
import { given } from "./given.js";
import { Local } from "./local.js";

/** Where {@link callOf} finds an engine's methods: not for users, hence a symbol. */
const CALL = Symbol.for("engram.call");

/**
 * What an engine is to the facade: one function for all methods, and an end.
 *
 * @typedef {object} Backend
 * @property {Call} call
 * @property {ModelInfo} model
 * @property {DeviceInfo} device
 * @property {() => Promise<void>} dispose
 */

/** @implements {EngineInterface} */
export class AnyEngine {
    #backend;

    /** @param {Backend} backend */
    constructor(backend) {
        this.#backend = backend;
        const { call, model } = backend;
        /** @readonly */
        this.model = Object.freeze(model);
        /** @readonly */
        this.chat = Object.freeze({ completions: new Completions(call, model.name) });
        /** @readonly */
        this.adapters = Object.freeze(adaptersOf(call));
    }

    /** @returns {Call} */
    get [CALL]() {
        return this.#backend.call;
    }

    get device() {
        return this.#backend.device;
    }

    /**
     * @param {string} prompt
     * @param {GenerateOptions} [options]
     * @returns {Promise<Generated>}
     */
    async generate(prompt, { adapter, signal, onText, ...sampling } = {}) {
        if (typeof prompt !== "string") throw new EngramError("invalid", "the prompt is no text");
        const args = { input: prompt, adapter, sampling };
        return this.#backend.call("generate", args, { signal, onEvent: onText });
    }

    /** @param {string} text */
    async tokenize(text) {
        return this.#backend.call("tokenize", text);
    }

    /** @param {Uint32Array | readonly number[]} tokens */
    async detokenize(tokens) {
        return this.#backend.call("detokenize", Uint32Array.from(tokens));
    }

    /** @param {string | readonly Message[]} input */
    async countTokens(input) {
        return (await this.#backend.call("tokenize", input)).length;
    }

    /**
     * @param {Partial<Splits>} dataset
     * @param {TrainConfig} [config]
     * @returns {Promise<DataStats>}
     */
    async dataStats({ train, valid, test }, config = {}) {
        return this.#backend.call("dataStats", { dataset: { train, valid, test }, config: given(config) });
    }

    /** @returns {Promise<MemoryInfo>} */
    async memory() {
        return this.#backend.call("memory", undefined);
    }

    /**
     * @param {BenchPart} what
     * @param {BenchOptions} [options]
     * @returns {Promise<Figure[]>}
     */
    async bench(what, { signal, ...options } = {}) {
        return this.#backend.call("bench", { what, options }, { signal });
    }

    /** @param {{ onProgress?: (progress: LoadProgress) => void, signal?: AbortSignal }} [options] */
    async reload({ onProgress, signal } = {}) {
        const device = await this.#backend.call("reload", undefined, { signal, onEvent: onProgress });
        this.#backend.device = device;
    }

    async loseDevice() {
        await this.#backend.call("loseDevice", undefined);
    }

    async dispose() {
        await this.#backend.dispose();
    }
}

/** A model in the calling thread. */
export class Engine extends AnyEngine {
    /**
     * @param {Source} source
     * @param {LoadOptions} [options]
     */
    static async load(source, { onProgress, signal, ...options } = {}) {
        return new Engine(await Local.load(source, options, { signal, onEvent: onProgress }));
    }
}

/**
 * The methods of an engine, for those who work on one.
 *
 * @param {EngineInterface} engine
 * @returns {Call}
 */
export function callOf(engine) {
    const call = /** @type {{ [CALL]?: Call }} */ (engine ?? {})[CALL];
    if (!call) throw new EngramError("invalid", "not an engine: give what Engine.load returned");
    return call;
}

/** @param {Call} call @returns {Adapters} */
function adaptersOf(call) {
    return {
        async load(name, files) {
            return call("loadAdapter", { name, files: await Promise.all(files.map(toNamedFile)) });
        },
        activate: async name => call("activateAdapter", name),
        deactivate: async () => call("activateAdapter", undefined),
        list: async () => call("listAdapters", undefined),
        blend: async (name, weights) => call("blendAdapters", { name, weights }),
        remove: async name => call("removeAdapter", name),
        export: async (name, format) => call("exportAdapter", { name, format }),
    };
}

/** @param {File | NamedFile} file @returns {Promise<NamedFile>} */
async function toNamedFile(file) {
    if (!(file instanceof Blob)) return { name: file.name, bytes: file.bytes };
    return { name: file.name, bytes: new Uint8Array(await file.arrayBuffer()) };
}
