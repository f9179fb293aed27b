// @ts-check
/** Kernels are tuned once for an adapter, and a model is measured: by the package and by the page. */

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { after, before, test } from "node:test";

import { ROOT, launch, open, serve } from "../harness.mjs";

/** @typedef {typeof import("../../../src/web/js/engram")} Engram */
/** @typedef {import("../../../src/web/js/engram").Figure} Figure */

/** The tiny model's: five for each of its four blocks, and four around them. */
const DISPATCHES = 24;

const server = await serve({
    root: join(ROOT, "www"),
    texts: { "/blank.html": "<!doctype html><title>Bench</title><link rel=icon href=data:,>" },
});
/** @type {import("playwright-core").Browser} */
let browser;
before(async () => {
    browser = await launch();
});
after(async () => {
    await browser.close();
    await server.close();
});

/** @param {Figure[]} figures @param {string} name */
function medianOf(figures, name) {
    const figure = figures.find(figure => figure.name === name);
    assert(figure, `no ${name} in ${figures.map(({ name }) => name).join(", ")}`);
    return figure.median;
}

/** @param {Figure[]} figures */
function checkHost(figures) {
    assert.equal(medianOf(figures, "dispatches per token"), DISPATCHES);
    assert.equal(medianOf(figures, "bind groups per token"), 0);
    assert.equal(medianOf(figures, "buffers per token"), 0);
    assert(medianOf(figures, "submits per token") <= 0.25 + 1e-9);
    assert(medianOf(figures, "host encoding per token") > 0);
}

test("kernels are tuned at the first load, remembered, and not tuned where that is not wanted", async () => {
    const context = await browser.newContext();
    const page = await open(context, `${server.origin}/blank.html`);
    const found = await page.evaluate(async () => {
        /** @type {Engram} */
        const { EngineWorker, checkSupport } = await import(String("/pkg/index.js"));
        // Each in a worker of its own, which knows nothing of the ones before.
        const load = async (/** @type {boolean | undefined} */ autotune) => {
            /** @type {string[]} */
            const phases = [];
            const engine = await EngineWorker.load("/models/engram-tiny.gguf", {
                autotune,
                onProgress: ({ phase }) => phases.push(phase),
            });
            const { variants } = engine.device;
            await engine.dispose();
            return { isTuned: phases.includes("tune"), variants };
        };
        const first = await load(undefined);
        const second = await load(true);
        const safe = await load(false);
        // What no page's device can run.
        const root = await navigator.storage.getDirectory();
        const file = await (await root.getDirectoryHandle("engram")).getFileHandle("variants");
        const damaged = (await (await file.getFile()).text()).replace(/"(tile|loads|quads)"/, '"broadcast"');
        const stream = await file.createWritable();
        await stream.write(damaged);
        await stream.close();
        const third = await load(true);
        return { first, second, safe, third, damaged, support: await checkSupport() };
    });
    const { first, second, safe, third, damaged, support } = found;
    assert(first.isTuned);
    assert.deepEqual(Object.keys(first.variants), ["matmul", "matmulTransposed", "matvec"]);
    for (const variant of Object.values(first.variants)) assert.match(variant, /^(tile|loads|quads)$/);
    assert.deepEqual(second, { isTuned: false, variants: first.variants });
    assert.deepEqual(safe, { isTuned: false, variants: support.device?.variants });
    assert.match(damaged, /"broadcast"/);
    assert(third.isTuned);
    await context.close();
});

test("the package measures a model, and stops when it is told to", async () => {
    const context = await browser.newContext();
    const page = await open(context, `${server.origin}/blank.html`);
    const { host, prefill, codes } = await page.evaluate(async () => {
        /** @type {Engram} */
        const { EngineWorker } = await import(String("/pkg/index.js"));
        const engine = await EngineWorker.load("/models/engram-tiny.gguf", { autotune: false });
        const host = await engine.bench("host", { runs: 1 });
        // The context has no room for the second.
        const prefill = await engine.bench("prefill", { runs: 1, lengths: [16, 512] });
        const codes = [];
        const controller = new AbortController();
        const long = engine.bench("first", { runs: 10_000, signal: controller.signal });
        setTimeout(() => controller.abort(), 300);
        codes.push(await long.catch(({ code }) => code));
        codes.push(await engine.bench(/** @type {never} */ ("speed")).catch(({ code }) => code));
        codes.push((await engine.generate("What is", { max_tokens: 1 })).usage.completion_tokens);
        await engine.dispose();
        return { host, prefill, codes };
    });
    checkHost(host);
    assert.deepEqual(prefill.map(({ name, unit, runs }) => [name, unit, runs.length]), [
        ["prefill, 16 tokens", "tokens/s", 1],
    ]);
    assert(medianOf(prefill, "prefill, 16 tokens") > 0);
    assert.deepEqual(codes, ["aborted", "invalid", 1]);
    await context.close();
});

test("the page measures, shows and hands out the figures", async () => {
    const context = await browser.newContext({ acceptDownloads: true });
    /** @type {string[]} */
    const faults = [];
    context.on("console", message => {
        if (message.type() === "error") faults.push(message.text());
    });
    const page = await open(context, `${server.url}bench.html?parts=host&runs=1&autotune=false`);
    await page.click("#start:enabled");
    await page.waitForFunction(() => "benchReport" in window);
    const { figures, device } = await page.evaluate(() => /** @type {any} */ (window).benchReport);
    checkHost(figures);
    assert(medianOf(figures, "load") > 0);
    assert.match((await page.textContent("#facts")) ?? "", new RegExp(device.name));
    assert.equal(await page.locator("#figures tr").count(), figures.length);
    const [download] = await Promise.all([page.waitForEvent("download"), page.click("#save")]);
    const saved = JSON.parse(await readFile(await download.path(), "utf8"));
    assert.deepEqual(saved.figures, figures);

    await page.goto(`${server.url}bench.html?model=./none.gguf&autotune=false`);
    await page.click("#start:enabled");
    await page.waitForSelector("#error:not([hidden])");
    assert.match((await page.textContent("#error")) ?? "", /none\.gguf: no such file/);
    assert(await page.isVisible("#start"));
    assert.deepEqual(faults.filter(fault => !fault.includes("404")), []);
    await context.close();
});
