// @ts-check
/** Models of the Hugging Face hub. The native runner picks the same files (`source/hub.rs`). */

/** @import { LoadOptions } from "./engram" */
/** @import { HubFile, HubSpec } from "./repository.js" */
/** @import { Watch } from "./source.js" */

import { EngramError } from "./errors.js";
import { isPlain, openRepository, parse, parseSpec, show } from "./repository.js";

/** @typedef {{ name: string, blob: Blob }} ModelFile */

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
    const spec = parseSpec(text);
    // OWNER/NAME and a relative path look alike, but no repository is called so.
    const isPath = spec && /\.(gguf|safetensors)$/.test(spec.repository);
    if (!spec || isPath || (spec.file !== undefined && !isPlain(spec.file))) {
        throw new EngramError(
            "invalid",
            `${JSON.stringify(text)} is neither an id of the hub (hf:OWNER/NAME[@REVISION][:FILE]) ` +
                "nor a URL; a relative URL begins with ./",
        );
    }
    if (spec.file !== undefined && !spec.file.endsWith(".gguf")) {
        throw new EngramError("invalid", `${text}: a file of a repository has to be a .gguf`);
    }
    return spec;
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
    const { sha256 } = options;
    const shown = show(spec);
    const repository = await openRepository("models", spec, options, signal);
    const { files } = repository;

    let done = 0;
    let total = 0;
    /** @param {HubFile} file @returns {Promise<ModelFile>} */
    const fetch = async file => {
        const blob = await repository.fetch(file, loaded => onProgress(done + loaded, total));
        done += blob.size;
        return { name: file.name, blob };
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

/** @param {string} text @param {string} shown @returns {string[]} The shards, each once. */
function parseIndex(text, shown) {
    const damaged = () => fail(`${shown}: ${WEIGHTS_INDEX} does not list the weights' files`);
    const { weight_map: map } = /** @type {Record<string, unknown>} */ (parse(text) ?? damaged());
    const shards = [...new Set(Object.values(map ?? {}))].map(String).sort();
    return shards.length > 0 && shards.every(isPlain) ? shards : damaged();
}
