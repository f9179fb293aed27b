// @ts-check
/** The patterns as a table that can be edited, and how they are divided. */

import { augmentPattern, formatPatterns } from "../engram.js";
import { announce, box, breathe, button, byId, download, h, input, select } from "../dom.js";
import { plural } from "../format.js";
import { clearNotice, showError } from "../notice.js";
import { examplesOf } from "../state.js";
import { startImport } from "./data-import.js";
import { startStats } from "./data-stats.js";

/** @import { App, Brought } from "../state.js" */
/** @import { Message, Pattern, SplitConfig, TrainingExample } from "../../src/web/js/engram" */

const SPLIT_NUMBERS = /** @type {const} */ (["seed", "validFraction", "testPerCategory", "heldOutFraction"]);
/** What a new row starts as; it is not among the patterns until it is saved. */
const NEW = -1;

/** @param {App} app */
export function start(app) {
    const table = byId("patterns", HTMLTableElement), error = box("data-error");
    /** The row that is edited. @type {number | undefined} */
    let editing;
    let drawing = 0;

    restoreSplit();
    app.on("data", () => { showSplits(); draw(); });

    let typing = 0;
    input("data-filter").oninput = () => {
        clearTimeout(typing);
        typing = window.setTimeout(draw, 120);
    };
    select("data-section").onchange = draw;
    button("data-add").onclick = () => edit(NEW);
    button("data-reset").onclick = async () => {
        if (app.edited && !confirm(`Put the ${app.bundled.length} bundled patterns back? Your edits are forgotten.`)) return;
        editing = undefined;
        await save(app.bundled.slice());
    };
    button("data-export").onclick = async () => {
        try {
            download("patterns.yaml", await formatPatterns(app.patterns), "text/yaml");
        } catch (failure) {
            showError(error, failure, app);
        }
    };
    for (const name of SPLIT_NUMBERS) input(`split-${name}`).onchange = changeSplit;
    select("split-protocol").onchange = changeSplit;
    button("examples-drop").onclick = () => app.setBrought(undefined);

    startImport(app, save);
    startStats(app);

    /** @param {Pattern[]} patterns */
    async function save(patterns) {
        const kept = await app.setPatterns(patterns);
        if (!kept) showError(error, new Error("This browser keeps nothing for this page, so the edits end with it: export them."), app);
    }

    // ---- division

    function restoreSplit() {
        select("split-protocol").value = app.splitConfig.protocol ?? "held-out";
        for (const name of SPLIT_NUMBERS) {
            const value = app.splitConfig[name];
            if (value !== undefined) input(`split-${name}`).value = String(value);
        }
    }

    function changeSplit() {
        /** @type {SplitConfig} */
        const config = { protocol: /** @type {"held-out" | "original"} */ (select("split-protocol").value) };
        for (const name of SPLIT_NUMBERS) {
            const field = input(`split-${name}`);
            if (!field.reportValidity()) return;
            if (field.value !== "") config[name] = field.valueAsNumber;
        }
        app.splitConfig = config;
        app.divide();
    }

    function showSplits() {
        const { splits, problems, brought } = app;
        const sizes = box("split-sizes");
        if (splits) {
            sizes.replaceChildren(...[
                [splits.train.length, "to train on"], [splits.valid.length, "to validate"], [splits.test.length, "to test"],
            ].map(([n, what]) => h("span", {}, h("b", {}, String(n)), String(what))));
        } else {
            sizes.replaceChildren(h("span", {}, problems.length
                ? `${plural(problems.length, "row")} must be mended before anything can be trained.`
                : "There is nothing to divide."));
        }
        if (app.dataError) showError(error, app.dataError, app);
        else if (problems.length) {
            error.replaceChildren(h("div", { class: "notice bad error-box", role: "alert", "data-code": "data" },
                h("p", {}, problems.slice(0, 3).map(p => `Row ${p.row}: ${p.message}`).join(" · ") + (problems.length > 3 ? " …" : "")),
                h("button", { type: "button", onclick: () => edit((problems[0]?.row ?? 1) - 1) }, `Edit row ${problems[0]?.row}`)));
        } else clearNotice(error);

        box("examples-card").hidden = !brought;
        box("patterns-card").hidden = brought !== undefined;
        if (brought) {
            const all = examplesOf(brought);
            box("examples-title").textContent = `${plural(all.length, all.every(example => "chosen" in example) ? "preference pair" : "example")} from ${brought.name}`;
            box("examples-note").textContent = `They are used instead of the patterns, as they are, until the page is reloaded. ${ownSets(brought)}The first of them:`;
            box("examples-list").replaceChildren(...all.slice(0, 5).map(example => h("li", {}, ...("chosen" in example ? pair(example) : [JSON.stringify(example).slice(0, 240)]))));
        }
    }

    /** Which sets are not held out of the training examples. @param {Brought} brought */
    function ownSets({ valid, test }) {
        const names = [...(valid ? ["validation"] : []), ...(test ? ["test"] : [])];
        return names.length ? `Their own ${names.join(" and ")} examples are kept apart. ` : "";
    }

    /** A preference as what was asked and both answers. @param {Extract<TrainingExample, { chosen: unknown }>} example */
    function pair({ chosen, rejected, ...rest }) {
        const last = (/** @type {string | readonly Message[]} */ answer) => (typeof answer === "string" ? answer : answer.at(-1)?.content ?? "");
        const before = "prompt" in rest ? rest.prompt : typeof chosen === "string" ? "" : chosen.at(-2)?.content ?? "";
        return [h("dl", {}, ...Object.entries({ prompt: before, chosen: last(chosen), rejected: last(rejected) })
            .flatMap(([name, text]) => [h("dt", {}, name), h("dd", {}, text.slice(0, 240))]))];
    }

    // ---- the table

    function shown() {
        const words = input("data-filter").value.toLowerCase().split(/\s+/).filter(Boolean);
        const section = select("data-section").value;
        return app.patterns.map((pattern, row) => ({ pattern, row })).filter(({ pattern, row }) => {
            if (row === editing) return true;
            const text = `${pattern.input} ${pattern.output} ${pattern.category}`.toLowerCase();
            return (!section || pattern.category.startsWith(`${section}/`)) && words.every(word => text.includes(word));
        });
    }

    /** Draws the table a few groups at a time, so that no drawing holds the page up. */
    async function draw() {
        const mine = ++drawing;
        const rows = shown();
        box("data-count").textContent = rows.length === app.patterns.length ? plural(rows.length, "pattern") : `${rows.length} of ${plural(app.patterns.length, "pattern")}`;
        const groups = Map.groupBy(rows, ({ pattern }) => pattern.category);
        /** @type {HTMLElement[]} */
        const bodies = [];
        if (editing === NEW) bodies.push(h("tbody", {}, editor(NEW)));
        for (const [category, members] of groups) {
            bodies.push(h("tbody", {},
                h("tr", { class: "group" }, h("th", { scope: "rowgroup", colspan: 4 }, category)),
                ...members.map(({ pattern, row }) => row === editing ? editor(row) : line(pattern, row))));
            if (bodies.length % 8 === 0) {
                await breathe();
                if (mine !== drawing) return;
            }
        }
        for (const old of [...table.tBodies]) old.remove();
        for (let n = 0; n < bodies.length; n += 8) {
            table.append(...bodies.slice(n, n + 8));
            await breathe();
            if (mine !== drawing) return;
        }
        table.querySelector("tr.editing textarea")?.dispatchEvent(new Event("shown"));
    }

    /** @param {Pattern} pattern @param {number} row */
    function line(pattern, row) {
        const wrong = app.problems.filter(p => p.row === row + 1);
        return h("tr", { class: wrong.length ? "wrong" : undefined },
            h("td", { class: "num" }, String(row + 1)),
            h("td", { class: "input" }, pattern.input, ...wrong.map(p => h("span", { class: "problem" }, p.message))),
            h("td", { class: "output" }, pattern.output),
            h("td", { class: "do" }, h("button", { class: "small quiet", type: "button", "aria-label": `Edit row ${row + 1}: ${pattern.input}`, onclick: () => { edit(row); } }, "Edit")));
    }

    /** @param {number} row */
    function edit(row) {
        editing = row;
        draw();
    }

    /** The row's form, with what augmentation makes of it. @param {number} row */
    function editor(row) {
        const old = app.patterns[row] ?? { input: "", output: "", category: newCategory() };
        const ask = h("textarea", { rows: 2, name: "input", spellcheck: "false", "aria-label": "Input" });
        const answer = h("textarea", { rows: 2, name: "output", spellcheck: "false", "aria-label": "Answer" });
        const category = h("input", { name: "category", list: "categories", spellcheck: "false", autocomplete: "off" });
        [ask.value, answer.value, category.value] = [old.input, old.output, old.category];
        const problem = h("p", { class: "problem", role: "alert" });
        const wordings = h("div", { class: "wordings", "aria-live": "polite" });
        const value = () => ({ input: ask.value, output: answer.value, category: category.value.trim() });

        let waiting = 0;
        const preview = async () => {
            try {
                const made = await augmentPattern(value());
                wordings.replaceChildren(h("span", { class: "muted" }, made.length === 1
                    ? "Training sees it as it is:" : `Training sees ${plural(made.length, "wording")}:`),
                    h("ol", {}, ...made.map(text => h("li", {}, text))));
            } catch {
                // Half a pattern has no wordings; saving says what is wrong.
                wordings.replaceChildren();
            }
        };
        const close = () => {
            editing = undefined;
            draw().then(() => (row === NEW ? button("data-add") : rowButton(row))?.focus());
        };
        const form = h("form", {
            class: "editor",
            oninput: () => { clearTimeout(waiting); waiting = window.setTimeout(preview, 250); },
            onkeydown: event => { if (/** @type {KeyboardEvent} */ (event).key === "Escape") close(); },
            onsubmit: async event => {
                event.preventDefault();
                const wrong = fault(value(), row);
                problem.textContent = wrong;
                if (wrong) return;
                const patterns = app.patterns.slice();
                if (row === NEW) patterns.push(value());
                else patterns[row] = value();
                editing = undefined;
                await save(patterns);
                announce("Saved.");
                rowButton(row === NEW ? patterns.length - 1 : row)?.focus();
            },
        },
            h("div", { class: "pair" }, h("label", {}, "Input", ask), h("label", {}, "Answer", answer)),
            h("label", {}, "Category: code/…, fact/…, format/… or fix/…", category),
            h("datalist", { id: "categories" }, ...[...new Set(app.patterns.map(p => p.category))].map(c => h("option", { value: c }))),
            wordings, problem,
            h("div", { class: "actions" },
                h("button", { class: "primary" }, "Save"),
                h("button", { type: "button", onclick: close }, "Cancel"),
                ...(row === NEW ? [] : [h("button", { type: "button", class: "quiet", onclick: async () => {
                    editing = undefined;
                    await save(app.patterns.filter((_, n) => n !== row));
                    announce(`Row ${row + 1} is deleted.`);
                    button("data-add").focus();
                } }, "Delete")])));
        ask.addEventListener("shown", () => {
            ask.focus();
            form.scrollIntoView({ block: "nearest" });
        }, { once: true });
        preview();
        return h("tr", { class: "editing" }, h("td", { colspan: 4 }, form));
    }

    /** What is wrong with a row before the whole is checked. @param {Pattern} pattern @param {number} row */
    function fault(pattern, row) {
        if (!pattern.input.trim()) return "The input is empty.";
        if (!pattern.output.trim()) return "The answer is empty.";
        if (!/^(code|fact|format|fix)\/\s*\S/.test(pattern.category)) return "The category is code/…, fact/…, format/… or fix/… with a name after the slash.";
        const same = app.patterns.findIndex((other, n) => n !== row && other.input === pattern.input);
        return same >= 0 ? `Row ${same + 1} has this input already.` : "";
    }

    function newCategory() {
        const section = select("data-section").value;
        return section ? `${section}/mine` : "fact/mine";
    }

    /** @param {number} row @returns {HTMLButtonElement | null} */
    function rowButton(row) {
        return table.querySelector(`button[aria-label^="Edit row ${row + 1}:"]`);
    }
}
