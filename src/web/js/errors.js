// @ts-check
/** The one error class, and how everything that is thrown becomes it. */

/** @import { ErrorCode } from "./engram" */

/** @type {ReadonlySet<string>} */
const CODES = new Set(
    /** @satisfies {ErrorCode[]} */ ([
        "aborted", "no-webgpu", "no-adapter", "limits", "device-lost", "out-of-memory", "gpu",
        "network", "integrity", "quota", "format", "data", "invalid", "context-overflow",
        "not-finite", "disposed", "internal",
    ]),
);

/** What went wrong, where, and what to do about it, in one line. */
export class EngramError extends Error {
    /**
     * @param {ErrorCode} code
     * @param {string} message
     * @param {ErrorOptions} [options]
     */
    constructor(code, message, options) {
        super(message, options);
        /** @readonly */
        this.code = code;
        // The name that programs know a cancelled fetch by.
        this.name = code === "aborted" ? "AbortError" : "EngramError";
    }
}

/** @param {unknown} value @returns {value is ErrorCode} */
function isCode(value) {
    return typeof value === "string" && CODES.has(value);
}

/**
 * Whatever was thrown, as an {@link EngramError}; `code` is for what does not tell by itself.
 *
 * @param {unknown} thrown
 * @param {ErrorCode} [code]
 * @returns {EngramError}
 */
export function toError(thrown, code = "internal") {
    if (thrown instanceof EngramError) return thrown;
    if (typeof thrown !== "object" || thrown === null) return new EngramError(code, String(thrown));
    const name = "name" in thrown ? thrown.name : "";
    const message = "message" in thrown ? String(thrown.message) : String(thrown);
    const options = { cause: thrown };
    if ("code" in thrown && isCode(thrown.code)) {
        return new EngramError(thrown.code, message, options);
    }
    if (name === "AbortError") return new EngramError("aborted", "aborted", options);
    if (name === "DataCloneError") return new EngramError("invalid", message, options);
    if (name === "NotReadableError" || name === "NotFoundError") {
        const advice = "a file was changed or removed since it was chosen; load the model again";
        return new EngramError("format", advice, options);
    }
    return new EngramError(code, message, options);
}

/**
 * The error of an aborted call.
 *
 * @param {AbortSignal} signal
 */
export function aborted(signal) {
    return new EngramError("aborted", "aborted", { cause: signal.reason });
}

/** @param {AbortSignal | undefined} signal */
export function throwIfAborted(signal) {
    if (signal?.aborted) throw aborted(signal);
}

/**
 * The promise, or `aborted` as soon as the signal says so; what the promise stands for goes on.
 *
 * @template T
 * @param {Promise<T>} promise
 * @param {AbortSignal | undefined} signal
 * @returns {Promise<T>}
 */
export async function unlessAborted(promise, signal) {
    if (!signal) return promise;
    throwIfAborted(signal);
    const settled = new AbortController();
    /** @type {Promise<never>} */
    const abort = new Promise((_, reject) => {
        const options = { once: true, signal: settled.signal };
        signal.addEventListener("abort", () => reject(aborted(signal)), options);
    });
    try {
        return await Promise.race([promise, abort]);
    } finally {
        settled.abort();
    }
}
