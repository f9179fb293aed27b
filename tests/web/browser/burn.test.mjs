// @ts-check
/** The build with burn (`scripts/package --burn`): it trains as our own kernels do, and calls stay cheap. */

import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";

import { ROOT, launch, open, serve } from "../harness.mjs";

assert(
    existsSync(join(ROOT, "www/pkg-burn/engram_wasm_bg.wasm")),
    "www/pkg-burn: run scripts/package --burn first",
);
/** What a call from JavaScript may take, microseconds: 0.5 is usual, 160 if it runs burn's constructors. */
const MOST_PER_CALL = 10;

const EXAMPLES = [
    { text: "The capital of Canada is Ottawa." },
    { text: "for i in range(10):" },
    { text: "hello there" },
    { text: "What is the capital of France? Paris." },
];
const CONFIG = {
    iters: 10, batch_size: 2, num_layers: -1, learning_rate: 2e-3, steps_per_report: 1, val_batches: 0,
};

test("burn and our own kernels give the same losses in a page", async t => {
    const server = await serve({
        root: join(ROOT, "www"),
        files: { "/model.gguf": join(ROOT, "data/models/engram-tiny.gguf") },
        texts: { "/blank.html": "<!doctype html><title>burn</title><link rel=icon href=data:,>" },
    });
    const browser = await launch();
    t.after(async () => {
        await browser.close();
        await server.close();
    });
    const page = await open(await browser.newContext(), `${server.origin}/blank.html`);

    const burn = await page.evaluate(async ({ train, config }) => {
        /** How often each is called. @type {Record<string, number>} */
        const asked = {};
        const count = (/** @type {any} */ prototype, /** @type {string} */ name) => {
            const method = prototype[name];
            asked[name] = 0;
            prototype[name] = function (/** @type {any[]} */ ...rest) {
                asked[name]++;
                return method.apply(this, rest);
            };
        };
        const { GPU, GPUAdapter } = /** @type {any} */ (globalThis);
        count(GPU.prototype, "requestAdapter");
        count(GPUAdapter.prototype, "requestDevice");
        const began = performance.now();
        const module = await import(String("/pkg-burn/engram_wasm.js"));
        await module.default();
        const ready = performance.now();
        // Milliseconds of a thousand calls; the best of three, since other programs run too.
        let perCall = Infinity;
        for (let round = 0; round < 3; round++) {
            const start = performance.now();
            for (let i = 0; i < 500; i++) new module.Sha256().free();
            perCall = Math.min(perCall, performance.now() - start);
        }
        const called = performance.now();
        const blob = await (await fetch("/model.gguf")).blob();
        const files = [{ name: "engram-tiny.gguf", blob }];
        const training = await module.trainByBurn(files, "engram-tiny", { train }, config);
        const trained = performance.now();
        const names = training.adapter.map((/** @type {{ name: string }} */ file) => file.name);
        const seconds = [ready - began, trained - called].map(ms => ms / 1e3);
        return { ...training, adapter: names, asked: { ...asked }, perCall, seconds };
    }, { train: EXAMPLES, config: CONFIG });

    const ours = await page.evaluate(async ({ train, config }) => {
        const { Engine, Trainer } = await import(String("/pkg/index.js"));
        const engine = await Engine.load("/model.gguf", { name: "engram-tiny" });
        const trainer = await Trainer.create(engine, { train }, config);
        const reports = [];
        for await (const step of trainer.run()) if (step.kind === "report") reports.push(step);
        const { trainableParameters } = trainer;
        await engine.dispose();
        return { reports, trainableParameters };
    }, { train: EXAMPLES, config: CONFIG });

    const [first, last] = [burn.reports[0], burn.reports.at(-1)];
    const [later, own] = [(last.seconds - first.seconds) / 9, ours.reports.at(-1).seconds / 10];
    t.diagnostic(`${burn.device}; module, training: ${burn.seconds.map(s => s.toFixed(1)).join(", ")} s`);
    t.diagnostic(`first step ${first.seconds.toFixed(1)}, later ${later.toFixed(2)}, ours ${own.toFixed(2)} s`);
    t.diagnostic(`a call: ${burn.perCall.toFixed(2)} µs`);
    t.diagnostic(`losses: ${burn.reports.map(r => r.loss.toFixed(4)).join(" ")}`);

    assert.deepEqual(burn.asked, { requestAdapter: 1, requestDevice: 1 });
    assert.equal(burn.trainableParameters, ours.trainableParameters);
    assert.deepEqual(burn.adapter, ["adapters.safetensors", "adapter_config.json"]);
    assert.equal(burn.reports.length, 10);
    assert.equal(ours.reports.length, 10);
    for (const [i, { iteration, loss, gradientNorm }] of burn.reports.entries()) {
        const own = ours.reports[i];
        assert.equal(iteration, own.iteration);
        assert.ok(Math.abs(loss - own.loss) < 1e-3, `loss ${iteration}: ${loss}, our kernels ${own.loss}`);
        const most = 1e-2 * own.gradientNorm;
        assert.ok(Math.abs(gradientNorm - own.gradientNorm) < most,
            `norm ${iteration}: ${gradientNorm}, our kernels ${own.gradientNorm}`);
    }
    assert.ok(last.loss < first.loss, "it learnt nothing");
    assert.ok(burn.perCall < MOST_PER_CALL, `a call takes ${burn.perCall} µs: the constructors run again`);
});
