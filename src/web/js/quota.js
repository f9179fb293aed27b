// @ts-check
/** How much room the browser gives us. */

import { EngramError } from "./errors.js";

/** Bytes in use and available, as far as the browser tells. */
export async function usage() {
    const { usage = 0, quota = null } = (await globalThis.navigator?.storage?.estimate?.()) ?? {};
    return { bytes: usage, quota };
}

/**
 * Better now than when most of it is downloaded.
 *
 * @param {string} url
 * @param {number} bytes
 */
export async function checkRoom(url, bytes) {
    const { bytes: used, quota } = await usage();
    if (quota !== null && used + bytes > quota) throw await quotaError(url, bytes);
}

/** @param {unknown} error */
export function isQuotaError(error) {
    return error instanceof Error && error.name === "QuotaExceededError";
}

/**
 * @param {string} url
 * @param {number} bytes 0 if unknown.
 * @param {unknown} [cause]
 */
export async function quotaError(url, bytes, cause) {
    const { bytes: used, quota } = await usage();
    const need = bytes ? `it needs ${megabytes(bytes)}` : "its size is not known";
    const room = quota === null ? Infinity : Math.max(0, quota - used);
    // Browsers may tell of more room than they give.
    const free = room < (bytes || Infinity) ? `, ${megabytes(room)} are free` : "";
    return new EngramError(
        "quota",
        `${url}: the browser has no room to keep it (${need}${free}); clear the cache or free ` +
            'disk space, or load with cache: "none"',
        { cause },
    );
}

/** @param {number} bytes */
function megabytes(bytes) {
    return `${(bytes / 1e6).toFixed(1)} MB`;
}
