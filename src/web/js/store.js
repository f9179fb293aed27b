// @ts-check
/**
 * Where downloads are kept: files by name, each whole or not there. The origin private file system
 * where the browser can write to it, else the Cache API, else memory.
 */

/**
 * @typedef {object} Store
 * @property {(name: string, bytes: ReadableStream<Uint8Array>) => Promise<Blob>} write
 *     Keeps the file if the stream ends well, nothing if it does not.
 * @property {(name: string) => Promise<Blob | undefined>} read
 * @property {(name: string) => Promise<void>} remove
 * @property {() => Promise<string[]>} names
 */

import { EngramError } from "./errors.js";

const NAME = "engram";

/** @type {Promise<Store> | undefined} */
let chosen;

/** @returns {Promise<Store>} */
export function store() {
    chosen ??= choose();
    return chosen;
}

async function choose() {
    // Either may be there and yet refuse, as in a private window.
    try {
        if ("createWritable" in FileSystemFileHandle.prototype) {
            const root = await navigator.storage.getDirectory();
            return opfs(await root.getDirectoryHandle(NAME, { create: true }));
        }
    } catch {
        // The next one, then.
    }
    try {
        return cacheApi(await caches.open(NAME));
    } catch {
        return memory();
    }
}

/** @param {FileSystemDirectoryHandle} folder @returns {Store} */
export function opfs(folder) {
    /** @param {string} name */
    const remove = async name => {
        // It may be gone, or another tab may be reading it; either is none of our business.
        await folder.removeEntry(name).catch(() => {});
    };
    return {
        remove,
        async write(name, bytes) {
            const file = await folder.getFileHandle(name, { create: true });
            try {
                // What is written shows in the file only when the stream is closed.
                await bytes.pipeTo(await file.createWritable());
                return await file.getFile();
            } catch (error) {
                await remove(name);
                throw error;
            }
        },
        async read(name) {
            try {
                return await (await folder.getFileHandle(name)).getFile();
            } catch {
                return undefined;
            }
        },
        async names() {
            const names = [];
            for await (const name of folder.keys()) names.push(name);
            return names;
        },
    };
}

/** @param {Cache} cache @returns {Store} */
export function cacheApi(cache) {
    // Its keys are addresses. This one is reserved: no request ever asks for it.
    const base = "https://engram.invalid/";
    /** @param {string} name */
    const read = async name => (await cache.match(base + name))?.blob();
    return {
        read,
        async write(name, bytes) {
            await cache.put(base + name, new Response(bytes));
            return (await read(name)) ?? gone(name);
        },
        async remove(name) {
            await cache.delete(base + name);
        },
        async names() {
            return (await cache.keys()).map(request => request.url.slice(base.length));
        },
    };
}

/** @param {string} name @returns {never} */
function gone(name) {
    // The browser may evict when it likes.
    throw new EngramError("quota", `the browser did not keep ${name}; free disk space`);
}

/** @returns {Store} */
export function memory() {
    /** @type {Map<string, Blob>} */
    const files = new Map();
    return {
        async write(name, bytes) {
            const blob = await new Response(bytes).blob();
            files.set(name, blob);
            return blob;
        },
        async read(name) {
            return files.get(name);
        },
        async remove(name) {
            files.delete(name);
        },
        async names() {
            return [...files.keys()];
        },
    };
}
