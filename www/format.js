// @ts-check
/** Numbers in words. */

/** @param {number} bytes */
export function bytes(bytes) {
    if (bytes < 1000) return `${bytes} B`;
    if (bytes < 1e6) return `${(bytes / 1e3).toFixed(0)} kB`;
    if (bytes < 1e9) return `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`;
    return `${(bytes / 1e9).toFixed(2)} GB`;
}

/** @param {number} seconds */
export function duration(seconds) {
    if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
    if (seconds < 99.5) return `${seconds.toFixed(0)} s`;
    const minutes = Math.round(seconds / 60);
    return minutes < 100 ? `${minutes} min` : `${(minutes / 60).toFixed(1)} h`;
}

/** A count, short: 1.30 M. @param {number} n */
export function count(n) {
    if (n < 10_000) return n.toLocaleString("en");
    if (n < 1e6) return `${(n / 1e3).toFixed(0)} k`;
    return `${(n / 1e6).toFixed(n < 1e8 ? 2 : 0)} M`;
}

/** @param {number} share */
export const percent = share => `${(share * 100).toFixed(1)} %`;

/** A rate with two or three digits that count. @param {number} value */
export const rate = value => (value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2));

/** @param {number} n @param {string} one @param {string} [many] */
export const plural = (n, one, many = `${one}s`) => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;

/** @param {number} p */
export const probability = p => (p < 0.001 ? "p < 0.001" : `p = ${p.toFixed(3)}`);
