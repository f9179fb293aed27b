// @ts-check
/** Patterns and data sets. The work is the module's, which is loaded when first needed. */

/** @import { DataProblem, Pattern, SplitConfig, Splits, TrainingExample } from "./engram" */

import { toError } from "./errors.js";
import { guarded, wasm } from "./wasm.js";

/**
 * @template T
 * @param {(module: import("./wasm.js").Wasm) => Promise<T> | T} use
 */
export async function withModule(use) {
    try {
        const module = await wasm();
        return await guarded(() => use(module));
    } catch (error) {
        throw toError(error, "data");
    }
}

/** @returns {Promise<Pattern[]>} */
export async function bundledPatterns() {
    return withModule(module => module.bundledPatterns());
}

/** @param {string} name @param {string} text @returns {Promise<Pattern[]>} */
export async function parsePatterns(name, text) {
    return withModule(module => module.parsePatterns(name, text));
}

/** @param {readonly Pattern[]} patterns @returns {Promise<string>} */
export async function formatPatterns(patterns) {
    return withModule(module => module.formatPatterns(patterns));
}

/** @param {readonly Pattern[]} patterns @returns {Promise<DataProblem[]>} */
export async function checkPatterns(patterns) {
    return withModule(module => module.checkPatterns(patterns));
}

/** @param {Pattern} pattern @returns {Promise<string[]>} */
export async function augmentPattern(pattern) {
    return withModule(module => module.augmentPattern(pattern));
}

/** @param {string} name @param {string} text @returns {Promise<TrainingExample[]>} */
export async function parseExamples(name, text) {
    return withModule(module => module.parseExamples(name, text));
}

/** @param {readonly Pattern[]} patterns @param {SplitConfig} [config] @returns {Promise<Splits>} */
export async function splitPatterns(patterns, config) {
    return withModule(module => module.splitPatterns(patterns, config));
}
