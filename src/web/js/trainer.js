// @ts-check
/** A LoRA training on an engine. */

/** @import { AdapterFormat, Dataset, EngineInterface, NamedFile, TrainConfig, TrainStep } from "./engram" */
/** @import { Call, Methods } from "./local.js" */

import { callOf } from "./engine.js";
import { EngramError, throwIfAborted, toError, unlessAborted } from "./errors.js";
import { given } from "./given.js";

export class Trainer {
    #call;
    #id;
    #isCancelled = false;
    #isAwaited = false;
    /**
     * The step in the making: a run that is aborted meanwhile leaves it to the next run.
     *
     * @type {Promise<TrainStep | undefined> | undefined}
     */
    #step;

    /**
     * @param {Call} call
     * @param {Awaited<ReturnType<Methods["createTrainer"]>>} created
     */
    constructor(call, { id, config, trainableParameters }) {
        this.#call = call;
        this.#id = id;
        /** @readonly */
        this.config = Object.freeze(config);
        /** @readonly */
        this.trainableParameters = trainableParameters;
    }

    /**
     * @param {EngineInterface} engine
     * @param {Dataset} dataset
     * @param {TrainConfig} [config]
     */
    static async create(engine, dataset, config = {}) {
        const call = callOf(engine);
        // Only what is trained on: splits have their test questions beside.
        const { train, valid } = dataset;
        const args = { dataset: { train, valid }, config: given(config) };
        return new Trainer(call, await call("createTrainer", args));
    }

    /**
     * @param {{ signal?: AbortSignal }} [options]
     * @returns {AsyncGenerator<TrainStep, void>}
     */
    async *run({ signal } = {}) {
        while (!this.#isCancelled) {
            const step = await this.#next(signal);
            if (!step) return;
            yield step;
        }
    }

    /** @param {AbortSignal | undefined} signal */
    async #next(signal) {
        if (this.#isAwaited) {
            throw new EngramError("invalid", "this training is running already; leave that loop first");
        }
        this.#isAwaited = true;
        try {
            throwIfAborted(signal);
            this.#step ??= this.#call("advanceTrainer", this.#id);
            const step = await unlessAborted(this.#step, signal);
            this.#step = undefined;
            return step;
        } catch (error) {
            if (!signal?.aborted) this.#step = undefined;
            throw error;
        } finally {
            this.#isAwaited = false;
        }
    }

    cancel() {
        this.#isCancelled = true;
    }

    /**
     * @param {AdapterFormat} format
     * @param {{ checkpoint?: "last" | "best" }} [options]
     * @returns {Promise<NamedFile[]>}
     */
    async exportAdapter(format, { checkpoint = "last" } = {}) {
        return this.#call("exportTrainer", { id: this.#id, format, checkpoint });
    }

    async dispose() {
        this.#isCancelled = true;
        try {
            await this.#call("freeTrainer", this.#id);
        } catch (error) {
            // An engine that was disposed of has freed it too.
            if (toError(error).code !== "disposed") throw error;
        }
    }
}
