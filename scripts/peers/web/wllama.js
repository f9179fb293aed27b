/** llama.cpp in WebAssembly, on WebGPU where the adapter has what it needs. */

import { Wllama } from "@wllama/wllama";

export async function decode({ prompt, new_tokens, threads, webgpu }) {
    const adapter = await navigator.gpu?.requestAdapter();
    if (webgpu && !adapter?.features.has("shader-f16")) {
        throw new Error("its WebGPU needs shader-f16, which the adapter lacks");
    }
    const wllama = new Wllama({ default: "/node_modules/@wllama/wllama/esm/wasm/wllama.wasm" });
    const file = await (await fetch("/model.gguf")).blob();
    const layers = webgpu ? {} : { n_gpu_layers: 0 };
    await wllama.loadModel([file], { n_ctx: 512, n_threads: threads, ...layers });
    const greedy = { temperature: 0, top_k: 1, cache_prompt: false };
    const answer = await wllama.createCompletion({ prompt, max_tokens: new_tokens, ...greedy });
    const { prompt_n, prompt_per_second, predicted_per_second } = answer.timings;
    return {
        ...(webgpu ? {} : { device: "WebAssembly" }),
        text: answer.choices[0].text,
        prompt_tokens: prompt_n,
        prefill: prompt_per_second,
        decode: predicted_per_second,
    };
}
