// @ts-check
/** Asks every candidate the same questions and compares the answers. */

/** @import { EvalCandidate, EvalExample, EvalOptions, Evaluation, TrainingExample } from "./engram" */

import { callOf } from "./engine.js";
import { EngramError } from "./errors.js";

/**
 * @param {readonly EvalCandidate[]} candidates
 * @param {readonly (EvalExample | TrainingExample)[]} examples
 * @param {EvalOptions} [options]
 * @returns {Promise<Evaluation>}
 */
export async function evaluate(candidates, examples, options = {}) {
    const { trainedOn, onProgress, signal, ...settings } = options;
    const [first] = candidates;
    if (!first) throw new EngramError("invalid", "no candidate was given");
    const { engine } = first;
    if (candidates.some(candidate => candidate.engine !== engine)) {
        throw new EngramError("invalid", "the candidates have several engines; give them one");
    }
    const args = {
        candidates: candidates.map(({ name, adapter }) => ({ name, adapter: adapter ?? undefined })),
        examples,
        trainedOn,
        options: settings,
    };
    return callOf(engine)("evaluate", args, { signal, onEvent: onProgress });
}
