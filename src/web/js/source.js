// @ts-check
/** Whatever a model can come from, as files. */

/** @import { LoadOptions, Source } from "./engram" */
/** @import { ModelFile } from "./hub.js" */

import { cache, fetchFile } from "./cache.js";
import { EngramError } from "./errors.js";
import { fetchModel, parseHub } from "./hub.js";

/**
 * @typedef {object} Watch
 * @property {AbortSignal} [signal]
 * @property {(loaded: number, total: number) => void} onProgress Bytes of the download.
 */

/**
 * The files of a model, downloaded where they have to be, and what reports call it. `forget` is for
 * a download that turns out to be no model.
 *
 * @param {Source} source
 * @param {LoadOptions} options
 * @param {Watch} watch
 * @returns {Promise<{ files: ModelFile[], name: string, forget?: () => Promise<void> }>}
 */
export async function resolve(source, options, watch) {
    const url = typeof source === "string" || source instanceof URL ? toUrl(source) : undefined;
    if (typeof source === "string" && !url) {
        const spec = parseHub(source);
        return { files: await fetchModel(spec, options, watch), name: source };
    }
    if (url) {
        const name = decodeURIComponent(url.pathname.split("/").pop() || url.hostname);
        const blob = await fetchUrl(url, options, watch);
        return { files: [{ name, blob }], name, forget: () => cache.clear(url.href) };
    }
    if (Array.isArray(source)) return fromFiles(source);
    const blob = await toBlob(/** @type {Exclude<Source, string | URL | readonly File[]>} */ (source));
    const name = blob instanceof File ? blob.name : "model.gguf";
    return { files: [{ name, blob }], name };
}

/**
 * The source as another thread understands it: URLs whole, and bytes as handles that cost nothing
 * to send.
 *
 * @param {Source} source
 * @returns {Promise<string | Blob | readonly File[]>}
 */
export async function portable(source) {
    if (source instanceof URL) return source.href;
    if (typeof source === "string") return toUrl(source)?.href ?? source;
    if (Array.isArray(source)) return source;
    return toBlob(/** @type {Exclude<Source, string | URL | readonly File[]>} */ (source));
}

/** The URL that a text is, if it is one, relative ones as of the page. @param {string | URL} source */
export function toUrl(source) {
    if (typeof source === "string" && !/^(\.{0,2}\/|(https?|blob|data|file):)/.test(source)) return undefined;
    const url = new URL(source, globalThis.document?.baseURI ?? globalThis.location?.href);
    // A fragment is not part of what the server is asked for.
    url.hash = "";
    return url;
}

/** Whether it is worth keeping: what is in the page's memory need not be there twice. @param {URL} url */
export function isRemote(url) {
    return /^https?:$/.test(url.protocol);
}

/** @param {URL} url @param {LoadOptions} options @param {Watch} watch */
function fetchUrl(url, { cache: mode = "use", sha256 }, watch) {
    return fetchFile(url.href, { mode: isRemote(url) ? mode : "none", sha256, isGguf: true, ...watch });
}

/** @param {readonly File[]} files */
function fromFiles(files) {
    const [first] = files;
    if (!first) throw new EngramError("invalid", "no file was given");
    const folder = first.webkitRelativePath?.split("/")[0];
    const name = files.length === 1 ? first.name : folder || "model";
    return { files: files.map(file => ({ name: file.name, blob: file })), name };
}

/** @param {Blob | ReadableStream<Uint8Array> | Uint8Array | ArrayBuffer} source */
async function toBlob(source) {
    if (source instanceof Blob) return source;
    if (source instanceof ReadableStream) return new Response(source).blob();
    if (source instanceof ArrayBuffer || ArrayBuffer.isView(source)) {
        return new Blob([/** @type {BlobPart} */ (source)]);
    }
    throw new EngramError(
        "invalid",
        "a model comes from a URL, a hub id, a file, the files of a folder, a stream or bytes",
    );
}
