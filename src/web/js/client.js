// @ts-check
/** The page's side of an engine in a worker. */

/**
 * @import { LoadOptions, Source } from "./engram"
 * @import { Loaded, Reply, Request } from "./messages.js"
 * @import { Call } from "./local.js"
 */

import { AnyEngine } from "./engine.js";
import { EngramError, throwIfAborted, toError } from "./errors.js";
import { disposed } from "./queue.js";
import { portable } from "./source.js";

/** A model in a worker of its own. */
export class EngineWorker extends AnyEngine {
    /**
     * @param {Source} source
     * @param {LoadOptions & { worker?: Worker }} [options]
     */
    static async load(source, { worker, onProgress, signal, ...options } = {}) {
        throwIfAborted(signal);
        const remote = new Remote(worker ?? startWorker());
        try {
            const request = { kind: /** @type {const} */ ("load"), source: await portable(source), options };
            const run = { signal, onEvent: onProgress };
            const loaded = /** @type {Loaded} */ (await remote.ask(request, run));
            // The worker may have been quicker than the message.
            throwIfAborted(signal);
            return new EngineWorker(Object.assign(remote, loaded));
        } catch (error) {
            remote.end(disposed());
            throw toError(error);
        }
    }
}

function startWorker() {
    const url = new URL("./worker.js", import.meta.url);
    return new Worker(url, { type: "module", name: "engram" });
}

/**
 * @typedef {object} Pending A call that has not ended.
 * @property {(value: never) => void} resolve
 * @property {(error: EngramError) => void} reject
 * @property {(event: never) => void} onEvent
 */

/** A request without its id. @typedef {Request extends infer R ? R extends Request ? Omit<R, "id"> : never : never} Question */

/** Speaks with the worker. */
class Remote {
    #worker;
    /** @type {Map<number, Pending>} */
    #pending = new Map();
    #lastId = 0;
    /** @type {EngramError | undefined} Why nothing can be asked any more. */
    #ended;

    /** @param {Worker} worker */
    constructor(worker) {
        this.#worker = worker;
        worker.addEventListener("message", this.#receive);
        worker.addEventListener("error", this.#fail);
        worker.addEventListener("messageerror", this.#fail);
    }

    /** @param {MessageEvent<Reply>} message */
    #receive = ({ data }) => {
        const call = this.#pending.get(data.id);
        if (!call) return;
        if (data.kind === "event") return call.onEvent(/** @type {never} */ (data.event));
        this.#pending.delete(data.id);
        if (data.kind === "result") return call.resolve(/** @type {never} */ (data.value));
        call.reject(new EngramError(data.code, data.message));
    };

    /** @param {Event} event */
    #fail = event => {
        // A worker whose files could not be fetched tells nothing more than that.
        const error = "message" in event && event.message
            ? new EngramError("internal", `the engine's worker stopped (${event.message}); load the model again`)
            : new EngramError(
                  "network",
                  "the engine's worker can't be started from worker.js; check the network, and that " +
                      "the package's files are served beside one another",
              );
        this.end(error);
    };

    /**
     * @param {Question} question
     * @param {{ signal?: AbortSignal, onEvent?: (event: never) => void }} [run]
     * @returns {Promise<unknown>}
     */
    async ask(question, { signal, onEvent = () => {} } = {}) {
        if (this.#ended) throw this.#ended;
        throwIfAborted(signal);
        const id = ++this.#lastId;
        const abort = () => this.#worker.postMessage({ kind: "abort", id });
        try {
            return await new Promise((resolve, reject) => {
                this.#pending.set(id, { resolve, reject, onEvent });
                this.#worker.postMessage({ ...question, id });
                signal?.addEventListener("abort", abort, { once: true });
            });
        } catch (error) {
            // What can't be sent is not pending either.
            this.#pending.delete(id);
            throw toError(error);
        } finally {
            signal?.removeEventListener("abort", abort);
        }
    }

    /** @type {Call} */
    call = (method, args, run) => {
        return /** @type {never} */ (this.ask({ kind: "call", method, args }, run));
    };

    async dispose() {
        if (this.#ended) return;
        try {
            await this.ask({ kind: "dispose" });
        } finally {
            this.end(disposed());
        }
    }

    /** Ends the worker, and all calls with the error. @param {EngramError} error */
    end(error) {
        this.#ended ??= error;
        this.#worker.terminate();
        for (const { reject } of this.#pending.values()) reject(error);
        this.#pending.clear();
    }
}
