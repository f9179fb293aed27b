// @ts-check
/** Asks every candidate the same questions and compares the answers. */

/** @import { EvalCandidate, EvalExample, EvalOptions, Evaluation } from "./engram" */

import { callOf } from "./engine.js";
import { EngramError } from "./errors.js";

/**
 * @param {readonly EvalCandidate[]} candidates
 * @param {readonly EvalExample[]} examples
 * @param {EvalOptions} [options]
 * @returns {Promise<Evaluation>}
 */
export async function evaluate(candidates, examples, { onProgress, signal, ...options } = {}) {
    const [first] = candidates;
    if (!first) throw new EngramError("invalid", "no candidate was given");
    const { engine } = first;
    if (candidates.some(candidate => candidate.engine !== engine)) {
        throw new EngramError("invalid", "the candidates have several engines; give them one");
    }
    const args = {
        candidates: candidates.map(({ name, adapter }) => ({ name, adapter: adapter ?? undefined })),
        examples,
        options,
    };
    return callOf(engine)("evaluate", args, { signal, onEvent: onProgress });
}
