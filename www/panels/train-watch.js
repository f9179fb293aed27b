// @ts-check
/** What is noted of a training: its metrics, as `engram train` writes them, and answers in between. */

import * as engram from "../engram.js";
import { download } from "../dom.js";

/** @import { EngineInterface, Splits, TrainStep, Trainer } from "../../src/web/js/engram" */

/** Under which name the adapter answers while it is in training. */
const IN_TRAINING = "in training";

/** The lines of a run's `metrics.jsonl`. */
export class Metrics {
    /** @type {string[]} */ #lines = [];

    /** @param {Record<string, number>} line */
    add(line) {
        this.#lines.push(JSON.stringify(line));
    }

    /** @param {TrainStep} step */
    step(step) {
        const { iteration } = step;
        if (step.kind === "validation") this.add({ iteration, val_loss: step.loss });
        if (step.kind === "report") this.add({
            iteration,
            train_loss: step.loss,
            gradient_norm: step.gradientNorm,
            iterations_per_second: step.iterationsPerSecond,
            tokens_per_second: step.tokensPerSecond,
            trained_tokens: step.trainedTokens,
        });
    }

    save() {
        download("metrics.jsonl", this.#lines.map(line => `${line}\n`).join(""), "application/jsonl");
    }
}

/**
 * In which of MLX's and PEFT's layouts the trained adapter can be written: MLX's have one rank and scale.
 * @param {Trainer} trainer
 */
export function layoutOf({ config: { rank_pattern, alpha_pattern } }) {
    return Object.keys({ ...rank_pattern, ...alpha_pattern }).length ? "peft" : "mlx";
}

/**
 * Asks the adapter, as it is now, the first of the test questions.
 * @param {EngineInterface} engine
 * @param {Trainer} trainer
 * @param {Splits["test"]} questions
 * @param {AbortSignal} signal
 */
export async function ask(engine, trainer, questions, signal) {
    await engine.adapters.load(IN_TRAINING, await trainer.exportAdapter(layoutOf(trainer)));
    try {
        const candidates = [{ name: IN_TRAINING, engine, adapter: IN_TRAINING }];
        const { report } = await engram.evaluate(candidates, questions, { loss: false, signal });
        const { correct = 0, n = 0 } = report.candidates[0]?.overall ?? {};
        return { correct, n };
    } finally {
        await engine.adapters.remove(IN_TRAINING);
    }
}
