// @ts-check
/** What the data are to the loaded model: lengths in tokens, and what is wrong with them. */

import { box, h } from "../dom.js";
import { plural } from "../format.js";
import { settings } from "./train-settings.js";

/** @import { App } from "../state.js" */
/** @import { DataStats, EngineWorker, Repeats, SetStats, Splits, TrainConfig } from "../../src/web/js/engram" */

/** @typedef {"train" | "valid" | "test"} SetName */
/** What is counted: it is counted anew when one of these is another. @typedef {{ engine: EngineWorker, splits: Splits, config: string }} Counted */

const NAMES = /** @type {const} */ ({ train: "training", valid: "validation", test: "test" });
const LEADS = /** @type {const} */ ({ train: "Trained on", valid: "Validated on", test: "Tested on" });
/** Settings that the counts depend on. */
const COUNTED = /** @type {const} */ (["max_seq_length", "batch_size", "train_mode", "mask_prompt", "assistant_only_loss", "semantics"]);

/** @param {App} app */
export function startStats(app) {
    /** @type {Counted | undefined} */
    let counted;
    app.on("data", update);
    app.on("engine", update);
    // Nobody sees it elsewhere, and the training's settings change there.
    window.addEventListener("hashchange", update);

    async function update() {
        const { engine, splits } = app;
        box("stats-card").hidden = !engine || !splits;
        if (!engine || !splits) counted = undefined;
        else if (!box("panel-data").hidden) await count({ engine, splits, config: JSON.stringify(config()) });
    }

    /** @param {Counted} what */
    async function count(what) {
        const { engine, splits, config } = what;
        if (counted?.engine === engine && counted.splits === splits && counted.config === config) return;
        counted = what;
        const status = box("stats-status");
        status.textContent = "Counting…";
        try {
            const stats = await engine.dataStats(filled(splits), JSON.parse(config));
            if (counted !== what) return;
            show(stats, engine.model.contextLength, app.brought === undefined);
            status.textContent = "";
        } catch (error) {
            if (counted !== what) return;
            // Whatever the reason, coming back tries again.
            counted = undefined;
            for (const id of ["stats-sets", "stats-problems", "stats-lengths"]) box(id).replaceChildren();
            status.textContent = `Not counted: ${error instanceof Error ? error.message : error}`;
        }
    }
}

/** What the settings on the Train panel say of data; half-written ones say nothing. @returns {TrainConfig} */
function config() {
    try {
        const { config } = settings();
        return Object.fromEntries(COUNTED.map(name => [name, config[name]]));
    } catch {
        return {};
    }
}

/** The sets that have examples. @param {Splits} splits @returns {Partial<Splits>} */
function filled(splits) {
    return Object.fromEntries(Object.entries(splits).filter(([, examples]) => examples.length > 0));
}

/**
 * @param {DataStats} stats
 * @param {number} room the model's longest context, tokens
 * @param {boolean} isPatterns whether they are made of patterns, by the protocol
 */
function show(stats, room, isPatterns) {
    const sets = /** @type {[SetName, SetStats][]} */ (Object.entries(stats.sets));
    sets.sort(([a], [b]) => Object.keys(NAMES).indexOf(a) - Object.keys(NAMES).indexOf(b));
    box("stats-sets").replaceChildren(...sets.map(([name, { records, tokens }]) => h("li", {}, h("b", {}, LEADS[name]),
        ` ${plural(records, "example")}, ${plural(tokens.total, "token")}; the median has ${n(tokens.median)}, the longest ${n(tokens.max)}.`)));
    const problems = [...sets.flatMap(([name, set]) => ofSet(name, set, stats.max_seq_length, room)), ...between(stats, isPatterns)];
    box("stats-problems").replaceChildren(...(problems.length
        ? problems.map(problem => h("li", { class: "notice warn" }, ...problem))
        : [h("li", { class: "muted" }, "Nothing repeats, nothing leaks between the sets, and nothing is cut.")]));
    const { histogram = [] } = stats.sets.train?.tokens ?? {};
    const most = Math.max(1, ...histogram.map(bin => bin.examples));
    box("stats-lengths").replaceChildren(
        h("caption", {}, "Lengths of the training examples"),
        h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Tokens"), h("td", {}), h("th", { scope: "col", class: "num" }, "Examples"))),
        h("tbody", {}, ...histogram.map(({ most: length, examples }) => h("tr", {},
            h("th", { scope: "row" }, `up to ${n(length)}`),
            h("td", { class: "length" }, h("span", { class: "bar", "--at": examples / most })),
            h("td", { class: "num" }, n(examples))))));
}

/** A problem: what stands out, and the rest. @typedef {[HTMLElement, string]} Problem */
/** @param {string} what @param {string} rest @returns {Problem} */
const problem = (what, rest) => [h("strong", {}, what), ` ${rest}`];

/** @param {number} count */
const n = count => count.toLocaleString("en");

/** @param {Repeats} repeats */
const sum = ({ exact, normalized }) => exact + normalized;

/** How they repeat. @param {Repeats} repeats */
function how({ exact, normalized }) {
    if (!normalized) return "word for word";
    return exact ? `${n(exact)} word for word, ${n(normalized)} but for spaces and capitals` : "but for spaces and capitals";
}

/** @param {number} count @param {string} one @param {string} many */
const verb = (count, one, many) => (count === 1 ? one : many);

/**
 * What is wrong within a set.
 * @param {SetName} name
 * @param {SetStats} set
 * @param {number} limit
 * @param {number} room
 * @returns {Problem[]}
 */
function ofSet(name, { duplicates, tokens, problem: fault }, limit, room) {
    const advice = limit < room
        ? `Raise “Longest example” on the Train panel, up to the model's ${n(room)}, or divide`
        : "The model has no room for more: divide";
    const examples = (/** @type {number} */ count) => plural(count, `${NAMES[name]} example`);
    const problems = [];
    if (fault) problems.push(problem(`The ${NAMES[name]} set makes no batch:`, `${fault}.`));
    if (tokens.over_long) problems.push(problem(
        `${examples(tokens.over_long)} ${verb(tokens.over_long, "is", "are")} over the limit of ${plural(limit, "token")}`,
        `and ${verb(tokens.over_long, "is", "are")} cut there. ${advice} ${verb(tokens.over_long, "it", "them")}.`));
    if (tokens.untrained) problems.push(problem(
        `${examples(tokens.untrained)} ${verb(tokens.untrained, "has", "have")} nothing to learn within ${plural(limit, "token")}`,
        `and ${verb(tokens.untrained, "is", "are")} left out: the answer begins after it, or there is none.`));
    if (sum(duplicates)) problems.push(problem(
        `${examples(sum(duplicates))} ${verb(sum(duplicates), "repeats", "repeat")} another`,
        `(${how(duplicates)}) and ${verb(sum(duplicates), "counts", "count")} more for it. Remove ${verb(sum(duplicates), "it", "them")}, unless that is meant.`));
    return problems;
}

/**
 * What the sets have of one another.
 * @param {DataStats} stats
 * @param {boolean} isPatterns
 * @returns {Problem[]}
 */
function between({ leaks, tested }, isPatterns) {
    const problems = leaks.filter(leak => sum(leak)).map(leak => {
        const [of, within] = [NAMES[/** @type {SetName} */ (leak.of)], NAMES[/** @type {SetName} */ (leak.in)]];
        const figure = leak.of === "test" ? "The evaluation" : "The validation loss";
        const advice = leak.of === "test" && isPatterns
            ? "take the protocol “held out”, unless that is meant"
            : `remove ${verb(sum(leak), "it", "them")} from one of the two`;
        return problem(`${plural(sum(leak), `${of} prompt`)} ${verb(sum(leak), "is", "are")} in the ${within} set too`,
            `(${how(leak)}). ${figure} will look better than it is: ${advice}.`);
    });
    if (tested?.varied) problems.push(problem(
        `${plural(tested.varied, "test prompt")} ${verb(tested.varied, "ends", "end")} a longer prompt of the other sets.`,
        `The evaluation asks for what was learned by heart: ${isPatterns ? "take the protocol “held out”, unless that is meant" : "choose other tests"}.`));
    return problems;
}
