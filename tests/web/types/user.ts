/** What a program in TypeScript writes, and what it must not be able to write. Only compiled. */

import {
    bundledPatterns,
    cache,
    checkSupport,
    Engine,
    EngineWorker,
    EngramError,
    evaluate,
    loadDataset,
    readExamples,
    splitPatterns,
    Trainer,
} from "engram";
import type { EngineInterface, ErrorCode, LoadProgress, NamedFile, TrainStep, Usage } from "engram";

export async function use(file: File, files: File[]): Promise<NamedFile[]> {
    const support = await checkSupport();
    if (!support.ok) throw new Error(support.message);
    const onProgress = ({ phase, loaded, total }: LoadProgress) => `${phase} ${loaded / total}`;
    const engines: EngineInterface[] = [
        await Engine.load("HuggingFaceTB/SmolLM2-135M-Instruct", { onProgress, quantize: "q8_0" }),
        await EngineWorker.load(new URL("https://example.org/m.gguf"), { cache: "none" }),
        await Engine.load(file, { signal: AbortSignal.timeout(1000) }),
        await Engine.load(files),
        await Engine.load(file.stream()),
        await Engine.load(new Uint8Array(1)),
    ];
    const [engine] = engines;
    if (!engine) throw new Error("unreachable");

    const messages = [{ role: "user", content: "Hi!" } as const];
    const whole = await engine.chat.completions.create({ messages, temperature: 0.5 });
    const usage: Usage = whole.usage;
    let text: string = whole.choices[0].message.content;
    for await (const chunk of await engine.chat.completions.create({ messages, stream: true })) {
        text += chunk.choices[0].delta.content ?? "";
    }
    const { tokens } = await engine.generate(text, { stop: ["\n"], adapter: null });
    const count: number = (await engine.countTokens(messages)) + tokens.length + usage.total_tokens;

    const splits = await splitPatterns(await bundledPatterns(), { seed: count });
    const { train = await readExamples(file) } = await loadDataset("hf:o/n:train[:100]", {
        onProgress: ({ loaded, total }) => `${loaded / total}`,
    });
    await engine.dataStats({ train, valid: await readExamples({ name: "x.csv", bytes: new Uint8Array(1) }) });
    const trainer = await Trainer.create(engine, splits, { rank: 4, optimizer: "adamw" });
    for await (const step of trainer.run()) show(step);
    const adapter = await trainer.exportAdapter("peft", { checkpoint: "best" });
    await engine.adapters.load("mine", adapter);
    const { report } = await evaluate(
        [{ name: "bare", engine }, { name: "mine", engine, adapter: "mine" }],
        splits.test,
        { trainedOn: splits.train },
    );
    const interval: { low: number; high: number } | undefined = report.candidates[0]?.overall.wilson;
    await cache.clear(interval ? undefined : "https://example.org/m.gguf");
    return adapter;
}

function show(step: TrainStep): string {
    switch (step.kind) {
        case "validation":
            return `${step.loss} ${step.best}`;
        case "step":
            return `${step.iteration}`;
        case "report":
            return `${step.loss} ${step.tokensPerSecond}`;
    }
}

export function advice(error: unknown): ErrorCode | undefined {
    return error instanceof EngramError ? error.code : undefined;
}

export async function wrong(engine: Engine): Promise<void> {
    // @ts-expect-error A number is no source.
    await Engine.load(7);
    // @ts-expect-error Only `Engine.load` makes one.
    new Engine();
    // @ts-expect-error The role is one of three.
    await engine.chat.completions.create({ messages: [{ role: "robot", content: "" }] });
    // @ts-expect-error There is no such setting.
    await engine.generate("", { temprature: 1 });
    // @ts-expect-error There are two layouts.
    await engine.adapters.export("a", "gguf");
}
