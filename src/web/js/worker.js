// @ts-check
/** The worker of `EngineWorker`: owns an engine and does what the page's messages ask. */

/** @import { Reply, Request } from "./messages.js" */

import { EngramError, toError } from "./errors.js";
import { Local } from "./local.js";
import { buffersOf } from "./messages.js";

/** @type {Local | undefined} */
let local;
/** @type {Map<number, AbortController>} The calls that run. */
const running = new Map();

/** @param {Reply} reply @param {ArrayBuffer[]} [buffers] */
function post(reply, buffers = []) {
    globalThis.postMessage(reply, { transfer: buffers });
}

globalThis.addEventListener("message", async (/** @type {MessageEvent<Request>} */ { data }) => {
    const { id } = data;
    if (data.kind === "abort") {
        running.get(id)?.abort();
        return;
    }
    const controller = new AbortController();
    running.set(id, controller);
    try {
        const onEvent = (/** @type {unknown} */ event) => post({ kind: "event", id, event });
        const value = await answer(data, { signal: controller.signal, onEvent });
        post({ kind: "result", id, value }, buffersOf(value));
    } catch (error) {
        const { code, message } = toError(error);
        post({ kind: "error", id, code, message });
    } finally {
        running.delete(id);
    }
});

/**
 * @param {Exclude<Request, { kind: "abort" }>} request
 * @param {{ signal: AbortSignal, onEvent: (event: unknown) => void }} run
 * @returns {Promise<unknown>}
 */
async function answer(request, run) {
    if (request.kind === "load") {
        if (local) throw new EngramError("invalid", "this worker has an engine already");
        local = await Local.load(request.source, request.options, run);
        return { model: local.model, device: local.device };
    }
    if (!local) throw new EngramError("internal", "this worker has no engine");
    if (request.kind === "dispose") return local.dispose();
    return local.call(request.method, /** @type {never} */ (request.args), run);
}
