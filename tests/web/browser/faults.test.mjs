// @ts-check
/** What goes wrong ends in a clear message and a usable engine: in the package, then on the page. */

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { after, before, beforeEach, describe, test } from "node:test";

import { ROOT, launch, open, serve } from "../harness.mjs";

/** @typedef {typeof import("../../../src/web/js/engram")} Engram */
/** @typedef {import("../../../src/web/js/engram").Message} Message */

const MODEL = join(ROOT, "data/models/engram-tiny.gguf");
const PATH = "/models/engram-tiny.gguf";
/** The worker, with a handle on its device, to lose it amid whatever the page does. */
const WORKER = `{
    const ask = GPUAdapter.prototype.requestDevice;
    GPUAdapter.prototype.requestDevice = async function (...args) {
        return (self.heldDevice = await ask.apply(this, args));
    };
}
${await readFile(join(ROOT, "www/pkg/worker.js"), "utf8")}`;

describe("faults", () => {
    /** @type {Awaited<ReturnType<typeof serve>>} */
    let server;
    /** @type {import("playwright-core").Browser} */
    let browser;
    let sum = "";

    before(async () => {
        sum = createHash("sha256").update(await readFile(MODEL)).digest("hex");
        browser = await launch();
        server = await serve({
            root: join(ROOT, "www"),
            files: { [PATH]: MODEL },
            texts: {
                "/blank.html": "<!doctype html><title>Faults</title><link rel=icon href=data:,>",
                "/pkg/worker.js": WORKER,
            },
        });
    });
    after(async () => {
        await browser?.close();
        await server?.close();
    });
    beforeEach(() => server.faults.clear());

    /**
     * An empty page with an empty cache.
     *
     * @param {import("node:test").TestContext} t
     */
    async function blank(t) {
        const context = await browser.newContext();
        t.after(() => context.close());
        return open(context, `${server.url}blank.html`);
    }

    /** How often the model was asked for. */
    const asked = () => server.requests.filter(path => path === PATH).length;

    /** Loads the model in the page's thread, and what it says. @param {import("playwright-core").Page} page */
    const loadAndAnswer = page =>
        page.evaluate(async path => {
            const { Engine } = /** @type {Engram} */ (await import(String("/pkg/index.js")));
            const engine = await Engine.load(path);
            const { text } = await engine.generate("hello", { max_tokens: 5 });
            await engine.dispose();
            return text;
        }, PATH);

    test("offline, a kept model loads and answers; one that is not kept says what to do", async t => {
        const page = await blank(t);
        const load = () => loadAndAnswer(page);
        const before = asked();
        const text = await load();
        assert.equal(asked(), before + 1);
        await page.context().setOffline(true);
        assert.equal(await load(), text);
        assert.equal(asked(), before + 1, "not even a question");
        const failures = await page.evaluate(async path => {
            const { Engine, EngineWorker, cache } = /** @type {Engram} */ (await import(String("/pkg/index.js")));
            const failure = (/** @type {{ code: string, message: string }} */ { code, message }) => ({ code, message });
            const worker = await EngineWorker.load(path).then(() => undefined, failure);
            await cache.clear();
            return { worker, model: await Engine.load(path).then(() => undefined, failure) };
        }, PATH);
        // The worker is a file of the page's, which here keeps none.
        assert.equal(failures.worker?.code, "network");
        assert.match(failures.worker?.message ?? "", /worker\.js.*check the network/);
        assert.equal(failures.model?.code, "network");
        assert.match(failures.model?.message ?? "", /engram-tiny\.gguf: no answer .*check the network, or load/);
    });

    test("a download that went wrong, or has no room, says so, keeps nothing, and may be repeated", async t => {
        const page = await blank(t);
        const load = (/** @type {string | undefined} */ sha256) =>
            page.evaluate(async ({ path, sha256 }) => {
                const { Engine, cache } = /** @type {Engram} */ (await import(String("/pkg/index.js")));
                const failure = await Engine.load(path, { sha256 }).then(
                    engine => engine.dispose(),
                    (/** @type {{ code: string, message: string }} */ { code, message }) => `${code}: ${message}`,
                );
                const files = [];
                const root = await navigator.storage.getDirectory();
                for await (const name of (await root.getDirectoryHandle("engram")).keys()) files.push(name);
                return { failure, files: files.length, kept: (await cache.list()).length };
            }, { path: PATH, sha256 });
        const session = await page.context().newCDPSession(page);
        const quota = (/** @type {number | undefined} */ quotaSize) =>
            session.send("Storage.overrideQuotaForOrigin", { origin: server.origin, quotaSize });
        for (const [fault, message, sha256] of /** @type {const} */ ([
            [{ corruptAt: 300_000 }, /^integrity: .*its SHA-256 is .*try again/, sum],
            [{ truncateAt: 300_000 }, /^network: .*broke off .*try again/, undefined],
            // The file is whole as far as the network can tell: the model's reader finds out.
            [{ shortenTo: 300_000 }, /^format: .*engram-tiny\.gguf/, undefined],
            [{ shortenTo: 300_000 }, /^integrity: .*its SHA-256 is .*try again/, sum],
            [{ status: 503 }, /^network: .*answered 503; try again later/, undefined],
            [{ status: 404 }, /^network: .*no such file/, undefined],
        ])) {
            server.faults.set(PATH, fault);
            const result = await load(sha256);
            assert.match(result.failure ?? "nothing", message);
            t.diagnostic(String(result.failure));
            assert.deepEqual([result.files, result.kept], [0, 0], String(result.failure));
        }
        server.faults.clear();
        await quota(500_000);
        const full = await load(sum);
        t.diagnostic(String(full.failure));
        assert.match(full.failure ?? "nothing", /^quota: .*no room to keep it \(it needs 0\.9 MB\); clear the cache/);
        assert.deepEqual([full.files, full.kept], [0, 0]);
        await quota(undefined);
        // The model, its entry, and the variants of the kernels.
        assert.deepEqual(await load(sum), { failure: undefined, files: 3, kept: 1 });
    });

    test("a kept file that is damaged is fetched anew", async t => {
        const page = await blank(t);
        const load = () => loadAndAnswer(page);
        const text = await load();
        await page.evaluate(async () => {
            const root = await navigator.storage.getDirectory();
            const folder = await root.getDirectoryHandle("engram");
            for await (const name of folder.keys()) {
                if (name.endsWith(".json")) continue;
                const file = await (await folder.getFileHandle(name)).createWritable({ keepExistingData: true });
                await file.write({ type: "write", position: 50_000, data: new Uint8Array(8) });
                await file.close();
            }
        });
        const before = asked();
        assert.equal(await load(), text);
        assert.equal(asked(), before + 1);
    });

    test("of two tabs one downloads, the other watches, and both answer", async t => {
        const first = await blank(t);
        const pages = [first, await open(first.context(), `${server.url}blank.html`)];
        // Slow enough that both want it at once.
        server.faults.set(PATH, { delay: 150 });
        const before = asked();
        const loads = pages.map(page =>
            page.evaluate(async path => {
                const { EngineWorker } = /** @type {Engram} */ (await import(String("/pkg/index.js")));
                let seen = 0;
                const engine = await EngineWorker.load(path, {
                    onProgress: ({ phase }) => void (phase === "download" && seen++),
                });
                const { text } = await engine.generate("hello", { max_tokens: 5 });
                await engine.dispose();
                return { seen, text };
            }, PATH),
        );
        const [one, two] = await Promise.all(loads);
        assert(one && two);
        assert.equal(asked(), before + 1);
        assert.equal(one.text, two.text);
        assert(one.seen > 0 && two.seen > 0, `${one.seen} and ${two.seen} steps of the download`);
    });

    test("a device lost in an answer or a training comes back, and the best checkpoint stays", async t => {
        const page = await blank(t);
        const result = await page.evaluate(async path => {
            const { EngineWorker, Trainer } = /** @type {Engram} */ (await import(String("/pkg/index.js")));
            const engine = await EngineWorker.load(path);
            const failure = (/** @type {{ code: string, message: string }} */ { code, message }) => `${code}: ${message}`;
            const ask = async (/** @type {object} */ options = {}) =>
                (await engine.generate("Q: What is the capital of Australia?", { max_tokens: 8, ...options })).text;

            const bare = await ask();
            const inAnswer = await engine
                .generate("hello", { temperature: 2, onText: () => void engine.loseDevice() })
                .then(() => "nothing", failure);
            const meanwhile = await ask().then(() => "nothing", failure);
            await engine.reload();
            const answers = [await ask()];

            const train = Array.from({ length: 4 }, (_, i) => ({ prompt: `hello ${i}`, completion: "there you are" }));
            const config = { iters: 40, learning_rate: 1e-2, steps_per_eval: 3, num_layers: 1, rank: 4 };
            const trainer = await Trainer.create(engine, { train, valid: train }, config);
            /** @type {Uint8Array | undefined} */
            let best;
            const bytes = async () => (await trainer.exportAdapter("mlx", { checkpoint: "best" }))
                .find(({ name }) => name.endsWith(".safetensors"))?.bytes;
            const run = async () => {
                for await (const step of trainer.run()) {
                    if (step.kind !== "validation" || !step.best || step.iteration === 1) continue;
                    best = await bytes();
                    void engine.loseDevice();
                }
            };
            const inTraining = await run().then(() => "nothing", failure);
            const last = await trainer.exportAdapter("mlx").then(() => "nothing", failure);
            await engine.reload();
            answers.push(await ask());
            const kept = await bytes();
            const isKept = best !== undefined && best.length === kept?.length && best.every((byte, at) => byte === kept[at]);
            await engine.adapters.load("best", await trainer.exportAdapter("mlx", { checkpoint: "best" }));
            const hello = async (/** @type {string | null} */ adapter) =>
                (await engine.generate("hello 1", { max_tokens: 8, adapter })).text;
            const pair = [await hello("best"), await hello(null)];
            await trainer.dispose();
            // Another training on the new device.
            const again = await Trainer.create(engine, { train }, { ...config, iters: 1 });
            let steps = 0;
            for await (const _ of again.run()) steps++;
            await engine.dispose();
            return { bare, answers, inAnswer, meanwhile, inTraining, last, isKept, pair, steps };
        }, PATH);
        t.diagnostic(JSON.stringify(result));
        const lost = /^device-lost: GPU device lost: .*load the model again$/;
        for (const failure of [result.inAnswer, result.meanwhile, result.inTraining, result.last]) {
            assert.match(failure, lost);
        }
        assert.deepEqual(result.answers, [result.bare, result.bare]);
        assert(result.isKept, "the best checkpoint");
        assert.notEqual(result.pair[0], result.pair[1]);
        assert.equal(result.steps, 1);
    });

    test("a chat of a hundred turns takes no more memory than one of twenty", async t => {
        const page = await blank(t);
        const { memory, lengths } = await page.evaluate(async path => {
            const { EngineWorker } = /** @type {Engram} */ (await import(String("/pkg/index.js")));
            const engine = await EngineWorker.load(path);
            /** @type {Message[]} */
            let messages = [];
            const memory = [];
            const lengths = [];
            for (let turn = 1; turn <= 100; turn++) {
                messages.push({ role: "user", content: `What is ${turn % 10} and ${turn % 7}?` });
                // As the page does: the oldest turns go first.
                messages = messages.slice(-3);
                let content = "";
                const stream = await engine.chat.completions.create({ messages, stream: true, max_tokens: 4, temperature: 1, seed: turn });
                for await (const chunk of stream) content += chunk.choices[0].delta.content ?? "";
                messages.push({ role: "assistant", content });
                lengths.push(content.length);
                if (turn % 20 === 0) memory.push({ turn, ...(await engine.memory()) });
            }
            await engine.dispose();
            return { memory, lengths };
        }, PATH);
        for (const { turn, gpu, gpuPeak, wasm } of memory) {
            t.diagnostic(`turn ${turn}: ${gpu} bytes on the GPU (${gpuPeak} at most), ${wasm} of the module`);
        }
        assert.equal(lengths.length, 100);
        const [first, last] = [memory[0], memory.at(-1)];
        assert.deepEqual({ ...last, turn: 20 }, first);
    });

    describe("on the page", () => {
        /** @type {import("playwright-core").Page} */
        let page;
        before(async () => {
            page = await open(await browser.newContext(), server.url);
            page.setDefaultTimeout(30_000);
            await page.locator("#support", { hasText: "the CPU computes" }).waitFor();
        });
        after(() => page?.context().close());

        /** @param {string} panel */
        const go = panel => page.locator(`nav a[href="#${panel}"]`).click();
        const kept = () => page.locator("#cache-list li").count();
        /** @param {string} name */
        const press = name => page.getByRole("button", { name, exact: true }).click();
        const loaded = async () => {
            await page.locator("#loaded").waitFor();
            await page.locator("#load-progress").waitFor({ state: "hidden" });
            assert.equal(await page.locator("#model-error .notice").count(), 0);
        };
        /** The message of that code, in a panel. @param {string} box @param {string} code */
        async function notice(box, code) {
            const error = page.locator(`#${box} .error-box`);
            const text = await error.locator("p").innerText();
            assert.equal(await error.getAttribute("data-code"), code, text);
            return text;
        }
        const loseDevice = () =>
            page.workers().find(worker => worker.url().endsWith("/pkg/worker.js"))?.evaluate(() => {
                /** @type {{ heldDevice: { destroy(): void } }} */ (/** @type {unknown} */ (globalThis)).heldDevice.destroy();
            });
        /** @param {string} id @param {string} value */
        const set = (id, value) =>
            page.locator(`#${id}`).evaluate((element, value) => void (/** @type {HTMLInputElement} */ (element).value = value), value);

        /** @param {string} question */
        async function ask(question) {
            await go("chat");
            await press("Clear");
            await set("s-temperature", "0");
            await page.getByRole("textbox", { name: "Message", exact: true }).fill(question);
            await press("Send");
            await page.locator(".turn.assistant .meta:not(:empty)").waitFor();
            assert.match(await page.locator(".turn.assistant .meta").innerText(), /^\d+ tokens? ·/);
            return page.locator(".turn.assistant .text").innerText();
        }

        /** Begins an answer that does not end soon. */
        async function beginAnswer() {
            await go("chat");
            await press("Clear");
            await set("s-temperature", "5");
            await page.getByRole("textbox", { name: "Message", exact: true }).fill("hello");
            await press("Send");
            await page.locator(".turn.assistant .text:not(:empty)").waitFor();
        }

        /** Trains as set, until the second validation is told. */
        async function beginTraining() {
            await go("train");
            for (const [name, value] of [["iters", "200"], ["steps_per_eval", "4"], ["val_batches", "1"], ["batch_size", "1"]]) {
                await set(`t-${name}`, String(value));
            }
            await press("Start training");
            await page.locator("#train-stats", { hasText: "0 of 200" }).waitFor();
            await page.locator("#train-stats", { hasText: /Iteration\s*[4-9] of 200/ }).waitFor();
        }

        const QUESTION = "Q: What is the capital of Australia?";
        let answer = "";

        test("a load that is stopped, fails or has no room leaves the choice", async t => {
            server.faults.set(PATH, { delay: 200 });
            await press("Load the tiny model");
            await page.locator("#load-text", { hasText: "Downloading" }).waitFor();
            await press("Cancel");
            await page.locator("#load-progress").waitFor({ state: "hidden" });
            assert.equal(await page.locator("#model-error .notice").count(), 0);
            assert.equal(await kept(), 0);

            server.faults.set(PATH, { truncateAt: 300_000 });
            await press("Load the tiny model");
            const broken = await notice("model-error", "network");
            t.diagnostic(broken);
            assert.match(broken, /broke off .*try again/);

            server.faults.clear();
            const session = await page.context().newCDPSession(page);
            await session.send("Storage.overrideQuotaForOrigin", { origin: server.origin, quotaSize: 500_000 });
            await press("Try again");
            const full = await notice("model-error", "quota");
            t.diagnostic(full);
            await press("Load without keeping it");
            await loaded();
            assert.equal(await kept(), 0);

            await session.send("Storage.overrideQuotaForOrigin", { origin: server.origin });
            await press("Load the tiny model");
            await page.locator("#cache-list li").waitFor();
            await loaded();
            answer = await ask(QUESTION);
        });

        test("an answer, a training and an evaluation that are stopped leave the model usable", async () => {
            await beginAnswer();
            await press("Stop");
            await page.locator(".turn.assistant .meta", { hasText: "stopped" }).waitFor();
            assert.equal(await ask(QUESTION), answer);

            await beginTraining();
            await page.locator("#train-cancel").click();
            await page.locator("#train-status", { hasText: /Stopped after \d+ iterations/ }).waitFor();
            await page.locator("#train-finish").waitFor();

            await go("evaluate");
            await press("Evaluate");
            await page.locator("#eval-status", { hasText: "answer" }).waitFor();
            await page.locator("#eval-cancel").click();
            await page.locator("#eval-start").waitFor();
            assert.equal(await page.locator("#eval-error .notice").count(), 0);
            assert.equal(await page.locator("#eval-result").isHidden(), true);
            assert.equal(await ask(QUESTION), answer);
        });

        test("a device lost in an answer: a message, a button, the same answer as before", async t => {
            await beginAnswer();
            await loseDevice();
            t.diagnostic(await notice("chat-error", "device-lost"));
            await press("Reload the model");
            await page.locator("#chat-error", { hasText: "loaded again" }).waitFor();
            assert.equal(await ask(QUESTION), answer);
        });

        test("a device lost in a training: a message, a button, and the best checkpoint can be used", async t => {
            await beginTraining();
            await loseDevice();
            t.diagnostic(await notice("train-error", "device-lost"));
            assert.deepEqual(await page.locator("#finish-checkpoint option").allTextContents(), ["best: iteration 4"]);
            await press("Reload the model");
            await page.locator("#train-error", { hasText: "loaded again" }).waitFor();
            await press("Use this adapter");
            await page.locator("#finish-note", { hasText: "switched on" }).waitFor();
            await ask(QUESTION);
        });
    });
});
