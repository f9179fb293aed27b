// @ts-check
/** Training an adapter: settings, the loss as it falls, and what becomes of the adapter. */

import * as engram from "../engram.js";
import { LossChart } from "../chart.js";
import { announce, bar, box, button, fillSelect, form, h, input, select } from "../dom.js";
import { bytes, count, duration, plural, rate } from "../format.js";
import { clearNotice, codeOf, showError } from "../notice.js";

/** @import { App } from "../state.js" */
/** @import { EngineInterface, ModelInfo, TrainConfig, TrainStep, Trainer, TrainingExample } from "../../src/web/js/engram" */

const KEYS = [
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
];
const NUMBERS = /** @type {const} */ ([
    "iters", "learning_rate", "batch_size", "rank", "scale", "num_layers", "steps_per_report", "steps_per_eval",
    "val_batches", "max_seq_length", "grad_accumulation_steps", "seed",
]);
const CHECKS = /** @type {const} */ (["mask_prompt", "grad_checkpoint"]);

const STATS = ["Iteration", "Training loss", "Validation loss", "Speed", "Tokens", "Time", "To go", "GPU memory", "Gradient norm", "Trained weights"];

const MEASURING = "Measuring the loss before training…";

/** The original experiment's settings, as the package has them by default. */
const ORIGINAL = {
    iters: 100, learning_rate: 1e-5, batch_size: 4, rank: 8, scale: 20, num_layers: 16, steps_per_report: 10,
    steps_per_eval: 50, val_batches: -1, max_seq_length: 2048, grad_accumulation_steps: 1, seed: 0,
    mask_prompt: /** @type {boolean} */ (false), grad_checkpoint: /** @type {boolean} */ (false),
};

/** @param {ModelInfo} model */
function recommended(model) {
    // The tiny model's: two blocks of its four learn nearly as well, in half the time.
    return model.parameters < 5e6
        ? {
              ...ORIGINAL, iters: 30, learning_rate: 1e-3, num_layers: 2, steps_per_report: 5, steps_per_eval: 15,
              val_batches: 2, mask_prompt: true, max_seq_length: model.contextLength,
          }
        : { ...ORIGINAL, learning_rate: 1e-4, mask_prompt: true, max_seq_length: 512 };
}

/** @param {App} app */
export function start(app) {
    const error = box("train-error"), status = box("train-status");
    const chart = new LossChart(box("train-chart"), box("train-table"));
    /** @type {Trainer | undefined} */ let trainer;
    /** The engine that the trainer belongs to. @type {EngineInterface | undefined} */ let trained;
    /** What it trains on. @type {TrainingExample[]} */ let examples = [];
    /** @type {AbortController | undefined} */ let running;
    /** Set while paused; called to go on. @type {(() => void) | undefined} */ let goOn;
    let paused = false;

    box("t-keys").append(...KEYS.map(key => h("label", {}, h("input", { type: "checkbox", value: key, checked: true }), key.split(".")[1] ?? key)));
    fill({ ...ORIGINAL, iters: 100 });
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
    box("presets").onchange = preset;
    form("train-form").oninput = event => {
        if (/** @type {HTMLInputElement} */ (event.target).name !== "preset") choose("own");
    };
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
        if (value === "original") fill(model ? { ...ORIGINAL, num_layers: Math.min(ORIGINAL.num_layers, model.layers) } : ORIGINAL);
    }

    /** @param {typeof ORIGINAL} config */
    function fill(config) {
        for (const name of NUMBERS) input(`t-${name}`).value = String(config[name]);
        for (const name of CHECKS) input(`t-${name}`).checked = config[name];
        input("t-max_grad_norm").value = "";
        select("t-semantics").value = "engram";
        for (const key of keys()) key.checked = true;
    }

    function keys() {
        return [...box("t-keys").querySelectorAll("input")];
    }

    /** @returns {TrainConfig} */
    function settings() {
        /** @type {TrainConfig} */
        const config = { semantics: select("t-semantics").value === "mlx" ? "mlx" : "engram" };
        for (const name of NUMBERS) config[name] = input(`t-${name}`).valueAsNumber;
        for (const name of CHECKS) config[name] = input(`t-${name}`).checked;
        const clip = input("t-max_grad_norm").valueAsNumber;
        config.max_grad_norm = Number.isFinite(clip) && clip > 0 ? clip : null;
        config.keys = keys().filter(key => key.checked).map(key => key.value);
        return config;
    }

    function showState() {
        const { splits } = app;
        box("train-lead").textContent = splits
            ? `A LoRA adapter on ${plural(splits.train.length, "example")}, watched with ${splits.valid.length} others. The model itself stays as it is.`
            : "The data can't be used as it is: see the Data panel.";
        button("train-start").hidden = running !== undefined;
        button("train-start").disabled = !app.engine || !splits;
        button("train-pause").hidden = button("train-cancel").hidden = running === undefined;
        button("train-pause").textContent = paused ? "Continue" : "Pause";
        if (running) status.textContent = paused ? "Pausing after this step…" : "";
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
        let iteration = 0, isLost = false;
        try {
            const made = await engram.Trainer.create(engine, { train: splits.train, valid: splits.valid }, settings());
            trainer = made;
            trained = engine;
            examples = splits.train;
            chart.start(made.config.iters);
            stats({ Iteration: `0 of ${made.config.iters}`, "Trained weights": count(made.trainableParameters) });
            box("train-run").scrollIntoView({ block: "nearest" });
            announce("Training has begun.");
            status.textContent = MEASURING;
            for await (const step of made.run({ signal: mine.signal })) {
                if (status.textContent === MEASURING) status.textContent = "";
                show(step);
                if (step.kind !== "validation") iteration = step.iteration;
                // Each step is computed when it is asked for: not to ask is to pause.
                if (paused) {
                    status.textContent = "Paused";
                    await new Promise(resolve => { goOn = () => resolve(undefined); });
                }
            }
            status.textContent = iteration < made.config.iters ? `Stopped after ${plural(iteration, "iteration")}.` : "Done.";
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
            const files = await trainer.exportAdapter("mlx", { checkpoint });
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
