// @ts-check
/**
 * Which files of a hub's data set make up what: by its card, or by their names. The native runner
 * picks the same (`dataset/hub.rs`).
 */

/** @import { HubFile, HubSpec } from "./repository.js" */
/** @import { SetName } from "./layout.js" */

import { EngramError } from "./errors.js";
import { isData, setOfPath, setOfWord } from "./layout.js";
import { show } from "./repository.js";

/**
 * A configuration that the card names: its splits, and the patterns of their files.
 *
 * @typedef {{ name: string, isDefault: boolean, splits: [string, string[]][] }} Config
 */
/** @typedef {{ set: SetName | undefined, file: HubFile }} Chosen */

/**
 * The configurations in the head of a card. One that can't be read counts as none.
 *
 * @param {string} card
 * @param {(yaml: string) => unknown} parseYaml
 * @returns {Config[]}
 */
export function configsOf(card, parseYaml) {
    const [, head] = /^\uFEFF?---([^]*?)\n---/.exec(card) ?? [];
    try {
        const { configs } = fieldsOf(head && parseYaml(head));
        return Array.isArray(configs) ? configs.flatMap(value => configOf(fieldsOf(value)) ?? []) : [];
    } catch {
        return [];
    }
}

/** @param {unknown} value @returns {Record<string, unknown>} */
function fieldsOf(value) {
    return typeof value === "object" && value !== null ? /** @type {Record<string, unknown>} */ (value) : {};
}

/** @param {Record<string, unknown>} fields @returns {Config | undefined} */
function configOf({ config_name: name, default: isDefault, data_dir: folder, data_files: files }) {
    const below = typeof folder === "string" ? `${folder.replace(/\/+$/, "")}/` : "";
    const patterns = (/** @type {unknown} */ value) =>
        [value].flat().flatMap(text => (typeof text === "string" ? `${below}${text}` : []));
    const items = Array.isArray(files) ? files.map(fieldsOf) : [];
    const isBySplit = Array.isArray(files) && items.every(item => "path" in item);
    /** @type {[unknown, string[]][]} */
    const splits = isBySplit ? items.map(item => [item.split, patterns(item.path)]) : files ? [["train", patterns(files)]] : [];
    const isWhole = splits.length > 0 && splits.every(([split]) => typeof split === "string");
    if (!isWhole || typeof name !== "string") return undefined;
    return { name, isDefault: isDefault === true, splits: /** @type {Config["splits"]} */ (splits) };
}

/**
 * The files that the part of `spec` names (all, a configuration, a split, or a pattern of files), and
 * the sets that they belong to.
 *
 * @param {HubSpec} spec
 * @param {readonly Config[]} configs
 * @param {readonly HubFile[]} files
 * @returns {Chosen[]}
 */
export function choose(spec, configs, files) {
    const part = spec.file;
    if (part !== undefined && (isData(part) || /[*?[]/.test(part))) {
        const matched = matching(files, [part]);
        return matched.length > 0 ? matched.map(byName) : none(spec, "no such file", files);
    }
    const [first, second] = part === undefined ? [] : cutOnce(part);
    const isConfig = first !== undefined && configs.some(config => config.name === first);
    const config = second || isConfig ? first : undefined;
    const split = second || (isConfig ? undefined : first);
    if (configs.length === 0) return byFolders(spec, config, split, files);

    const names = configs.map(config => config.name);
    const wanted =
        config !== undefined
            ? configs.find(({ name }) => name === config)
            : configs.length === 1
              ? configs[0]
              : configs.find(({ isDefault, name }) => isDefault || name === "default");
    if (!wanted) {
        if (config === undefined) throw unnamed(spec, split, names);
        throw invalid(`${show(spec)}: no configuration ${config} there; there are ${names.join(", ")}`);
    }
    const chosen = wanted.splits
        .filter(([name]) => split === undefined || name === split)
        .flatMap(([name, patterns]) => matching(files, patterns).map(file => ({ set: setOfPath(name), file })));
    if (split !== undefined && chosen.length === 0) {
        const splits = wanted.splits.map(([name]) => name).join(", ");
        throw invalid(`${show(spec)}: no split ${split} there; there are ${splits}`);
    }
    return chosen;
}

/** @param {string} part @returns {[string, string]} */
function cutOnce(part) {
    const at = part.indexOf("/");
    return at < 0 ? [part, ""] : [part.slice(0, at), part.slice(at + 1)];
}

/** @param {HubFile} file @returns {Chosen} */
const byName = file => ({ set: setOfPath(file.name), file });

/** @param {string} message */
function invalid(message) {
    return new EngramError("invalid", message);
}

/**
 * That a data set has several configurations, of which none is named.
 *
 * @param {HubSpec} spec
 * @param {string | undefined} split
 * @param {readonly string[]} names
 */
function unnamed(spec, split, names) {
    const example = `${show({ ...spec, file: undefined })}:${names[0]}${split === undefined ? "" : `/${split}`}`;
    const there = `there are ${names.join(", ")}`;
    return invalid(`${show(spec)} has several configurations, name one of them, as ${example}; ${there}`);
}

/** @param {HubSpec} spec @param {string} what @param {readonly HubFile[]} files @returns {never} */
function none(spec, what, files) {
    const some = files.slice(0, 5).map(file => file.name);
    throw invalid(`${show(spec)}: ${what} there; there are ${some.join(", ") || "none"}${files.length > 5 ? ", …" : ""}`);
}

/**
 * Without a card a configuration is a folder, and a split begins a file's or a folder's name.
 *
 * @param {HubSpec} spec
 * @param {string | undefined} config
 * @param {string | undefined} split
 * @param {readonly HubFile[]} files
 */
function byFolders(spec, config, split, files) {
    const foldersOf = (/** @type {HubFile} */ { name }) => name.split("/").slice(0, -1);
    if (config === undefined && split !== undefined && !setOfWord(split)) {
        // A folder's name, if it is no split's.
        const folder = split;
        if (files.some(file => foldersOf(file).includes(folder))) [config, split] = [folder, undefined];
    }

    const named = files.flatMap(({ name }) => {
        const [folder = "", set = "", ...rest] = name.split("/");
        return rest.length > 0 && setOfWord(set) ? folder : [];
    });
    const configs = [...new Set(named)].sort();
    if (config === undefined && configs.length > 1) throw unnamed(spec, split, configs);

    const chosen = files
        .filter(file => config === undefined || foldersOf(file).includes(config))
        .filter(file => split === undefined || isOfSplit(file, split))
        .map(byName);
    return chosen.length > 0 || spec.file === undefined ? chosen : none(spec, `no file of ${spec.file}`, files);
}

/** @param {HubFile} file @param {string} split */
function isOfSplit({ name }, split) {
    const begins = (/** @type {string} */ part) => part.startsWith(split) && /^($|[-_.])/.test(part.slice(split.length));
    const set = setOfWord(split);
    return name.split("/").some(begins) || (set !== undefined && set === setOfPath(name));
}

/** @param {readonly HubFile[]} files @param {readonly string[]} patterns */
function matching(files, patterns) {
    return patterns.flatMap(pattern => {
        const matches = compile(pattern);
        return files.filter(file => matches.test(file.name));
    });
}

/** A pattern's stars stay within a folder, as in the hub's own tools. @param {string} pattern */
function compile(pattern) {
    const [problem] = [/\*{3}/, /(\*[^*]*){8}/, /\[[^\]]*$/].filter(wrong => wrong.test(pattern));
    if (problem) throw invalid(`${JSON.stringify(pattern)} is no pattern of files`);
    const source = pattern.replace(/\*\*\/|\*\*|\*|\?|\[!?[^\]]+\]|[^]/g, token => {
        if (token === "**/") return "(?:[^/]+/)*";
        if (token === "**") return ".*";
        if (token === "*") return "[^/]*";
        if (token === "?") return "[^/]";
        if (token.length > 1) return token.replace("[!", "[^").replaceAll("\\", "\\\\");
        return token.replace(/[\\^$.|+()[\]{}]/, "\\$&");
    });
    try {
        return new RegExp(`^${source}$`);
    } catch {
        throw invalid(`${JSON.stringify(pattern)} is no pattern of files`);
    }
}
