// @ts-check
/** Models of the Hugging Face hub. The native runner picks the same files (`source/hub.rs`). */

/** @import { LoadOptions } from "./engram" */
/** @import { Watch } from "./source.js" */

import { fetchFile } from "./cache.js";
import { EngramError } from "./errors.js";

/** @typedef {{ name: string, blob: Blob }} ModelFile */
/** @typedef {{ repository: string, revision: string, file: string | undefined }} HubSpec */
/** @typedef {{ name: string, bytes: number | undefined, sha256: string | undefined }} HubFile */

const ENDPOINT = "https://huggingface.co";
const MAIN = "main";
/** Files of a checkpoint beside its weights; the first two have to be there. */
const SIDE_FILES = [
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "chat_template.jinja",
];
const REQUIRED = SIDE_FILES.slice(0, 2);
const WEIGHTS = "model.safetensors";
const WEIGHTS_INDEX = "model.safetensors.index.json";

/**
 * `hf:OWNER/NAME[@REVISION][:FILE]`, or the same without `hf:`.
 *
 * @param {string} text
 * @returns {HubSpec}
 */
export function parseHub(text) {
    const isMarked = text.startsWith("hf:");
    const [path, file] = cut(isMarked ? text.slice(3) : text, ":");
    const [repository = "", revision = MAIN] = cut(path, "@");
    const parts = repository.split("/").length;
    const isWhole = parts === 2 || (isMarked && parts === 1);
    // OWNER/NAME and a relative path look alike, but no repository is called so.
    const isPath = /\.(gguf|safetensors)$/.test(repository);
    const names = file === undefined ? [repository, revision] : [repository, revision, file];
    if (!isWhole || isPath || !names.every(isPlain)) {
        throw new EngramError(
            "invalid",
            `${JSON.stringify(text)} is neither an id of the hub (hf:OWNER/NAME[@REVISION][:FILE]) ` +
                "nor a URL; a relative URL begins with ./",
        );
    }
    if (file !== undefined && !file.endsWith(".gguf")) {
        throw new EngramError("invalid", `${text}: a file of a repository has to be a .gguf`);
    }
    return { repository, revision, file };
}

/** @param {string} text @param {string} separator @returns {[string, string | undefined]} */
function cut(text, separator) {
    const at = text.indexOf(separator);
    return at < 0 ? [text, undefined] : [text.slice(0, at), text.slice(at + 1)];
}

/** Whether a name is safe in a URL. @param {string} name */
function isPlain(name) {
    const isPart = (/** @type {string} */ part) => /^[\w.+-]+$/.test(part) && !/^\.\.?$/.test(part);
    return name.split("/").every(isPart);
}

/** @param {HubSpec} spec */
function show({ repository, revision, file }) {
    const at = revision === MAIN ? "" : `@${revision}`;
    return `hf:${repository}${at}${file === undefined ? "" : `:${file}`}`;
}

/**
 * The files of a model, from the cache or downloaded.
 *
 * @param {HubSpec} spec
 * @param {LoadOptions} options
 * @param {Watch} watch
 * @returns {Promise<ModelFile[]>}
 */
export async function fetchModel(spec, options, { signal, onProgress }) {
    const { cache: mode = "use", hubEndpoint = ENDPOINT, sha256 } = options;
    const endpoint = hubEndpoint.replace(/\/+$/, "");
    const shown = show(spec);
    // Kept like the files, so that nothing is asked where all is in the cache.
    const url = `${endpoint}/api/models/${spec.repository}/revision/${spec.revision}?blobs=true`;
    const answer = await fetchFile(url, { mode, signal, shown });
    const { commit, files } = parseListing(await answer.text(), shown);

    let done = 0;
    let total = 0;
    /** @param {HubFile} file @returns {Promise<ModelFile>} */
    const fetch = async ({ name, bytes, sha256 }) => {
        // By its commit, so that every file is of one state of the repository.
        const blob = await fetchFile(`${endpoint}/${spec.repository}/resolve/${commit}/${name}`, {
            mode,
            bytes,
            sha256,
            signal,
            isGguf: name.endsWith(".gguf"),
            shown: `${shown}: ${name}`,
            onProgress: loaded => onProgress(done + loaded, total),
        });
        done += blob.size;
        return { name, blob };
    };
    const { picked, shards } = pick(files, spec);
    if (sha256 !== undefined) {
        const [only] = picked;
        if (picked.length !== 1 || !only) {
            const message = `${shown}: sha256 is for a single file, and this model has several`;
            throw new EngramError("invalid", message);
        }
        only.sha256 = sha256.toLowerCase();
    }
    total = sizeOf(picked);
    const model = [];
    for (const file of picked) model.push(await fetch(file));
    if (shards) {
        const index = model[model.length - 1];
        const named = parseIndex((await index?.blob.text()) ?? "", shown);
        const listed = named.map(name => find(files, name) ?? fail(`${shown}: ${name} is missing there`));
        total += sizeOf(listed);
        for (const file of listed) model.push(await fetch(file));
    }
    return model;
}

/** @param {readonly HubFile[]} files */
function sizeOf(files) {
    return files.reduce((sum, file) => sum + (file.bytes ?? 0), 0);
}

/** @param {readonly HubFile[]} files @param {string} name */
function find(files, name) {
    return files.find(file => file.name === name);
}

/** @param {string} message @returns {never} */
function fail(message) {
    throw new EngramError("format", message);
}

/**
 * Which files are the model's; with `shards`, the last one lists further ones.
 *
 * @param {readonly HubFile[]} files
 * @param {HubSpec} spec
 * @returns {{ picked: HubFile[], shards: boolean }}
 */
export function pick(files, spec) {
    const shown = show(spec);
    if (spec.file !== undefined) {
        const one = find(files, spec.file) ?? fail(`${shown}: no such file there`);
        return { picked: [one], shards: false };
    }
    const index = find(files, WEIGHTS_INDEX);
    const weights = index ?? find(files, WEIGHTS);
    if (weights) {
        const missing = REQUIRED.find(name => !find(files, name));
        if (missing) fail(`${shown}: ${missing} is missing there`);
        const beside = files.filter(file => SIDE_FILES.includes(file.name));
        return { picked: [...beside, weights], shards: weights === index };
    }
    const ggufs = files.filter(file => file.name.endsWith(".gguf"));
    const [first] = ggufs;
    if (!first) fail(`${shown}: neither ${WEIGHTS} nor a .gguf file there`);
    if (ggufs.length > 1) {
        const named = show({ ...spec, file: first.name });
        const message = `${shown}: ${ggufs.length} .gguf files there, name one of them, as ${named}`;
        throw new EngramError("invalid", message);
    }
    return { picked: [{ ...first }], shards: false };
}

/**
 * The hub's answer about a revision.
 *
 * @param {string} text
 * @param {string} shown
 * @returns {{ commit: string, files: HubFile[] }}
 */
function parseListing(text, shown) {
    const damaged = () => fail(`${shown}: the hub's answer is not one of a model`);
    const answer = parse(text) ?? damaged();
    const { sha, siblings } = /** @type {Record<string, unknown>} */ (answer);
    if (typeof sha !== "string" || !isPlain(sha) || !Array.isArray(siblings)) return damaged();
    /** @type {HubFile[]} */
    const files = [];
    for (const { rfilename, size, lfs } of siblings) {
        // A name that we would not write into a URL is none of ours.
        if (typeof rfilename !== "string" || !rfilename.split("/").every(isPlain)) continue;
        const sha256 = typeof lfs?.sha256 === "string" ? lfs.sha256 : undefined;
        files.push({ name: rfilename, bytes: typeof size === "number" ? size : undefined, sha256 });
    }
    return { commit: sha, files };
}

/** @param {string} text @param {string} shown @returns {string[]} The shards, each once. */
function parseIndex(text, shown) {
    const damaged = () => fail(`${shown}: ${WEIGHTS_INDEX} does not list the weights' files`);
    const { weight_map: map } = /** @type {Record<string, unknown>} */ (parse(text) ?? damaged());
    const shards = [...new Set(Object.values(map ?? {}))].map(String).sort();
    return shards.length > 0 && shards.every(isPlain) ? shards : damaged();
}

/** @param {string} text @returns {object | undefined} */
function parse(text) {
    try {
        const value = JSON.parse(text);
        return typeof value === "object" && value !== null ? value : undefined;
    } catch {
        return undefined;
    }
}
