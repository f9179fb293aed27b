// @ts-check
/**
 * The page from end to end, as a visitor uses it, with the tiny model on the software adapter.
 *
 * `node --test` runs it; run by itself it takes `--shots FOLDER` for the pictures of each panel
 * (default `target/page`) and `--picture FILE` for the one that the README shows.
 */

import assert from "node:assert/strict";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { parseArgs } from "node:util";
import { crc32 } from "node:zlib";

import { launch, open, ROOT, serve } from "../harness.mjs";

const { values: options } = parseArgs({
    options: { shots: { type: "string", default: join(ROOT, "target/page") }, picture: { type: "string" } },
    strict: false,
});
const SHOTS = String(options.shots);
const MODEL = join(ROOT, "www/models/engram-tiny.gguf");
const QUESTION = "Q: What is the capital of Australia?";
const HOLD_DEVICE = `{
    const ask = GPUAdapter.prototype.requestDevice;
    GPUAdapter.prototype.requestDevice = async function (...args) { return (self.heldDevice = await ask.apply(this, args)); };
}`;
const DESKTOP = { width: 1280, height: 860 };
const PHONE = { width: 360, height: 780 };

/** @type {Awaited<ReturnType<typeof serve>>} */ let server;
/** @type {import("playwright-core").Browser} */ let browser;
/** @type {import("playwright-core").Page} */ let page;
/** What the console says of errors, the security policy's among them. @type {string[]} */
const faults = [];

before(async () => {
    mkdirSync(SHOTS, { recursive: true });
    // A path of its own: the page has to work under any.
    server = await serve({ root: join(ROOT, "www"), base: "/some/path/" });
    // The project's own typeface, so that pictures do not depend on what is installed.
    const fonts = join(tmpdir(), "engram-page-fonts.conf");
    writeFileSync(fonts, `<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd"><fontconfig>
        <include ignore_missing="yes">/etc/fonts/fonts.conf</include><dir>${join(ROOT, "data/fonts")}</dir></fontconfig>`);
    browser = await launch({ env: { ...process.env, FONTCONFIG_FILE: fonts } });
    await visit();
});

/** Opens the page as one who was never there. */
async function visit() {
    const context = await browser.newContext({ viewport: DESKTOP, acceptDownloads: true });
    // A handle on the device, to lose it as a driver's reset would.
    await context.route("**/pkg/worker.js", async route => {
        const response = await route.fetch();
        await route.fulfill({ response, body: `${HOLD_DEVICE}\n${await response.text()}` });
    });
    context.on("console", message => { if (message.type() === "error") faults.push(message.text()); });
    page = await open(context, server.url);
    page.setDefaultTimeout(90_000);
}

after(async () => {
    await browser?.close();
    await server?.close();
});

/** The console has no errors but those of the device that a test lost and the file that it held back. */
const noFaults = () => assert.deepEqual(faults.filter(fault => !/gguf|device/i.test(fault)), []);

/** @param {string} panel */
const go = panel => page.locator(`nav a[href="#${panel}"]`).click();

/** The panel as it is, at both widths. @param {string} name */
async function shoot(name) {
    for (const [kind, size] of /** @type {const} */ ([["phone", PHONE], ["desktop", DESKTOP]])) {
        await page.setViewportSize(size);
        await page.evaluate(() => scrollTo(0, 0));
        // The chart is drawn anew at a new width.
        await page.waitForTimeout(250);
        const { scrollWidth } = await page.evaluate(() => ({ scrollWidth: document.documentElement.scrollWidth }));
        assert.ok(scrollWidth <= size.width, `${name} is ${scrollWidth} wide on a screen of ${size.width}`);
        await page.screenshot({ path: join(SHOTS, `${name}-${kind}.png`), fullPage: true });
    }
}

async function loaded() {
    await page.locator("#load-progress").waitFor({ state: "hidden" });
    const error = page.locator("#model-error .notice");
    assert.equal(await error.count() ? await error.textContent() : "", "");
    await page.locator("#loaded").waitFor();
}

/** Asks in the chat, each question alone, and gives the answers. */
async function answers() {
    return [await ask(QUESTION), await ask("Q: What is the square root of 144?")];
}

/** @param {string} question */
async function ask(question) {
    await go("chat");
    await page.getByRole("button", { name: "Clear", exact: true }).click();
    await page.getByRole("textbox", { name: "Message", exact: true }).fill(question);
    await page.getByRole("textbox", { name: "Message", exact: true }).press("Enter");
    await page.locator(".turn.assistant .meta:not(:empty)").waitFor();
    assert.match(await page.locator(".turn.assistant .meta").innerText(), /^\d+ tokens? ·/);
    return page.locator(".turn.assistant .text").innerText();
}

/** @param {() => Promise<void>} act @returns {Promise<{ name: string, path: string, bytes: Buffer }>} */
async function downloaded(act) {
    const [download] = await Promise.all([page.waitForEvent("download"), act()]);
    const path = join(SHOTS, download.suggestedFilename());
    await download.saveAs(path);
    return { name: download.suggestedFilename(), path, bytes: readFileSync(path) };
}

/** The files of an archive without compression. @param {Buffer} bytes */
function unzip(bytes) {
    /** @type {Record<string, Buffer>} */
    const files = {};
    for (let at = 0; bytes.readUInt32LE(at) === 0x04034b50; ) {
        const size = bytes.readUInt32LE(at + 18), name = at + 30, content = name + bytes.readUInt16LE(at + 26);
        const file = bytes.subarray(content, content + size);
        assert.equal(crc32(file), bytes.readUInt32LE(at + 14));
        files[bytes.toString("utf8", name, content)] = file;
        at = content + size;
    }
    return files;
}

/**
 * Processor time of the tasks in the page's thread, milliseconds, the longest first. The time on the
 * clock would tell of whatever else this machine does: here the GPU is the CPU.
 *
 * @param {Buffer} trace
 */
function mainThreadTasks(trace) {
    /** @type {{ traceEvents: { name: string, pid: number, tid: number, tdur?: number, args: { name?: string } }[] }} */
    const { traceEvents } = JSON.parse(trace.toString());
    const mains = new Set(traceEvents.filter(e => e.name === "thread_name" && e.args.name === "CrRendererMain").map(e => `${e.pid} ${e.tid}`));
    return traceEvents.filter(e => e.name.endsWith("RunTask") && mains.has(`${e.pid} ${e.tid}`))
        .map(e => Math.round((e.tdur ?? 0) / 1000)).sort((a, b) => b - a);
}

/** Column of the table under the chart. @param {number} column */
async function losses(column) {
    const cells = await page.locator(`#train-table tbody td:nth-child(${column})`).allTextContents();
    return cells.filter(Boolean).map(Number);
}

test("the whole tour", async t => {
    /** @type {string[]} */ let bare = [];
    /** @type {string[]} */ let tuned = [];
    /** @type {string[]} */ const adapterFiles = [];

    await t.test("the page says what it runs on", async () => {
        await page.locator("#support", { hasText: "the CPU computes" }).waitFor();
        await shoot("model");
    });

    await t.test("loads from a dropped file", async () => {
        const content = readFileSync(MODEL).toString("base64");
        const transfer = await page.evaluateHandle(async base64 => {
            const bytes = Uint8Array.from(atob(base64), c => c.charCodeAt(0));
            const made = new DataTransfer();
            made.items.add(new File([bytes], "engram-tiny.gguf"));
            return made;
        }, content);
        await page.dispatchEvent("#model-drop", "drop", { dataTransfer: transfer });
        await loaded();
        bare = await answers();
        await shoot("chat");
    });

    await t.test("loads by URL, with the same answer", async () => {
        await browser.startTracing(page, { categories: ["toplevel", "devtools.timeline"] });
        await go("model");
        await page.getByLabel("Hub id or URL").fill(`${server.url}models/engram-tiny.gguf`);
        await page.locator("#own-load").click();
        await page.locator("#cache-list li").waitFor();
        await loaded();
        await shoot("model-loaded");
        assert.deepEqual(await answers(), bare);
    });

    await t.test("a pattern can be edited, and wrong rows are named", async () => {
        await go("data");
        const row = page.getByRole("button", { name: `: ${QUESTION}` });
        await row.click();
        await page.locator(".wordings li").nth(2).waitFor();
        await shoot("data-edit");
        await page.locator(".editor").getByLabel("Category").fill("nonsense");
        await page.getByRole("button", { name: "Save" }).click();
        assert.match(await page.locator(".editor .problem").innerText(), /code\/…, fact\/…/);
        await page.locator(".editor").getByLabel("Category").fill("fact/capital");
        await page.locator(".editor").getByLabel("Answer", { exact: true }).fill("Canberra, on the lake");
        await page.getByRole("button", { name: "Save" }).click();
        await page.locator("#note-data", { hasText: "131 patterns, edited" }).waitFor();
        await shoot("data");
    });

    await t.test("trains to a falling loss", async () => {
        await go("train");
        // A picture shows what a visitor gets; a test need not wait so long.
        if (!options.picture) {
            await page.getByText("All settings").click();
            for (const [label, value] of [["Iterations", "12"], ["Report every", "4"], ["Validate every", "6"], ["Validation batches", "2"]])
                await page.getByLabel(label ?? "").fill(value ?? "");
            await page.getByText("All settings").click();
            assert.ok(await page.getByLabel("My own").isChecked());
        }
        await page.getByRole("button", { name: "Start training" }).click();
        await page.locator("#train-table tbody tr").first().waitFor({ state: "attached", timeout: 240_000 });
        await page.getByRole("button", { name: "Pause" }).click();
        await page.locator("#train-status", { hasText: "Paused" }).waitFor();
        const paused = await page.locator("#train-stats").innerText();
        await page.waitForTimeout(1000);
        assert.equal(await page.locator("#train-stats").innerText(), paused);
        await page.getByRole("button", { name: "Continue" }).click();
        await page.locator("#train-finish").waitFor({ timeout: 240_000 });
        const train = await losses(2), valid = await losses(3);
        t.diagnostic(`training loss ${train}; validation loss ${valid}`);
        assert.ok(/** @type {number} */ (train.at(-1)) < /** @type {number} */ (train[0]));
        assert.ok(/** @type {number} */ (valid.at(-1)) < /** @type {number} */ (valid[0]));
        await page.getByRole("button", { name: "Use this adapter" }).click();
        await page.locator("#finish-note", { hasText: "switched on" }).waitFor();
        await shoot("train");
        if (options.picture) {
            await page.setViewportSize({ ...DESKTOP, height: 1180 });
            await page.evaluate(() => scrollTo(0, 0));
            await page.screenshot({ path: String(options.picture) });
            await page.setViewportSize(DESKTOP);
        }
        tuned = await answers();
        t.diagnostic(`bare: ${bare.join(" | ")}; tuned: ${tuned.join(" | ")}`);
        assert.notDeepEqual(tuned, bare);
    });

    await t.test("no task of the page's own thread holds it up", async () => {
        const longest = mainThreadTasks(await browser.stopTracing()).slice(0, 5);
        t.diagnostic(`longest tasks of the page's thread, ms of processor time: ${longest.join(", ")}`);
        // By the clock they are as long as the machine is busy.
        const byClock = await page.evaluate(() => /** @type {{ longTasks?: number[] }} */ (globalThis).longTasks ?? []);
        t.diagnostic(`tasks of over 50 ms by the clock: ${byClock.map(Math.round).join(", ") || "none"}`);
        assert.ok(/** @type {number} */ (longest[0]) <= 50);
    });

    await t.test("evaluates both and gives the report", async () => {
        await go("evaluate");
        await page.getByLabel("Questions").fill("8");
        await page.getByRole("button", { name: "Evaluate" }).click();
        await page.locator("#eval-result").waitFor();
        await page.locator(".outputs tbody tr").nth(7).waitFor();
        await shoot("evaluate");
        const json = await downloaded(() => page.getByRole("button", { name: "report.json" }).click());
        const report = JSON.parse(json.bytes.toString());
        assert.deepEqual(report.candidates.map((/** @type {{ name: string }} */ c) => c.name), ["base", "my-adapter"]);
        assert.equal(report.dataset.examples, 8);
        assert.equal(typeof report.dataset.seen_in_training, "number");
        const markdown = await downloaded(() => page.getByRole("button", { name: "report.md" }).click());
        assert.match(markdown.bytes.toString(), /my-adapter/);
    });

    await t.test("downloads the adapter, by file and whole", async () => {
        await go("adapters");
        await page.getByText("Single files").click();
        for (const file of ["adapter_config.json", "adapters.safetensors"]) {
            const { path } = await downloaded(() => page.getByRole("button", { name: `MLX ${file}` }).click());
            adapterFiles.push(path);
        }
        const whole = unzip((await downloaded(() => page.getByRole("button", { name: "Download my-adapter for MLX" }).click())).bytes);
        assert.deepEqual(Object.keys(whole).sort(), ["adapter_config.json", "adapters.safetensors"]);
        assert.deepEqual(whole["adapters.safetensors"], readFileSync(adapterFiles[1] ?? ""));
        await page.getByRole("textbox", { name: "Prompt", exact: true }).fill(QUESTION);
        await page.getByRole("button", { name: "Compare" }).click();
        await page.getByRole("button", { name: "Compare" }).waitFor();
        assert.equal(await page.locator("#compare-out-b").innerText(), tuned[0]);
        await shoot("adapters");
    });

    await t.test("after a reload, from the cache: the same answers", async () => {
        await page.goto(`${server.url}#model`);
        await page.reload();
        const fetched = () => server.requests.filter(path => path.endsWith(".gguf")).length;
        const before = fetched();
        await page.context().route("**/*.gguf", route => route.abort());
        await page.getByRole("button", { name: "Load again (from cache)" }).click();
        await loaded();
        assert.equal(fetched(), before);
        assert.equal(await page.locator("#note-data").textContent(), "131 patterns, edited");
        assert.deepEqual(await answers(), bare);
        await go("adapters");
        await page.locator("#adapter-name").fill("again");
        await page.setInputFiles("#adapter-files", adapterFiles);
        await page.locator("#adapter-status", { hasText: "again is loaded and switched on." }).waitFor();
        assert.deepEqual(await answers(), tuned);
    });

    await t.test("a lost device is said, and a button mends it", async () => {
        const worker = page.workers().at(-1);
        await worker?.evaluate(() => /** @type {{ heldDevice: { destroy(): void } }} */ (/** @type {unknown} */ (globalThis)).heldDevice.destroy());
        await go("chat");
        await page.getByRole("textbox", { name: "Message", exact: true }).fill(QUESTION);
        await page.getByRole("button", { name: "Send" }).click();
        await page.locator("#chat-error [data-code=device-lost]").waitFor();
        await shoot("lost");
        await page.getByRole("button", { name: "Reload the model" }).click();
        await page.locator("#chat-error", { hasText: "loaded again" }).waitFor();
        // The adapter came back with it, and is still in use.
        assert.deepEqual(await answers(), tuned);
        await go("data");
        assert.equal(await page.locator("#note-data").textContent(), "131 patterns, edited");
        noFaults();
    });
});

/** What the page trains, which it does not show: `made` is the last trainer, `on` its engine. */
const WATCH = `import(new URL("engram.js", document.baseURI)).then(({ Trainer }) => {
    const create = Trainer.create;
    Trainer.create = async (...given) => {
        globalThis.on = given[0];
        return (globalThis.made = await create(...given));
    };
})`;
/** @typedef {{ made: import("engram").Trainer, on: import("engram").EngineWorker }} Watched */

/** Opens the page, loads the tiny model and opens all settings. */
async function visitTraining() {
    await visit();
    await page.evaluate(WATCH);
    await page.getByRole("button", { name: "Load the tiny model" }).click();
    await loaded();
    await go("train");
    await page.getByText("All settings").click();
}

/** Sets controls by their settings' names. @param {Record<string, string>} values */
async function set(values) {
    for (const [name, value] of Object.entries(values)) {
        const control = page.locator(`#t-${name}`);
        if (await control.evaluate(element => element instanceof HTMLSelectElement)) await control.selectOption(value);
        else await control.fill(value);
    }
}

/** Trains, and gives every setting of it. */
async function train() {
    await page.getByRole("button", { name: "Start training" }).click();
    await page.locator("#train-finish, #train-error .notice").first().waitFor({ timeout: 240_000 });
    assert.equal(await page.locator("#train-error").innerText(), "");
    return page.evaluate(() => /** @type {Watched} */ (/** @type {unknown} */ (globalThis)).made.config);
}

test("the settings of the page are those of the training", async t => {
    await visitTraining();
    const shown = (/** @type {string} */ name) => page.locator(`#t-${name}`).isVisible();

    await t.test("each has a label and says what it does", async () => {
        const silent = await page.locator("#train-form [id^=t-]:is(input, select)").evaluateAll(all => all.filter(element => {
            const [label] = /** @type {HTMLInputElement} */ (element).labels ?? [];
            const options = element instanceof HTMLSelectElement ? [...element.options] : [];
            const has = element.title || label?.title || (options.length && options.every(option => option.title));
            return !has || !label?.innerText.trim();
        }).map(element => element.id));
        assert.deepEqual(silent, []);
    });

    await t.test("what does not matter is hidden", async () => {
        const all = ["betas", "eps", "weight_decay", "momentum", "nesterov", "relative_step"];
        for (const [optimizer, its] of /** @type {[string, string[]][]} */ ([
            ["adam", ["betas", "eps"]], ["adamw", ["betas", "eps", "weight_decay"]], ["adafactor", ["weight_decay", "relative_step"]],
            ["sgd", ["weight_decay", "momentum", "nesterov"]], ["muon", ["weight_decay", "momentum", "nesterov"]],
        ])) {
            await set({ optimizer });
            for (const name of all) assert.equal(await shown(name), its.includes(name), `${optimizer}: ${name}`);
        }
        await shoot("train-settings");
        await set({ adapter_type: "full", train_mode: "dpo" });
        for (const name of ["rank", "scale", "dropout", "keys", "loss"]) assert.equal(await shown(name), false, name);
        assert.ok(await shown("beta"));
    });

    await t.test("they reach it, and the loss falls", async () => {
        await page.getByLabel("Recommended for this model").check();
        await set({
            iters: "8", learning_rate: "0.003", rank: "4", adapter_type: "rslora", scale: "5", dropout: "0.05",
            rank_pattern: String.raw`mlp\..*=2, self_attn.(q|k){1,2}_proj=3`, alpha_pattern: "v_proj=16",
            modules_to_save: "norm", optimizer: "adamw", weight_decay: "0.01", betas: "0.8, 0.99",
            schedule: "cosine_decay", lr_end: "0.0005", warmup: "2", max_grad_norm: "1",
            steps_per_report: "2", steps_per_eval: "4", questions: "3",
        });
        await page.getByLabel("o_proj").uncheck();
        const config = await train();
        const expected = {
            iters: 8, adapter_type: "rslora", rank: 4, scale: 5, num_layers: 2, rank_pattern: { "mlp\\..*": 2, "self_attn.(q|k){1,2}_proj": 3 },
            alpha_pattern: { v_proj: 16 }, modules_to_save: ["norm"], optimizer: "adamw", train_mode: "sft", mask_prompt: true,
            max_grad_norm: 1, steps_per_report: 2, steps_per_eval: 4, val_batches: 2, betas: [0.8, 0.99],
        };
        for (const [name, value] of Object.entries(expected)) assert.deepEqual(config[/** @type {keyof typeof config} */ (name)], value, name);
        for (const [name, value] of /** @type {const} */ ([["learning_rate", 0.003], ["dropout", 0.05], ["weight_decay", 0.01]]))
            assert.ok(Math.abs(config[name] - value) < 1e-6, name);
        assert.deepEqual(config.lr_schedule, { name: "cosine_decay", arguments: [0.003, 5, 0.0005], warmup: 2, warmup_init: 0 });
        assert.equal(config.keys.length, 6);
        const all = await losses(2);
        t.diagnostic(`training loss ${all}`);
        assert.ok(Number(all.at(-1)) < 0.9 * Number(all[0]), String(all));
        assert.match(await page.locator("#train-stats").innerText(), /Right answers\s+[0-3] of 3/);
        const metrics = await downloaded(() => page.locator("#train-metrics").dispatchEvent("click"));
        const lines = String(Buffer.from(metrics.bytes)).trim().split("\n").map(line => JSON.parse(line));
        assert.deepEqual(lines.flatMap(line => line.eval_examples ?? []), [3, 3, 3]);
        assert.deepEqual(lines.flatMap(line => ("val_loss" in line ? line.iteration : [])), [1, 4, 8]);
        assert.equal(lines.flatMap(line => line.train_loss ?? []).length, 4);
        await page.getByRole("button", { name: "Use this adapter" }).click();
        await page.locator("#finish-note", { hasText: "switched on" }).waitFor();
        await go("adapters");
        const whole = unzip((await downloaded(() => page.getByRole("button", { name: "Download my-adapter for PEFT" }).click())).bytes);
        const file = JSON.parse(String(whole["adapter_config.json"]));
        assert.deepEqual(file.target_modules, ["down_proj", "gate_proj", "k_proj", "q_proj", "up_proj", "v_proj"]);
        assert.deepEqual(file.modules_to_save, ["model.norm"]);
        const [q, v, up] = ["self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj"].map(path => `model.layers.3.${path}`);
        assert.deepEqual([file.rank_pattern[q ?? ""] ?? file.r, file.rank_pattern[v ?? ""], file.rank_pattern[up ?? ""]], [3, 4, 2]);
        // 16 / √4, and what the layer's rank of 4 makes of it.
        assert.equal(file.alpha_pattern[v ?? ""], (16 / Math.sqrt(4)) * 4);
        await go("train");
    });

    await t.test("the original ones are the package's defaults", async () => {
        await page.getByLabel("The original experiment's").check();
        for (const optimizer of /** @type {const} */ (["adam", "adamw", "sgd", "adafactor", "muon"])) {
            await set({ optimizer });
            const [given, usual] = await page.evaluate(async optimizer => {
                const { on } = /** @type {Watched} */ (/** @type {unknown} */ (globalThis));
                const { Trainer } = /** @type {typeof import("engram")} */ (await import(String(new URL("engram.js", document.baseURI))));
                const { settings } = /** @type {typeof import("../../../www/panels/train-settings.js")} */ (
                    await import(String(new URL("panels/train-settings.js", document.baseURI))));
                const { config } = settings();
                const made = [];
                for (const each of [config, { optimizer, num_layers: config.num_layers }]) {
                    const trainer = await Trainer.create(on, { train: [{ text: "one two three" }] }, { ...each, batch_size: 1 });
                    made.push(trainer.config);
                    await trainer.dispose();
                }
                return made;
            }, optimizer);
            assert.deepEqual(given, usual);
        }
        assert.equal(await page.locator("#t-dropout").inputValue(), "0");
        assert.equal(await page.locator("#t-rank_pattern").inputValue(), "");
    });

    await t.test("a mistake is one clear line", async () => {
        await page.getByLabel("Recommended for this model").check();
        await set({ rank_pattern: "q_proj=2, nonsense" });
        await page.getByRole("button", { name: "Start training" }).click();
        await page.locator("#train-error .notice").waitFor();
        assert.equal(await page.locator("#train-error").innerText(), "Ranks of some layers: `nonsense` is not PATTERN=NUMBER, such as q_proj=4; commas divide several");
        await set({ rank_pattern: "", num_layers: "99" });
        await page.getByRole("button", { name: "Start training" }).click();
        await page.locator("#train-error", { hasText: "num-layers is 99, the model has 4" }).waitFor();
        // What the browser itself finds is shown to it, wherever it is.
        await set({ num_layers: "1", seed: "" });
        await page.getByText("All settings").click();
        await page.getByRole("button", { name: "Start training" }).click();
        await page.locator("#t-seed:focus").waitFor();
    });

    await t.test("all weights are trained, until the validation loss falls no more", async () => {
        await page.getByLabel("Recommended for this model").check();
        await set({
            adapter_type: "full", optimizer: "sgd", momentum: "0.9", learning_rate: "0", num_layers: "1", batch_size: "1",
            iters: "9", steps_per_report: "1", steps_per_eval: "3", patience: "1",
        });
        const config = await train();
        assert.equal(config.adapter_type, "full");
        assert.ok(Math.abs(Number(config.momentum) - 0.9) < 1e-6);
        const said = await page.locator("#train-status").innerText();
        assert.match(said, /^Stopped after [2-5] iterations: 1 validation in a row brought no lower loss\.$/);
        noFaults();
    });
});

test("adapters are blended", async t => {
    await visitTraining();
    const bare = await answers();
    await go("train");
    await set({ iters: "6", learning_rate: "0.003", steps_per_report: "3", val_batches: "0" });
    await train();
    for (const name of ["one", "two"]) {
        await page.locator("#finish-name").fill(name);
        await page.getByRole("button", { name: "Use this adapter" }).click();
        await page.locator("#finish-note", { hasText: `${name} is switched on` }).waitFor();
    }
    const tuned = await answers();
    t.diagnostic(`bare: ${bare.join(" | ")}; tuned: ${tuned.join(" | ")}`);
    assert.notDeepEqual(tuned, bare);

    const blend = async (/** @type {string} */ name, /** @type {string} */ one, /** @type {string} */ two) => {
        await go("adapters");
        const form = page.locator("#blend-form");
        await form.getByLabel("one", { exact: true }).fill(one);
        await form.getByLabel("two", { exact: true }).fill(two);
        await form.getByLabel("Name", { exact: true }).fill(name);
        await form.getByRole("button", { name: "Blend" }).click();
    };
    await blend("whole", "0.75", "0.25");
    await page.locator("#blend-status", { hasText: "whole is made of 0.75 × one + 0.25 × two and switched on." }).waitFor();
    await shoot("adapters-blend");
    assert.deepEqual(await answers(), tuned);
    await blend("nothing", "0.5", "-0.5");
    await page.locator("#blend-status", { hasText: "nothing is made of" }).waitFor();
    assert.deepEqual(await answers(), bare);

    await go("adapters");
    await blend("none", "0", "0");
    assert.match(await page.locator("#blend-error").innerText(), /All weights are 0/);
    await page.getByRole("button", { name: "Remove nothing" }).click();
    await page.locator("[data-adapter=nothing]").first().waitFor({ state: "detached" });
    const offered = (/** @type {string} */ panel) => page.locator(`#${panel}-adapter option`).evaluateAll(all => all.map(option => /** @type {HTMLOptionElement} */ (option).value));
    assert.deepEqual(await offered("chat"), ["", "one", "two", "whole"]);
    assert.deepEqual(await offered("eval"), ["one", "two", "whole", ""]);
    noFaults();
});

test("preference pairs are brought and learned from", async t => {
    await visitTraining();
    await set({ train_mode: "dpo" });
    assert.match(await page.locator("#train-need").innerText(), /these examples have one answer each: bring JSON lines/);
    assert.ok(await page.locator("#train-start").isDisabled());
    await page.getByRole("link", { name: "See the data" }).click();
    const pairs = Array.from({ length: 12 }, (_, n) => ({ prompt: `Is ${n} a number?`, chosen: `Yes, ${n} is.`, rejected: "no" }));
    await page.getByText("Bring your own").click();
    await page.getByLabel("Paste").fill(pairs.map(pair => JSON.stringify(pair)).join("\n"));
    await page.getByRole("button", { name: "Add", exact: true }).click();
    await page.locator("#examples-title", { hasText: "12 preference pairs from pasted text" }).waitFor();
    const first = page.locator("#examples-list li").first();
    assert.deepEqual(await first.locator("dd").allTextContents(), ["Is 0 a number?", "Yes, 0 is.", "no"]);
    assert.deepEqual(await first.locator("dt").allTextContents(), ["prompt", "chosen", "rejected"]);
    await shoot("data-pairs");

    await go("train");
    assert.equal(await page.locator("#train-need").innerText(), "");
    await page.getByLabel("Recommended for this model").check();
    assert.match(await page.locator("#train-need").innerText(), /preference pairs/);
    await page.getByRole("button", { name: "Learn from pairs" }).click();
    await set({ beta: "0.5", learning_rate: "0.0002", batch_size: "2", iters: "6", steps_per_report: "1", steps_per_eval: "3", val_batches: "1" });
    const config = await train();
    assert.deepEqual([config.train_mode, config.beta, config.mask_prompt], ["dpo", 0.5, false]);
    const all = await losses(2);
    t.diagnostic(`training loss ${all}`);
    assert.ok(Math.abs(Number(all[0]) - Math.log(2)) < 1e-3, String(all));
    assert.ok(Number(all.at(-1)) < 0.5 * Number(all[0]), String(all));
    noFaults();
});

/** Has a fake hub answer the page. @param {Record<string, Record<string, string | Buffer>>} dataSets */
async function serveHub(dataSets) {
    const headers = { "access-control-allow-origin": "*" };
    await page.context().route("https://huggingface.co/**", async route => {
        const { pathname } = new URL(route.request().url());
        const [, api] = /^\/api\/datasets\/(.+)\/revision\/main$/.exec(pathname) ?? [];
        const [, of, name] = /^\/datasets\/(.+)\/resolve\/abc\/(.+)$/.exec(pathname) ?? [];
        const siblings = Object.entries(dataSets[api ?? ""] ?? {}).map(([rfilename, { length: size }]) => ({ rfilename, size }));
        const body = siblings.length ? JSON.stringify({ sha: "abc", siblings }) : dataSets[of ?? ""]?.[name ?? ""];
        if (name?.startsWith("slow")) await page.waitForTimeout(60_000).catch(() => {});
        await route.fulfill(body === undefined ? { status: 404, headers } : { body, headers }).catch(() => {});
    });
}

test("data come from files and from the hub, and are counted for the model", async t => {
    const row = (/** @type {string} */ prompt, completion = "yes") => JSON.stringify({ prompt, completion });
    const rows = (/** @type {string[]} */ ...lines) => `${lines.join("\n")}\n`;
    const ten = Array.from({ length: 10 }, (_, n) => row(`Is ${n} a number?`));
    await visit();
    await serveHub({
        "o/two": { "train.jsonl": rows(...ten), "test.jsonl": rows(row("Is x a letter?")) },
        "o/three": {
            "README.md": "---\nlicense: mit\n---\n",
            "train.parquet": readFileSync(join(ROOT, "data/goldens/parquet/completions.parquet")),
            "validation.jsonl": rows(row("what is 7?"), row("what is seven?", "one ".repeat(3000))),
            "test.jsonl": rows(row("WHAT is 8?"), row("is 9?"), row("twice"), row("twice")),
        },
        "o/slow": { "slow.jsonl": rows(...ten) },
        "o/tests": { "a-test.jsonl": rows(...ten), "notes.txt": "-" },
    });
    const load = async (/** @type {string} */ source) => {
        await page.getByLabel("Hub data set or URL").fill(source);
        await page.locator("#dataset-load").click();
    };
    const lines = (/** @type {string} */ id) => page.locator(`#${id} li`).allInnerTexts();
    const counted = async (/** @type {string} */ sizes) => {
        await page.locator("#stats-sets", { hasText: sizes }).waitFor();
        await page.locator("#stats-status", { hasText: /^$/ }).waitFor({ state: "attached" });
    };

    await t.test("without a model there are no counts", async () => {
        await go("data");
        await page.getByText("Bring your own").click();
        await page.setInputFiles("#data-files", join(ROOT, "data/goldens/parquet/completions.parquet"));
        await page.locator("#examples-title", { hasText: "200 examples from completions.parquet" }).waitFor();
        assert.match(await page.locator("#split-sizes").innerText(), /128\s*to train on\s*32\s*to validate\s*40\s*to test/);
        assert.equal(await page.locator("#stats-card").isVisible(), false);
    });

    await t.test("with one they are shown, and are those of the model", async () => {
        await go("model");
        await page.getByRole("button", { name: "Load the tiny model" }).click();
        await loaded();
        await go("data");
        await counted("128 examples");
        assert.deepEqual(await lines("stats-problems"), ["Nothing repeats, nothing leaks between the sets, and nothing is cut."]);
        const [first = ""] = await lines("stats-sets");
        assert.match(first, /^Trained on 128 examples, [\d,]+ tokens; the median has \d+, the longest \d+\.$/);
        const bins = await page.locator("#stats-lengths tbody td.num").allInnerTexts();
        assert.equal(bins.reduce((sum, bin) => sum + Number(bin), 0), 128);
    });

    await t.test("patterns whose tests are trained on are told of", async () => {
        await page.getByRole("button", { name: "Use the patterns instead" }).click();
        await page.locator("#split-protocol").selectOption("original");
        await counted("269 examples");
        const problems = await lines("stats-problems");
        assert.match(problems.join(" "), /\d+ test prompts are in the training set too .* take the protocol “held out”/);
        await page.locator("#split-protocol").selectOption("held-out");
    });

    await t.test("a hub's data set keeps its own sets, and a missing one is held out", async () => {
        await load("hf:o/two");
        await page.locator("#examples-title", { hasText: "11 examples from hf:o/two" }).waitFor();
        assert.match(await page.locator("#examples-note").innerText(), /Their own test examples are kept apart/);
        assert.match(await page.locator("#split-sizes").innerText(), /8\s*to train on\s*2\s*to validate\s*1\s*to test/);
        await page.locator("#cache-list", { hasText: "train.jsonl" }).waitFor({ state: "attached" });
    });

    await t.test("problems stand out and say what to do", async () => {
        await load("hf:o/three");
        await counted("200 examples");
        assert.match(await page.locator("#split-sizes").innerText(), /200\s*to train on\s*2\s*to validate\s*4\s*to test/);
        const problems = await lines("stats-problems");
        t.diagnostic(problems.join(" | "));
        const expected = [
            /^1 validation example is over the limit of \d+ tokens and is cut there\. (Raise “Longest example” .*|The model has no room .*)divide it\.$/,
            /^1 test example repeats another \(word for word\) and counts more for it\. Remove it/,
            /^1 validation prompt is in the training set too \(word for word\)\. The validation loss will look better/,
            /^1 test prompt is in the training set too \(but for spaces and capitals\)\. The evaluation will look better/,
            /^1 test prompt ends a longer prompt of the other sets\./,
        ];
        for (const pattern of expected) assert.ok(problems.some(problem => pattern.test(problem)), `${pattern}: ${problems.join(" | ")}`);
        await shoot("data-hub");
        // What the training's settings say of the data counts too.
        await go("train");
        await page.getByText("All settings").click();
        await set({ max_seq_length: "8" });
        await go("data");
        await page.locator("#stats-problems", { hasText: "training examples are over the limit of 8 tokens" }).waitFor();
        await go("train");
        await set({ max_seq_length: "256" });
        await go("data");
    });

    await t.test("a load can be cancelled, and what goes wrong is said", async () => {
        const before = await page.locator("#examples-title").innerText();
        await load("hf:o/slow");
        await page.locator("#dataset-progress").waitFor();
        await page.locator("#dataset-cancel").click();
        await page.locator("#dataset-progress").waitFor({ state: "hidden" });
        assert.equal(await page.locator("#data-error").innerText(), "");
        for (const [source, message] of /** @type {const} */ ([
            ["hf:o/none", /hf:o\/none: no such file, repository or revision at huggingface\.co/],
            ["hf:o/two:more", /no file of more there; there are test\.jsonl, train\.jsonl/],
            ["hf:o/tests", /hf:o\/tests has no training set: name the one to train on, as hf:o\/tests:test/],
            ["nonsense", /neither a data set of the hub .* nor a URL/],
        ])) {
            await load(source);
            await page.locator("#data-error", { hasText: message }).waitFor();
        }
        assert.equal(await page.locator("#examples-title").innerText(), before);
        await load("hf:o/tests:test[:5]");
        await page.locator("#examples-title", { hasText: "5 examples from hf:o/tests:test[:5]" }).waitFor();
        assert.equal(await page.locator("#data-error").innerText(), "");
        assert.deepEqual(faults.filter(fault => !/gguf|device|404/i.test(fault)), []);
    });
});
