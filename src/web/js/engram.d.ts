/**
 * Engram: small language models in a page, and LoRA training on them, on WebGPU.
 *
 * ```js
 * import { EngineWorker, Trainer, evaluate } from "engram";
 * const engine = await EngineWorker.load("HuggingFaceTB/SmolLM2-135M-Instruct");
 * const answer = await engine.chat.completions.create({ messages: [{ role: "user", content: "Hi!" }] });
 * ```
 *
 * {@link Engine} computes in the thread that calls it; {@link EngineWorker} has the same interface
 * and computes in a worker of its own, so that the page never waits. Whatever goes wrong is thrown
 * as an {@link EngramError}, whose `code` a program can rely on.
 */

// ---------------------------------------------------------------- loading

/**
 * Where a model comes from:
 * - a URL (absolute, or beginning with `/`, `./` or `../`) of a GGUF file;
 * - an id of the Hugging Face hub: `hf:OWNER/NAME[@REVISION][:FILE]`, or `OWNER/NAME` alone;
 * - a file (a GGUF), or the files of a model folder (`config.json`, `tokenizer.json`,
 *   `*.safetensors` and so on);
 * - a stream or the bytes of a GGUF file.
 */
export type Source =
    | string
    | URL
    | Blob
    | readonly File[]
    | ReadableStream<Uint8Array>
    | Uint8Array
    | ArrayBuffer;

/** How far a load has come. */
export interface LoadProgress {
    /**
     * `download`: from the network into the cache. `tune`: the fastest kernels are being found, once
     * for an adapter; it has no bytes. `load`: from file onto the GPU.
     */
    phase: "download" | "tune" | "load";
    /** Bytes done in this phase. */
    loaded: number;
    /** Bytes of this phase; 0 if the server does not say. */
    total: number;
    /** Seconds since the load began. */
    seconds: number;
}

/** Whether downloads are kept for the next time: taken from the cache, fetched anew, or not kept. */
export type CacheMode = "use" | "refresh" | "none";

/** What weights become at load; by default they stay as they are in the file. */
export type Quantize = "f32" | "f16" | "q8_0" | "q4_0";

/** Options of {@link Engine.load}. */
export interface LoadOptions {
    /** What reports call the model; by default taken from the source. */
    name?: string;
    /** Default: `use`. */
    cache?: CacheMode;
    /** SHA-256 (hexadecimal) that the downloaded file must have; hub files are checked without it. */
    sha256?: string;
    /** What the weights become. */
    quantize?: Quantize;
    /**
     * Whether to measure which kernels are the fastest on this adapter, and to remember it for the
     * next load; default true. False takes those that are safe to take unmeasured.
     */
    autotune?: boolean;
    /** The hub's address; default `https://huggingface.co`. */
    hubEndpoint?: string;
    /** Called at every step of the load. */
    onProgress?: (progress: LoadProgress) => void;
    /** Ends the load; what is downloaded so far is not kept. */
    signal?: AbortSignal;
}

/** What a loaded model is. */
export interface ModelInfo {
    /** As {@link LoadOptions.name}. */
    name: string;
    /** `model_type` of its config, such as `llama`. */
    architecture: string;
    /** Weights in all, without adapters. */
    parameters: number;
    /** Bytes of its files. */
    bytes: number;
    /** Blocks. */
    layers: number;
    /** Tokens it knows. */
    vocabSize: number;
    /** Longest context, tokens. */
    contextLength: number;
    /** Whether it has a chat template. */
    hasChatTemplate: boolean;
}

/** Where it computes. */
export interface DeviceInfo {
    /** The GPU adapter, as far as the browser tells. */
    name: string;
    /** Whether it is the CPU that pretends to be a GPU. */
    isSoftware: boolean;
    /** Largest storage binding, bytes. */
    maxStorageBinding: number;
    /** How matrix products are computed: as measured at the load, or as is safe without. */
    variants: {
        /** Of many tokens. */
        matmul: Variant;
        /** Of many tokens, in a training's backward. */
        matmulTransposed: Variant;
        /** Of one token. */
        matvec: Variant;
    };
}

/**
 * A way to compute the same: `tile` is for GPUs, `loads` for CPUs that pretend to be one, `quads` for such
 * ones with subgroups of four, and `broadcast` for such ones outside of a page.
 */
export type Variant = "tile" | "loads" | "broadcast" | "quads";

/** Bytes in use. */
export interface MemoryInfo {
    /** GPU buffers now. */
    gpu: number;
    /** GPU buffers at most since the load. */
    gpuPeak: number;
    /** The module's own memory. */
    wasm: number;
}

// ---------------------------------------------------------------- chat and text

/** A turn of a chat. */
export interface Message {
    /** Who speaks. */
    role: "system" | "user" | "assistant";
    /** What is said. */
    content: string;
}

/** How tokens are chosen; OpenAI's names where it has one. */
export interface Sampling {
    /** 0 takes the most likely token; default 0. */
    temperature?: number;
    /** Keep the fewest tokens whose probabilities add up to this; default 1. */
    top_p?: number;
    /** Keep this many of the most likely tokens; default 0 keeps all. */
    top_k?: number;
    /** Keep tokens at least this times as likely as the most likely; default 0. */
    min_p?: number;
    /** Above 1 makes tokens of the context less likely; default 1. */
    repeat_penalty?: number;
    /** The same seed gives the same text; default 0. */
    seed?: number;
    /** Most new tokens; default 256, or what the context has room for. */
    max_tokens?: number;
    /** Texts that end the answer and are not part of it. */
    stop?: string | readonly string[];
}

/** Options of every generation. */
export interface GenerateOptions extends Sampling {
    /** Which adapter to use for this one; default the active one, `null` for none. */
    adapter?: string | null;
    /** Ends the answer; the call throws `aborted`, the engine stays usable. */
    signal?: AbortSignal;
    /** Called with each piece of text as it becomes certain. */
    onText?: (text: string) => void;
}

/** Why an answer ended. */
export type FinishReason = "stop" | "length";

/** What an answer cost. */
export interface Usage {
    /** Tokens of the prompt. */
    prompt_tokens: number;
    /** Tokens of the answer. */
    completion_tokens: number;
    /** Both. */
    total_tokens: number;
    /** What OpenAI's usage does not have. */
    extra: {
        /** Prompt tokens that were computed: those of the turns before are in the cache. */
        computed_prompt_tokens: number;
        /** Seconds to the first token. */
        time_to_first_token_s: number;
        /** Seconds from the first token to the last. */
        decode_s: number;
        /** Computed prompt tokens per second. */
        prefill_tokens_per_s: number;
        /** Tokens per second after the first; null if there was only one. */
        decode_tokens_per_s: number | null;
    };
}

/** An answer of {@link Engine.generate}. */
export interface Generated {
    /** The new text. */
    text: string;
    /** Its tokens. */
    tokens: Uint32Array;
    /** Why it ended. */
    finish_reason: FinishReason;
    /** What it cost. */
    usage: Usage;
}

/** Options of `chat.completions.create`. */
export interface ChatCompletionRequest extends Sampling {
    /** The chat so far, the last turn the user's. */
    messages: readonly Message[];
    /** Whether to give the answer in pieces. */
    stream?: boolean;
    /** Which adapter to use for this one; default the active one, `null` for none. */
    adapter?: string | null;
    /** Ends the answer. */
    signal?: AbortSignal;
}

/** A whole answer, shaped as OpenAI's. */
export interface ChatCompletion {
    id: string;
    object: "chat.completion";
    /** Unix time, seconds. */
    created: number;
    model: string;
    choices: [{ index: 0; message: { role: "assistant"; content: string }; finish_reason: FinishReason }];
    usage: Usage;
}

/** A piece of an answer, shaped as OpenAI's. The last one has an empty delta and the usage. */
export interface ChatCompletionChunk {
    id: string;
    object: "chat.completion.chunk";
    /** Unix time, seconds. */
    created: number;
    model: string;
    choices: [{ index: 0; delta: { role?: "assistant"; content?: string }; finish_reason: FinishReason | null }];
    usage?: Usage;
}

/** `engine.chat.completions`. */
export interface Completions {
    /** Answers a chat, in pieces. Leaving the loop ends the answer. */
    create(request: ChatCompletionRequest & { stream: true }): Promise<AsyncIterable<ChatCompletionChunk>>;
    /** Answers a chat. */
    create(request: ChatCompletionRequest & { stream?: false }): Promise<ChatCompletion>;
}

// ---------------------------------------------------------------- adapters

/** Whose file layout an adapter has. */
export type AdapterFormat = "mlx" | "peft";

/** A file by name and content. */
export interface NamedFile {
    name: string;
    bytes: Uint8Array;
}

/** A loaded adapter. */
export interface AdapterInfo {
    /** The name it was loaded under. */
    name: string;
    /** Its rank; the largest, where layers differ. */
    rank: number;
    /** Numbers in it. */
    parameters: number;
    /** Whether generation uses it by default. */
    active: boolean;
}

/** `engine.adapters`: several stay loaded beside the one base model. */
export interface Adapters {
    /**
     * Loads the two files of an adapter (`adapter_config.json` and the safetensors beside it, MLX's
     * or PEFT's), or llama.cpp's one, a GGUF LoRA, under `name`, replacing one of that name.
     */
    load(name: string, files: readonly (File | NamedFile)[]): Promise<AdapterInfo>;
    /** Makes it the default of every generation. */
    activate(name: string): Promise<void>;
    /** Makes the bare model the default. */
    deactivate(): Promise<void>;
    /** All loaded ones. */
    list(): Promise<AdapterInfo[]>;
    /**
     * Adds up loaded LoRA adapters, each times its weight (`{ one: 0.7, other: 0.3 }`), as one more
     * under `name`: exact, its ranks are theirs together.
     */
    blend(name: string, weights: Record<string, number>): Promise<AdapterInfo>;
    /** Forgets it. */
    remove(name: string): Promise<void>;
    /** Its files, in either layout. */
    export(name: string, format: AdapterFormat): Promise<NamedFile[]>;
}

// ---------------------------------------------------------------- engine

/** What {@link Engine} and {@link EngineWorker} have in common. */
export interface EngineInterface {
    /** The model. */
    readonly model: ModelInfo;
    /** The device. */
    readonly device: DeviceInfo;
    /** Chats. */
    readonly chat: { readonly completions: Completions };
    /** Adapters. */
    readonly adapters: Adapters;
    /** Continues a bare prompt, without the chat template. */
    generate(prompt: string, options?: GenerateOptions): Promise<Generated>;
    /** A text's tokens, without special ones around it. */
    tokenize(text: string): Promise<Uint32Array>;
    /** The text of tokens. */
    detokenize(tokens: Uint32Array | readonly number[]): Promise<string>;
    /** How many tokens a text, or a chat in the model's template, has. */
    countTokens(input: string | readonly Message[]): Promise<number>;
    /**
     * Counts a data set before a training of `config` on it: lengths in tokens, over-long examples,
     * duplicates, and prompts of one set that another has too. The same as `engram data stats --json`.
     */
    dataStats(dataset: Partial<Splits>, config?: TrainConfig): Promise<DataStats>;
    /** Bytes in use; may be asked amid other calls. */
    memory(): Promise<MemoryInfo>;
    /** Measures one part of how fast the model is here, on texts that are made up. */
    bench(what: BenchPart, options?: BenchOptions): Promise<Figure[]>;
    /**
     * Opens a new device and loads the model and its adapters onto it again: the remedy for
     * `device-lost`.
     */
    reload(options?: { onProgress?: (progress: LoadProgress) => void; signal?: AbortSignal }): Promise<void>;
    /** For tests: loses the device, as a driver's reset would. */
    loseDevice(): Promise<void>;
    /** Frees the GPU's memory. The engine can't be used afterwards. */
    dispose(): Promise<void>;
}

export interface Engine extends EngineInterface {}
/** A model in the calling thread. */
export class Engine {
    private constructor();
    /** Loads a model. */
    static load(source: Source, options?: LoadOptions): Promise<Engine>;
}

export interface EngineWorker extends EngineInterface {}
/** A model in a worker of its own; the page stays free. */
export class EngineWorker {
    private constructor();
    /** Starts a worker and loads a model there. `worker` is for those who start it themselves. */
    static load(source: Source, options?: LoadOptions & { worker?: Worker }): Promise<EngineWorker>;
    /** Frees the GPU's memory and ends the worker. */
    dispose(): Promise<void>;
}

// ---------------------------------------------------------------- data

/** A pattern: what the user types, what the model should answer, and where it belongs. */
export interface Pattern {
    input: string;
    output: string;
    /** `section/fine` with a section of `code`, `fact`, `format`, `fix`. */
    category: string;
}

/** A problem in data, and the row or line (from 1) it is in. */
export interface DataProblem {
    row: number;
    message: string;
}

/**
 * One training example: a chat, a prompt with its completion, or a text, as MLX-LM takes them; for `dpo`
 * a prompt with an answer that is preferred and one that is not, or two whole chats.
 */
export type TrainingExample =
    | { messages: readonly Message[]; category?: string }
    | { prompt: string; completion: string; category?: string }
    | { prompt: string; chosen: string; rejected: string }
    | { chosen: readonly Message[]; rejected: readonly Message[] }
    | { text: string };

/** What a model is trained on. */
export interface Dataset {
    train: readonly TrainingExample[];
    /** Without it, nothing is validated. */
    valid?: readonly TrainingExample[];
}

/** A data set with questions to evaluate on. */
export interface Splits extends Dataset {
    valid: TrainingExample[];
    train: TrainingExample[];
    test: TrainingExample[];
}

/** Records that repeat others: word for word, or but for white space and the case of letters. */
export interface Repeats {
    exact: number;
    normalized: number;
}

/** What is in one set. */
export interface SetStats {
    records: number;
    /** Records of each form: `chat`, `completions`, `preferences`, `text`. */
    forms: Record<string, number>;
    categories: Record<string, number>;
    duplicates: Repeats;
    /** Lengths in tokens; `trained` carry loss, `histogram` has those of up to 16, 32, 64, … */
    tokens: {
        total: number;
        trained: number;
        min: number;
        median: number;
        mean: number;
        p95: number;
        max: number;
        histogram: { most: number; examples: number }[];
        over_long: number;
        untrained: number;
    };
    /** Examples over the limit, by their number from 0; a training cuts them. */
    over_long: { index: number; tokens: number }[];
    /** What an epoch takes; null where the set makes no batch, and `problem` says why. */
    epoch: { batches: number; tokens: number; most_tokens: number; padding: number } | null;
    problem: string | null;
}

/** What is in a data set; see {@link EngineInterface.dataStats}. */
export interface DataStats {
    max_seq_length: number;
    batch_size: number;
    sets: { train?: SetStats; valid?: SetStats; test?: SetStats };
    /** Prompts of one set that are in another. */
    leaks: (Repeats & { of: string; in: string })[];
    /** Test prompts that the other sets have, `varied` at the end of a longer prompt. */
    tested: { prompts: number; same: number; varied: number } | null;
}

/** How patterns become a data set. */
export interface SplitConfig {
    /** `held-out` (default) tests patterns that were not trained on; `original` repeats the original experiment, whose test set was. */
    protocol?: "held-out" | "original";
    /** Default 42. */
    seed?: number;
    /** Share that becomes validation data; default 0.2. */
    validFraction?: number;
    /** Most test examples of one category; default 3. */
    testPerCategory?: number;
    /** Share of each category that `held-out` keeps for the test; default 0.2. */
    heldOutFraction?: number;
}

/** The patterns that come with the package: 131, the original experiment's kinds and sizes. */
export function bundledPatterns(): Promise<Pattern[]>;
/** Reads a pattern file (YAML). Throws `data` with the file and line. */
export function parsePatterns(name: string, text: string): Promise<Pattern[]>;
/** Patterns as the YAML that {@link parsePatterns} reads. */
export function formatPatterns(patterns: readonly Pattern[]): Promise<string>;
/** What is wrong with patterns, by row; empty if they can be used. */
export function checkPatterns(patterns: readonly Pattern[]): Promise<DataProblem[]>;
/** The inputs that augmentation makes of a pattern, the pattern's own first. */
export function augmentPattern(pattern: Pattern): Promise<string[]>;
/**
 * Reads examples by the end of the name: `.json` is an array or lines, `.csv` has a line of column
 * names, all else is JSON lines. ShareGPT's and Alpaca's records become chats. Throws `data` or
 * `format` with the file and the line or row.
 */
export function parseExamples(name: string, text: string): Promise<TrainingExample[]>;
/**
 * Reads the examples of a `.jsonl`, `.json`, `.csv` or `.parquet` file, by the end of its name, as
 * {@link parseExamples} does; a Parquet file's rows are records. Throws `data` or `format` with the
 * file and the line or row.
 */
export function readExamples(file: File | NamedFile): Promise<TrainingExample[]>;
/** Options of {@link loadDataset}. */
export interface DatasetOptions {
    /** Default: `use`. */
    cache?: CacheMode;
    /** The hub's address; default `https://huggingface.co`. */
    hubEndpoint?: string;
    /** Called with the bytes of the download; `total` is 0 if the server does not say. */
    onProgress?: (progress: { loaded: number; total: number }) => void;
    /** Ends the load. */
    signal?: AbortSignal;
}

/**
 * Loads a data set of the Hugging Face hub, `hf:ORG/NAME[@REVISION][:PART]`, by the same rules as
 * `engram train --data`: all of it by its card or its files' names, or a part, which is a configuration,
 * a split, both (`main/train`), a file or a pattern of files. A slice at the end takes some of each set's
 * records: `[:100]`, `[10%:20%]`, `[-50:]`. A URL is of one file, which becomes `train`.
 */
export function loadDataset(source: string, options?: DatasetOptions): Promise<Partial<Splits>>;
/** Divides patterns into training, validation and test data. */
export function splitPatterns(patterns: readonly Pattern[], config?: SplitConfig): Promise<Splits>;

// ---------------------------------------------------------------- training

/** Settings of a training, with MLX-LM's names; the defaults are the original experiment's. */
export interface TrainConfig {
    /** Answers, or pairs of a chosen and a rejected answer; default `sft`. */
    train_mode?: "sft" | "dpo";
    /** How far DPO lets the model move from what it was; the larger, the less. Default 0.1. */
    beta?: number;
    /**
     * What is trained: LoRA with the scale as it is or times √rank, DoRA, or all weights of the blocks
     * themselves.
     */
    adapter_type?: "lora" | "rslora" | "dora" | "full";
    /** Ranks of layers that have another, by patterns such as those of `keys`; default none. */
    rank_pattern?: Readonly<Record<string, number>>;
    /** PEFT's `lora_alpha` of such layers, divided by their rank; default `scale` · `rank`. */
    alpha_pattern?: Readonly<Record<string, number>>;
    /** Modules trained whole and saved with the adapter, such as `embed_tokens`; default none. */
    modules_to_save?: readonly string[];
    /** The probability of what an adapter gets of its layer's input to be 0; default 0. */
    dropout?: number;
    /** Default 8. */
    rank?: number;
    /** The factor of the adapter's product, used as it is; default 20. */
    scale?: number;
    /** Blocks adapted, counted from the last; -1 for all; default 16. */
    num_layers?: number;
    /** Linears adapted; default all seven. */
    keys?: readonly string[];
    /** Default 1e-5. */
    learning_rate?: number;
    /** How the step size changes, by the names and arguments of MLX-LM; default not at all. */
    lr_schedule?: {
        name: "constant" | "linear_schedule" | "cosine_decay" | "exponential_decay" | "step_decay";
        /** Default: from `learning_rate` to 0 over the run. */
        arguments?: readonly number[];
        /** Updates in which it rises to its first value. */
        warmup?: number;
        warmup_init?: number;
    } | null;
    /** Default `adam`. */
    optimizer?: "adam" | "adamw" | "sgd" | "adafactor" | "muon";
    /** Adam's; default 0.9 and 0.999. */
    betas?: readonly [number, number];
    /** Adam's; default 1e-8. */
    eps?: number;
    /** SGD's and Muon's; default 0 and 0.95. */
    momentum?: number | null;
    /** SGD's and Muon's; default false and true. */
    nesterov?: boolean | null;
    /** Whether Adafactor takes step sizes of its own; default true. */
    relative_step?: boolean;
    /** Whether Adafactor's steps are as large as the parameters; default true. */
    scale_parameter?: boolean;
    /** The decay of the parameters, which `adam` has not; default 0. */
    weight_decay?: number;
    /** Whether Adam corrects the bias of its first steps; default true. MLX-LM's does not. */
    bias_correction?: boolean;
    /** Examples a batch; default 4. */
    batch_size?: number;
    /** Default 100. */
    iters?: number;
    /** Passes over the data, in the place of `iters`, which they become in the trainer's settings. */
    epochs?: number;
    /** Default 10. */
    steps_per_report?: number;
    /** Default 50. */
    steps_per_eval?: number;
    /** Validation batches; -1 for all; 0 for no validation. */
    val_batches?: number;
    /** Longer examples are cut; default 2048. */
    max_seq_length?: number;
    /** Whether only the last message counts; default false. */
    mask_prompt?: boolean;
    /** Whether every message of the assistant counts and nothing else; default false. */
    assistant_only_loss?: boolean;
    /** Default 1. */
    grad_accumulation_steps?: number;
    /** Compute blocks twice instead of keeping them; default false. */
    grad_checkpoint?: boolean;
    /** Clip the gradient's norm; default none. */
    max_grad_norm?: number | null;
    /** `engram` (default) or `mlx`, which repeats MLX-LM to the last habit. */
    semantics?: "engram" | "mlx";
    /** Default 0. */
    seed?: number;
}

/** What every step tells. */
interface StepBase {
    /** From 1. */
    iteration: number;
    /** Iterations in all. */
    iterations: number;
    /** Seconds spent in iterations so far; pauses don't count. */
    seconds: number;
    /** Seconds still to go at this pace; null while unknown. */
    etaSeconds: number | null;
    /** GPU memory in use, bytes. */
    gpuMemory: number;
}

/** What happened in a training. */
export type TrainStep =
    /** The validation loss before this iteration. */
    | (StepBase & { kind: "validation"; loss: number; best: boolean })
    /** An iteration; its loss comes with the next report. */
    | (StepBase & { kind: "step"; tokens: number })
    /** An iteration that ends a reporting interval. */
    | (StepBase & {
          kind: "report";
          tokens: number;
          /** Mean training loss of the interval. */
          loss: number;
          gradientNorm: number;
          trainedTokens: number;
          iterationsPerSecond: number;
          tokensPerSecond: number;
      });

/** A LoRA training on an engine. */
export class Trainer {
    private constructor();
    /** Prepares a training. */
    static create(engine: EngineInterface, dataset: Dataset, config?: TrainConfig): Promise<Trainer>;
    /** Every setting, defaults filled in. */
    readonly config: Required<Omit<TrainConfig, "epochs">>;
    /** Numbers trained. */
    readonly trainableParameters: number;
    /**
     * The training, step by step: each step is computed when it is asked for, so that a loop that
     * waits pauses it. A second `run` goes on where the first was left. After `cancel` the steps
     * end; an abort of `signal` throws `aborted`.
     */
    run(options?: { signal?: AbortSignal }): AsyncIterable<TrainStep>;
    /** Ends {@link run} after the current step. What is trained so far can be exported. */
    cancel(): void;
    /** The adapter's files: as it is now, or as it was at its lowest validation loss. */
    exportAdapter(format: AdapterFormat, options?: { checkpoint?: "last" | "best" }): Promise<NamedFile[]>;
    /** Frees its memory. */
    dispose(): Promise<void>;
}

// ---------------------------------------------------------------- evaluation

/** A question of an evaluation. */
export interface EvalExample {
    prompt: string;
    expected: string;
    /** Default `all`. */
    category?: string;
}

/** What is evaluated: an engine, bare or with one of its adapters. All share one engine. */
export interface EvalCandidate {
    /** Its name in the report. */
    name: string;
    engine: EngineInterface;
    /** The adapter's name; none for the bare model. */
    adapter?: string | null;
}

/** How far an evaluation has come. */
export interface EvalProgress {
    candidate: string;
    phase: "complete" | "loss";
    done: number;
    total: number;
}

/** Options of {@link evaluate}. */
export interface EvalOptions {
    /** `honest` (default): the chat template, equality. `original`: the bare prompt, its beginning. */
    protocol?: "honest" | "original";
    /** Default 50. */
    max_new_tokens?: number;
    /** How often each prompt is asked; default 1. */
    runs?: number;
    /** Whether to compute the loss of the expected answers too; default true. */
    loss?: boolean;
    /** What the report calls the examples; default `examples`. */
    dataset?: string;
    /** What the adapters were trained on: the report then counts the examples that were part of it. */
    trainedOn?: readonly TrainingExample[];
    onProgress?: (progress: EvalProgress) => void;
    signal?: AbortSignal;
}

/** Counts of right answers. */
export interface Score {
    n: number;
    correct: number;
    accuracy: number;
    /** 95 % Wilson interval of the accuracy. */
    wilson: { low: number; high: number };
    partial: number;
}

/** Seconds per answer, in milliseconds. */
export interface Latency {
    n: number;
    mean_ms: number;
    median_ms: number;
    std_ms: number;
    min_ms: number;
    max_ms: number;
    tokens_per_second: number | null;
}

/** One question and what a candidate answered. */
export interface ExampleOutput {
    category: string;
    prompt: string;
    expected: string;
    actual: string;
    correct: boolean;
    partial: boolean;
    tokens: number;
    consistent: boolean;
}

/** What one candidate did. */
export interface CandidateReport {
    name: string;
    overall: Score;
    per_category: (Score & { category: string })[];
    cut_off: number;
    consistency?: { runs: number; consistent: number };
    loss?: { tokens: number; mean: number; perplexity: number | null };
    latency?: Latency;
    outputs: ExampleOutput[];
}

/** Two candidates on the same questions; McNemar's exact test. */
export interface Comparison {
    first: string;
    second: string;
    both: number;
    only_first: number;
    only_second: number;
    neither: number;
    p_value: number;
    significant: boolean;
}

/** `report.json`; `docs/report.md` describes every field. */
export interface Report {
    schema_version: number;
    model: string;
    dataset: { name: string; sha256?: string; examples: number; seen_in_training: number | null };
    protocol: "honest" | "original";
    max_new_tokens: number;
    candidates: CandidateReport[];
    comparisons: Comparison[];
    environment: { adapter: string; target: string; version: string };
}

/** An evaluation's result. */
export interface Evaluation {
    report: Report;
    /** `report.json`, byte for byte what the native runner writes. */
    json: string;
    /** `report.md`. */
    markdown: string;
}

/**
 * Asks every candidate the same questions and compares the answers. Training examples are questions
 * too: the prompt, and the completion or the last turn as the expected answer.
 */
export function evaluate(
    candidates: readonly EvalCandidate[],
    examples: readonly (EvalExample | TrainingExample)[],
    options?: EvalOptions,
): Promise<Evaluation>;

// ---------------------------------------------------------------- bench

/** What {@link EngineInterface.bench} measures; the same as `engram bench` natively. */
export type BenchPart =
    /** Seconds to the first token by a decoder that is made for it. */
    | "first"
    /** Tokens/s of prompts. */
    | "prefill"
    /** Tokens/s of new tokens after contexts. */
    | "generate"
    /** What a token costs the host: dispatches, bind groups, buffers, submits, time of encoding. */
    | "host"
    /** Training steps: the original experiment's (four chats), and on four texts of each length. */
    | "train"
    /** Questions/s of an evaluation. */
    | "evaluate"
    /** inferena's protocol: a forward pass over 128 tokens, one token, the gradients of all weights, the loss. */
    | "inferena"
    /** How the time of tokens and training steps grows with their number. */
    | "scaling";

/** Options of {@link EngineInterface.bench}. */
export interface BenchOptions {
    /** How often a figure is taken, once for nothing aside; default 3. */
    runs?: number;
    /**
     * Lengths in tokens: of prompts (`prefill`, default 128 and 512), contexts (`generate`, 128 and
     * 1024) or texts (`train`, 512). Those that the model's context has no room for are left out.
     */
    lengths?: readonly number[];
    /** New tokens of `generate`; default 64. */
    tokens?: number;
    /** Ends the measuring between two runs; the call throws `aborted`. */
    signal?: AbortSignal;
}

/** Something measured. */
export interface Figure {
    /** What. */
    name: string;
    /** Of the numbers; empty for what is counted. */
    unit: string;
    /** The middle one of the runs. */
    median: number;
    /** Every one. */
    runs: number[];
}

// ---------------------------------------------------------------- cache

/** A file in the cache. */
export interface CachedFile {
    url: string;
    bytes: number;
    /** The server's tag of this version, if it gave one. */
    etag: string | null;
    sha256: string;
    /** When it was kept, milliseconds of Unix time. */
    savedAt: number;
}

/** The models and data sets kept in this browser for this site. */
export const cache: {
    list(): Promise<CachedFile[]>;
    /** Forgets one file, or all. */
    clear(url?: string): Promise<void>;
    /** Bytes in use and available, as far as the browser tells. */
    usage(): Promise<{ bytes: number; quota: number | null }>;
};

// ---------------------------------------------------------------- support and errors

/** What this browser can do. */
export interface Support {
    /** Whether a model can run. */
    ok: boolean;
    /** In plain words: what is missing and what to do, or what it runs on. */
    message: string;
    /** Why not. */
    code?: "no-webgpu" | "no-adapter" | "limits";
    device?: DeviceInfo;
    /** Optional features present: used, never needed. */
    features: string[];
}

/** Looks before anything is loaded. */
export function checkSupport(): Promise<Support>;

/** What an {@link EngramError} can be about. */
export type ErrorCode =
    /** The caller's `AbortSignal`, or `cancel`. */
    | "aborted"
    /** The browser has no WebGPU. */
    | "no-webgpu"
    /** It has, and gives no adapter. */
    | "no-adapter"
    /** The adapter's limits are too small for the model. */
    | "limits"
    /** The GPU went away; {@link EngineInterface.reload} helps. */
    | "device-lost"
    /** The GPU has not enough memory. */
    | "out-of-memory"
    /** The GPU failed otherwise. */
    | "gpu"
    /** The download failed. */
    | "network"
    /** The downloaded file is not the one that was promised. */
    | "integrity"
    /** The browser has no room for the file. */
    | "quota"
    /** A model or adapter file that is damaged or not supported. */
    | "format"
    /** Training or evaluation data that can't be used. */
    | "data"
    /** An argument that can't be used. */
    | "invalid"
    /** More tokens than the model's context holds. */
    | "context-overflow"
    /** Training produced a number that is not finite. */
    | "not-finite"
    /** The engine was disposed of. */
    | "disposed"
    /** A fault of this library. */
    | "internal";

/** What went wrong, where, and what to do about it, in one line. */
export class EngramError extends Error {
    constructor(code: ErrorCode, message: string, options?: ErrorOptions);
    readonly code: ErrorCode;
}
