/**
 * What the modules here use of the compiled module, which wasm-bindgen writes from `src/web/*.rs`.
 * It is for checking only: the package ships no types of the low level.
 *
 * An object is used by one call at a time. Whatever fails throws an `Error` with a `code`.
 */
import type {
    AdapterFormat, AdapterInfo, BenchOptions, BenchPart, DataProblem, Dataset, DataStats, DeviceInfo,
    EvalExample, EvalOptions, EvalProgress, Evaluation, Figure, Generated, MemoryInfo, Message,
    ModelInfo, NamedFile, Pattern, Quantize, Sampling, SplitConfig, Splits, Support, TrainConfig, TrainStep, TrainingExample,
} from "./engram";

export default function init(): Promise<unknown>;

/** Where the kernels' variants of an adapter are kept; `variants.js` makes it. */
export interface Tuning {
    /** What was kept under the key; the module checks it. */
    recall(key: string): Promise<unknown>;
    /** There was nothing of use: the variants are being found. */
    begin(): void;
    remember(key: string, variants: DeviceInfo["variants"]): Promise<void>;
}

export class WasmEngine {
    private constructor();
    static load(
        files: { name: string; blob: Blob }[],
        name: string,
        quantize: Quantize | undefined,
        tuning: Tuning | undefined,
        onProgress: (loaded: number, total: number) => void,
        signal?: AbortSignal,
    ): Promise<WasmEngine>;
    reload(
        tuning: Tuning | undefined,
        onProgress: (loaded: number, total: number) => void,
        signal?: AbortSignal,
    ): Promise<void>;
    readonly model: ModelInfo;
    readonly device: DeviceInfo;
    memory(): MemoryInfo;
    encode(text: string): Uint32Array;
    /** With the special tokens that the model wants before a prompt. */
    encodePrompt(text: string): Uint32Array;
    encodeChat(messages: readonly Message[]): Uint32Array;
    decode(tokens: Uint32Array): string;
    generate(
        prompt: Uint32Array,
        options: Sampling,
        adapter: string | undefined,
        onText: (text: string) => void,
        signal?: AbortSignal,
    ): Promise<Generated>;
    loadAdapter(name: string, files: readonly NamedFile[]): Promise<AdapterInfo>;
    blendAdapters(name: string, weights: Record<string, number>): AdapterInfo;
    removeAdapter(name: string): void;
    listAdapters(): AdapterInfo[];
    exportAdapter(name: string, format: AdapterFormat): Promise<NamedFile[]>;
    createTrainer(dataset: Dataset, config: TrainConfig): Promise<WasmTrainer>;
    dataStats(dataset: Partial<Splits>, config: TrainConfig): DataStats;
    evaluate(
        candidates: readonly { name: string; adapter?: string }[],
        examples: readonly (EvalExample | TrainingExample)[],
        trainedOn: readonly TrainingExample[] | undefined,
        options: Omit<EvalOptions, "trainedOn" | "onProgress" | "signal">,
        onProgress: (progress: EvalProgress) => void,
        signal?: AbortSignal,
    ): Promise<Evaluation>;
    bench(what: BenchPart, options: Omit<BenchOptions, "signal">, signal?: AbortSignal): Promise<Figure[]>;
    /** Throws what the device has reported since it was opened. */
    check(): void;
    loseDevice(): void;
    free(): void;
}

export class WasmTrainer {
    private constructor();
    readonly config: Required<Omit<TrainConfig, "epochs">>;
    readonly trainableParameters: number;
    /** `undefined` after the last step. */
    advance(): Promise<TrainStep | undefined>;
    exportAdapter(format: AdapterFormat, checkpoint: "last" | "best"): Promise<NamedFile[]>;
    free(): void;
}

/** SHA-256 of bytes that come in pieces. */
export class Sha256 {
    constructor();
    update(bytes: Uint8Array): void;
    hex(): string;
    free(): void;
}

export function checkSupport(): Promise<Support>;
export function bundledPatterns(): Pattern[];
export function parsePatterns(name: string, text: string): Pattern[];
export function formatPatterns(patterns: readonly Pattern[]): string;
export function checkPatterns(patterns: readonly Pattern[]): DataProblem[];
export function augmentPattern(pattern: Pattern): string[];
export function parseExamples(name: string, text: string): TrainingExample[];
export function splitPatterns(patterns: readonly Pattern[], config?: SplitConfig): Splits;
