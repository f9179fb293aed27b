// @ts-check
/** Data sets: of the Hugging Face hub, or a file at a URL. */

/** @import { DatasetOptions, Splits, TrainingExample } from "./engram" */
/** @import { SetName } from "./layout.js" */
/** @import { Chosen } from "./parts.js" */
/** @import { HubFile, HubSpec, Repository } from "./repository.js" */
/** @import { Slice } from "./slice.js" */

import { cache, fetchFile } from "./cache.js";
import { readBlob } from "./data.js";
import { EngramError, throwIfAborted, toError } from "./errors.js";
import { isData, SETS, standing } from "./layout.js";
import { vendor } from "./packages.js";
import { choose, configsOf } from "./parts.js";
import { MOST_BYTES } from "./parquet.js";
import { openRepository, parseSpec, show } from "./repository.js";
import { mostNeeded, rangeOf, splitSlice } from "./slice.js";
import { isRemote, toUrl } from "./source.js";

/** Most bytes of all files together: their examples are in the tab's memory. */
const MOST_IN_ALL = 2 ** 30;
/** The description of a data set, whose head may say what is where. */
const CARD = "README.md";

/**
 * @param {string} source
 * @param {DatasetOptions} [options]
 * @returns {Promise<Partial<Splits>>}
 */
export async function loadDataset(source, options = {}) {
    const { signal } = options;
    try {
        throwIfAborted(signal);
        if (typeof source !== "string") throw new EngramError("invalid", "a data set is named by a text");
        const url = toUrl(source);
        return url ? { train: await fromUrl(url, options) } : await fromHub(source, options);
    } catch (error) {
        throw toError(error, signal?.aborted ? "aborted" : "internal");
    }
}

/** @param {URL} url @param {DatasetOptions} options */
async function fromUrl(url, { cache: mode = "use", signal, onProgress }) {
    const name = decodeURIComponent(url.pathname.split("/").pop() ?? "");
    if (!isData(name)) {
        const advice = "a data set of the hub is named hf:ORG/NAME";
        throw new EngramError("data", `${url.href}: no file whose name ends in .jsonl, .json, .csv or .parquet; ${advice}`);
    }
    const blob = await fetchFile(url.href, {
        mode: isRemote(url) ? mode : "none",
        signal,
        onProgress: (loaded, total) => onProgress?.({ loaded, total }),
    });
    return readBlob(name, blob).catch(async error => {
        // What can't be read shall not be found again.
        await cache.clear(url.href);
        throw error;
    });
}

/** @param {string} source @param {DatasetOptions} options */
async function fromHub(source, options) {
    const { spec, slice } = parseSource(source);
    const { signal, onProgress } = options;
    const repository = await openRepository("datasets", spec, options, signal);
    const sets = await filesOf(repository, spec);

    let done = 0;
    const total = Object.values(sets).flat().reduce((sum, { bytes = 0 }) => sum + bytes, 0);
    /** @type {Partial<Splits>} */
    const splits = {};
    const counts = [];
    for (const set of SETS.filter(set => sets[set].length > 0)) {
        /** @type {TrainingExample[]} */
        const examples = [];
        for (const file of sets[set]) {
            const most = mostNeeded(slice) - examples.length;
            if (most <= 0) break;
            checkSize(spec, file, done);
            const blob = await repository.fetch(file, loaded => onProgress?.({ loaded: done + loaded, total }));
            done += blob.size;
            throwIfAborted(signal);
            const read = await readBlob(`hf:${spec.repository}:${file.name}`, blob, most);
            for (const example of read) examples.push(example);
        }
        const taken = slice ? examples.slice(...rangeOf(slice, examples.length)) : examples;
        if (taken.length > 0) splits[set] = taken;
        counts.push(`${examples.length} of ${set}`);
    }
    if (Object.keys(splits).length > 0) return splits;
    throw new EngramError("data", `${source}: no record of its ${counts.join(", ")} is in the slice ${slice?.shown}`);
}

/**
 * The files of each set that the spec names.
 *
 * @param {Repository} repository
 * @param {HubSpec} spec
 */
async function filesOf(repository, spec) {
    const card = repository.files.find(({ name }) => name === CARD);
    const configs = card ? configsOf(await (await repository.fetch(card)).text(), (await vendor()).parseYaml) : [];
    const files = repository.files
        .filter(({ name }) => isData(name) && !name.startsWith("dataset_info"))
        .sort((a, b) => (a.name < b.name ? -1 : 1));
    const chosen = choose(spec, configs, files);
    if (chosen.length > 0) return divide(chosen, spec.file === undefined);
    const advice = `most data sets have them at hf:${spec.repository}@refs/convert/parquet`;
    throw new EngramError("data", `${show(spec)}: no .jsonl, .json, .csv or .parquet files there; ${advice}`);
}

/**
 * @param {string} source
 * @returns {{ spec: HubSpec, slice: Slice | undefined }}
 */
function parseSource(source) {
    const [text, slice] = splitSlice(source);
    const spec = parseSpec(text);
    if (!spec || spec.file === "") {
        throw new EngramError(
            "invalid",
            `${JSON.stringify(source)} is neither a data set of the hub (hf:ORG/NAME[@REVISION][:PART]) ` +
                "nor a URL; a relative URL begins with ./",
        );
    }
    return { spec, slice };
}

/**
 * The files of each set. Those of one set only, or of none, are trained on, whatever they are called;
 * but a whole data set's names always count.
 *
 * @param {readonly Chosen[]} chosen
 * @param {boolean} isWhole
 * @returns {Record<SetName, HubFile[]>}
 */
function divide(chosen, isWhole) {
    const areOne = !isWhole && new Set(chosen.map(({ set }) => set)).size === 1;
    const of = (/** @type {SetName} */ wanted) => {
        const files = chosen.flatMap(({ set, file }) => ((areOne ? "train" : (set ?? "train")) === wanted ? file : []));
        return isWhole ? standing(files) : files;
    };
    return { train: of("train"), valid: of("valid"), test: of("test") };
}

/** @param {HubSpec} spec @param {HubFile} file @param {number} before Bytes of the files before it. */
function checkSize(spec, { name, bytes = 0 }, before) {
    if (bytes <= MOST_BYTES && before + bytes <= MOST_IN_ALL) return;
    const limit = `a page takes files of up to ${MOST_BYTES} bytes, ${MOST_IN_ALL} in all`;
    const advice = `name a part, as ${show({ ...spec, file: name })}, or take the native command`;
    throw new EngramError("data", `${show(spec)}: ${name} has ${bytes} bytes, after ${before} of others; ${limit}; ${advice}`);
}
