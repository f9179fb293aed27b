// @ts-check
/** Chats, shaped as OpenAI's. */

/**
 * @import {
 *     ChatCompletion, ChatCompletionChunk, ChatCompletionRequest, FinishReason
 * } from "./engram"
 * @import { Args, Call } from "./local.js"
 */

/**
 * `engine.chat.completions`.
 *
 * @implements {Pick<import("./engram").Completions, "create">}
 */
export class Completions {
    #call;
    #model;

    /** @param {Call} call @param {string} model */
    constructor(call, model) {
        this.#call = call;
        this.#model = model;
    }

    /**
     * @overload
     * @param {ChatCompletionRequest & { stream: true }} request
     * @returns {Promise<AsyncIterable<ChatCompletionChunk>>}
     */
    /**
     * @overload
     * @param {ChatCompletionRequest & { stream?: false }} request
     * @returns {Promise<ChatCompletion>}
     */
    /**
     * @param {ChatCompletionRequest} request
     * @returns {Promise<AsyncIterable<ChatCompletionChunk> | ChatCompletion>}
     */
    async create({ stream, signal, messages, adapter, ...sampling }) {
        const args = { input: messages, adapter, sampling };
        const id = `chatcmpl-${crypto.randomUUID()}`;
        const base = { id, created: Math.floor(Date.now() / 1000), model: this.#model };
        if (stream) {
            const pieces = new Pieces(this.#call, args, signal);
            // So that a chat that can't be answered rejects here, not in the loop.
            await pieces.begun;
            return chunks(pieces, { ...base, object: "chat.completion.chunk" });
        }
        const { text, finish_reason, usage } = await this.#call("generate", args, { signal });
        /** @type {ChatCompletion["choices"]} */
        const choices = [{ index: 0, message: { role: "assistant", content: text }, finish_reason }];
        return { ...base, object: "chat.completion", choices, usage };
    }
}

/** An answer whose pieces wait until they are asked for. */
class Pieces {
    /** @type {string[]} */
    #texts = [];
    #stop = new AbortController();
    /** Wakes who waits for the next piece. */
    #wake = () => {};
    #ended = false;

    /**
     * @param {Call} call
     * @param {Args<"generate">} args
     * @param {AbortSignal} [signal]
     */
    constructor(call, args, signal) {
        const stop = this.#stop;
        const forward = () => stop.abort(signal?.reason);
        if (signal?.aborted) forward();
        signal?.addEventListener("abort", forward, { once: true });
        const onEvent = (/** @type {string} */ text) => {
            this.#texts.push(text);
            this.#wake();
        };
        this.answer = call("generate", args, { signal: stop.signal, onEvent }).finally(() => {
            signal?.removeEventListener("abort", forward);
            this.#ended = true;
            this.#wake();
        });
        // Who stops reading is told nothing more.
        this.answer.catch(() => {});
        /** Settles with the first piece, or the answer's end or error. */
        this.begun = this.#more().then(more => (more ? undefined : this.answer));
    }

    /** Whether there is another piece, now or soon. */
    async #more() {
        while (this.#texts.length === 0 && !this.#ended) {
            await new Promise(resolve => (this.#wake = () => resolve(undefined)));
        }
        return this.#texts.length > 0;
    }

    /** The pieces that have come by now, as one; `undefined` at the end. */
    async next() {
        return (await this.#more()) ? this.#texts.splice(0).join("") : undefined;
    }

    /** Ends the answer. */
    async stop() {
        this.#stop.abort();
        await this.answer.catch(() => {});
    }
}

/**
 * @param {Pieces} pieces
 * @param {Omit<ChatCompletionChunk, "choices" | "usage">} base
 * @returns {AsyncGenerator<ChatCompletionChunk, void>}
 */
async function* chunks(pieces, base) {
    /**
     * @param {ChatCompletionChunk["choices"][0]["delta"]} delta
     * @param {FinishReason | null} [finish_reason]
     * @returns {ChatCompletionChunk}
     */
    const chunk = (delta, finish_reason = null) => {
        return { ...base, choices: [{ index: 0, delta, finish_reason }] };
    };
    try {
        yield chunk({ role: "assistant", content: "" });
        for (;;) {
            const content = await pieces.next();
            if (content === undefined) break;
            yield chunk({ content });
        }
        const { finish_reason, usage } = await pieces.answer;
        yield { ...chunk({}, finish_reason), usage };
    } finally {
        await pieces.stop();
    }
}
