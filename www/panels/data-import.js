// @ts-check
/** Bringing data: pasted text, files, data sets of the hub and URLs. */

import { loadDataset, parseExamples, parsePatterns, readExamples } from "../engram.js";
import { announce, bar, box, breathe, button, byId, form, input, takeFiles } from "../dom.js";
import { bytes, plural } from "../format.js";
import { clearNotice, showError } from "../notice.js";

/** @import { App, Brought } from "../state.js" */
/** @import { CacheMode, Pattern } from "../../src/web/js/engram" */

/** @param {App} app @param {(patterns: Pattern[]) => Promise<void>} save */
export function startImport(app, save) {
    const error = box("data-error"), pasted = byId("import-text", HTMLTextAreaElement);
    /** @type {AbortController | undefined} */
    let loading;

    for (const how of /** @type {const} */ (["add", "replace"])) {
        button(`import-${how}`).onclick = async () => {
            const text = pasted.value;
            if (!text.trim()) return;
            if (await guarded(() => takeText("pasted text", text, how))) pasted.value = "";
        };
    }
    takeFiles(box("data-drop"), input("data-files"), ([file]) => {
        if (file) guarded(() => takeFile(file));
    });
    form("dataset-form").onsubmit = event => {
        event.preventDefault();
        const source = input("dataset-source").value.trim();
        if (source) load(source);
    };
    button("dataset-cancel").onclick = () => loading?.abort();

    /** @param {() => Promise<void>} act @returns {Promise<boolean>} whether it went well */
    async function guarded(act) {
        clearNotice(error);
        try {
            await act();
            box("panel-data").scrollIntoView();
            return true;
        } catch (failure) {
            fail(failure);
            return false;
        }
    }

    /** @param {unknown} failure @param {Parameters<typeof showError>[3]} [remedies] */
    function fail(failure, remedies) {
        showError(error, failure, app, remedies);
        error.scrollIntoView({ block: "nearest" });
    }

    /** @param {File} file */
    async function takeFile(file) {
        if (!/\.(jsonl?|csv|parquet)$/i.test(file.name)) return takeText(file.name, await file.text(), "add");
        announce(`Reading ${file.name}…`);
        await breathe();
        await bring({ name: file.name, train: await readExamples(file) });
    }

    /** @param {string} name @param {string} text @param {"add" | "replace"} how */
    async function takeText(name, text, how) {
        if (text.trimStart().startsWith("{")) return bring({ name, train: await parseExamples(name, text) });
        const patterns = await parsePatterns(name, text);
        await app.setBrought(undefined);
        await save(how === "add" ? [...app.patterns, ...patterns] : patterns);
        announce(`${plural(patterns.length, "pattern")} from ${name}`);
    }

    /** @param {Brought} brought */
    async function bring(brought) {
        await app.setBrought(brought);
        announce(`${plural(brought.train.length, "example")} from ${brought.name}`);
    }

    /** @param {string} source @param {CacheMode} [mode] */
    async function load(source, mode = "use") {
        loading?.abort();
        const mine = (loading = new AbortController());
        const text = box("dataset-text"), progress = bar("dataset-bar");
        clearNotice(error);
        progress.removeAttribute("value");
        text.textContent = `Loading ${source}…`;
        box("dataset-progress").hidden = false;
        try {
            const { train, ...others } = await loadDataset(source, {
                cache: mode,
                signal: mine.signal,
                onProgress: ({ loaded, total }) => {
                    if (mine !== loading) return;
                    text.textContent = `Downloading ${bytes(loaded)}${total ? ` of ${bytes(total)}` : ""}`;
                    if (total) progress.value = loaded / total;
                },
            });
            if (mine !== loading || mine.signal.aborted) return;
            if (!train) throw new Error(`${source} has no training set: name the one to train on, as ${source}:${Object.keys(others)[0]}`);
            await bring({ name: source, train, ...others });
            box("panel-data").scrollIntoView();
        } catch (failure) {
            if (mine !== loading) return;
            fail(failure, {
                network: { label: "Try again", act: () => load(source, mode) },
                integrity: { label: "Download again", act: () => load(source, "refresh") },
                quota: { label: "Load without keeping it", act: () => load(source, "none") },
            });
        } finally {
            if (mine === loading) {
                loading = undefined;
                box("dataset-progress").hidden = true;
            }
        }
    }
}
