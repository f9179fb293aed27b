// @ts-check
/** Browsers that can't: each gets a code for the program and a sentence for the reader. */

import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";

import { ROOT, launch, open, serve } from "../harness.mjs";

/** What such a browser is like, and what it is told. */
const BROWSERS = /** @type {const} */ ([
    [
        "no-webgpu",
        `Object.defineProperty(Navigator.prototype, "gpu", { get: () => undefined });`,
        /no WebGPU/,
    ],
    ["no-adapter", `GPU.prototype.requestAdapter = async () => null;`, /gives no GPU/],
    [
        "limits",
        `GPUAdapter.prototype.requestDevice = async () => { throw new DOMException("too little"); };`,
        /can't be used/,
    ],
]);

test("a browser that can't is told why, before and at the load", async t => {
    const server = await serve({
        root: join(ROOT, "www"),
        files: { "/model.gguf": join(ROOT, "data/models/engram-tiny.gguf") },
        texts: { "/blank.html": "<!doctype html><title>Support</title><link rel=icon href=data:,>" },
    });
    const browser = await launch();
    t.after(async () => {
        await browser.close();
        await server.close();
    });
    for (const [code, lack, message] of BROWSERS) {
        const context = await browser.newContext();
        await context.addInitScript(lack);
        const page = await open(context, `${server.origin}/blank.html`);
        const { support, thrown } = await page.evaluate(async () => {
            const { Engine, checkSupport } = await import(String("/pkg/index.js"));
            const support = await checkSupport();
            const load = Engine.load("/model.gguf");
            const thrown = await load.then(
                () => undefined,
                (/** @type {{ code: string, message: string }} */ { code, message }) => ({ code, message }),
            );
            return { support, thrown };
        });
        assert.equal(support.ok, false);
        assert.equal(support.code, code);
        assert.match(support.message, message);
        assert.deepEqual(thrown, { code, message: support.message });
        await context.close();
    }

    const page = await open(await browser.newContext(), `${server.origin}/blank.html`);
    const support = await page.evaluate(async () => {
        const { checkSupport } = await import(String("/pkg/index.js"));
        return checkSupport();
    });
    assert.equal(support.ok, true, support.message);
    assert.equal(support.device.isSoftware, true);
    assert.match(support.message, /the CPU computes/);
});
