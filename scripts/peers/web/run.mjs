// @ts-check
/**
 * Runs one peer in a page and prints its figures as JSON:
 * `node run.mjs PEER WHAT SETTINGS`, where PEER.js beside this file exports a function WHAT.
 */

import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import { launch, serve } from "../../../tests/web/harness.mjs";

const HERE = fileURLToPath(new URL(".", import.meta.url));
const MODULES = "/node_modules/";
const IMPORTS = {
    "@huggingface/transformers": `${MODULES}@huggingface/transformers/dist/transformers.web.js`,
    "@mlc-ai/web-llm": `${MODULES}@mlc-ai/web-llm/lib/index.js`,
    "@wllama/wllama": `${MODULES}@wllama/wllama/esm/index.js`,
    engram: "/engram/index.js",
    "onnxruntime-common": `${MODULES}onnxruntime-common/dist/esm/index.js`,
    "onnxruntime-web/webgpu": `${MODULES}onnxruntime-web/dist/ort.webgpu.bundle.min.mjs`,
};
const PAGE = `<!doctype html><title>Peers</title><link rel=icon href=data:,>
<script type=importmap>${JSON.stringify({ imports: IMPORTS })}</script>`;

/** The files of a folder, by their path under `base`. @param {string} base @param {string} folder */
async function filesOf(base, folder) {
    const names = await readdir(folder, { recursive: true });
    return Object.fromEntries(names.map(name => [`${base}${name}`, join(folder, name)]));
}

/** Without the call stack, and where it was thrown. @param {unknown} error */
const message = error =>
    String(error instanceof Error ? error.message : error)
        .split("\n")[0]
        .replace(/^page\.evaluate: (\w*Error: )?/, "");

const [peer, what, text] = process.argv.slice(2);
const settings = JSON.parse(text);
/** @type {import("playwright-core").Browser | undefined} */
let browser;
try {
    const server = await serve({
        root: settings.web,
        // What multi-threaded WebAssembly needs.
        isolated: true,
        texts: { "/page.html": PAGE },
        files: {
            "/model.gguf": settings.gguf,
            ...(await filesOf("/peers/", HERE)),
            ...(await filesOf("/engram/", settings.package)),
        },
    });
    // A message from the page may take as long as the page computes.
    browser = await launch({ timeout: 60_000 });
    const page = await browser.newPage();
    page.on("console", line => process.stderr.write(`${line.text()}\n`));
    await page.goto(`${server.origin}/page.html`);
    const found = await page.evaluate(
        async ({ peer, what, settings }) => {
            const adapter = await navigator.gpu?.requestAdapter();
            const { vendor = "", architecture = "", description = "" } = adapter?.info ?? {};
            const device = description || `${vendor} ${architecture}`.trim();
            const part = await import(`/peers/${peer}.js`);
            return { device, ...(await part[what](settings)) };
        },
        { peer, what, settings },
    );
    process.stdout.write(`${JSON.stringify({ ...found, browser: browser.version() })}\n`);
    await browser.close();
    await server.close();
} catch (error) {
    process.stderr.write(`${message(error)}\n`);
    process.exitCode = 1;
    await browser?.close();
    process.exit();
}
