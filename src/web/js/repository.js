// @ts-check
/** Repositories of the Hugging Face hub: their names, what is in them, and downloads of it. */

/** @import { CacheMode } from "./engram" */

import { fetchFile } from "./cache.js";
import { EngramError } from "./errors.js";

/**
 * `file` is a model's GGUF file, or a part of a data set.
 *
 * @typedef {{ repository: string, revision: string, file: string | undefined }} HubSpec
 */
/** @typedef {{ name: string, bytes: number | undefined, sha256: string | undefined }} HubFile */
/** @typedef {Awaited<ReturnType<typeof openRepository>>} Repository */

const ENDPOINT = "https://huggingface.co";
const MAIN = "main";

/**
 * `hf:OWNER/NAME[@REVISION][:FILE]`, or the same without `hf:`; nothing, if it is neither. The file
 * is not looked at.
 *
 * @param {string} text
 * @returns {HubSpec | undefined}
 */
export function parseSpec(text) {
    const isMarked = text.startsWith("hf:");
    const [path, file] = cut(isMarked ? text.slice(3) : text, ":");
    const [repository = "", revision = MAIN] = cut(path, "@");
    const parts = repository.split("/").length;
    const isWhole = parts === 2 || (isMarked && parts === 1);
    return isWhole && isPlain(repository) && isPlain(revision) ? { repository, revision, file } : undefined;
}

/** @param {string} text @param {string} separator @returns {[string, string | undefined]} */
function cut(text, separator) {
    const at = text.indexOf(separator);
    return at < 0 ? [text, undefined] : [text.slice(0, at), text.slice(at + 1)];
}

/** Whether a name is safe in a URL. @param {string} name */
export function isPlain(name) {
    const isPart = (/** @type {string} */ part) => /^[\w.+-]+$/.test(part) && !/^\.\.?$/.test(part);
    return name.split("/").every(isPart);
}

/** @param {HubSpec} spec */
export function show({ repository, revision, file }) {
    const at = revision === MAIN ? "" : `@${revision}`;
    return `hf:${repository}${at}${file === undefined ? "" : `:${file}`}`;
}

/**
 * What is in a repository, and how to get it: from the cache or downloaded.
 *
 * @param {"models" | "datasets"} kind
 * @param {HubSpec} spec
 * @param {{ cache?: CacheMode, hubEndpoint?: string }} options
 * @param {AbortSignal} [signal]
 */
export async function openRepository(kind, spec, { cache: mode = "use", hubEndpoint = ENDPOINT }, signal) {
    const { repository, revision } = spec;
    const endpoint = hubEndpoint.replace(/\/+$/, "");
    const shown = show(spec);
    const url = `${endpoint}/api/${kind}/${repository}/revision/${encodeURIComponent(revision)}?blobs=true`;
    const ask = (/** @type {CacheMode} */ mode) => fetchFile(url, { mode, signal, shown });
    // Kept like the files, so that nothing need be asked where all is in the cache. A model is then taken
    // as it was; a data set may have grown, as long as the hub can be asked.
    const isAsked = kind === "datasets" && mode === "use";
    const answer = await ask(isAsked ? "refresh" : mode).catch(error => {
        if (isAsked && error.code === "network") return ask("use");
        throw error;
    });
    const { commit, files } = parseListing(await answer.text(), shown);
    // By its commit, so that every file is of one state of the repository.
    const root = `${endpoint}/${kind === "models" ? "" : `${kind}/`}${repository}/resolve/${commit}`;
    return {
        files,
        /** @param {HubFile} file @param {(loaded: number) => void} [onProgress] */
        fetch({ name, bytes, sha256 }, onProgress) {
            return fetchFile(`${root}/${name}`, {
                mode,
                bytes,
                sha256,
                signal,
                isGguf: name.endsWith(".gguf"),
                shown: `${shown}: ${name}`,
                onProgress,
            });
        },
    };
}

/**
 * The hub's answer about a revision.
 *
 * @param {string} text
 * @param {string} shown
 * @returns {{ commit: string, files: HubFile[] }}
 */
function parseListing(text, shown) {
    const { sha, siblings } = /** @type {Record<string, unknown>} */ (parse(text) ?? {});
    if (typeof sha !== "string" || !isPlain(sha) || !Array.isArray(siblings)) {
        throw new EngramError("format", `${shown}: the hub's answer is no list of files`);
    }
    /** @type {HubFile[]} */
    const files = [];
    for (const sibling of siblings) {
        const { rfilename, size, lfs } = sibling ?? {};
        // A name that we would not write into a URL is none of ours.
        if (typeof rfilename !== "string" || !isPlain(rfilename)) continue;
        const sha256 = typeof lfs?.sha256 === "string" ? lfs.sha256 : undefined;
        files.push({ name: rfilename, bytes: typeof size === "number" ? size : undefined, sha256 });
    }
    return { commit: sha, files };
}

/** @param {string} text @returns {object | undefined} */
export function parse(text) {
    try {
        const value = JSON.parse(text);
        return typeof value === "object" && value !== null ? value : undefined;
    } catch {
        return undefined;
    }
}
