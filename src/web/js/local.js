// @ts-check
/**
 * An engine in this thread. {@link methods} is everything it does: the page's engine calls it
 * directly, a worker's by messages, so that arguments and results are plain data.
 */

/**
 * @import {
 *     AdapterFormat, AdapterInfo, BenchOptions, BenchPart, Dataset, EvalExample, EvalOptions, EvalProgress, LoadOptions,
 *     LoadProgress, Message, NamedFile, Sampling, Source, Splits, TrainConfig, TrainingExample
 * } from "./engram"
 * @import { WasmEngine, WasmTrainer } from "./engram_wasm.js"
 */

import { EngramError, throwIfAborted, toError } from "./errors.js";
import { Queue } from "./queue.js";
import { resolve } from "./source.js";
import { tuning } from "./variants.js";
import { guarded, wasm } from "./wasm.js";

/**
 * What the methods work on.
 *
 * @typedef {object} State
 * @property {WasmEngine} engine
 * @property {boolean} autotune Whether a new device is measured for its fastest kernels.
 * @property {string | undefined} active The adapter of generations that name none.
 * @property {Map<number, WasmTrainer>} trainers
 * @property {number} lastTrainer
 */

/**
 * How a call is watched and ended.
 *
 * @template Event
 * @typedef {{ signal: AbortSignal, onEvent: (event: Event) => void }} Run
 */

export const methods = {
    /**
     * @param {State} state
     * @param {{ input: string | readonly Message[], sampling: Sampling, adapter?: string | null }} args
     * @param {Run<string>} run
     */
    async generate({ engine, active }, { input, sampling, adapter }, { signal, onEvent }) {
        const isText = typeof input === "string";
        const prompt = isText ? engine.encodePrompt(input) : engine.encodeChat(input);
        const name = adapter === undefined ? active : (adapter ?? undefined);
        return engine.generate(prompt, sampling, name, onEvent, signal);
    },

    /** @param {State} state @param {string | readonly Message[]} input */
    async tokenize({ engine }, input) {
        return typeof input === "string" ? engine.encode(input) : engine.encodeChat(input);
    },

    /** @param {State} state @param {Uint32Array} tokens */
    async detokenize({ engine }, tokens) {
        return engine.decode(tokens);
    },

    /** Does not wait for the running call. @param {State} state */
    async memory({ engine }) {
        return engine.memory();
    },

    /** @param {State} state @param {{ name: string, files: NamedFile[] }} args */
    async loadAdapter(state, { name, files }) {
        const info = await state.engine.loadAdapter(name, files);
        return withActive(state, info);
    },

    /** @param {State} state @param {string | undefined} name */
    async activateAdapter(state, name) {
        const names = state.engine.listAdapters().map(adapter => adapter.name);
        if (name !== undefined && !names.includes(name)) {
            const loaded = names.length > 0 ? names.join(", ") : "none";
            throw new EngramError("invalid", `no adapter ${name} is loaded (loaded: ${loaded})`);
        }
        state.active = name;
    },

    /** @param {State} state */
    async listAdapters(state) {
        return state.engine.listAdapters().map(info => withActive(state, info));
    },

    /** @param {State} state @param {{ name: string, weights: Record<string, number> }} args */
    async blendAdapters(state, { name, weights }) {
        return withActive(state, state.engine.blendAdapters(name, weights));
    },

    /** @param {State} state @param {string} name */
    async removeAdapter(state, name) {
        state.engine.removeAdapter(name);
        if (state.active === name) state.active = undefined;
    },

    /** @param {State} state @param {{ name: string, format: AdapterFormat }} args */
    async exportAdapter({ engine }, { name, format }) {
        return engine.exportAdapter(name, format);
    },

    /** @param {State} state @param {{ dataset: Dataset, config: TrainConfig }} args */
    async createTrainer(state, { dataset, config }) {
        const trainer = await state.engine.createTrainer(dataset, config);
        const id = ++state.lastTrainer;
        state.trainers.set(id, trainer);
        return { id, config: trainer.config, trainableParameters: trainer.trainableParameters };
    },

    /** @param {State} state @param {number} id */
    async advanceTrainer(state, id) {
        return trainerOf(state, id).advance();
    },

    /**
     * @param {State} state
     * @param {{ id: number, format: AdapterFormat, checkpoint: "last" | "best" }} args
     */
    async exportTrainer(state, { id, format, checkpoint }) {
        return trainerOf(state, id).exportAdapter(format, checkpoint);
    },

    /** @param {State} state @param {number} id */
    async freeTrainer(state, id) {
        state.trainers.get(id)?.free();
        state.trainers.delete(id);
    },

    /**
     * @param {State} state
     * @param {{
     *     candidates: { name: string, adapter?: string }[],
     *     examples: readonly (EvalExample | TrainingExample)[],
     *     trainedOn?: readonly TrainingExample[],
     *     options: Omit<EvalOptions, "trainedOn" | "onProgress" | "signal">,
     * }} args
     * @param {Run<EvalProgress>} run
     */
    async evaluate({ engine }, args, { signal, onEvent }) {
        const { candidates, examples, trainedOn, options } = args;
        return engine.evaluate(candidates, examples, trainedOn, options, onEvent, signal);
    },

    /** @param {State} state @param {{ dataset: Partial<Splits>, config: TrainConfig }} args */
    async dataStats({ engine }, { dataset, config }) {
        return engine.dataStats(dataset, config);
    },

    /**
     * @param {State} state
     * @param {{ what: BenchPart, options: Omit<BenchOptions, "signal"> }} args
     * @param {Run<never>} run
     */
    async bench({ engine }, { what, options }, { signal }) {
        return engine.bench(what, options, signal);
    },

    /** @param {State} state @param {undefined} _ @param {Run<LoadProgress>} run */
    async reload({ engine, autotune }, _, { signal, onEvent }) {
        const { load, tune } = progress(onEvent);
        await engine.reload(autotune ? tuning(tune) : undefined, load, signal);
        return engine.device;
    },

    /** Does not wait for the running call. @param {State} state */
    async loseDevice({ engine }) {
        engine.loseDevice();
    },
};

/** @typedef {typeof methods} Methods */
/**
 * @template {keyof Methods} M
 * @typedef {Parameters<Methods[M]>[1]} Args
 */
/**
 * @template {keyof Methods} M
 * @typedef {Partial<NonNullable<Parameters<Methods[M]>[2]>>} Options
 */
/**
 * Calls a method of an engine, wherever it is.
 *
 * @typedef {<M extends keyof Methods>(
 *     method: M, args: Args<M>, options?: Options<M>
 * ) => ReturnType<Methods[M]>} Call
 */

/**
 * A method, whichever it is.
 *
 * @typedef {(state: State, args: unknown, run: Partial<Run<never>>) => Promise<unknown>} Method
 */

/** Those that don't wait for the running call, but tell of it or disturb it. */
const IMMEDIATE = new Set(["memory", "loseDevice"]);

/** How long a loss may take to be told, milliseconds: 2.6 s were seen on a software adapter. */
const LOSS_TOLD_WITHIN = 5000;

/** An engine in this thread, whose calls are made one after another. */
export class Local {
    #queue = new Queue();
    #state;

    /** @param {WasmEngine} engine @param {boolean} autotune */
    constructor(engine, autotune) {
        /** @type {State} */
        this.#state = { engine, autotune, active: undefined, trainers: new Map(), lastTrainer: 0 };
        this.model = engine.model;
        this.device = engine.device;
    }

    /**
     * @param {Source} source
     * @param {Omit<LoadOptions, "onProgress" | "signal">} options
     * @param {Partial<Run<LoadProgress>>} run
     */
    static async load(source, options, { signal, onEvent = () => {} }) {
        try {
            throwIfAborted(signal);
            const module = await wasm();
            const { download, load, tune } = progress(onEvent);
            const { files, name, forget } = await resolve(source, options, { signal, onProgress: download });
            throwIfAborted(signal);
            const { quantize, autotune = true } = options;
            const tuned = autotune ? tuning(tune) : undefined;
            const open = () =>
                module.WasmEngine.load(files, options.name ?? name, quantize, tuned, load, signal);
            const engine = await guarded(open).catch(async error => {
                // It may have been cut short, and the next try shall not find it again.
                if (toError(error).code === "format") await forget?.();
                throw error;
            });
            return new Local(engine, autotune);
        } catch (error) {
            throw toError(error, signal?.aborted ? "aborted" : "internal");
        }
    }

    /** @type {Call} */
    call = (method, args, options) => {
        return /** @type {never} */ (this.#call(method, args, options));
    };

    /**
     * @param {keyof Methods} name
     * @param {unknown} args
     * @param {{ signal?: AbortSignal, onEvent?: (event: never) => void }} [options]
     */
    async #call(name, args, { signal, onEvent = () => {} } = {}) {
        const method = /** @type {Method} */ (methods[name]);
        /** @param {AbortSignal} [signal] */
        const now = signal => guarded(() => method(this.#state, args, { signal, onEvent }));
        try {
            if (!IMMEDIATE.has(name)) return await this.#queue.run(now, signal);
            this.#queue.check();
            return await now();
        } catch (thrown) {
            const error = toError(thrown, signal?.aborted ? "aborted" : "internal");
            if (error.code === "gpu") await this.#findLoss(signal);
            throw error;
        }
    }

    /**
     * Throws `device-lost` if that is why the GPU failed. A browser tells it after the failure, and
     * the later the more work was waiting.
     *
     * @param {AbortSignal} [signal]
     */
    async #findLoss(signal) {
        const end = performance.now() + LOSS_TOLD_WITHIN;
        do {
            await new Promise(resolve => setTimeout(resolve, 50));
            this.#queue.check();
            try {
                this.#state.engine.check();
            } catch (error) {
                throw toError(error);
            }
        } while (performance.now() < end && !signal?.aborted);
    }

    /** Ends what runs and frees the GPU's memory. */
    async dispose() {
        if (!(await this.#queue.close())) return;
        for (const trainer of this.#state.trainers.values()) trainer.free();
        this.#state.trainers.clear();
        // Its buffers are the garbage collector's, the device's memory is ours.
        this.#state.engine.loseDevice();
        this.#state.engine.free();
    }
}

/** @param {State} state @param {AdapterInfo} info @returns {AdapterInfo} */
function withActive({ active }, info) {
    return { ...info, active: info.name === active };
}

/** @param {State} state @param {number} id */
function trainerOf({ trainers }, id) {
    const trainer = trainers.get(id);
    if (!trainer) throw new EngramError("disposed", "the training was disposed of; create another");
    return trainer;
}

/**
 * What tells of each phase of a load that begins now.
 *
 * @param {(progress: LoadProgress) => void} onEvent
 */
function progress(onEvent) {
    const start = performance.now();
    /** @param {LoadProgress["phase"]} phase */
    const of = phase => (loaded = 0, total = 0) => {
        onEvent({ phase, loaded, total, seconds: (performance.now() - start) / 1000 });
    };
    return { download: of("download"), tune: of("tune"), load: of("load") };
}
