// @ts-check
/** The adapters beside the model: to switch, download, load, remove and compare. */

import { announce, box, button, download, fillSelect, form, h, input, select, takeFiles } from "../dom.js";
import { count } from "../format.js";
import { clearNotice, showError } from "../notice.js";
import { zip } from "../zip.js";

/** @import { App } from "../state.js" */
/** @import { AdapterFormat, AdapterInfo } from "../../src/web/js/engram" */

const LAYOUTS = /** @type {const} */ ([["mlx", "MLX", "adapters.safetensors"], ["peft", "PEFT", "adapter_model.safetensors"]]);

/** @param {App} app */
export function start(app) {
    const error = box("adapters-error");
    /** @type {AbortController | undefined} */ let comparing;

    app.on("adapters", draw);
    app.on("data", () => { input("compare-prompt").placeholder = app.patterns[0]?.input ?? ""; });
    app.on("engine", showState);
    draw();
    showState();

    takeFiles(box("adapter-drop"), input("adapter-files"), files => { load(files); });
    form("adapter-form").onsubmit = event => event.preventDefault();
    form("compare-form").onsubmit = event => {
        event.preventDefault();
        compare();
    };
    form("blend-form").onsubmit = event => {
        event.preventDefault();
        blend();
    };
    button("compare-stop").onclick = () => comparing?.abort();

    function showState() {
        button("compare-start").disabled = !app.engine;
        button("compare-start").hidden = comparing !== undefined;
        button("compare-stop").hidden = comparing === undefined;
        if (!app.engine) comparing?.abort();
    }

    function draw() {
        box("adapter-list").replaceChildren(...(app.adapters.length
            ? app.adapters.map(row)
            : [h("li", { class: "empty" }, "None yet: train one, or load one from files.")]));
        drawWeights();
        const options = [{ value: "", label: "the bare model" }, ...app.adapters.map(({ name }) => ({ value: name, label: name }))];
        const second = select("compare-b").value;
        fillSelect(select("compare-a"), options);
        fillSelect(select("compare-b"), options, second || app.active || app.adapters[0]?.name || "");
    }

    /** @param {AdapterInfo} adapter */
    function row({ name, rank, parameters, active }) {
        return h("li", { "data-adapter": name },
            h("div", { class: "what" }, h("strong", {}, name), h("div", { class: "muted" }, rank ? `rank ${rank} · ${count(parameters)} weights` : "whole weights")),
            h("div", { class: "actions" },
                h("button", { type: "button", class: "switch", role: "switch", "aria-checked": String(active), "aria-label": `${name} in use`,
                    onclick: () => attempt(() => app.use(active ? undefined : name)) }, active ? "on" : "off"),
                ...LAYOUTS.map(([format, label]) => h("button", { type: "button", class: "small", "aria-label": `Download ${name} for ${label}`,
                    onclick: () => attempt(() => fetchAll(name, format)) }, `↓ ${label}`)),
                h("button", { type: "button", class: "small quiet", "aria-label": `Remove ${name}`, onclick: () => attempt(async () => {
                    await app.engine?.adapters.remove(name);
                    await app.refresh();
                    announce(`${name} is removed.`);
                }) }, "Remove")),
            h("details", { class: "files" }, h("summary", {}, "Single files"),
                ...LAYOUTS.map(([format, label, weights]) => h("div", { class: "actions" }, h("span", { class: "muted" }, label),
                    ...["adapter_config.json", weights].map(file => h("button", { type: "button", class: "small", "aria-label": `${label} ${file} of ${name}`,
                        onclick: () => attempt(() => fetchOne(name, format, file)) }, file))))));
    }

    /** @param {() => unknown} act */
    async function attempt(act) {
        clearNotice(error);
        try {
            await act();
        } catch (failure) {
            showError(error, failure, app);
        }
    }

    /** @param {string} name @param {AdapterFormat} format */
    async function fetchAll(name, format) {
        const files = (await app.engine?.adapters.export(name, format)) ?? [];
        download(`${name}-${format}.zip`, zip(files), "application/zip");
    }

    /** @param {string} name @param {AdapterFormat} format @param {string} file */
    async function fetchOne(name, format, file) {
        const files = (await app.engine?.adapters.export(name, format)) ?? [];
        const found = files.find(f => f.name === file);
        if (found) download(found.name, new Uint8Array(found.bytes));
    }

    /** A weight for each adapter; those that were there keep theirs. */
    function drawWeights() {
        box("blend-form").hidden = app.adapters.length < 2;
        const before = new Map(weights().map(({ name, value }) => [name, value]));
        const usual = app.adapters.length > 2 ? "0" : "0.5";
        box("blend-weights").replaceChildren(...app.adapters.map(({ name }) => h("li", {}, h("label", {}, name,
            h("input", { type: "number", step: "any", required: true, "data-adapter": name, value: before.get(name) ?? usual })))));
    }

    function weights() {
        return [...box("blend-weights").querySelectorAll("input")].map(({ dataset, value }) => ({ name: dataset["adapter"] ?? "", value }));
    }

    async function blend() {
        const { engine } = app;
        if (!engine) return;
        const failed = box("blend-error"), status = box("blend-status");
        const parts = weights().filter(({ value }) => Number(value) !== 0);
        const name = free(input("blend-name").value.trim() || "blend");
        clearNotice(failed);
        status.textContent = "";
        try {
            if (!parts.length) throw new Error("All weights are 0: give one of the adapters another.");
            await engine.adapters.blend(name, Object.fromEntries(parts.map(part => [part.name, Number(part.value)])));
            const examples = parts.map(part => app.trainedOn.get(part.name));
            // What one of them has seen is not known for those from files.
            if (examples.every(known => known !== undefined)) app.trainedOn.set(name, [...new Set(examples.flat())]);
            else app.trainedOn.delete(name);
            await app.use(name);
            status.textContent = `${name} is made of ${parts.map(part => `${part.value} × ${part.name}`).join(" + ")} and switched on.`;
            input("blend-name").value = "";
        } catch (failure) {
            showError(failed, failure, app);
        }
    }

    /** A name like the wanted that no adapter has. @param {string} wanted */
    function free(wanted) {
        const taken = new Set(app.adapters.map(adapter => adapter.name));
        let name = wanted;
        for (let n = 2; taken.has(name); n++) name = `${wanted}-${n}`;
        return name;
    }

    /** @param {File[]} files */
    async function load(files) {
        const { engine } = app;
        const status = box("adapter-status");
        if (!engine) return void (status.textContent = "Load a model first: an adapter belongs to one.");
        const name = free(input("adapter-name").value.trim() || "loaded");
        status.textContent = "Loading…";
        await attempt(async () => {
            await engine.adapters.load(name, files);
            app.trainedOn.delete(name);
            await app.use(name);
            status.textContent = `${name} is loaded and switched on.`;
            input("adapter-name").value = "";
        });
        if (status.textContent === "Loading…") status.textContent = "";
    }

    async function compare() {
        const { engine } = app;
        if (!engine || comparing) return;
        const mine = (comparing = new AbortController());
        const prompt = input("compare-prompt").value;
        clearNotice(box("compare-error"));
        showState();
        const sides = /** @type {const} */ (["a", "b"]);
        for (const side of sides) box(`compare-out-${side}`).textContent = "";
        try {
            for (const side of sides) {
                const out = box(`compare-out-${side}`);
                const adapter = select(`compare-${side}`).value || null;
                const options = { adapter, max_tokens: Math.min(100, Math.floor(engine.model.contextLength / 4)), signal: mine.signal };
                out.setAttribute("aria-busy", "true");
                try {
                    if (engine.model.hasChatTemplate) {
                        const stream = await engine.chat.completions.create({ messages: [{ role: "user", content: prompt }], stream: true, ...options });
                        for await (const chunk of stream) out.append(chunk.choices[0].delta.content ?? "");
                    } else {
                        await engine.generate(prompt, { ...options, onText: text => out.append(text) });
                    }
                } finally {
                    out.removeAttribute("aria-busy");
                }
                if (!out.textContent) out.textContent = "(an empty answer)";
            }
        } catch (failure) {
            showError(box("compare-error"), failure, app);
        } finally {
            comparing = undefined;
            showState();
        }
    }
}
