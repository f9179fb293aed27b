// @ts-check
/**
 * The kernels' variants that were found to be the fastest, by adapter and version. To find them takes
 * seconds at most, so that a store that fails only means to find them again.
 */

/** @import { DeviceInfo } from "./engram" */
/** @import { Tuning } from "./engram_wasm.js" */

import { store } from "./store.js";

/** The file that has them: without the `.json` of the cache's entries. */
const FILE = "variants";

/**
 * @param {() => void} begin Called when they are being found.
 * @returns {Tuning}
 */
export function tuning(begin) {
    return {
        begin,
        async recall(key) {
            return (await read())[key];
        },
        async remember(key, variants) {
            try {
                const known = JSON.stringify({ ...(await read()), [key]: variants });
                await (await store()).write(FILE, new Blob([known]).stream());
            } catch {
                // They are found again, then.
            }
        },
    };
}

/** @returns {Promise<Record<string, DeviceInfo["variants"]>>} Of what is damaged, nothing. */
async function read() {
    try {
        const file = await (await store()).read(FILE);
        return JSON.parse((await file?.text()) ?? "{}") ?? {};
    } catch {
        return {};
    }
}
