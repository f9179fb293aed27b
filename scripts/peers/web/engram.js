/** Our own package. */

import { EngineWorker, Trainer, parseExamples } from "engram";

export async function decode({ prompt, new_tokens }) {
    const engine = await EngineWorker.load("/model.gguf", { cache: "none" });
    // The first run compiles the kernels.
    await engine.generate("Once upon a time", { max_tokens: 2 });
    const { text, usage } = await engine.generate(prompt, { temperature: 0, max_tokens: new_tokens });
    return {
        device: engine.device.name,
        text,
        prompt_tokens: usage.extra.computed_prompt_tokens,
        prefill: usage.extra.prefill_tokens_per_s,
        decode: usage.extra.decode_tokens_per_s,
    };
}

export async function train({ epoch_text, lora }) {
    const engine = await EngineWorker.load("/model.gguf", { cache: "none" });
    const dataset = { train: await parseExamples("train.jsonl", epoch_text) };
    const config = { semantics: "mlx", bias_correction: true, val_batches: 0, steps_per_report: 1 };
    const trainer = await Trainer.create(engine, dataset, { ...config, ...lora });
    const steps = [];
    const losses = [];
    for await (const step of trainer.run()) {
        if (step.kind !== "report") continue;
        steps.push(1 / step.iterationsPerSecond);
        losses.push(step.loss);
    }
    return { device: engine.device.name, steps, losses };
}
