// @ts-check
/** One call at a time, in the order in which they were made. */

import { EngramError, throwIfAborted, unlessAborted } from "./errors.js";

export class Queue {
    /** @type {Promise<unknown>} Settles when the calls made so far have ended; never rejects. */
    #tail = Promise.resolve();
    /** @type {AbortController | undefined} Ends the call that is running. */
    #running;
    #isClosed = false;

    /**
     * Runs `call` when those before it have ended, with a signal that it has to heed.
     *
     * @template T
     * @param {(signal: AbortSignal) => Promise<T> | T} call
     * @param {AbortSignal} [signal]
     * @returns {Promise<T>}
     */
    async run(call, signal) {
        this.check();
        throwIfAborted(signal);
        const before = this.#tail;
        /** @type {() => void} */
        let end = () => {};
        const ended = /** @type {Promise<void>} */ (new Promise(resolve => (end = resolve)));
        // A call that is aborted while it waits leaves, but those behind it still wait for those
        // before it.
        this.#tail = before.then(() => ended);
        try {
            await unlessAborted(before, signal);
            return await this.#now(call, signal);
        } finally {
            end();
        }
    }

    /**
     * @template T
     * @param {(signal: AbortSignal) => Promise<T> | T} call
     * @param {AbortSignal} [signal]
     * @returns {Promise<T>}
     */
    async #now(call, signal) {
        this.check();
        const running = (this.#running = new AbortController());
        const forward = () => running.abort(signal?.reason);
        signal?.addEventListener("abort", forward, { once: true });
        try {
            return await call(running.signal);
        } catch (error) {
            if (this.#isClosed) throw disposed();
            throw error;
        } finally {
            signal?.removeEventListener("abort", forward);
            this.#running = undefined;
        }
    }

    /** Throws if the queue is closed. */
    check() {
        if (this.#isClosed) throw disposed();
    }

    /**
     * Ends the running call, refuses the waiting ones, and returns when nothing runs any more:
     * whether it was this call that closed the queue.
     */
    async close() {
        const isFirst = !this.#isClosed;
        this.#isClosed = true;
        this.#running?.abort();
        await this.#tail;
        return isFirst;
    }
}

/** The error of a call that comes too late. */
export function disposed() {
    return new EngramError("disposed", "the engine was disposed of; load the model again");
}
