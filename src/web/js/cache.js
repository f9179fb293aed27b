// @ts-check
/**
 * Downloads that are kept for the next time.
 *
 * A file is written under a name of its own, then named by its URL's entry, `KEY.json`. So a file
 * that no entry names is not whole, and an entry that is there names a whole one.
 */

/** @import { CachedFile, CacheMode } from "./engram" */
/** @import { Store } from "./store.js" */

import { download } from "./download.js";
import { toError } from "./errors.js";
import { sha256Of } from "./hash.js";
import { locked } from "./lock.js";
import { checkRoom, isQuotaError, quotaError, usage } from "./quota.js";
import { store } from "./store.js";

/**
 * @typedef {object} FetchOptions
 * @property {CacheMode} mode
 * @property {AbortSignal} [signal]
 * @property {(loaded: number, total: number) => void} [onProgress]
 * @property {number} [bytes] The size it must have.
 * @property {string} [sha256] The sum it must have.
 * @property {boolean} [isGguf] Whether it must be a GGUF file.
 * @property {string} [shown] What errors call it.
 */

/** @typedef {CachedFile & { file: string }} Entry An entry of the index, with the file's name. */

/**
 * The file at a URL, from the cache or downloaded into it.
 *
 * @param {string} url
 * @param {FetchOptions} options
 * @returns {Promise<Blob>}
 */
export async function fetchFile(url, options) {
    const { mode, signal, onProgress, sha256 } = options;
    const wanted = { ...options, sha256: sha256?.toLowerCase() };
    if (mode === "none") {
        return (await download(url, wanted, stream => new Response(stream).blob())).blob;
    }
    // One tab downloads; the others wait, watch, and find the file in the cache.
    return locked(url, { signal, onProgress }, async report => {
        const files = await store();
        const key = await keyOf(url);
        const kept = mode === "use" ? await readVerified(files, key, wanted) : undefined;
        return kept ?? keep(files, key, url, { ...wanted, onProgress: report });
    });
}

/**
 * The file of an entry, if it still is what was downloaded, and what is wanted now.
 *
 * @param {Store} files
 * @param {string} key
 * @param {Pick<FetchOptions, "sha256" | "signal">} wanted
 */
async function readVerified(files, key, { sha256, signal }) {
    const entry = await readEntry(files, key);
    if (!entry || (sha256 !== undefined && sha256 !== entry.sha256)) return undefined;
    const blob = await files.read(entry.file);
    const isWhole = blob?.size === entry.bytes;
    return isWhole && (await sha256Of(blob, signal)) === entry.sha256 ? blob : undefined;
}

/**
 * @param {Store} files
 * @param {string} key
 * @param {string} url
 * @param {Omit<FetchOptions, "mode">} wanted
 */
async function keep(files, key, url, wanted) {
    const file = `${key}.${crypto.randomUUID()}`;
    let total = 0;
    try {
        const { blob, ...got } = await download(url, wanted, async (stream, length) => {
            total = length;
            await checkRoom(url, total);
            return files.write(file, stream);
        });
        /** @type {Entry} */
        const entry = { url, ...got, savedAt: Date.now(), file };
        await files.write(`${key}.json`, new Blob([JSON.stringify(entry)]).stream());
        await sweep(files, key, file);
        return blob;
    } catch (error) {
        await files.remove(file);
        throw isQuotaError(error) ? await quotaError(url, total, error) : toError(error, "network");
    }
}

/**
 * Forgets what else there is of a URL: the version before, and what a tab that was closed amid a
 * download left behind.
 *
 * @param {Store} files
 * @param {string} key
 * @param {string} file
 */
async function sweep(files, key, file) {
    for (const name of await files.names()) {
        const isOther = name !== `${key}.json` && name !== file;
        if (isOther && name.startsWith(`${key}.`)) await files.remove(name);
    }
}

/** @param {string} url */
async function keyOf(url) {
    const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(url));
    const bytes = new Uint8Array(digest, 0, 16);
    return Array.from(bytes, byte => byte.toString(16).padStart(2, "0")).join("");
}

/** @param {Store} files @param {string} key @returns {Promise<Entry | undefined>} */
async function readEntry(files, key) {
    const text = await (await files.read(`${key}.json`))?.text();
    try {
        return text ? JSON.parse(text) : undefined;
    } catch {
        // Not ours to mend: the next download writes it anew.
        return undefined;
    }
}

/** The models and data sets kept in this browser for this site. */
export const cache = {
    /** @returns {Promise<CachedFile[]>} */
    async list() {
        const files = await store();
        const list = [];
        for (const name of await files.names()) {
            const entry = name.endsWith(".json") && (await readEntry(files, name.slice(0, -5)));
            if (!entry) continue;
            const { file: _, ...shown } = entry;
            list.push(shown);
        }
        return list.sort((a, b) => a.savedAt - b.savedAt);
    },

    /** @param {string} [url] */
    async clear(url) {
        const files = await store();
        const prefix = url === undefined ? "" : `${await keyOf(url)}.`;
        const names = (await files.names()).filter(name => name.startsWith(prefix));
        // Entries first: what they name must not vanish from under them.
        names.sort((a, b) => Number(b.endsWith(".json")) - Number(a.endsWith(".json")));
        for (const name of names) await files.remove(name);
    },

    usage,
};
