// @ts-check
/**
 * The settings of a training: for each one a control, `t-NAME` in index.html, with the package's
 * default. A control whose setting does not matter is hidden, and its setting left to the package.
 */

import { box, byId, input } from "../dom.js";

/** @import { ModelInfo, TrainConfig, TrainingExample } from "../../src/web/js/engram" */

/** Tells whether the control of a name has one of these values. @typedef {(name: string, ...values: string[]) => boolean} Is */
/** Whether a setting matters, by others. @typedef {(is: Is) => boolean} When */
/**
 * A control: what it says for a value and, an error if nothing sensible, what value it says.
 * @template T
 * @typedef {{ initial: T, when: When, show: (value: T) => string, read: (text: string) => T }} Control
 */
/** @typedef {Partial<{ [Name in keyof typeof CONTROLS]: (typeof CONTROLS)[Name]["initial"] }>} Values */

const KEYS = [
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
];

/** @type {When} */ const always = () => true;
/** @type {When} */ const isAdapter = is => !is("adapter_type", "full");
/** @type {When} */ const isAdam = is => is("optimizer", "adam", "adamw");
/** @type {When} */ const isAdafactor = is => is("optimizer", "adafactor");
/** @type {When} */ const hasMomentum = is => is("optimizer", "sgd", "muon");
/** @type {When} */ const isSft = is => !is("train_mode", "dpo");

/** @param {number} initial @returns {Control<number>} */
const number = (initial, when = always) => ({ initial, when, show: String, read: Number });

/** A number, or nothing. @returns {Control<number | null>} */
const maybe = (when = always) => ({
    initial: null, when, show: value => String(value ?? ""), read: text => (text === "" ? null : Number(text)),
});

/** @param {boolean} initial @returns {Control<boolean>} */
const check = (initial, when = always) => ({ initial, when, show: String, read: text => text === "true" });

/** @param {string} initial @returns {Control<string>} */
const choice = (initial, when = always) => ({ initial, when, show: String, read: String });

/** Words divided by commas. @param {readonly string[]} initial @returns {Control<readonly string[]>} */
const names = (initial, when = always) => ({
    initial, when, show: value => value.join(", "), read: text => text.split(",").map(word => word.trim()).filter(Boolean),
});

/** Patterns with a number each; a pattern may hold commas. @returns {Control<Readonly<Record<string, number>>>} */
const patterns = (when = always) => ({
    initial: {},
    when,
    show: value => Object.entries(value).map(entry => entry.join("=")).join(", "),
    read: text => {
        const entry = /\s*(\S[^=]*?)\s*=\s*([\d.]+)\s*(?:,|$)/y;
        /** @type {Record<string, number>} */
        const read = {};
        while (entry.lastIndex < text.trimEnd().length) {
            const from = entry.lastIndex;
            const [, pattern = "", value] = entry.exec(text) ?? [];
            if (!Number.isFinite(Number(value ?? NaN))) throw new Error(`\`${text.slice(from).trim()}\` is not PATTERN=NUMBER, such as q_proj=4; commas divide several`);
            read[pattern] = Number(value);
        }
        return read;
    },
});

/** @type {Control<readonly [number, number]>} */
const betas = {
    initial: [0.9, 0.999],
    when: isAdam,
    show: value => value.join(", "),
    read: text => {
        const [first = NaN, second = NaN, ...more] = text.split(",").map(word => (word.trim() ? Number(word) : NaN));
        if (more.length || Number.isNaN(first + second)) throw new Error(`\`${text}\` is not two numbers, such as 0.9, 0.999`);
        return [first, second];
    },
};

const CONTROLS = {
    iters: number(100),
    learning_rate: number(1e-5),
    batch_size: number(4),
    rank: number(8, isAdapter),

    adapter_type: choice("lora"),
    scale: number(20, isAdapter),
    num_layers: number(16),
    dropout: number(0, is => isAdapter(is) && isSft(is)),
    keys: names(KEYS, isAdapter),
    rank_pattern: patterns(isAdapter),
    alpha_pattern: patterns(isAdapter),
    modules_to_save: names([]),

    optimizer: choice("adam"),
    weight_decay: number(0, is => !is("optimizer", "adam")),
    betas,
    eps: number(1e-8, isAdam),
    bias_correction: check(true, isAdam),
    momentum: maybe(hasMomentum),
    nesterov: choice("", hasMomentum),
    relative_step: check(true, isAdafactor),
    scale_parameter: check(true, isAdafactor),
    // These are `lr_schedule` together.
    schedule: choice("constant"),
    lr_end: number(0, is => is("schedule", "linear_schedule", "cosine_decay")),
    lr_factor: number(0.9, is => is("schedule", "exponential_decay", "step_decay")),
    lr_interval: number(10, is => is("schedule", "step_decay")),
    warmup: number(0),
    warmup_init: number(0, is => !is("warmup", "", "0")),
    max_grad_norm: maybe(),
    grad_accumulation_steps: number(1),

    train_mode: choice("sft"),
    beta: number(0.1, is => !isSft(is)),
    // This is `mask_prompt` and `assistant_only_loss`, of which there can be one.
    loss: choice("all", isSft),
    max_seq_length: number(2048),
    seed: number(0),
    semantics: choice("engram", isSft),
    grad_checkpoint: check(false),

    steps_per_report: number(10),
    steps_per_eval: number(50),
    val_batches: number(-1),
    // The page's own.
    patience: maybe(is => !is("val_batches", "0")),
    questions: maybe(is => isSft(is) && !is("val_batches", "0")),
};

const NAMES = /** @type {(keyof typeof CONTROLS)[]} */ (Object.keys(CONTROLS));

/** The original experiment's settings, as far as the model has the blocks. @param {ModelInfo} [model] @returns {Values} */
export function original(model) {
    return { num_layers: Math.min(CONTROLS.num_layers.initial, model?.layers ?? Infinity) };
}

/** @param {ModelInfo} model @returns {Values} */
export function recommended(model) {
    // The tiny model's: two blocks of its four learn nearly as well, in half the time.
    return model.parameters < 5e6
        ? {
              iters: 30, learning_rate: 1e-3, num_layers: 2, steps_per_report: 5, steps_per_eval: 15, val_batches: 2,
              loss: "mask_prompt", max_seq_length: model.contextLength,
          }
        : { learning_rate: 1e-4, loss: "mask_prompt", max_seq_length: 512 };
}

/** Puts values into the controls, the defaults where there is none. @param {Values} values */
export function fill(values) {
    for (const name of NAMES) {
        const { initial, show } = /** @type {Control<unknown>} */ (CONTROLS[name]);
        write(name, show(values[name] ?? initial));
    }
    showRelevant();
}

/** Hides what does not matter, and says of each choice what it does. */
export function showRelevant() {
    /** @type {Is} */
    const is = (name, ...values) => values.includes(text(name));
    for (const name of NAMES) {
        const element = control(name), isRelevant = CONTROLS[name].when(is);
        element.disabled = !isRelevant;
        (element.closest("label") ?? element).hidden = !isRelevant;
        const note = document.getElementById(`t-${name}-note`);
        if (note && element instanceof HTMLSelectElement) note.textContent = element.selectedOptions[0]?.title ?? "";
    }
}

/**
 * What the controls say, as the package takes it, after how many validations without gain the run ends,
 * and how many test questions are asked at each. Throws an error of one line that names the control.
 * @returns {{ config: TrainConfig, patience: number | null, questions: number | null }}
 */
export function settings() {
    const { loss, nesterov, schedule, lr_end, lr_factor, lr_interval, warmup, warmup_init, patience = null, questions = null, ...given } = values();
    const config = /** @type {TrainConfig} */ (given);
    if (loss === "mask_prompt" || loss === "assistant_only_loss") config[loss] = true;
    if (nesterov) config.nesterov = nesterov === "true";
    const { learning_rate = 0, iters = 0, grad_accumulation_steps = 1 } = config;
    // The package joins a schedule to its warm-up one update after it.
    const updates = Math.max(1, Math.floor(iters / grad_accumulation_steps) - (warmup ? warmup + 1 : 0));
    const name = /** @type {NonNullable<TrainConfig["lr_schedule"]>["name"]} */ (schedule);
    const args = {
        constant: [],
        linear_schedule: lr_end ? [learning_rate, lr_end, updates] : [],
        cosine_decay: lr_end ? [learning_rate, updates, lr_end] : [],
        exponential_decay: [learning_rate, lr_factor ?? 1],
        step_decay: [learning_rate, lr_factor ?? 1, lr_interval ?? 1],
    };
    if (name !== "constant" || warmup) config.lr_schedule = { name, arguments: args[name], warmup, warmup_init };
    return { config, patience, questions };
}

/** Why the chosen way of learning can't learn from these; nothing if it can. @param {readonly TrainingExample[]} examples */
export function mismatch(examples) {
    const pairs = examples.filter(example => "chosen" in example).length;
    const isDpo = text("train_mode") === "dpo";
    if (!isDpo && pairs) return "These examples are preference pairs, a chosen and a rejected answer each: they are learned from by DPO.";
    if (isDpo && pairs < examples.length) {
        return `DPO learns from preference pairs, and ${pairs ? `${examples.length - pairs} of these examples are none` : "these examples have one answer each"}: `
            + 'bring JSON lines such as {"prompt": "…", "chosen": "…", "rejected": "…"} on the Data panel.';
    }
    return "";
}

/** The shown controls' values. */
function values() {
    /** @type {Record<string, unknown>} */
    const all = {};
    for (const name of NAMES) {
        const element = control(name);
        if (element.disabled) continue;
        try {
            all[name] = CONTROLS[name].read(text(name));
        } catch (error) {
            const label = element.closest("label")?.firstChild?.textContent?.trim();
            throw new Error(`${label}: ${error instanceof Error ? error.message : error}`);
        }
    }
    return /** @type {Values} */ (all);
}

/** @param {string} name */
function control(name) {
    const element = box(`t-${name}`);
    if (element instanceof HTMLInputElement || element instanceof HTMLSelectElement) return element;
    return byId(`t-${name}`, HTMLFieldSetElement);
}

/** What a control says: a fieldset, which of its boxes are checked. @param {string} name */
function text(name) {
    const element = control(name);
    if (element instanceof HTMLFieldSetElement) return boxes(element).filter(box => box.checked).map(box => box.value).join();
    return element.type === "checkbox" ? String(input(element.id).checked) : element.value;
}

/** @param {string} name @param {string} value */
function write(name, value) {
    const element = control(name);
    if (element instanceof HTMLFieldSetElement) for (const box of boxes(element)) box.checked = value.split(", ").includes(box.value);
    else if (element.type === "checkbox") input(element.id).checked = value === "true";
    else element.value = value;
}

/** @param {HTMLFieldSetElement} element */
const boxes = element => [...element.querySelectorAll("input")];
