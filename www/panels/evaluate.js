// @ts-check
/** The bare model against the tuned one, on the same questions. */

import { evaluate } from "../engram.js";
import { announce, bar, box, breathe, button, download, fillSelect, form, h, input, select } from "../dom.js";
import { percent, plural, probability, rate } from "../format.js";
import { clearNotice, showError } from "../notice.js";
import { questions } from "../state.js";

/** @import { App } from "../state.js" */
/** @import { CandidateReport, EvalCandidate, Evaluation, ExampleOutput, Report } from "../../src/web/js/engram" */

/** @typedef {"improved" | "worse" | "same"} Verdict */

/** Questions that are offered where the CPU computes, and each takes about a second. */
const ON_A_CPU = 12;

/** @param {App} app */
export function start(app) {
    const error = box("eval-error"), status = box("eval-status");
    /** @type {AbortController | undefined} */ let running;
    /** @type {Evaluation | undefined} */ let result;
    let drawing = 0;

    app.on("engine", () => {
        running?.abort();
        showState();
    });
    app.on("adapters", () => {
        fillSelect(select("eval-adapter"), [
            ...app.adapters.map(({ name }) => ({ value: name, label: name })),
            { value: "", label: "nothing: only the bare model" },
        ], app.active ?? select("eval-adapter").value);
    });
    const offer = () => {
        const n = asked().length;
        input("eval-limit").max = String(Math.max(1, n));
        input("eval-limit").value = String(app.engine?.device.isSoftware ? Math.min(n, ON_A_CPU) : n);
        showState();
    };
    app.on("data", offer);
    app.on("engine", offer);
    form("eval-form").onsubmit = event => {
        event.preventDefault();
        run();
    };
    button("eval-cancel").onclick = () => running?.abort();
    select("eval-filter").onchange = () => drawOutputs();
    button("eval-json").onclick = () => { if (result) download("report.json", result.json, "application/json"); };
    button("eval-md").onclick = () => { if (result) download("report.md", result.markdown, "text/markdown"); };

    const asked = () => questions(app.splits?.test ?? []);

    function showState() {
        button("eval-start").hidden = running !== undefined;
        button("eval-cancel").hidden = running === undefined;
        button("eval-start").disabled = !app.engine || !asked().length;
        bar("eval-bar").hidden = running === undefined;
        if (!running) status.textContent = app.splits && !asked().length ? "The test set has no questions: see the Data panel." : "";
    }

    async function run() {
        const { engine } = app;
        if (!engine || running) return;
        const mine = (running = new AbortController());
        const adapter = select("eval-adapter").value;
        const examples = asked().slice(0, input("eval-limit").valueAsNumber || undefined);
        clearNotice(error);
        bar("eval-bar").value = 0;
        showState();
        status.textContent = "Beginning…";
        /** @type {EvalCandidate[]} */
        const candidates = [{ name: "base", engine, adapter: null }];
        if (adapter) candidates.push({ name: adapter === "base" ? "base, tuned" : adapter, engine, adapter });
        try {
            result = await evaluate(candidates, examples, {
                protocol: select("eval-protocol").value === "original" ? "original" : "honest",
                max_new_tokens: input("eval-tokens").valueAsNumber || 50,
                dataset: app.brought?.name ?? (app.edited ? "patterns, edited" : "patterns"),
                trainedOn: app.trainedOn.get(adapter),
                signal: mine.signal,
                onProgress: p => {
                    const at = candidates.findIndex(c => c.name === p.candidate);
                    // Of a candidate's work, the answers are by far the larger part.
                    const share = p.phase === "complete" ? 0.9 * (p.done / p.total) : 0.9 + 0.1 * (p.done / p.total);
                    bar("eval-bar").value = (Math.max(0, at) + share) / candidates.length;
                    status.textContent = `${p.candidate}: ${p.phase === "complete" ? "answer" : "loss"} ${p.done} of ${p.total}`;
                },
            });
            running = undefined;
            await draw();
        } catch (failure) {
            showError(error, failure, app);
        } finally {
            running = undefined;
            showState();
            app.changed("memory");
        }
    }

    async function draw() {
        if (!result) return;
        const { report } = result;
        const [base, tuned] = report.candidates;
        if (!base) return;
        const verdict = tuned
            ? `${tuned.overall.correct} of ${tuned.overall.n} right after training, ${base.overall.correct} before.`
            : `${base.overall.correct} of ${base.overall.n} right.`;
        box("eval-verdict").textContent = verdict;
        box("eval-accuracy").replaceChildren(...report.candidates.map((c, n) => score(c, n > 0)));
        const compared = report.comparisons[0];
        box("eval-note").textContent = [
            "The bands are 95 % intervals.",
            ...(compared ? [`McNemar's exact test on the paired answers: ${probability(compared.p_value)}, ${compared.significant ? "a significant difference" : "no significant difference"}.`] : []),
            ...(tuned ? [seen(report.dataset)] : []),
            ...(base.cut_off ? [`${plural(base.cut_off, "answer")} of base reached the longest length and may be cut off.`] : []),
        ].join(" ");
        box("eval-bars").replaceChildren(...bars(base, tuned));
        box("eval-latency").replaceChildren(costs(report.candidates));
        box("eval-result").hidden = false;
        box("eval-downloads").hidden = false;
        box("note-evaluate").textContent = tuned ? `${base.overall.correct} → ${tuned.overall.correct} of ${base.overall.n}` : `${base.overall.correct} of ${base.overall.n}`;
        announce(verdict);
        await drawOutputs();
        box("eval-verdict").focus({ preventScroll: true });
        box("eval-result").scrollIntoView({ block: "nearest" });
    }

    /** The answers, a few rows at a time, so that no drawing holds the page up. */
    async function drawOutputs() {
        const mine = ++drawing;
        const [base, tuned] = result?.report.candidates ?? [];
        if (!base) return;
        const wanted = select("eval-filter").value;
        const rows = base.outputs.map((before, n) => ({ before, after: tuned?.outputs[n] }))
            .filter(({ before, after }) => wanted === "all" || change(before, after) === wanted);
        const body = h("tbody");
        box("eval-outputs").replaceChildren(rows.length
            ? h("table", { class: "outputs" },
                h("thead", {}, h("tr", {}, ...["Question", "Expected", tuned ? "Before" : "Answer", ...(tuned ? ["After", "Change"] : [])].map(name => h("th", { scope: "col" }, name)))),
                body)
            : h("p", { class: "empty" }, "None."));
        for (let n = 0; n < rows.length; n += 20) {
            body.append(...rows.slice(n, n + 20).map(({ before, after }) => h("tr", {},
                h("td", { "data-label": "Question" }, before.prompt), h("td", { "data-label": "Expected" }, before.expected),
                answer(before, after ? "Before" : "Answer"),
                ...(after ? [answer(after, "After"), h("td", { "data-label": "Change", class: { improved: "up", worse: "down", same: "muted" }[change(before, after)] }, change(before, after))] : []))));
            await breathe();
            if (mine !== drawing) return;
        }
    }
}

/** How many of the questions the adapter was trained on. @param {Report["dataset"]} dataset */
function seen({ seen_in_training, examples }) {
    if (seen_in_training === null) return "It is not known which of the questions the adapter was trained on.";
    if (seen_in_training === 0) return "The adapter was trained on none of the questions.";
    return `The adapter was trained on ${seen_in_training} of the ${examples} questions: those tell how well they were learnt, not what else was.`;
}

/** @param {ExampleOutput} before @param {ExampleOutput | undefined} after @returns {Verdict} */
function change(before, after) {
    if (!after || before.correct === after.correct) return "same";
    return after.correct ? "improved" : "worse";
}

/** A line for each category under one for its section. @param {CandidateReport} base @param {CandidateReport | undefined} tuned */
function bars(base, tuned) {
    const sections = Map.groupBy(base.per_category, score => score.category.split("/")[0] ?? "");
    const find = (/** @type {string} */ category) => tuned?.per_category.find(score => score.category === category);
    return [
        h("p", { class: "legend" }, h("span", {}, h("span", { class: "bar", "--at": 1 }), base.name),
            ...(tuned ? [h("span", {}, h("span", { class: "bar tuned", "--at": 1 }), tuned.name)] : [])),
        ...[...sections].map(([section, scores]) => h("section", { "aria-label": section },
            barRow(section, sum(scores), tuned && sum(scores.flatMap(score => find(score.category) ?? [])), true),
            ...(scores.length > 1 ? scores.map(score => barRow(score.category.split("/")[1] ?? score.category, score, find(score.category), false)) : []))),
    ];
}

/** @param {{ n: number, correct: number }[]} scores */
const sum = scores => scores.reduce((all, { n, correct }) => ({ n: all.n + n, correct: all.correct + correct }), { n: 0, correct: 0 });

/**
 * @param {string} name
 * @param {{ n: number, correct: number }} before
 * @param {{ n: number, correct: number } | undefined} after
 * @param {boolean} whole
 */
function barRow(name, before, after, whole) {
    const change = after ? after.correct - before.correct : 0;
    return h("div", { class: `bar-row ${whole ? "whole" : ""}` },
        h("span", { class: "name", title: name }, name),
        h("span", { class: "pair", "aria-hidden": "true" }, h("span", { class: "bar", "--at": before.correct / before.n }),
            ...(after ? [h("span", { class: "bar tuned", "--at": after.correct / after.n })] : [])),
        h("span", { class: `counts ${change > 0 ? "up" : change < 0 ? "down" : ""}` },
            after ? `${before.correct} → ${after.correct} of ${before.n}` : `${before.correct} of ${before.n}`));
}

/** @param {ExampleOutput} output @param {string} label */
function answer(output, label) {
    const cell = h("td", { "data-label": label, class: output.correct ? "right" : "wrong" }, output.actual.trim());
    cell.prepend(h("span", { class: "visually-hidden" }, output.correct ? "right: " : "wrong: "));
    return cell;
}

/** @param {CandidateReport} candidate @param {boolean} tuned */
function score({ name, overall }, tuned) {
    const { low, high } = overall.wilson;
    return h("div", { class: `score ${tuned ? "tuned" : ""}` },
        h("span", { class: "who" }, name),
        h("span", { class: "big" }, percent(overall.accuracy)),
        h("span", { class: "track", "aria-hidden": "true" },
            h("span", { class: "band", "--low": low, "--high": high }), h("span", { class: "point", "--at": overall.accuracy })),
        h("span", { class: "interval" }, `${overall.correct} of ${overall.n} right · ${percent(low)} to ${percent(high)} · ${overall.partial} contain the answer`));
}

/** @param {CandidateReport[]} candidates */
function costs(candidates) {
    /** @type {[string, (c: CandidateReport) => string][]} */
    const lines = [
        ["Median answer", c => c.latency ? `${rate(c.latency.median_ms)} ms` : "–"],
        ["Mean answer", c => c.latency ? `${rate(c.latency.mean_ms)} ± ${rate(c.latency.std_ms)} ms` : "–"],
        ["Tokens per second", c => c.latency?.tokens_per_second ? rate(c.latency.tokens_per_second) : "–"],
        ["Loss of the expected answers", c => c.loss ? `${c.loss.mean.toFixed(3)} nats per token` : "–"],
        ["Perplexity", c => c.loss?.perplexity ? rate(c.loss.perplexity) : "–"],
    ];
    return h("table", {},
        h("thead", {}, h("tr", {}, h("th", { scope: "col" }, ""), ...candidates.map(c => h("th", { scope: "col", class: "num" }, c.name)))),
        h("tbody", {}, ...lines.map(([name, value]) => h("tr", {}, h("th", { scope: "row" }, name), ...candidates.map(c => h("td", { class: "num" }, value(c)))))));
}
