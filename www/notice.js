// @ts-check
/** What went wrong, in the panel where it did, with a button for the remedy. */

import { h } from "./dom.js";
import { bytes } from "./format.js";

/** @import { App } from "./state.js" */
/** @import { ErrorCode } from "../src/web/js/engram" */

/** A remedy: what its button says, and what it does. @typedef {{ label: string, act: () => unknown }} Remedy */

/** @param {unknown} error @returns {ErrorCode | undefined} */
export function codeOf(error) {
    return error instanceof Error && "code" in error ? /** @type {ErrorCode} */ (error.code) : undefined;
}

/** @param {HTMLElement} box */
export const clearNotice = box => box.replaceChildren();

/**
 * Shows an error; nothing, if it is only that the user stopped it.
 * @param {HTMLElement} box
 * @param {unknown} error
 * @param {App} app
 * @param {Partial<Record<ErrorCode, Remedy>>} [remedies] the panel's own, by code
 */
export function showError(box, error, app, remedies = {}) {
    const code = codeOf(error);
    if (code === "aborted") return clearNotice(box);
    const message = error instanceof Error ? error.message : String(error);
    const remedy = (code && remedies[code]) || common(code, app, box);
    box.replaceChildren(h("div", { class: "notice bad error-box", role: "alert", "data-code": code ?? "unknown" },
        h("p", {}, message),
        ...(remedy ? [h("button", { type: "button", onclick: () => { clearNotice(box); remedy.act(); } }, remedy.label)] : []),
    ));
}

/**
 * @param {ErrorCode | undefined} code
 * @param {App} app
 * @param {HTMLElement} box
 * @returns {Remedy | undefined}
 */
function common(code, app, box) {
    switch (code) {
        case "device-lost":
        case "gpu":
        case "out-of-memory":
        case "internal":
            return app.engine && { label: "Reload the model", act: () => reload(app, box) };
        case "quota":
            return { label: "See what is kept", act: () => { location.hash = "#model"; } };
        default:
            return undefined;
    }
}

/**
 * Puts the model and its adapters onto a new device; chat and data are not touched.
 * @param {App} app
 * @param {HTMLElement} box
 */
async function reload(app, box) {
    const text = h("p", { role: "status" }, "Loading the model again…");
    box.replaceChildren(h("div", { class: "notice" }, text));
    try {
        await app.engine?.reload({
            onProgress: p => { if (p.total) text.textContent = `Loading the model again: ${bytes(p.loaded)} of ${bytes(p.total)}`; },
        });
        await app.refresh();
        text.textContent = "The model is loaded again. Go on where you were.";
    } catch (error) {
        showError(box, error, app);
    }
}
