// @ts-check
/** The compiled module, loaded when something first needs it. */

import { EngramError, toError } from "./errors.js";

/** @typedef {typeof import("./engram_wasm.js")} Wasm */

/** @type {Promise<Wasm> | undefined} */
let loading;

/** @returns {Promise<Wasm>} */
export function wasm() {
    loading ??= load().catch(error => {
        // The next call may find the network again.
        loading = undefined;
        throw error;
    });
    return loading;
}

async function load() {
    try {
        const module = await import("./engram_wasm.js");
        await module.default();
        return module;
    } catch (error) {
        const { message } = toError(error);
        const advice = "check the network, and that engram_wasm_bg.wasm is served";
        throw new EngramError("network", `the module can't be loaded (${message}); ${advice}`, {
            cause: error,
        });
    }
}

/** @type {EngramError | undefined} */
let fault;
/** @type {Set<(error: EngramError) => void>} */
const waiting = new Set();

/** After a trap nothing in the module can be relied on. @param {unknown} error */
function noteTrap(error) {
    if (!(error instanceof WebAssembly.RuntimeError)) return;
    const message = `the module stopped (${error.message}); reload the page`;
    fault = new EngramError("internal", message, { cause: error });
    for (const reject of waiting) reject(fault);
}

// A trap in an asynchronous call reaches no promise: it only shows as an uncaught error.
globalThis.addEventListener?.("error", event => noteTrap("error" in event && event.error));

/**
 * The promise, or an error if the module stops before it settles.
 *
 * @template T
 * @param {() => Promise<T> | T} call
 * @returns {Promise<T>}
 */
export async function guarded(call) {
    if (fault) throw fault;
    /** @type {(error: EngramError) => void} */
    let stop = () => {};
    /** @type {Promise<never>} */
    const stopped = new Promise((_, reject) => (stop = reject));
    stopped.catch(() => {});
    waiting.add(stop);
    try {
        return await Promise.race([call(), stopped]);
    } catch (error) {
        noteTrap(error);
        throw fault ?? error;
    } finally {
        waiting.delete(stop);
    }
}
