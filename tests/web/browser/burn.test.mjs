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
/** What a call from JavaScript may take, microseconds; one that runs burn's constructors takes far more. */
const MOST_PER_CALL = 50;

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
        // What is asked of the browser, counted.
        const asked = { adapters: 0, devices: 0 };
        const gpu = /** @type {any} */ (globalThis).GPU.prototype;
        const adapter = /** @type {any} */ (globalThis).GPUAdapter.prototype;
        const { requestAdapter } = gpu;
        const { requestDevice } = adapter;
        gpu.requestAdapter = function (/** @type {any[]} */ ...rest) {
            asked.adapters++;
            return requestAdapter.apply(this, rest);
        };
        adapter.requestDevice = function (/** @type {any[]} */ ...rest) {
            asked.devices++;
            return requestDevice.apply(this, rest);
        };
        const began = performance.now();
        const module = await import(String("/pkg-burn/engram_wasm.js"));
        await module.default();
        const ready = performance.now();
        const blob = await (await fetch("/model.gguf")).blob();
        const files = [{ name: "engram-tiny.gguf", blob }];
        const training = await module.trainByBurn(files, "engram-tiny", { train }, config);
        const trained = performance.now();
        const calls = 1000;
        for (let i = 0; i < calls; i++) new module.Sha256().free();
        const perCall = ((performance.now() - trained) * 1e3) / (2 * calls);
        const adapter_files = training.adapter.map((/** @type {{ name: string }} */ file) => file.name);
        const seconds = [ready - began, trained - ready].map(ms => ms / 1e3);
        gpu.requestAdapter = requestAdapter;
        adapter.requestDevice = requestDevice;
        return { ...training, adapter: adapter_files, asked, perCall, seconds };
    }, { train: EXAMPLES, config: CONFIG });

    const ours = await page.evaluate(async ({ train, config }) => {
        const { Engine, Trainer } = await import(String("/pkg/index.js"));
        const engine = await Engine.load("/model.gguf", { name: "engram-tiny" });
        const trainer = await Trainer.create(engine, { train }, config);
        const reports = [];
        for await (const step of trainer.run()) if (step.kind === "report") reports.push(step);
        await engine.dispose();
        return { reports, trainableParameters: trainer.trainableParameters };
    }, { train: EXAMPLES, config: CONFIG });

    const last = burn.reports.at(-1);
    t.diagnostic(`${burn.device}; module, training: ${burn.seconds.map(s => s.toFixed(1)).join(", ")} s`);
    t.diagnostic(`first and mean step: ${burn.reports[0].seconds.toFixed(2)}, ${(last.seconds / 10).toFixed(2)} s`);
    t.diagnostic(`a call: ${burn.perCall.toFixed(2)} µs`);
    t.diagnostic(`losses: ${burn.reports.map(r => r.loss.toFixed(4)).join(" ")}`);

    assert.deepEqual(burn.asked, { adapters: 1, devices: 1 });
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
    assert.ok(last.loss < burn.reports[0].loss, "it learnt nothing");
    assert.ok(burn.perCall < MOST_PER_CALL, `a call takes ${burn.perCall} µs: the constructors run again`);
});
