// @ts-check
/** SHA-256 of what comes in pieces, which the browser's own can't do. */

import { throwIfAborted } from "./errors.js";
import { wasm } from "./wasm.js";

/**
 * A sum in the making; `free` it, however it ends.
 */
export async function hasher() {
    const { Sha256 } = await wasm();
    return new Sha256();
}

/**
 * @param {Blob} blob
 * @param {AbortSignal} [signal]
 * @returns {Promise<string>}
 */
export async function sha256Of(blob, signal) {
    const sum = await hasher();
    try {
        const reader = blob.stream().getReader();
        for (;;) {
            throwIfAborted(signal);
            const { value, done } = await reader.read();
            if (done) return sum.hex();
            sum.update(value);
        }
    } finally {
        sum.free();
    }
}
