// @ts-check
/**
 * How fast a model is in headless Chromium, by `www/bench.html`, after `scripts/package`:
 *
 * `node tests/web/bench.mjs [--model FILE] [--parts a,b] [--runs N] [--no-autotune] [--json FILE]`
 */

import { writeFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";

import { ROOT, launch, open, serve } from "./harness.mjs";

const { values } = parseArgs({
    options: {
        model: { type: "string" },
        parts: { type: "string" },
        runs: { type: "string" },
        "no-autotune": { type: "boolean", default: false },
        json: { type: "string" },
    },
});
const query = new URLSearchParams();
if (values.model) query.set("model", "/model.gguf");
if (values.parts) query.set("parts", values.parts);
if (values.runs) query.set("runs", values.runs);
if (values["no-autotune"]) query.set("autotune", "false");

const server = await serve({
    root: join(ROOT, "www"),
    // Such a page has the finer clock: 5 µs instead of 100.
    isolated: true,
    files: values.model ? { "/model.gguf": resolve(values.model) } : {},
});
const browser = await launch();
try {
    const page = await open(await browser.newContext(), `${server.url}bench.html?${query}`);
    await page.click("#start:enabled");
    const ended = await page.waitForFunction(
        () => "benchReport" in window || !document.getElementById("error")?.hidden,
        undefined,
        { timeout: 0, polling: 500 },
    );
    await ended.dispose();
    const error = await page.evaluate(() => document.getElementById("error")?.textContent);
    if (error) throw new Error(error);
    /** @typedef {import("../../src/web/js/engram").Figure} Figure */
    /** @type {{ device: import("../../src/web/js/engram").DeviceInfo, figures: Figure[] }} */
    const report = await page.evaluate(() => /** @type {never} */ (Reflect.get(window, "benchReport")));
    const { name, variants } = report.device;
    process.stdout.write(`${name}; ${JSON.stringify(variants)}\n`);
    for (const { name, unit, median, runs } of report.figures) {
        const times = runs.length > 1 ? ` (${runs.map(run => run.toPrecision(3)).join(", ")})` : "";
        process.stdout.write(`${name.padEnd(42)} ${median.toPrecision(4).padStart(9)} ${unit}${times}\n`);
    }
    if (values.json) await writeFile(values.json, `${JSON.stringify(report, null, 2)}\n`);
} finally {
    await browser.close();
    await server.close();
}
