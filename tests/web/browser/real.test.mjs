// @ts-check
/** SmolLM2-135M in the page: what it says and what a training step gives, as natively. */

import assert from "node:assert/strict";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";

import { ROOT, launch, open, serve } from "../harness.mjs";
import { engram } from "../native.mjs";

/** SmolLM2's `<|im_end|>`. */
const END = 2;
/** The most that the module's memory may be, with a model of 98 MB: bytes. */
const WASM = 64e6;

const EXAMPLES = [{ text: "The capital of Canada is Ottawa." }, { text: "for i in range(10):" }];

test("SmolLM2 loads, answers and trains in the page as it does natively", async t => {
    const model = process.env.ENGRAM_MODEL ?? (await engram("fetch")).trim().split(/ {2}/)[1];
    const golden = JSON.parse(await readFile(join(ROOT, "data/goldens/real_greedy.json"), "utf8"));
    const asked = golden.prompts.find((/** @type {{ kind: string }} */ p) => p.kind === "chat");

    const server = await serve({
        root: join(ROOT, "www"),
        files: { "/model.gguf": model },
        texts: { "/blank.html": "<!doctype html><title>Real</title><link rel=icon href=data:,>" },
    });
    const browser = await launch();
    const folder = await mkdtemp(join(tmpdir(), "engram-real-"));
    t.after(async () => {
        await browser.close();
        await server.close();
        await rm(folder, { recursive: true, force: true });
    });
    const page = await open(await browser.newContext(), `${server.origin}/blank.html`);

    const given = { prompt: asked.prompt, examples: EXAMPLES };
    const found = await page.evaluate(async ({ prompt, examples }) => {
        const { EngineWorker, Trainer } = await import(String("/pkg/index.js"));
        const began = performance.now();
        const engine = await EngineWorker.load("/model.gguf");
        const loaded = performance.now();
        const memory = await engine.memory();
        const messages = [{ role: "user", content: prompt }];
        const answer = await engine.chat.completions.create({ messages });
        const { message, finish_reason } = answer.choices[0];
        const ids = await engine.tokenize(message.content);
        const answered = performance.now();
        const config = { iters: 1, batch_size: 2, steps_per_report: 1, val_batches: 0 };
        const trainer = await Trainer.create(engine, { train: examples }, config);
        let loss;
        for await (const step of trainer.run()) if (step.kind === "report") loss = step.loss;
        const trained = performance.now();
        await engine.dispose();
        const seconds = [loaded - began, answered - loaded, trained - answered].map(ms => ms / 1e3);
        return { ...memory, ids: [...ids], finish_reason, loss, seconds };
    }, given);
    t.diagnostic(`load, answer, step: ${found.seconds.map(s => s.toFixed(1)).join(", ")} s`);
    t.diagnostic(`memory: GPU ${(found.gpu / 1e6).toFixed(1)} MB, module ${(found.wasm / 1e6).toFixed(1)} MB`);

    assert.ok(found.wasm < WASM, `the module holds ${found.wasm} bytes`);
    // The end token is no text.
    const end = asked.new_ids.indexOf(END);
    assert.deepEqual(found.ids, asked.new_ids.slice(0, end));
    assert.equal(found.finish_reason, "stop");

    const lines = EXAMPLES.map(example => `${JSON.stringify(example)}\n`);
    await writeFile(join(folder, "train.jsonl"), lines.join(""));
    const metrics = join(folder, "metrics.jsonl");
    await engram(
        "--model", model, "train", "--data", folder, "--adapter-path", join(folder, "adapter"),
        "--iters", "1", "--batch-size", "2", "--steps-per-report", "1", "--val-batches", "0", "--metrics", metrics,
    );
    const native = JSON.parse(await readFile(metrics, "utf8")).train_loss;
    t.diagnostic(`loss of the step: ${found.loss}, natively ${native}`);
    assert.ok(Math.abs(found.loss - native) < 1e-3, `loss ${found.loss}, natively ${native}`);
});
