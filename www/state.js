// @ts-check
/** What the panels share: the model with its adapters, and the data. Each change is an event. */

import { bundledPatterns, checkPatterns, splitPatterns } from "./engram.js";

/** @import { AdapterInfo, DataProblem, EngineWorker, EvalExample, Pattern, SplitConfig, Splits, TrainingExample } from "../src/web/js/engram" */

/** What a reload of the page can be told about a model. @typedef {{ label: string, source?: string, sha256?: string, quantize?: string }} Remembered */
/** Examples that were brought instead of patterns; sets that are missing are held out of `train`. @typedef {{ name: string } & Pick<Splits, "train"> & Partial<Splits>} Brought */
/** @typedef {"engine" | "adapters" | "data" | "memory" | "run"} Change */

/**
 * What is kept under a name in this browser; nothing, where it keeps nothing.
 * @template T
 * @param {string} name
 * @returns {T | undefined}
 */
export function recall(name) {
    try {
        return JSON.parse(localStorage.getItem(`engram.${name}`) ?? "null") ?? undefined;
    } catch {
        return undefined;
    }
}

/** @param {string} name @param {unknown} value undefined forgets it @returns {boolean} whether it is kept */
export function keep(name, value) {
    try {
        if (value === undefined) localStorage.removeItem(`engram.${name}`);
        else localStorage.setItem(`engram.${name}`, JSON.stringify(value));
        return true;
    } catch {
        return false;
    }
}

export class App {
    #events = new EventTarget();

    /** @type {EngineWorker | undefined} */ engine;
    /** @type {AdapterInfo[]} */ adapters = [];
    /** What each adapter that was trained here was trained on. @type {Map<string, readonly TrainingExample[]>} */ trainedOn = new Map();

    /** @type {Pattern[]} */ patterns = [];
    /** @type {Pattern[]} */ bundled = [];
    /** @type {Brought | undefined} */ brought;
    /** @type {SplitConfig} */ splitConfig = recall("split") ?? {};
    /** @type {Splits | undefined} */ splits;
    /** @type {DataProblem[]} */ problems = [];
    /** Why there are no splits. @type {unknown} */ dataError;
    #turn = 0;

    /** @param {Change} what @param {() => void} listener */
    on(what, listener) {
        this.#events.addEventListener(what, listener);
    }

    /** @param {Change} what */
    changed(what) {
        this.#events.dispatchEvent(new Event(what));
    }

    /** @param {EngineWorker | undefined} engine */
    async setEngine(engine) {
        const before = this.engine;
        this.engine = engine;
        this.adapters = [];
        this.trainedOn.clear();
        this.changed("engine");
        this.changed("adapters");
        await before?.dispose().catch(() => {});
    }

    /** Asks the engine for its adapters anew. */
    async refresh() {
        this.adapters = (await this.engine?.adapters.list()) ?? [];
        this.changed("adapters");
        this.changed("memory");
    }

    /** The name of the adapter in use. */
    get active() {
        return this.adapters.find(adapter => adapter.active)?.name;
    }

    /** Makes an adapter the default, or with `undefined` the bare model. @param {string | undefined} name */
    async use(name) {
        if (!this.engine) return;
        await (name === undefined ? this.engine.adapters.deactivate() : this.engine.adapters.activate(name));
        await this.refresh();
    }

    async loadData() {
        this.bundled = await bundledPatterns();
        const kept = /** @type {unknown} */ (recall("patterns"));
        const ok = Array.isArray(kept) && kept.every(row => row && [row.input, row.output, row.category].every(v => typeof v === "string"));
        await this.setPatterns(ok ? kept : this.bundled.slice());
    }

    /** Whether the patterns are not the bundled ones. */
    get edited() {
        return JSON.stringify(this.patterns) !== JSON.stringify(this.bundled);
    }

    /** @param {Pattern[]} patterns @returns {Promise<boolean>} whether the browser keeps them */
    async setPatterns(patterns) {
        this.patterns = patterns;
        const kept = keep("patterns", this.edited ? patterns : undefined);
        await this.divide();
        return kept;
    }

    /** @param {Brought | undefined} brought */
    async setBrought(brought) {
        this.brought = brought;
        await this.divide();
    }

    /** Checks the data and divides it; the last call wins. */
    async divide() {
        const turn = ++this.#turn;
        keep("split", this.splitConfig);
        /** @type {Splits | undefined} */ let splits;
        /** @type {DataProblem[]} */ let problems = [];
        /** @type {unknown} */ let dataError;
        try {
            if (this.brought) splits = divideExamples(this.brought, this.splitConfig);
            else {
                problems = await checkPatterns(this.patterns);
                if (!problems.length) splits = await splitPatterns(this.patterns, this.splitConfig);
            }
        } catch (error) {
            dataError = error;
        }
        if (turn !== this.#turn) return;
        Object.assign(this, { splits, problems, dataError });
        this.changed("data");
    }
}

/** All examples of what was brought. @param {Brought} brought @returns {TrainingExample[]} */
export const examplesOf = ({ train, valid = [], test = [] }) => [train, valid, test].flat();

/**
 * Examples divided by the same shares as patterns: test, then validation, then training. Sets that come
 * with them stay as they are.
 * @param {Omit<Brought, "name">} brought
 * @param {SplitConfig} config
 * @returns {Splits}
 */
export function divideExamples({ train, valid, test }, { seed = 42, validFraction = 0.2, heldOutFraction = 0.2, protocol = "held-out" }) {
    if (valid && test) return { train, valid, test };
    const shuffled = train.slice();
    let state = seed >>> 0;
    for (let n = shuffled.length - 1; n > 0; n--) {
        // A linear congruential generator: enough to mix, and the same for the same seed.
        state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
        const other = Math.floor((state / 2 ** 32) * (n + 1));
        [shuffled[n], shuffled[other]] = [/** @type {TrainingExample} */ (shuffled[other]), /** @type {TrainingExample} */ (shuffled[n])];
    }
    const tests = test ? 0 : Math.ceil(shuffled.length * heldOutFraction);
    const rest = protocol === "held-out" ? shuffled.slice(tests) : shuffled;
    const valids = valid ? 0 : Math.ceil(rest.length * validFraction);
    return { test: test ?? shuffled.slice(0, tests), valid: valid ?? rest.slice(0, valids), train: rest.slice(valids) };
}

/**
 * The questions that examples ask: a text asks none, a pair has two answers, and a longer chat can't be asked by its last
 * turn.
 * @param {readonly TrainingExample[]} examples
 * @returns {EvalExample[]}
 */
export function questions(examples) {
    return examples.flatMap(example => {
        if ("text" in example || "chosen" in example) return [];
        const category = example.category ?? "all";
        if ("prompt" in example) return [{ prompt: example.prompt, expected: example.completion, category }];
        const turns = example.messages.filter(turn => turn.role !== "system");
        const [question, answer] = turns;
        if (turns.length !== 2 || question?.role !== "user" || answer?.role !== "assistant") return [];
        return [{ prompt: question.content, expected: answer.content, category }];
    });
}
