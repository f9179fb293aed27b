// @ts-check
/** What a page and its worker say to each other. */

/**
 * @import { DeviceInfo, ErrorCode, LoadOptions, ModelInfo, Source } from "./engram"
 * @import { Methods } from "./local.js"
 */

/**
 * To the worker. An `id` is a call's; `abort` ends the call of its id.
 *
 * @typedef {{ kind: "load", id: number, source: Source, options: LoadOptions }
 *     | { kind: "call", id: number, method: keyof Methods, args: unknown }
 *     | { kind: "dispose", id: number }
 *     | { kind: "abort", id: number }} Request
 */

/**
 * From the worker: what happens during a call, and how it ends.
 *
 * @typedef {{ kind: "event", id: number, event: unknown }
 *     | { kind: "result", id: number, value: unknown }
 *     | { kind: "error", id: number, code: ErrorCode, message: string }} Reply
 */

/**
 * A `load`'s result.
 *
 * @typedef {{ model: ModelInfo, device: DeviceInfo }} Loaded
 */

/**
 * The buffers of a result, which are sent without a copy.
 *
 * @param {unknown} value
 * @returns {ArrayBuffer[]}
 */
export function buffersOf(value) {
    if (ArrayBuffer.isView(value)) {
        const { buffer } = value;
        // Part of a larger buffer is somebody else's too.
        const isWhole = value.byteLength === buffer.byteLength;
        return isWhole && buffer instanceof ArrayBuffer ? [buffer] : [];
    }
    if (typeof value !== "object" || value === null) return [];
    return Object.values(value).flatMap(buffersOf);
}
