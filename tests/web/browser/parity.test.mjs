// @ts-check
/** The native runner and the page: the same answers, reports and adapters on the tiny model. */

import assert from "node:assert/strict";
import { mkdtemp, mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";

import { ROOT, launch, open, serve } from "../harness.mjs";
import { engram } from "../native.mjs";

const MODEL = join(ROOT, "data/models/engram-tiny.gguf");
const QUESTIONS = 24;
const TRAINING = ["--num-layers", "-1", "--learning-rate", "2e-3", "--iters", "30"];

/** @typedef {import("../../../src/web/js/engram.d.ts").NamedFile} NamedFile */
/** @typedef {import("../../../src/web/js/engram.d.ts").Report} Report */

/** @type {string} */
let folder;
/** @type {Awaited<ReturnType<typeof serve>>} */
let server;
/** @type {Awaited<ReturnType<typeof launch>>} */
let browser;
/** @type {import("playwright-core").Page} */
let page;

/** @param {...string} args */
const native = (...args) => engram("--model", MODEL, ...args);

/** The lines of a data file. @param {string} set @returns {Promise<object[]>} */
async function examples(set) {
    const text = await readFile(join(folder, "data", `${set}.jsonl`), "utf8");
    return text.trim().split("\n").map(line => JSON.parse(line));
}

/** An adapter's files, as the page takes them. @param {string} name */
async function files(name) {
    const file = async (/** @type {string} */ file) => ({
        name: file,
        bytes: [...(await readFile(join(folder, name, file)))],
    });
    return Promise.all(["adapter_config.json", "adapters.safetensors"].map(file));
}

/** Evaluates the bare model and one adapter in the page. @param {string} name */
async function evaluateInPage(name) {
    const given = {
        name,
        files: await files(name),
        test: await examples("test"),
        train: await examples("train"),
    };
    return page.evaluate(async ({ name, files, test, train }) => {
        const { Engine, evaluate } = await import(String("/pkg/index.js"));
        const engine = await Engine.load("/model.gguf", { name: "engram-tiny.gguf" });
        const named = files.map(({ name, bytes }) => ({ name, bytes: Uint8Array.from(bytes) }));
        await engine.adapters.load(name, named);
        const candidates = [{ name: "base", engine }, { name, engine, adapter: name }];
        const options = { dataset: "data/test.jsonl", trainedOn: train, max_new_tokens: 24 };
        const { json, markdown } = await evaluate(candidates, test, options);
        await engine.dispose();
        return { json, markdown };
    }, given);
}

/** Evaluates the same natively. @param {string} name */
async function evaluateNatively(name) {
    const out = join(folder, `report-${name}`);
    await native(
        "eval", "--data", join(folder, "data"), "--adapter-path", join(folder, name),
        "--out", out, "--max-new-tokens", "24",
    );
    return readFile(join(out, "report.json"), "utf8");
}

/** A report without what the target, the adapter and the clock decide. @param {string} json */
function withoutMachine(json) {
    /** @type {Partial<Report>} */
    const report = JSON.parse(json);
    delete report.environment;
    for (const candidate of report.candidates ?? []) delete candidate.latency;
    return report;
}

/** @param {string} name */
async function assertSameReport(name) {
    const inPage = await evaluateInPage(name);
    const natively = await evaluateNatively(name);
    assert.deepEqual(withoutMachine(inPage.json), withoutMachine(natively));
    // The same writer wrote both: the same keys in the same order, the same indentation.
    const keys = (/** @type {string} */ json) => json.match(/^ *"[a-z_]+":/gm);
    assert.deepEqual(keys(inPage.json), keys(natively));
    assert.equal(JSON.parse(inPage.json).environment.target, "web");
    const { candidates } = withoutMachine(natively);
    return candidates?.map(candidate => candidate.overall.correct) ?? [];
}

describe("the page and the native runner", () => {
    before(async () => {
        folder = await mkdtemp(join(tmpdir(), "engram-parity-"));
        server = await serve({
            root: join(ROOT, "www"),
            files: { "/model.gguf": MODEL },
            texts: { "/blank.html": "<!doctype html><title>Parity</title><link rel=icon href=data:,>" },
        });
        browser = await launch();
        page = await open(await browser.newContext(), `${server.origin}/blank.html`);
    });

    after(async () => {
        await browser?.close();
        await server?.close();
        await rm(folder, { recursive: true, force: true });
    });

    test("an adapter trained natively is worth the same in the page", async () => {
        await engram("data", "--protocol", "original", "--out", join(folder, "data"));
        // Fewer questions: a software adapter takes its time.
        const test = join(folder, "data/test.jsonl");
        const lines = (await readFile(test, "utf8")).split("\n");
        await writeFile(test, `${lines.slice(0, QUESTIONS).join("\n")}\n`);
        const into = ["--data", join(folder, "data"), "--adapter-path", join(folder, "native")];
        await native("train", ...into, ...TRAINING);
        const [base, tuned] = await assertSameReport("native");
        assert.ok(tuned > base, `${tuned} right after training, ${base} before`);
    });

    test("an adapter trained in the page is worth the same natively", async () => {
        const given = { train: await examples("train"), valid: await examples("valid") };
        const trained = await page.evaluate(async dataset => {
            const { Engine, Trainer } = await import(String("/pkg/index.js"));
            const engine = await Engine.load("/model.gguf", { name: "engram-tiny.gguf" });
            const config = { num_layers: -1, learning_rate: 2e-3, iters: 30 };
            const trainer = await Trainer.create(engine, dataset, config);
            const losses = [];
            for await (const step of trainer.run()) {
                if (step.kind !== "step") losses.push([step.kind, step.iteration, step.loss]);
            }
            const files = await trainer.exportAdapter("mlx");
            await engine.dispose();
            const plain = files.map(({ name, bytes }) => ({ name, bytes: [...bytes] }));
            return { losses, files: plain };
        }, given);
        await mkdir(join(folder, "web"));
        for (const { name, bytes } of trained.files) {
            await writeFile(join(folder, "web", name), Uint8Array.from(bytes));
        }
        const [base, tuned] = await assertSameReport("web");
        assert.ok(tuned > base, `${tuned} right after training, ${base} before`);

        // The same run as the native one: the same initial adapter, data order and losses.
        const metrics = (await readFile(join(folder, "native/metrics.jsonl"), "utf8")).trim().split("\n");
        const expected = metrics.map(line => JSON.parse(line)).map(line =>
            line.val_loss === undefined
                ? ["report", line.iteration, line.train_loss]
                : ["validation", line.iteration, line.val_loss],
        );
        assert.equal(trained.losses.length, expected.length);
        for (const [i, [kind, iteration, loss]] of trained.losses.entries()) {
            assert.deepEqual([kind, iteration], expected[i].slice(0, 2));
            assert.ok(Math.abs(loss - expected[i][2]) < 1e-3, `${kind} ${iteration}: ${loss}, natively ${expected[i][2]}`);
        }
    });
});
