// @ts-check
/** The engine in this thread and in a worker: one test body for both. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { load, startWorker } from "./assemble.mjs";

/** @type {import("./assemble.mjs").Package} */
const { Engine, EngineWorker, EngramError, Trainer, evaluate, checkSupport, parsePatterns } =
    await load("index.js");

const model = new Uint8Array(100);

/** @param {object} [options] */
const here = options => Engine.load(model, options);
/** @param {object} [options] */
const inWorker = options => {
    const worker = /** @type {never} */ (startWorker());
    return EngineWorker.load(model, { worker, ...options });
};

/**
 * @param {string} name
 * @param {(open: typeof here | typeof inWorker) => Promise<void>} body
 */
function both(name, body) {
    test(`${name}, in this thread`, () => body(here));
    test(`${name}, in a worker`, () => body(inWorker));
}

/** @param {string} code */
function withCode(code) {
    return (/** @type {unknown} */ error) => {
        assert(error instanceof EngramError, String(error));
        assert.equal(error.code, code, error.message);
        assert.equal(error.name, code === "aborted" ? "AbortError" : "EngramError");
        return true;
    };
}

/** @type {(content: string) => { role: "user", content: string }[]} */
const says = content => [{ role: "user", content }];

both("a load reports its progress and can be aborted", async open => {
    /** @type {import("../../../src/web/js/engram").LoadProgress[]} */
    const steps = [];
    const engine = await open({
        name: "m",
        quantize: "q8_0",
        // Whether it is tuned depends on what was loaded before.
        autotune: false,
        onProgress: (/** @type {never} */ step) => steps.push(step),
    });
    assert.equal(engine.model.name, "m");
    assert.equal(engine.device.name, "fake");
    assert.deepEqual(steps.map(({ loaded }) => loaded), [0, 25, 50, 75, 100]);
    assert(steps.every(({ phase, total, seconds }) => phase === "load" && total === 100 && seconds >= 0));
    await engine.dispose();

    const controller = new AbortController();
    const onProgress = () => controller.abort();
    await assert.rejects(open({ onProgress, signal: controller.signal }), withCode("aborted"));
    await assert.rejects(open({ signal: AbortSignal.abort() }), withCode("aborted"));
});

both("a chat answers, whole and in pieces", async open => {
    const engine = await open();
    const { completions } = engine.chat;
    const whole = await completions.create({ messages: says("hi"), top_p: 0.5 });
    assert.equal(whole.object, "chat.completion");
    assert.equal(whole.choices[0].message.content, ':hi:{"top_p":0.5}');
    assert.equal(whole.choices[0].finish_reason, "stop");
    assert.equal(whole.usage.total_tokens, 7);

    const chunks = [];
    for await (const chunk of await completions.create({ messages: says("hi"), stream: true })) {
        chunks.push(chunk);
    }
    assert(chunks.every(({ id, object }) => id === chunks[0]?.id && object === "chat.completion.chunk"));
    assert.equal(chunks[0]?.choices[0].delta.role, "assistant");
    assert.equal(chunks.map(({ choices }) => choices[0].delta.content ?? "").join(""), ":hi:{}");
    const last = chunks.at(-1);
    assert.deepEqual(last?.choices, [{ index: 0, delta: {}, finish_reason: "stop" }]);
    assert.equal(last?.usage?.total_tokens, 7);
    assert.equal(chunks[0]?.choices[0].finish_reason, null);
    await engine.dispose();
});

both("leaving the loop, or an abort, ends the answer and the engine goes on", async open => {
    const engine = await open();
    const { completions } = engine.chat;
    const long = says("x".repeat(900));
    for await (const chunk of await completions.create({ messages: long, stream: true })) {
        if (chunk.choices[0].delta.content) break;
    }
    const controller = new AbortController();
    const { signal } = controller;
    const read = async () => {
        const answer = await completions.create({ messages: long, stream: true, signal });
        for await (const chunk of answer) if (chunk.choices[0].delta.content) controller.abort();
    };
    await assert.rejects(read(), withCode("aborted"));

    const second = new AbortController();
    const onText = () => second.abort();
    const generated = engine.generate("x".repeat(900), { onText, signal: second.signal });
    await assert.rejects(generated, withCode("aborted"));
    assert.equal((await engine.generate("ab", { max_tokens: 2 })).finish_reason, "length");
    await engine.dispose();
});

both("an error rejects the call that it belongs to", async open => {
    const engine = await open();
    const create = (/** @type {string} */ content) =>
        engine.chat.completions.create({ messages: says(content), stream: true });
    await assert.rejects(create("x".repeat(1001)), withCode("context-overflow"));
    // It fails after its first piece, a colon.
    const read = async () => {
        for await (const _ of await create("!"));
    };
    await assert.rejects(read(), withCode("device-lost"));
    // A read may fail before the browser tells of the loss that was the reason.
    await assert.rejects(engine.generate("#"), withCode("gpu"));
    await assert.rejects(engine.generate("?"), withCode("device-lost"));
    await assert.rejects(engine.chat.completions.create({ messages: [] }), withCode("invalid"));
    await assert.rejects(engine.generate(/** @type {never} */ (7)), withCode("invalid"));
    assert.equal((await engine.generate("still there")).text, ":still there:{}");
    await engine.dispose();
});

both("calls are made one after another, and one that waits can leave", async open => {
    const engine = await open();
    const first = engine.generate("x".repeat(100));
    const controller = new AbortController();
    const waiting = engine.generate("never", { signal: controller.signal });
    const last = engine.generate("last");
    controller.abort();
    await assert.rejects(waiting, withCode("aborted"));
    assert.equal((await last).text, ":last:{}");
    assert.equal((await first).text.length, 104);
    await engine.dispose();
});

both("tokens, counts, memory and a new device", async open => {
    const engine = await open();
    assert.deepEqual(await engine.tokenize("ab"), Uint32Array.of(97, 98));
    assert.equal(await engine.detokenize([97, 98]), "ab");
    assert.equal(await engine.countTokens("abc"), 3);
    assert.equal(await engine.countTokens([...says("a"), ...says("b")]), 3);
    assert.deepEqual(await engine.memory(), { gpu: 3, gpuPeak: 4, wasm: 5 });
    // In the middle of an answer, as a driver would.
    let isAnswered = false;
    const answer = engine.generate("x".repeat(200)).then(() => (isAnswered = true));
    await engine.memory();
    await engine.loseDevice();
    assert(!isAnswered);
    await answer;
    /** @type {unknown[]} */
    const steps = [];
    await engine.reload({ onProgress: ({ phase, loaded }) => steps.push([phase, loaded]) });
    assert.deepEqual(steps, [["load", 1]]);
    assert.equal(engine.device.name, "fake again");
    await engine.dispose();
});

both("kernels are tuned where they were not before, and only if the caller wants it", async open => {
    /** @type {string[]} */
    const phases = [];
    const onProgress = (/** @type {{ phase: string }} */ { phase }) => phases.push(phase);
    const engine = await open({ onProgress });
    assert.equal(engine.device.variants.matvec, "loads");
    phases.length = 0;
    await engine.reload({ onProgress });
    assert.deepEqual(phases, ["load"]);
    assert.equal(engine.device.variants.matvec, "loads");
    await engine.dispose();

    const safe = await open({ autotune: false });
    assert.equal(safe.device.variants.matvec, "tile");
    await safe.reload();
    assert.equal(safe.device.variants.matvec, "tile");
    await safe.dispose();
});

both("a bench gives figures and can be ended", async open => {
    const engine = await open();
    assert.deepEqual(await engine.bench("first", { runs: 2 }), [
        { name: "first", unit: "s", median: 1, runs: [1, 1] },
    ]);
    const controller = new AbortController();
    const long = engine.bench("train", { runs: 1000, signal: controller.signal });
    setTimeout(() => controller.abort(), 20);
    await assert.rejects(long, withCode("aborted"));
    await assert.rejects(engine.bench(/** @type {never} */ ("none")), withCode("invalid"));
    assert.equal((await engine.bench("host"))[0]?.name, "host");
    await engine.dispose();
});

both("adapters: the active one answers unless another is named", async open => {
    const engine = await open();
    const { adapters } = engine;
    const bytes = Uint8Array.of(1, 2, 3);
    const file = new File([bytes], "adapters.safetensors");
    await adapters.load("a", [{ name: "adapters.safetensors", bytes }]);
    assert.equal((await adapters.load("b", [/** @type {never} */ (file)])).parameters, 3);
    assert.equal(bytes.length, 3, "the caller keeps its bytes");
    const text = async (/** @type {object} */ options) => (await engine.generate("x", options)).text;
    assert.equal(await text({}), ":x:{}");
    await adapters.activate("a");
    assert.equal(await text({}), "a:x:{}");
    assert.equal(await text({ adapter: "b" }), "b:x:{}");
    assert.equal(await text({ adapter: null }), ":x:{}");
    assert.deepEqual((await adapters.list()).map(({ name, active }) => [name, active]), [
        ["a", true],
        ["b", false],
    ]);
    assert.deepEqual(await adapters.export("a", "peft"), [{ name: "peft.safetensors", bytes }]);
    await assert.rejects(adapters.activate("c"), withCode("invalid"));
    await adapters.remove("a");
    assert.equal(await text({}), ":x:{}");
    await adapters.activate("b");
    await adapters.deactivate();
    assert.equal(await text({}), ":x:{}");
    await engine.dispose();
});

both("a training goes step by step, and other calls come between", async open => {
    const engine = await open();
    const dataset = { train: [{ text: "a" }, { text: "b" }] };
    const trainer = await Trainer.create(engine, dataset, { iters: 5 });
    assert.equal(trainer.trainableParameters, 2);
    assert.equal(trainer.config.iters, 5);
    const seen = [];
    for await (const step of trainer.run()) {
        seen.push(step.iteration);
        await engine.generate("between", { max_tokens: 1 });
        if (step.iteration === 2) break;
    }
    // An abort amid a step loses none.
    const controller = new AbortController();
    const run = trainer.run({ signal: controller.signal });
    const next = run.next();
    controller.abort();
    await assert.rejects(next, withCode("aborted"));
    assert.deepEqual(await trainer.exportAdapter("mlx", { checkpoint: "best" }), [
        { name: "mlx.best", bytes: Uint8Array.of(3) },
    ]);
    for await (const step of trainer.run()) {
        seen.push(step.iteration);
        if (step.iteration === 4) trainer.cancel();
    }
    assert.deepEqual(seen, [1, 2, 3, 4]);
    await trainer.dispose();
    await assert.rejects(trainer.exportAdapter("peft"), withCode("disposed"));
    await engine.dispose();
    await trainer.dispose();
});

both("an evaluation takes candidates of one engine", async open => {
    const engine = await open();
    /** @type {string[]} */
    const progress = [];
    const { report } = await evaluate(
        [{ name: "bare", engine, adapter: null }, { name: "tuned", engine, adapter: "a" }],
        [{ prompt: "p", expected: "e" }],
        { runs: 2, onProgress: ({ candidate }) => progress.push(candidate) },
    );
    assert.deepEqual(progress, ["bare"]);
    assert.deepEqual(report.candidates.map(({ name }) => name), ["bare", "tuned"]);
    const other = await here();
    const mixed = [{ name: "a", engine }, { name: "b", engine: other }];
    await assert.rejects(evaluate(mixed, []), withCode("invalid"));
    await assert.rejects(evaluate([], []), withCode("invalid"));
    await assert.rejects(Trainer.create(/** @type {never} */ ({}), { train: [] }), withCode("invalid"));
    await engine.dispose();
    await other.dispose();
});

both("after dispose every call says so, the running one too", async open => {
    const engine = await open();
    const running = engine.generate("x".repeat(900));
    const waiting = engine.tokenize("a");
    const refused = [
        assert.rejects(running, withCode("disposed")),
        assert.rejects(waiting, withCode("disposed")),
    ];
    await engine.dispose();
    await Promise.all(refused);
    await assert.rejects(engine.memory(), withCode("disposed"));
    await assert.rejects(engine.loseDevice(), withCode("disposed"));
    await assert.rejects(engine.adapters.list(), withCode("disposed"));
    await assert.rejects(engine.chat.completions.create({ messages: says("a") }), withCode("disposed"));
    await engine.dispose();
});

test("a worker that dies rejects what is pending", async () => {
    const worker = startWorker();
    const engine = await EngineWorker.load(model, { worker: /** @type {never} */ (worker) });
    const running = engine.generate("x".repeat(900));
    worker.worker.emit("error", new Error("out of luck"));
    await assert.rejects(running, /worker stopped \(out of luck\)/);
    await assert.rejects(engine.memory(), withCode("internal"));
    await engine.dispose();
});

test("what needs no engine", async () => {
    assert.equal((await checkSupport()).code, "no-webgpu");
    assert.equal((await parsePatterns("f", "a"))[0]?.input, "a");
    await assert.rejects(parsePatterns("f", ""), withCode("data"));
});
