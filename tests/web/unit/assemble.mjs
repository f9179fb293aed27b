// @ts-check
/** The package as a folder, with a module that is written in JavaScript. */

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { cp, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { after } from "node:test";
import { promisify } from "node:util";
import { Worker } from "node:worker_threads";

/** @typedef {typeof import("../../../src/web/js/index.js")} Package */

const here = fileURLToPath(new URL(".", import.meta.url));
const folder = await mkdtemp(join(tmpdir(), "engram-js-"));
/** @type {Worker[]} */
const workers = [];
after(async () => {
    for (const worker of workers) await worker.terminate();
    await rm(folder, { recursive: true, force: true });
});
await cp(join(here, "../../../src/web/js"), folder, { recursive: true });
await cp(join(here, "fake_wasm.mjs"), join(folder, "engram_wasm.js"));
await promisify(execFile)(join(here, "../../../scripts/vendor"), [join(folder, "vendor")]);
await writeFile(join(folder, "package.json"), '{ "type": "module" }');
// What a browser's worker has and Node's has not.
await writeFile(
    join(folder, "start.js"),
    `import { parentPort } from "node:worker_threads";
    globalThis.addEventListener = (kind, listener) => {
        if (kind === "message") parentPort.on("message", data => listener({ data }));
    };
    globalThis.postMessage = (message, { transfer }) => parentPort.postMessage(message, transfer);
    await import("./worker.js");`,
);

/** One of the package's modules. @param {string} name @returns {Promise<never>} */
export function load(name) {
    return import(pathToFileURL(join(folder, name)).href);
}

/** What `assert.rejects` takes: an error of one line with this code. @param {string} code @param {RegExp} [message] */
export function failing(code, message = /./) {
    return (/** @type {unknown} */ error) => {
        const { code: actual, message: text } = /** @type {{ code: string, message: string }} */ (error);
        assert.equal(actual, code, text);
        assert.match(text, message);
        assert(!text.includes("\n"));
        return true;
    };
}

/** A worker as a browser's. */
export function startWorker() {
    const worker = new Worker(join(folder, "start.js"));
    workers.push(worker);
    return {
        worker,
        /** @param {unknown} message */
        postMessage: message => worker.postMessage(message),
        terminate: () => void worker.terminate(),
        /** @param {string} kind @param {(event: object) => void} listener */
        addEventListener(kind, listener) {
            if (kind === "message") worker.on("message", data => listener({ data }));
            if (kind === "error") worker.on("error", ({ message }) => listener({ message }));
        },
    };
}
