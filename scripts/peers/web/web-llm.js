/** WebLLM, whose models are compiled libraries beside converted weights. */

import { CreateMLCEngine } from "@mlc-ai/web-llm";

const MODEL = "SmolLM2-135M-Instruct-q0f32-MLC";

export async function decode({ prompt, new_tokens }) {
    const engine = await CreateMLCEngine(MODEL);
    const answer = await engine.completions.create({ prompt, max_tokens: new_tokens, temperature: 0 });
    const { extra, prompt_tokens } = answer.usage;
    return {
        text: answer.choices[0].text,
        prompt_tokens,
        prefill: extra.prefill_tokens_per_s,
        decode: extra.decode_tokens_per_s,
    };
}
