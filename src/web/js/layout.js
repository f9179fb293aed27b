// @ts-check
/**
 * Which file belongs to which set, by the names that Hugging Face's `datasets` looks for. The native
 * runner does the same (`dataset/layout.rs`).
 */

import { EngramError } from "./errors.js";

/** @typedef {"train" | "valid" | "test"} SetName A part of a data set, by MLX-LM's name. */

/** @type {Record<SetName, string[]>} */
const WORDS = {
    train: ["train", "training"],
    valid: ["valid", "validation", "val", "dev"],
    test: ["test", "testing", "eval", "evaluation"],
};
export const SETS = /** @type {SetName[]} */ (Object.keys(WORDS));

/** The set of a word. @param {string} word @returns {SetName | undefined} */
export function setOfWord(word) {
    return SETS.find(set => WORDS[set].includes(word.toLowerCase()));
}

/**
 * The set that a path below a data set's root names: in the file's name, or in a folder's.
 *
 * @param {string} path
 * @returns {SetName | undefined}
 */
export function setOfPath(path) {
    const words = path.split("/").reverse().flatMap(part => part.split(/[^A-Za-z0-9]/));
    return words.map(setOfWord).find(set => set !== undefined);
}

const KIND = /\.(jsonl|json|csv|parquet)$/i;

/** Whether a file's name ends as one of the kinds that are read, and is not hidden. @param {string} path */
export function isData(path) {
    return KIND.test(path) && !/(^|\/)\.[^/]*$/.test(path);
}

/** The end of a data file's name, without its dot. @param {string} name */
export function kindOf(name) {
    const kind = KIND.exec(name)?.[1]?.toLowerCase();
    if (kind !== undefined) return kind;
    throw new EngramError("data", `${name}: no .jsonl, .json, .csv or .parquet file, by the end of its name`);
}

/**
 * Of the files of one set those to read: one of just the set's name stands alone, so that a
 * `train-old.jsonl` beside it is left.
 *
 * @template {{ name: string }} T
 * @param {readonly T[]} files
 * @returns {T[]}
 */
export function standing(files) {
    const stem = (/** @type {T} */ { name }) => name.slice(0, name.lastIndexOf("."));
    const isExact = (/** @type {T} */ file) => setOfWord(stem(file).split("/").pop() ?? "") !== undefined;
    const chosen = files.some(isExact) ? files.filter(isExact) : files.slice();
    for (const [i, file] of chosen.entries()) {
        const twin = chosen.slice(0, i).find(twin => stem(twin) === stem(file));
        if (twin) {
            const message = `${twin.name} and ${file.name} are the same set; name the one to read`;
            throw new EngramError("invalid", message);
        }
    }
    return chosen;
}
