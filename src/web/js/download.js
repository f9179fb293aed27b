// @ts-check
/** A download that is checked on its way. */

/** @import { FetchOptions } from "./cache.js" */

import { EngramError, throwIfAborted, toError } from "./errors.js";
import { hasher } from "./hash.js";

/**
 * Downloads a file into `sink`, which gives it back, and tells what came. The sink is also told how
 * many bytes to expect, 0 if that is not known. Throws if the file is not what it must be.
 *
 * @param {string} url
 * @param {Omit<FetchOptions, "mode">} wanted
 * @param {(stream: ReadableStream<Uint8Array>, total: number) => Promise<Blob>} sink
 * @returns {Promise<{ blob: Blob, bytes: number, etag: string | null, sha256: string }>}
 */
export async function download(url, wanted, sink) {
    const { signal, shown = url, onProgress = () => {} } = wanted;
    const response = await ask(url, shown, signal);
    const length = promisedLength(response);
    const total = wanted.bytes ?? Number(response.headers.get("content-length") ?? 0);

    let bytes = 0;
    const sum = await hasher();
    /** @type {TransformStream<Uint8Array<ArrayBuffer>, Uint8Array<ArrayBuffer>>} */
    const checked = new TransformStream({
        transform(chunk, controller) {
            bytes += chunk.length;
            sum.update(chunk);
            onProgress(bytes, total);
            controller.enqueue(chunk);
        },
    });
    const stream = (response.body ?? new Blob([]).stream()).pipeThrough(checked, { signal });
    try {
        const blob = await sink(stream, total);
        throwIfAborted(signal);
        const expected = wanted.bytes ?? length;
        if (expected !== undefined && bytes !== expected) {
            throw damaged(shown, `${bytes} bytes came instead of ${expected}`);
        }
        const sha256 = sum.hex();
        if (wanted.sha256 !== undefined && sha256 !== wanted.sha256) {
            throw damaged(shown, `its SHA-256 is ${sha256} instead of ${wanted.sha256}`);
        }
        if (wanted.isGguf) await checkGguf(blob, shown);
        return { blob, bytes, etag: response.headers.get("etag"), sha256 };
    } catch (error) {
        // A sink that refused has not begun to read; a stream that failed can't be cancelled.
        if (!stream.locked) await stream.cancel().catch(() => {});
        throwIfAborted(signal);
        if (error instanceof TypeError) throw brokenOff(shown, error);
        throw error;
    } finally {
        sum.free();
    }
}

/** @param {string} url @param {string} shown @param {AbortSignal | undefined} signal */
async function ask(url, shown, signal) {
    let response;
    try {
        // We keep it ourselves: the browser's own cache would keep it a second time.
        response = await fetch(url, { signal, cache: "no-store" });
    } catch (error) {
        if (signal?.aborted) throw toError(error, "aborted");
        throw unreachable(shown, url, error);
    }
    if (response.ok) return response;
    await response.body?.cancel();
    throw new EngramError("network", `${shown}: ${refusal(response.status, url)}`);
}

/** @param {number} status @param {string} url */
function refusal(status, url) {
    const { host } = new URL(url);
    if (status === 404) return `no such file, repository or revision at ${host}`;
    if (status === 401 || status === 403) {
        return (
            `no access (${status}): check the name; if it is gated or private, download it ` +
            "yourself and load the files"
        );
    }
    return `${host} answered ${status}; try again later`;
}

/** @param {string} shown @param {string} url @param {unknown} cause */
function unreachable(shown, url, cause) {
    const { message } = toError(cause);
    const advice = "check the network, or load it from a file";
    const where = new URL(url).host || url;
    return new EngramError("network", `${shown}: no answer from ${where} (${message}); ${advice}`, {
        cause,
    });
}

/** @param {string} shown @param {TypeError} cause */
function brokenOff(shown, cause) {
    const advice = "check the network and try again";
    const message = `${shown}: the download broke off (${cause.message}); ${advice}`;
    return new EngramError("network", message, { cause });
}

/** @param {string} shown @param {string} problem */
function damaged(shown, problem) {
    const advice = "try again; if it repeats, the file is another one";
    return new EngramError("integrity", `${shown}: ${problem}; ${advice}`);
}

/**
 * How many bytes must come. Of a compressed transfer and of another site's, whose compression is
 * hidden from us, the header tells another number; the browser itself watches the transfer's.
 *
 * @param {Response} response
 */
function promisedLength(response) {
    const length = response.headers.get("content-length");
    const isHidden = response.type !== "basic" || response.headers.has("content-encoding");
    return length === null || isHidden ? undefined : Number(length);
}

/** @param {Blob} blob @param {string} shown */
async function checkGguf(blob, shown) {
    if ((await blob.slice(0, 4).text()) === "GGUF") return;
    throw new EngramError("format", `${shown}: not a GGUF file`);
}
