// @ts-check
/**
 * How fast a model is in this browser: its figures one part after another, as a table and as JSON.
 * A program reads `window.benchReport`, which is there when all is measured.
 */

import { EngineWorker, checkSupport } from "./engram.js";
import { bar, box, button, download, h } from "./dom.js";
import { bytes, count, duration, rate } from "./format.js";

/** @import { BenchOptions, BenchPart, DeviceInfo, Figure, LoadProgress, ModelInfo } from "../src/web/js/engram" */

/**
 * @typedef {object} Report
 * @property {ModelInfo} model
 * @property {DeviceInfo} device
 * @property {string} browser
 * @property {Figure[]} figures
 */

/** @type {BenchPart[]} */
const USUAL = ["first", "prefill", "generate", "host", "train", "evaluate"];

/** What a CPU in a GPU's place has the time for. @type {Partial<Record<BenchPart, BenchOptions>>} */
const SOFTWARE = { prefill: { lengths: [128] }, generate: { lengths: [128], tokens: 8 }, train: { lengths: [] } };

const query = new URLSearchParams(location.search);
const source = query.get("model") ?? "./models/engram-tiny.gguf";
const parts = /** @type {BenchPart[]} */ (query.get("parts")?.split(",").filter(Boolean) ?? USUAL);
/** @type {AbortController | undefined} */
let running;

async function start() {
    const { ok, message, device } = await checkSupport();
    box("support").textContent = message;
    box("support").classList.toggle("bad", !ok);
    box("support").classList.toggle("warn", ok && device?.isSoftware === true);
    button("start").disabled = !ok;
    button("start").onclick = () => run();
    button("stop").onclick = () => running?.abort();
}

async function run() {
    const { signal } = (running = new AbortController());
    show(true);
    try {
        await measure(signal);
    } catch (error) {
        if (!signal.aborted) fail(error);
    } finally {
        show(false);
    }
}

/** @param {boolean} isRunning */
function show(isRunning) {
    button("start").hidden = isRunning;
    button("stop").hidden = !isRunning;
    box("progress").hidden = !isRunning;
    if (isRunning) box("error").hidden = true;
}

/** @param {AbortSignal} signal */
async function measure(signal) {
    Reflect.deleteProperty(window, "benchReport");
    button("save").disabled = true;
    box("result").hidden = true;
    bar("bar").value = 0;
    const { engine, figures } = await load(signal);
    /** @type {Report} */
    const report = { model: engine.model, device: engine.device, browser: navigator.userAgent, figures };
    try {
        present(report);
        const common = { runs: Number(query.get("runs") ?? (engine.device.isSoftware ? 1 : 3)), signal };
        for (const [done, part] of parts.entries()) {
            box("status").textContent = `Measuring ${part}, ${done + 1} of ${parts.length}…`;
            bar("bar").value = (done + 1) / (parts.length + 1);
            const options = engine.device.isSoftware ? SOFTWARE[part] : undefined;
            figures.push(...(await engine.bench(part, { ...options, ...common })));
            present(report);
        }
    } finally {
        await engine.dispose();
    }
    const text = `${JSON.stringify(report, null, 2)}\n`;
    button("save").onclick = () => download("engram-bench.json", text, "application/json");
    button("save").disabled = false;
    Object.assign(window, { benchReport: report });
}

/** Loads the model: the engine, and how long that took. @param {AbortSignal} signal */
async function load(signal) {
    const began = performance.now();
    /** Seconds from the load's begin, by phase: of its first report. @type {Partial<Record<LoadProgress["phase"], number>>} */
    const since = {};
    const engine = await EngineWorker.load(source, {
        autotune: query.get("autotune") !== "false",
        signal,
        onProgress({ phase, loaded, total, seconds }) {
            since[phase] ??= seconds;
            const verb = { download: "Downloading", tune: "Finding the fastest kernels, once…", load: "Onto the GPU:" }[phase];
            box("status").textContent = total ? `${verb} ${bytes(loaded)} of ${bytes(total)}` : verb;
        },
    });
    const { tune, load = 0 } = since;
    const tuning = tune === undefined ? 0 : load - tune;
    const seconds = (performance.now() - began) / 1000 - tuning;
    const figures = [timed("load", seconds)];
    if (tune !== undefined) figures.push(timed("tuning, once", tuning));
    return { engine, figures };
}

/** @param {string} name @param {number} seconds @returns {Figure} */
const timed = (name, seconds) => ({ name, unit: "s", median: seconds, runs: [seconds] });

/** @param {Report} report */
function present({ model, device, figures }) {
    const variants = Object.values(device.variants);
    const facts = {
        Adapter: device.name,
        Parameters: count(model.parameters),
        Weights: bytes(model.bytes),
        Kernels: new Set(variants).size === 1 ? String(variants[0]) : variants.join(", "),
    };
    box("result").hidden = false;
    box("subject").textContent = model.name;
    box("facts").replaceChildren(
        ...Object.entries(facts).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))),
    );
    box("figures").replaceChildren(...figures.map(({ name, unit, median, runs }) => h("tr", {},
        h("td", {}, name),
        h("td", { class: "num" }, shown(median, unit)),
        h("td", { class: "num" }, String(runs.length)),
    )));
}

/** @param {number} value @param {string} unit */
function shown(value, unit) {
    const text = value < 1 && unit === "s" ? `${(value * 1000).toFixed(0)} ms`
        : unit === "s" ? duration(value)
        : unit === "" ? String(Number(value.toFixed(3)))
        : `${rate(value)} ${unit}`;
    return text.replaceAll(" ", "\u00a0");
}

/** @param {unknown} error */
function fail(error) {
    box("error").textContent = error instanceof Error ? error.message : String(error);
    box("error").hidden = false;
}

start().catch(fail);
