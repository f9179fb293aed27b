// @ts-check
/**
 * A part of a set's records, as Hugging Face's `datasets` writes it: `train[:100]`, `[10%:20%]`. The
 * native runner does the same (`dataset/slice.rs`).
 */

import { EngramError } from "./errors.js";

/**
 * A boundary below 0 counts from the end; `percent` is whether they are shares.
 *
 * @typedef {{ from: number | undefined, to: number | undefined, percent: boolean, shown: string }} Slice
 */

/**
 * The text before a slice at the end, and that, where there is one.
 *
 * @param {string} text
 * @returns {[string, Slice | undefined]}
 */
export function splitSlice(text) {
    if (text.includes("]+")) throw invalid("slices are not added up; name each by itself");
    const [, before, inner] = /^(.*)\[([^[]*)\]$/s.exec(text) ?? [];
    return before === undefined || inner === undefined ? [text, undefined] : [before, parse(inner)];
}

/** @param {string} inner @returns {Slice} */
function parse(inner) {
    const shown = `[${inner}]`;
    const [, from = "", , to = "", isSlice] = /^((?:[+-]?\d+(%)?)?):((?:[+-]?\d+(?:%)?)?)()$/.exec(inner) ?? [];
    if (isSlice === undefined) throw invalid(`${shown} is no slice such as [:100], [10%:20%] or [-50:]`);
    const percent = from.endsWith("%") || to.endsWith("%");
    const [first, last] = [from, to].map(text => (text === "" ? undefined : Number.parseInt(text, 10)));
    if (percent && [first, last].some(share => Math.abs(share ?? 0) > 100)) {
        throw invalid(`${shown}: a share is between -100 % and 100 %`);
    }
    return { from: first, to: last, percent, shown };
}

/** @param {string} message */
function invalid(message) {
    return new EngramError("invalid", message);
}

/**
 * Which of `count` records it takes, from and to, by the rules of `datasets`: percents to the nearest
 * record, and nothing beyond the end.
 *
 * @param {Slice} slice
 * @param {number} count
 * @returns {[number, number]}
 */
export function rangeOf({ from = 0, to, percent }, count) {
    const absolute = (/** @type {number} */ boundary) => {
        const at = percent ? roundTiesEven((boundary * count) / 100) : boundary;
        return Math.min(at < 0 ? Math.max(at + count, 0) : at, count);
    };
    const first = absolute(from);
    return [first, Math.max(to === undefined ? count : absolute(to), first)];
}

/** As Python rounds. @param {number} x */
function roundTiesEven(x) {
    const below = Math.floor(x);
    const isUp = x - below > 0.5 || (x - below === 0.5 && below % 2 !== 0);
    return isUp ? below + 1 : below;
}

/**
 * How many records from the first on tell what it takes: later ones need not be read.
 *
 * @param {Slice | undefined} slice
 */
export function mostNeeded(slice) {
    if (!slice || slice.percent || slice.to === undefined || slice.to < 0 || (slice.from ?? 0) < 0) return Infinity;
    return slice.to;
}
