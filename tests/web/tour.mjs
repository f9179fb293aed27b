// @ts-check
/**
 * How long a first visit takes without a GPU: `node tests/web/tour.mjs`, after `scripts/package`.
 *
 * The tiny model with the page's settings for it: load, one answer, 30 iterations with three
 * validations, 20 questions before and after.
 */

import { join } from "node:path";

import { ROOT, launch, open, serve } from "./harness.mjs";

const server = await serve({
    root: join(ROOT, "www"),
    texts: { "/blank.html": "<!doctype html><title>Tour</title><link rel=icon href=data:,>" },
});
const browser = await launch();
const page = await open(await browser.newContext(), `${server.origin}/blank.html`);
const seconds = await page.evaluate(async () => {
    const { EngineWorker, Trainer, bundledPatterns, evaluate, splitPatterns } = await import(String("/pkg/index.js"));
    /** @type {Record<string, number>} */
    const seconds = {};
    let last = performance.now();
    const lap = (/** @type {string} */ name) => {
        const now = performance.now();
        seconds[name] = (now - last) / 1000;
        last = now;
    };
    const engine = await EngineWorker.load("/models/engram-tiny.gguf");
    lap("load");
    await engine.chat.completions.create({ messages: [{ role: "user", content: "Hello" }] });
    lap("first answer");
    const { train, valid, test } = await splitPatterns(await bundledPatterns());
    const config = {
        iters: 30, num_layers: 2, learning_rate: 1e-3, mask_prompt: true,
        steps_per_report: 5, steps_per_eval: 15, val_batches: 2,
    };
    const trainer = await Trainer.create(engine, { train, valid }, config);
    for await (const _ of trainer.run());
    await engine.adapters.load("tuned", await trainer.exportAdapter("mlx"));
    lap("training");
    const candidates = [{ name: "base", engine }, { name: "tuned", engine, adapter: "tuned" }];
    await evaluate(candidates, test.slice(0, 20));
    lap("evaluation");
    await engine.dispose();
    return seconds;
});
await browser.close();
await server.close();
let total = 0;
for (const [name, value] of Object.entries(seconds)) {
    total += value;
    process.stdout.write(`${name}: ${value.toFixed(1)} s\n`);
}
process.stdout.write(`all: ${total.toFixed(1)} s\n`);
