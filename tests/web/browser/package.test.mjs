// @ts-check
/** The built package in Chromium: `scripts/package`, then this. */

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { after, before, test } from "node:test";

import { ROOT, launch, open, serve } from "../harness.mjs";

/** @typedef {typeof import("../../../src/web/js/engram")} Engram */
/** @typedef {"Engine" | "EngineWorker"} Kind */

const PACKAGE = process.env.ENGRAM_PACKAGE ?? join(ROOT, "www/pkg");
assert(existsSync(join(PACKAGE, "engram_wasm_bg.wasm")), `${PACKAGE}: run scripts/package first`);
const MODEL = join(ROOT, "data/goldens/tiny_q8_0.gguf");
const sum = createHash("sha256").update(await readFile(MODEL)).digest("hex");

const imports = JSON.stringify({ imports: { engram: `/${basename(PACKAGE)}/index.js` } });
const hash = createHash("sha256").update(imports).digest("base64");
const DATA = join(ROOT, "data/goldens/parquet");
const dataFiles = ["chats.parquet", "chats.jsonl", "completions.parquet", "completions.jsonl"];
const server = await serve({
    root: dirname(PACKAGE),
    files: {
        "/model.gguf": MODEL,
        "/big.gguf": process.env.ENGRAM_MODEL ?? MODEL,
        "/datasets/o/rows/resolve/abc/main/train-0.parquet": join(DATA, "completions.parquet"),
        ...Object.fromEntries(dataFiles.map(name => [`/data/${name}`, join(DATA, name)])),
    },
    texts: {
        "/api/datasets/o/rows/revision/main?blobs=true": JSON.stringify({
            sha: "abc",
            siblings: ["README.md", "main/train-0.parquet", "main/test-0.jsonl"].map(rfilename => ({ rfilename })),
        }),
        "/datasets/o/rows/resolve/abc/README.md":
            "---\nconfigs:\n- config_name: main\n  data_files:\n  - split: train\n    path: main/train-*\n" +
            "  - split: test\n    path: main/test-*\n---\n# Rows\n",
        "/datasets/o/rows/resolve/abc/main/test-0.jsonl": '{"prompt": "a", "completion": "b"}\n',
        "/": `<!doctype html><title>engram</title><script type="importmap">${imports}</script>`,
        "/example.js": await example(),
    },
    // What the README says is needed, and nothing more.
    headers: {
        "content-security-policy":
            `default-src 'none'; connect-src 'self'; worker-src 'self'; ` +
            `script-src 'self' 'wasm-unsafe-eval' 'sha256-${hash}'`,
    },
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

/** The README's example, which tells the page when it has ended. */
async function example() {
    const readme = await readFile(join(PACKAGE, "README.md"), "utf8");
    const code = /```js\n([^]*?)```/.exec(readme)?.[1] ?? "";
    assert(code.trim().split("\n").length <= 12, "the example got long");
    return `${code}\nglobalThis.hasEnded = true;\n`;
}

/**
 * Runs `body` in a page of its own, with the cache empty.
 *
 * @template T
 * @param {(argument: { kind: Kind }) => Promise<T>} body
 * @param {Kind} kind
 */
async function inPage(body, kind) {
    server.faults.clear();
    server.requests.length = 0;
    const context = await browser.newContext();
    try {
        const page = await open(context, server.url);
        return await page.evaluate(body, { kind });
    } finally {
        await context.close();
    }
}

/**
 * @template T
 * @param {string} name
 * @param {(argument: { kind: Kind }) => Promise<T>} body
 * @param {(result: T) => void | Promise<void>} check
 */
function both(name, body, check) {
    for (const kind of /** @type {const} */ (["Engine", "EngineWorker"])) {
        test(`${name}: ${kind}`, async () => check(await inPage(body, kind)));
    }
}

both(
    "a model from a URL and from a file answers alike, whole and in pieces",
    async ({ kind }) => {
        /** @type {Engram} */
        const { cache, ...engram } = await import(/** @type {string} */ ("engram"));
        /** @type {import("../../../src/web/js/engram").LoadProgress[]} */
        const progress = [];
        const byUrl = await engram[kind].load("./model.gguf", { onProgress: step => progress.push(step) });
        const blob = await (await fetch("./model.gguf")).blob();
        const byFile = await engram[kind].load(new File([blob], "mine.gguf"));
        const options = { max_tokens: 12 };
        const texts = [(await byUrl.generate("hello", options)).text];
        const heard = [];
        const answer = await byFile.generate("hello", { ...options, onText: text => heard.push(text) });
        texts.push(answer.text, heard.join(""));
        const tokens = await byFile.tokenize("hello there");
        const text = await byFile.detokenize(tokens);
        const result = {
            progress,
            texts,
            text,
            usage: answer.usage,
            tokens: [answer.tokens.length, await byFile.countTokens("hello there"), tokens.length],
            models: [byUrl.model, byFile.model],
            device: byUrl.device,
            memory: await byUrl.memory(),
            kept: await cache.list(),
            hasTemplate: byUrl.model.hasChatTemplate,
        };
        await byUrl.dispose();
        await byFile.dispose();
        return result;
    },
    ({ progress, texts, text, usage, tokens, models, device, memory, kept }) => {
        assert(progress.some(({ phase }) => phase === "download"));
        for (const phase of ["download", "load"]) {
            const last = progress.filter(step => step.phase === phase).at(-1);
            assert(last && last.loaded === last.total && last.total > 100_000, JSON.stringify(last));
        }
        assert.equal(texts[1], texts[0]);
        assert.equal(texts[2], texts[0]);
        assert.equal(text, "hello there");
        assert.equal(tokens[1], tokens[2]);
        assert.equal(usage.completion_tokens, tokens[0]);
        assert.equal(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens);
        assert.deepEqual(models.map(({ name }) => name), ["model.gguf", "mine.gguf"]);
        assert(device.isSoftware);
        assert(memory.gpu > 100_000 && memory.gpuPeak >= memory.gpu && memory.wasm > 1e6);
        assert.deepEqual(kept.map(({ url, sha256 }) => [url, sha256]), [[`${server.url}model.gguf`, sum]]);
    },
);

both(
    "a chat",
    async ({ kind }) => {
        /** @type {Engram} */
        const engram = await import(/** @type {string} */ ("engram"));
        const engine = await engram[kind].load("./model.gguf");
        /** @type {import("../../../src/web/js/engram").Message[]} */
        const messages = [{ role: "user", content: "hello" }];
        const request = { messages, max_tokens: 10 };
        const { completions } = engine.chat;
        const whole = await completions.create(request);
        let streamed = "";
        let last;
        for await (const chunk of await completions.create({ ...request, stream: true })) {
            streamed += chunk.choices[0].delta.content ?? "";
            last = chunk;
        }
        // Leaving the loop ends the answer; the next call comes through.
        for await (const _ of await completions.create({ messages, stream: true })) break;
        const seeded = () => completions.create({ ...request, temperature: 2, seed: 7 });
        const [one, two] = [await seeded(), await seeded()];
        const long = engine.generate("hello ".repeat(400));
        const overflow = await long.then(() => "", error => error.code);
        await engine.dispose();
        const { content } = whole.choices[0].message;
        const same = one.choices[0].message.content === two.choices[0].message.content;
        return { content, streamed, last, usage: whole.usage, same, overflow };
    },
    ({ content, streamed, last, usage, same, overflow }) => {
        assert(content.length > 0);
        assert.equal(streamed, content);
        assert.equal(last?.usage?.completion_tokens, usage.completion_tokens);
        assert(same);
        assert.equal(overflow, "context-overflow");
    },
);

both(
    "an abort in each phase leaves a usable engine",
    async ({ kind }) => {
        /** @type {Engram} */
        const engram = await import(/** @type {string} */ ("engram"));
        /** @type {Record<string, string>} */
        const codes = {};
        /** @param {string} name @param {(abort: AbortController) => Promise<unknown>} call */
        const ends = async (name, call) => {
            const abort = new AbortController();
            codes[name] = await call(abort).then(() => "nothing", error => `${error.name} ${error.code}`);
        };
        for (const phase of ["download", "load"]) {
            await ends(phase, abort =>
                engram[kind].load("./model.gguf", {
                    signal: abort.signal,
                    onProgress: step => step.phase === phase && abort.abort(),
                }),
            );
        }
        const engine = await engram[kind].load("./model.gguf");
        await ends("generate", abort =>
            engine.generate("hello", { signal: abort.signal, onText: () => abort.abort() }),
        );
        const examples = Array.from({ length: 8 }, (_, i) => ({ prompt: `hello ${i}`, completion: "there" }));
        const trainer = await engram.Trainer.create(engine, { train: examples }, { iters: 3, num_layers: -1 });
        /** @type {number[]} */
        const steps = [];
        await ends("train", async abort => {
            for await (const step of trainer.run({ signal: abort.signal })) {
                steps.push(step.iteration);
                setTimeout(() => abort.abort());
            }
        });
        for await (const step of trainer.run()) steps.push(step.iteration);
        const questions = examples.map(({ prompt }) => ({ prompt, expected: "there" }));
        await ends("evaluate", abort =>
            engram.evaluate([{ name: "bare", engine }], questions, {
                signal: abort.signal,
                onProgress: () => abort.abort(),
            }),
        );
        const { text } = await engine.generate("hello", { max_tokens: 3 });
        await ends("reload", abort =>
            engine.reload({ signal: abort.signal, onProgress: () => abort.abort() }),
        );
        await engine.reload();
        const again = await engine.generate("hello", { max_tokens: 3 });
        await engine.dispose();
        return { codes, steps, isSame: again.text === text };
    },
    ({ codes, steps, isSame }) => {
        for (const [phase, code] of Object.entries(codes)) assert.equal(code, "AbortError aborted", phase);
        assert.equal(Object.keys(codes).length, 6);
        assert.deepEqual(steps, [1, 2, 3]);
        assert(isSame);
    },
);

both(
    "an adapter is trained to a falling loss, exported, loaded, compared",
    async ({ kind }) => {
        /** @type {Engram} */
        const engram = await import(/** @type {string} */ ("engram"));
        const engine = await engram[kind].load("./model.gguf");
        const train = Array.from({ length: 4 }, (_, i) => ({ prompt: `hello ${i}`, completion: "there you are" }));
        const config = { iters: 12, steps_per_report: 3, steps_per_eval: 6, learning_rate: 5e-3, num_layers: -1 };
        const trainer = await engram.Trainer.create(engine, { train, valid: train }, config);
        const losses = [];
        const validations = [];
        for await (const step of trainer.run()) {
            if (step.kind === "report") losses.push(step.loss);
            if (step.kind === "validation") validations.push(step.loss);
        }
        const mlx = await trainer.exportAdapter("mlx");
        const peft = await trainer.exportAdapter("peft", { checkpoint: "best" });
        const { adapters } = engine;
        const info = await adapters.load("a", mlx);
        await adapters.load("b", mlx.map(({ name, bytes }) => new File([/** @type {BlobPart} */ (bytes)], name)));
        await adapters.activate("a");
        const ask = async (/** @type {object} */ options) =>
            (await engine.generate("hello 1", { max_tokens: 8, ...options })).text;
        const answers = [await ask({}), await ask({ adapter: "b" }), await ask({ adapter: null })];
        const round = await adapters.export("a", "mlx");
        const isSame = round.every(({ name, bytes }) => {
            const other = mlx.find(file => file.name === name)?.bytes;
            return !name.endsWith(".safetensors") || bytes.every((byte, at) => byte === other?.[at]);
        });
        const asPeft = await adapters.export("a", "peft");
        await adapters.load("c", asPeft);
        answers.push(await ask({ adapter: "c" }));
        await adapters.blend("both", { a: 0.75, c: 0.25 });
        const blended = await ask({ adapter: "both" });
        await adapters.remove("both");
        const questions = train.map(({ prompt }) => ({ prompt, expected: "there you are" }));
        /** @type {string[]} */
        const phases = [];
        const evaluation = await engram.evaluate(
            [{ name: "bare", engine }, { name: "tuned", engine, adapter: "a" }],
            questions,
            {
                dataset: "greetings",
                max_new_tokens: 8,
                trainedOn: train,
                onProgress: ({ candidate, phase }) => phases.push(`${candidate} ${phase}`),
            },
        );
        // The device is lost amid an answer: the adapters come back with the model.
        const code = await engine
            .generate("hello", { onText: () => engine.loseDevice() })
            .then(() => "nothing", error => error.code);
        await engine.reload();
        answers.push(await ask({ adapter: "a" }));
        await trainer.dispose();
        await adapters.remove("a");
        const list = await adapters.list();
        await engine.dispose();
        return {
            losses, validations, info, answers, blended, isSame, evaluation, phases, code, list,
            names: [mlx, peft, round].map(files => files.map(({ name }) => name).sort()),
            count: trainer.trainableParameters,
            rank: trainer.config.rank,
        };
    },
    result => {
        const { losses, validations, info, answers, evaluation } = result;
        assert.equal(losses.length, 4);
        assert(Number(losses[3]) < 0.8 * Number(losses[0]), String(losses));
        assert.equal(validations.length, 3);
        assert.equal(info.rank, result.rank);
        assert.equal(info.parameters, result.count);
        assert.equal(answers[1], answers[0], "from files");
        assert.notEqual(answers[2], answers[0], "the bare model");
        assert.equal(answers[3], answers[0], "as PEFT");
        assert.equal(answers[4], answers[0], "on the new device");
        assert.equal(result.blended, answers[0], "with itself");
        assert(result.isSame);
        const mlx = ["adapter_config.json", "adapters.safetensors"];
        const peft = ["adapter_config.json", "adapter_model.safetensors"];
        assert.deepEqual(result.names, [mlx, peft, mlx]);
        const { report } = evaluation;
        assert.deepEqual(JSON.parse(evaluation.json), report);
        assert.deepEqual(report.candidates.map(({ name }) => name), ["bare", "tuned"]);
        assert.equal(report.dataset.seen_in_training, 4);
        assert.equal(report.comparisons.length, 1);
        assert(evaluation.markdown.includes("greetings"));
        assert(result.phases.includes("tuned loss"));
        assert.equal(result.code, "device-lost");
        assert.deepEqual(result.list.map(({ name, active }) => [name, active]), [["b", false], ["c", false]]);
    },
);

both(
    "preferences and whole blocks are trained in a page",
    async ({ kind }) => {
        /** @type {Engram} */
        const engram = await import(/** @type {string} */ ("engram"));
        const engine = await engram[kind].load("./model.gguf");
        /** @type {Record<string, number[]>} */
        const losses = {};
        const run = async (
            /** @type {string} */ what,
            /** @type {import("engram").TrainingExample[]} */ train,
            /** @type {import("engram").TrainConfig} */ config,
        ) => {
            const all = { iters: 4, steps_per_report: 1, num_layers: 1, ...config };
            const trainer = await engram.Trainer.create(engine, { train }, all);
            losses[what] = [];
            for await (const step of trainer.run()) if (step.kind === "report") losses[what].push(step.loss);
            return trainer;
        };
        const pairs = [
            { prompt: "hello", chosen: "there you are", rejected: "go away" },
            { prompt: "good", chosen: "morning", rejected: "night" },
        ];
        await run("pairs", pairs, { train_mode: "dpo", beta: 0.5, batch_size: 2, learning_rate: 1e-2 });
        const answers = [{ prompt: "hello", completion: "there you are" }];
        const trainer = await run("blocks", answers, { adapter_type: "full", batch_size: 1, learning_rate: 1e-2 });
        await engine.adapters.load("whole", await trainer.exportAdapter("mlx"));
        const dora = await run("dora", answers, { adapter_type: "dora", batch_size: 1, learning_rate: 1e-2 });
        await engine.adapters.load("dora", await dora.exportAdapter("peft"));
        const ask = async (/** @type {string | null} */ adapter) =>
            (await engine.generate("hello", { max_tokens: 8, adapter })).text;
        return { losses, said: [await ask(null), await ask("whole"), await ask("dora")] };
    },
    ({ losses, said }) => {
        const [pairs, blocks, dora] = [losses["pairs"] ?? [], losses["blocks"] ?? [], losses["dora"] ?? []];
        assert(Math.abs(Number(pairs[0]) - Math.log(2)) < 1e-4, String(pairs));
        assert(Number(pairs[3]) < 0.5 * Number(pairs[0]), String(pairs));
        assert(Number(blocks[3]) < 0.7 * Number(blocks[0]), String(blocks));
        assert(Number(dora[3]) < 0.7 * Number(dora[0]), String(dora));
        assert.equal(new Set(said).size, 3, String(said));
    },
);

both(
    "a data set is counted before it is trained on",
    async ({ kind }) => {
        /** @type {Engram} */
        const engram = await import(/** @type {string} */ ("engram"));
        const engine = await engram[kind].load("./model.gguf");
        const long = { prompt: "good", completion: "morning ".repeat(40) };
        const train = [{ prompt: "hello", completion: "there" }, { prompt: "hello", completion: "there" }, long];
        const test = [{ prompt: "hello", completion: "you" }, { prompt: "bye", completion: "now" }];
        const stats = await engine.dataStats({ train, test }, { max_seq_length: 64, batch_size: 3 });
        const said = async (/** @type {Promise<unknown>} */ call) => call.then(() => "nothing", error => error.message);
        const of = (/** @type {import("engram").TrainConfig} */ config) => engram.Trainer.create(engine, { train }, { batch_size: 1, num_layers: 1, max_seq_length: 64, ...config });
        const { iters } = (await of({ epochs: 2 })).config;
        const refused = [
            await said(engine.dataStats({ train: [/** @type {any} */ ({})] })),
            await said(of({ epochs: 2, iters: 2 })),
            await said(of({ epochs: 0 })),
            await said(of({ modules_to_save: ["nowhere"] })),
        ];
        return { stats, iters, refused };
    },
    ({ stats, iters, refused }) => {
        assert.equal(iters, 6);
        const expected = [/train/, /both say how long/, /epochs is 0/, /nowhere/];
        expected.forEach((pattern, i) => assert.match(refused[i] ?? "", pattern));
        const { train, valid, test } = stats.sets;
        assert.equal(valid, undefined);
        assert.deepEqual(train?.duplicates, { exact: 1, normalized: 0 });
        assert.equal(train?.tokens.over_long, 1);
        assert.equal(train?.over_long[0]?.index, 2);
        assert.equal(train?.epoch?.batches, 1);
        assert.equal(test?.records, 2);
        assert.deepEqual(stats.leaks, [{ of: "test", in: "train", exact: 1, normalized: 0 }]);
        assert.deepEqual(stats.tested, { prompts: 2, same: 1, varied: 0 });
    },
);

both(
    "a device lost in training says so, and after a reload another training runs",
    async ({ kind }) => {
        /** @type {Engram} */
        const engram = await import(/** @type {string} */ ("engram"));
        const engine = await engram[kind].load("./model.gguf");
        const train = Array.from({ length: 8 }, (_, i) => ({ prompt: `hello ${i}`, completion: "there" }));
        const run = async (/** @type {() => Promise<void>} */ between) => {
            const trainer = await engram.Trainer.create(engine, { train }, { iters: 3, num_layers: -1 });
            let last = 0;
            for await (const step of trainer.run()) {
                last = step.iteration;
                await between();
            }
            return last;
        };
        const code = await run(() => engine.loseDevice()).then(() => "nothing", error => error.code);
        await engine.reload();
        const last = await run(async () => {});
        const dispose = engine.dispose();
        const disposed = await engine.memory().then(() => "nothing", error => error.code);
        await dispose;
        const after = await engine.generate("x").then(() => "nothing", error => error.code);
        return { code, last, codes: [disposed, after] };
    },
    ({ code, last, codes }) => {
        assert.equal(code, "device-lost");
        assert.equal(last, 3);
        assert.deepEqual(codes, ["disposed", "disposed"]);
    },
);

test("the README's example runs", async () => {
    const context = await browser.newContext();
    const page = await open(context, server.url);
    /** @type {string[]} */
    const lines = [];
    page.on("console", message => lines.push(message.text()));
    await page.addScriptTag({ type: "module", url: "/example.js" });
    const hasEnded = () => "hasEnded" in globalThis;
    await page.waitForFunction(hasEnded, undefined, { timeout: 120_000 }).catch(error => {
        throw new Error(`${error}\n${lines.join("\n")}`);
    });
    assert(lines.some(line => line.includes("→")), lines.join("\n"));
    assert(lines.some(line => Number(line) > 0), "a loss");
    await context.close();
});

test("data needs no GPU", async () => {
    const result = await inPage(async () => {
        /** @type {Engram} */
        const engram = await import(/** @type {string} */ ("engram"));
        const patterns = await engram.bundledPatterns();
        const text = await engram.formatPatterns(patterns);
        const again = await engram.parsePatterns("mine.yaml", text);
        const splits = await engram.splitPatterns(patterns);
        const [first] = patterns;
        if (!first) throw new Error("no patterns");
        return {
            isSame: JSON.stringify(again) === JSON.stringify(patterns),
            counts: [patterns.length, splits.train.length, splits.valid.length, splits.test.length],
            inputs: await engram.augmentPattern(first),
            input: first.input,
            problems: await engram.checkPatterns([...patterns, { input: "", output: "", category: "x" }]),
            error: await engram.parsePatterns("bad.yaml", "[").then(() => "", error => `${error.code} ${error.message}`),
            examples: await engram.parseExamples("x.jsonl", '{"prompt": "a", "completion": "b"}\n'),
            support: await engram.checkSupport(),
        };
    }, "Engine");
    assert(result.isSame);
    assert.equal(result.counts[0], 131);
    assert(result.counts.every(count => count > 0));
    assert.equal(result.inputs[0], result.input);
    assert(result.problems.some(({ row }) => row === 132), JSON.stringify(result.problems));
    assert.match(result.error, /^data .*bad\.yaml/);
    assert.equal(result.examples.length, 1);
    assert(result.support.ok && result.support.device?.isSoftware, result.support.message);
});

test("a Parquet file is read as its records in JSON lines, by modules that are only then loaded", async () => {
    const result = await inPage(async () => {
        /** @type {Engram} */
        const { readExamples } = await import(/** @type {string} */ ("engram"));
        const read = async (/** @type {string} */ name) => {
            const blob = await (await fetch(`./data/${name}`)).blob();
            return readExamples(new File([blob], name));
        };
        const lines = [await read("chats.jsonl"), await read("completions.jsonl")];
        const early = performance.getEntriesByType("resource").filter(({ name }) => name.includes("/vendor/")).length;
        const rows = [await read("chats.parquet"), await read("completions.parquet")];
        const bytes = new TextEncoder().encode('{"text": "a"}\nPAR1');
        const bad = new Uint8Array(await (await fetch("./data/chats.parquet")).arrayBuffer()).slice(9);
        const failing = (/** @type {string} */ name, /** @type {Uint8Array} */ bytes) =>
            readExamples({ name, bytes }).then(() => "", error => `${error.code} ${error.message}`);
        const errors = [await failing("a.parquet", bytes), await failing("b.parquet", bad), await failing("c.jsonl", bytes)];
        return { lines, rows, early, errors };
    }, "Engine");
    assert.equal(result.early, 0);
    assert.equal(result.lines[1]?.length, 200);
    assert.deepEqual(result.rows, result.lines);
    assert.match(result.errors[0] ?? "", /^format a\.parquet: no Parquet file that can be read: /);
    assert.match(result.errors[1] ?? "", /^format b\.parquet: no Parquet file that can be read: /);
    assert.match(result.errors[2] ?? "", /^data c\.jsonl:2: not JSON/);
});

test("a data set of the hub is loaded by its card, once, and a part of it", async () => {
    const result = await inPage(async () => {
        /** @type {Engram} */
        const { cache, loadDataset } = await import(/** @type {string} */ ("engram"));
        const options = { hubEndpoint: location.origin };
        /** @type {object[]} */
        const progress = [];
        const whole = await loadDataset("hf:o/rows", { ...options, onProgress: step => progress.push(step) });
        const kept = await cache.list();
        const part = await loadDataset("o/rows:test", options);
        const slice = await loadDataset("hf:o/rows[:10%]", options);
        const url = await loadDataset("./data/chats.jsonl");
        const error = await loadDataset("hf:o/rows:other/train", options).then(() => "", error => `${error.code} ${error.message}`);
        return { whole, part, slice, url, error, progress, kept: kept.length };
    }, "Engine");
    const { train, test: tests, ...others } = result.whole;
    assert.equal(train?.length, 200);
    assert.deepEqual([tests, others], [result.part.train, {}]);
    assert.deepEqual(tests, [{ prompt: "a", completion: "b" }]);
    assert.deepEqual(result.slice, { train: train?.slice(0, 20) });
    assert.equal(result.url.train?.length, 2);
    assert.match(result.error, /^invalid hf:o\/rows:other\/train: no configuration other there; there are main$/);
    assert(result.progress.length > 1);
    assert.equal(result.kept, 4);
    const asked = server.requests.filter(path => path === "/datasets/o/rows/resolve/abc/main/train-0.parquet");
    assert.equal(asked.length, 1);
});

test("where the file system can't be written, the Cache API keeps models", async () => {
    const context = await browser.newContext();
    await context.addInitScript(() => {
        Reflect.deleteProperty(FileSystemFileHandle.prototype, "createWritable");
    });
    const page = await open(context, server.url);
    const load = () =>
        page.evaluate(async () => {
            /** @type {Engram} */
            const { Engine, cache } = await import(/** @type {string} */ ("engram"));
            const engine = await Engine.load("./model.gguf");
            const { text } = await engine.generate("hello", { max_tokens: 5 });
            await engine.dispose();
            return { text, kept: (await cache.list()).length, caches: await caches.keys() };
        });
    const first = await load();
    assert.deepEqual([first.kept, first.caches], [1, ["engram"]]);
    server.requests.length = 0;
    await page.reload();
    assert.deepEqual(await load(), first);
    assert(!server.requests.includes("/model.gguf"));
    await context.close();
});
