// @ts-check
/** Training an adapter: settings, the loss as it falls, and what becomes of the adapter. */

import * as engram from "../engram.js";
import { LossChart } from "../chart.js";
import { announce, bar, box, button, byId, fillSelect, form, h, input, select } from "../dom.js";
import { bytes, count, duration, plural, rate } from "../format.js";
import { clearNotice, codeOf, showError } from "../notice.js";
import { fill, mismatch, original, recommended, settings, showRelevant } from "./train-settings.js";
import { Metrics, ask, layoutOf } from "./train-watch.js";

/** @import { App } from "../state.js" */
/** @import { EngineInterface, Splits, TrainStep, Trainer, TrainingExample } from "../../src/web/js/engram" */

const STATS = ["Iteration", "Training loss", "Validation loss", "Right answers", "Speed", "Tokens", "Time", "To go", "GPU memory", "Gradient norm", "Trained weights"];

const MEASURING = "Measuring the loss before training…";

/** @param {App} app */
export function start(app) {
    const error = box("train-error"), status = box("train-status");
    const chart = new LossChart(box("train-chart"), box("train-table"));
    /** @type {Trainer | undefined} */ let trainer;
    /** The engine that the trainer belongs to. @type {EngineInterface | undefined} */ let trained;
    /** What it trains on. @type {TrainingExample[]} */ let examples = [];
    /** @type {AbortController | undefined} */ let running;
    /** Set while paused; called to go on. @type {(() => void) | undefined} */ let goOn;
    let paused = false, metrics = new Metrics();

    fill(original());
    app.on("engine", () => {
        if (trained && trained !== app.engine) {
            running?.abort();
            trainer?.dispose().catch(() => {});
            trainer = trained = undefined;
            box("train-finish").hidden = true;
        }
        preset();
        showState();
    });
    app.on("data", showState);
    box("presets").onchange = () => {
        preset();
        showState();
    };
    form("train-form").oninput = event => {
        if (/** @type {HTMLInputElement} */ (event.target).name === "preset") return;
        choose("own");
        showRelevant();
        showState();
    };
    // The browser can't show what it wants of a control in closed details.
    form("train-form").addEventListener("invalid", () => { byId("t-all", HTMLDetailsElement).open = true; }, true);
    form("train-form").onsubmit = event => {
        event.preventDefault();
        train();
    };
    button("train-pause").onclick = () => {
        paused = !paused;
        if (!paused) goOn?.();
        showState();
    };
    button("train-cancel").onclick = () => {
        trainer?.cancel();
        paused = false;
        goOn?.();
        status.textContent = "Stopping after this step…";
    };
    button("train-metrics").onclick = () => metrics.save();
    form("train-finish").onsubmit = event => {
        event.preventDefault();
        use();
    };
    window.addEventListener("beforeunload", event => { if (running) event.preventDefault(); });

    /** @param {string} value */
    function choose(value) {
        for (const radio of /** @type {NodeListOf<HTMLInputElement>} */ (document.getElementsByName("preset"))) radio.checked = radio.value === value;
    }

    function preset() {
        const chosen = document.querySelector("input[name=preset]:checked");
        const value = chosen instanceof HTMLInputElement ? chosen.value : "own";
        const model = app.engine?.model;
        if (value === "recommended" && model) fill(recommended(model));
        if (value === "original") fill(original(model));
    }

    function showState() {
        const { splits } = app;
        const problem = splits ? mismatch([...splits.train, ...splits.valid]) : "";
        box("train-lead").textContent = splits ? lead(splits) : "The data can't be used as it is: see the Data panel.";
        box("train-need").replaceChildren(...(problem ? [h("div", { class: "notice warn error-box", role: "status" }, h("p", {}, problem), remedy())] : []));
        button("train-start").hidden = running !== undefined;
        button("train-start").disabled = !app.engine || !splits || problem !== "";
        button("train-pause").hidden = button("train-cancel").hidden = running === undefined;
        button("train-pause").textContent = paused ? "Continue" : "Pause";
        if (running) status.textContent = paused ? "Pausing after this step…" : "";
    }

    /** What the settings make of the data. @param {Splits} splits */
    function lead({ train, valid }) {
        const what = { lora: "A LoRA adapter learns", rslora: "An rsLoRA adapter learns", dora: "A DoRA adapter learns" }[select("t-adapter_type").value] ?? "All weights of the last blocks learn";
        const passes = (input("t-iters").valueAsNumber * input("t-batch_size").valueAsNumber) / train.length;
        const times = Number.isFinite(passes) ? `, each seen ${passes < 10 ? passes.toFixed(1) : Math.round(passes)} times` : "";
        return `${what} from ${plural(train.length, "example")}${times}, watched with ${valid.length} others. The model itself stays as it is.`;
    }

    /** What to do where the data and the way of learning don't fit. */
    function remedy() {
        if (select("t-train_mode").value === "dpo") return h("a", { class: "button", href: "#data" }, "See the data");
        return h("button", { type: "button", onclick: () => {
            choose("own");
            select("t-train_mode").value = "dpo";
            showRelevant();
            showState();
            button("train-start").focus();
        } }, "Learn from pairs");
    }

    async function train() {
        const { engine, splits } = app;
        if (!engine || !splits || running) return;
        const mine = (running = new AbortController());
        paused = false;
        clearNotice(error);
        box("train-finish").hidden = true;
        box("train-run").hidden = false;
        const progress = bar("train-bar");
        progress.removeAttribute("value");
        showState();
        status.textContent = "Preparing…";
        await trainer?.dispose().catch(() => {});
        trainer = trained = undefined;
        let iteration = 0, isLost = false, inVain = 0, why = "";
        try {
            const { config, patience, questions } = settings();
            const made = await engram.Trainer.create(engine, { train: splits.train, valid: splits.valid }, config);
            trainer = made;
            trained = engine;
            examples = splits.train;
            chart.start(made.config.iters);
            metrics = new Metrics();
            stats({ Iteration: `0 of ${made.config.iters}`, "Trained weights": count(made.trainableParameters) });
            box("train-run").scrollIntoView({ block: "nearest" });
            announce("Training has begun.");
            status.textContent = MEASURING;
            for await (const step of made.run({ signal: mine.signal })) {
                if (status.textContent === MEASURING) status.textContent = "";
                show(step);
                if (step.kind !== "validation") iteration = step.iteration;
                else inVain = step.best ? 0 : inVain + 1;
                if (step.kind === "validation" && questions && splits.test.length) {
                    status.textContent = "Asking the test questions…";
                    const { correct, n } = await ask(engine, made, splits.test.slice(0, questions), mine.signal);
                    status.textContent = "";
                    stats({ "Right answers": `${correct} of ${n}` }, false);
                    metrics.add({ iteration, eval_accuracy: correct / n, eval_correct: correct, eval_examples: n });
                }
                if (patience && inVain >= patience && iteration < made.config.iters) {
                    made.cancel();
                    why = `: ${plural(patience, "validation")} in a row brought no lower loss`;
                }
                // Each step is computed when it is asked for: not to ask is to pause.
                if (paused) {
                    status.textContent = "Paused";
                    await new Promise(resolve => { goOn = () => resolve(undefined); });
                }
            }
            status.textContent = iteration < made.config.iters ? `Stopped after ${plural(iteration, "iteration")}${why}.` : "Done.";
            announce(status.textContent);
        } catch (failure) {
            isLost = codeOf(failure) === "device-lost";
            status.textContent = iteration ? `Ended after ${plural(iteration, "iteration")}.` : "";
            if (codeOf(failure) !== "aborted") showError(error, failure, app, {
                "not-finite": { label: "Halve the learning rate", act: () => {
                    choose("own");
                    input("t-learning_rate").value = String(input("t-learning_rate").valueAsNumber / 2);
                    input("t-learning_rate").focus();
                } },
            });
        } finally {
            if (running === mine) running = undefined;
            const end = status.textContent;
            showState();
            status.textContent = end;
            box("note-train").textContent = iteration ? `${plural(iteration, "iteration")} done` : "";
            if (iteration && trainer && trained === app.engine) offer(iteration, isLost);
            app.changed("memory");
        }
    }

    /** @type {Record<string, string>} */
    let said = {};

    /** @param {Record<string, string>} values @param {boolean} [anew] */
    function stats(values, anew = true) {
        said = anew ? values : { ...said, ...values };
        const order = Object.entries(said).sort(([a], [b]) => STATS.indexOf(a) - STATS.indexOf(b));
        box("train-stats").replaceChildren(...order.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
    }

    /** @param {TrainStep} step */
    function show(step) {
        metrics.step(step);
        const done = step.kind === "validation" ? step.iteration - 1 : step.iteration;
        bar("train-bar").value = done / step.iterations;
        box("note-train").textContent = `${done} of ${step.iterations}`;
        /** @type {Record<string, string>} */
        const values = { Iteration: `${done} of ${step.iterations}` };
        // As in MLX-LM, a validation has the number of the iteration that it comes before.
        if (step.kind === "validation") {
            chart.addValidation({ iteration: step.iteration, loss: step.loss }, step.best);
            values["Validation loss"] = step.loss.toFixed(3);
            announce(`Iteration ${step.iteration}, validation loss ${step.loss.toFixed(2)}`);
        }
        if (step.kind === "report") {
            chart.addTrain({ iteration: step.iteration, loss: step.loss });
            values["Training loss"] = step.loss.toFixed(3);
            values["Speed"] = `${rate(step.iterationsPerSecond)} it/s`;
            values["Tokens"] = `${rate(step.tokensPerSecond)} /s`;
            values["Gradient norm"] = rate(step.gradientNorm);
        }
        values["Time"] = duration(step.seconds);
        values["To go"] = step.etaSeconds === null ? "…" : duration(Math.max(0, step.etaSeconds));
        values["GPU memory"] = bytes(step.gpuMemory);
        stats(values, false);
    }

    /** @param {number} iteration @param {boolean} isLost whether the device is, and the last weights with it */
    function offer(iteration, isLost) {
        const best = chart.best;
        const choices = [
            ...(best && best.iteration > 1 ? [{ value: "best", label: `best: iteration ${best.iteration}` }] : []),
            ...(isLost ? [] : [{ value: "last", label: `last: iteration ${iteration}` }]),
        ];
        if (!choices.length) return;
        fillSelect(select("finish-checkpoint"), choices, "");
        const taken = new Set(app.adapters.map(adapter => adapter.name));
        let name = "my-adapter";
        for (let n = 2; taken.has(name); n++) name = `my-adapter-${n}`;
        input("finish-name").value = name;
        box("finish-note").textContent = "Give it a name to use it in the chat, the evaluation and the downloads.";
        box("train-finish").hidden = false;
    }

    async function use() {
        const { engine } = app;
        if (!engine || !trainer) return;
        const name = input("finish-name").value.trim();
        const checkpoint = select("finish-checkpoint").value === "best" ? "best" : "last";
        button("finish-use").disabled = true;
        try {
            const files = await trainer.exportAdapter(layoutOf(trainer), { checkpoint });
            await engine.adapters.load(name, files);
            app.trainedOn.set(name, examples);
            await app.use(name);
            box("finish-note").replaceChildren(`${name} is switched on. `, h("a", { href: "#chat" }, "Talk to it"), ", ",
                h("a", { href: "#evaluate" }, "measure it"), " or ", h("a", { href: "#adapters" }, "download it"), ".");
            announce(`${name} is switched on.`);
        } catch (failure) {
            showError(error, failure, app);
        } finally {
            button("finish-use").disabled = false;
        }
    }
}
