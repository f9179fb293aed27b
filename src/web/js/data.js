// @ts-check
/** Patterns and data sets. The work is the module's, which is loaded when first needed. */

/** @import { DataProblem, NamedFile, Pattern, SplitConfig, Splits, TrainingExample } from "./engram" */

import { EngramError, toError } from "./errors.js";
import { kindOf } from "./layout.js";
import { MOST_BYTES, parquetLines } from "./parquet.js";
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

/** @param {File | NamedFile} file @returns {Promise<TrainingExample[]>} */
export async function readExamples(file) {
    const { name } = file;
    try {
        return await readBlob(name, file instanceof Blob ? file : new Blob([/** @type {BlobPart} */ (file.bytes)]));
    } catch (error) {
        throw toError(error, "data");
    }
}

/**
 * @param {string} name
 * @param {Blob} blob
 * @param {number} [most] How many records suffice: of a large file no more need be read.
 * @returns {Promise<TrainingExample[]>}
 */
export async function readBlob(name, blob, most = Infinity) {
    const kind = kindOf(name);
    if (blob.size > MOST_BYTES) {
        const most = `${blob.size} bytes are more than the ${MOST_BYTES} that a page takes`;
        throw new EngramError("data", `${name}: its ${most}; divide it`);
    }
    if (kind !== "parquet") return parseExamples(name, await decode(name, blob));
    const lines = await parquetLines(name, blob, most);
    return parseExamples(name, lines).catch(error => {
        // A line of ours is a row of the file.
        const place = `${name}:`;
        const after = error.message.startsWith(place) ? error.message.slice(place.length) : "";
        if (!/^\d/.test(after)) throw error;
        throw new EngramError(error.code, `${name}, row ${after}`, { cause: error });
    });
}

/** @param {string} name @param {Blob} blob */
async function decode(name, blob) {
    const bytes = await blob.arrayBuffer();
    try {
        return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    } catch (error) {
        throw new EngramError("format", `${name}: not UTF-8 text; save it as UTF-8`, { cause: error });
    }
}

/** @param {readonly Pattern[]} patterns @param {SplitConfig} [config] @returns {Promise<Splits>} */
export async function splitPatterns(patterns, config) {
    return withModule(module => module.splitPatterns(patterns, config));
}
