// @ts-check
/** One download of a URL at a time, over all tabs and workers of the site. */

/**
 * @typedef {(loaded: number, total: number) => void} Report
 */

/**
 * Runs `task` when nobody else runs one for `url`, and reports the progress of whoever does.
 *
 * @template T
 * @param {string} url
 * @param {{ signal?: AbortSignal, onProgress?: Report }} watch
 * @param {(report: Report) => Promise<T>} task
 * @returns {Promise<T>}
 */
export async function locked(url, { signal, onProgress = () => {} }, task) {
    if (!globalThis.navigator?.locks) return task(onProgress);
    const channel = new BroadcastChannel("engram");
    channel.onmessage = ({ data }) => {
        if (data.url === url) onProgress(data.loaded, data.total);
    };
    /** @type {Report} */
    const report = (loaded, total) => {
        channel.postMessage({ url, loaded, total });
        onProgress(loaded, total);
    };
    try {
        return await navigator.locks.request(`engram: ${url}`, { signal }, async () => {
            // From here on it is we who report.
            channel.onmessage = null;
            return task(report);
        });
    } finally {
        channel.close();
    }
}
