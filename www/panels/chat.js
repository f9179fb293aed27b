// @ts-check
/** Talking to the model. The chat stays when the model or the adapter changes. */

import { box, breathe, button, byId, fillSelect, form, h, input, select } from "../dom.js";
import { duration, plural, rate } from "../format.js";
import { clearNotice, codeOf, showError } from "../notice.js";
import { keep, recall } from "../state.js";

/** @import { App } from "../state.js" */
/** @import { EngineInterface, Message, Sampling, Usage } from "../../src/web/js/engram" */

/** A turn and where it is shown. @typedef {{ message: Message, element: HTMLElement }} Turn */

const NUMBERS = /** @type {const} */ (["temperature", "top_p", "top_k", "min_p", "repeat_penalty", "seed", "max_tokens"]);
const DEFAULTS = { temperature: 0, top_p: 1, top_k: 0, min_p: 0, repeat_penalty: 1, seed: 0, max_tokens: 256 };

/** @param {App} app */
export function start(app) {
    /** @type {Turn[]} */
    let turns = [];
    /** @type {AbortController | undefined} */
    let running;
    const log = box("chat-log"), error = box("chat-error");
    const text = byId("chat-input", HTMLTextAreaElement);

    restoreSampling();
    app.on("engine", showState);
    app.on("adapters", () => {
        fillSelect(select("chat-adapter"), [
            { value: "", label: "none: the bare model" },
            ...app.adapters.map(({ name }) => ({ value: name, label: name })),
        ], app.active ?? "");
    });
    app.on("data", showChips);
    showState();

    select("chat-adapter").onchange = event => {
        const { value } = /** @type {HTMLSelectElement} */ (event.target);
        app.use(value || undefined).catch(failure => showError(error, failure, app));
    };
    form("chat-form").onsubmit = event => {
        event.preventDefault();
        send(text.value);
    };
    form("chat-form").onchange = () => keep("sampling", readSampling());
    text.onkeydown = event => {
        if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
        event.preventDefault();
        send(text.value);
    };
    button("chat-stop").onclick = () => running?.abort();
    button("chat-clear").onclick = clear;

    function clear() {
        running?.abort();
        turns = [];
        log.replaceChildren();
        clearNotice(error);
        text.focus();
    }

    function showState() {
        const ready = app.engine !== undefined;
        button("chat-send").disabled = !ready;
        button("chat-send").hidden = running !== undefined;
        button("chat-stop").hidden = running === undefined;
        for (const chip of box("chat-chips").querySelectorAll("button")) chip.disabled = !ready || running !== undefined;
    }

    /** One short input of each section, to begin with. */
    function showChips() {
        const prompts = ["fact", "format", "fix", "code"].flatMap(section => {
            const fits = app.patterns.filter(p => p.category.startsWith(section) && p.input.length < 42 && !p.input.includes("\n"));
            return fits[0] ? [fits[0].input] : [];
        });
        box("chat-chips").replaceChildren(...prompts.map(prompt =>
            h("button", { type: "button", class: "small", onclick: () => { send(prompt); } }, prompt)));
        showState();
    }

    /** @param {string} said */
    async function send(said) {
        const { engine } = app;
        if (!engine || running || !said.trim()) return;
        const mine = (running = new AbortController());
        clearNotice(error);
        showState();
        text.value = "";
        add({ role: "user", content: said });
        const answer = add({ role: "assistant", content: "" });
        const shown = document.createTextNode("");
        const body = /** @type {HTMLElement} */ (answer.element.querySelector(".text"));
        const meta = /** @type {HTMLElement} */ (answer.element.querySelector(".meta"));
        body.append(shown);
        body.classList.add("waiting");
        answer.element.setAttribute("aria-busy", "true");
        const adapter = app.active;

        /** @param {string} piece */
        const more = piece => {
            if (!piece) return;
            const atEnd = isAtEnd();
            body.classList.remove("waiting");
            shown.appendData(piece);
            answer.message.content += piece;
            if (atEnd) scrollToEnd();
        };
        try {
            const options = { ...readSampling(), signal: mine.signal };
            /** @type {Usage | undefined} */ let usage;
            if (engine.model.hasChatTemplate) {
                const { messages, most } = await fit(engine, options.max_tokens ?? 256);
                const stream = await engine.chat.completions.create({ messages, stream: true, ...options, max_tokens: most });
                for await (const chunk of stream) {
                    more(chunk.choices[0].delta.content ?? "");
                    usage = chunk.usage ?? usage;
                }
            } else {
                ({ usage } = await engine.generate(said, { ...options, onText: more }));
            }
            meta.textContent = usage ? cost(usage, adapter) : "";
        } catch (failure) {
            meta.textContent = codeOf(failure) === "aborted" ? "stopped" : "ended early";
            showError(error, failure, app, { "context-overflow": { label: "Clear the chat", act: clear } });
        } finally {
            body.classList.remove("waiting");
            answer.element.removeAttribute("aria-busy");
            // An answer that never began is no turn of the chat, nor is the question that went without.
            if (!answer.message.content && !meta.textContent?.includes("token")) turns = turns.slice(0, -2);
            if (running === mine) running = undefined;
            showState();
            app.changed("memory");
        }
    }

    /**
     * The turns that the context has room for, with room for an answer. The oldest go first.
     * @param {EngineInterface} engine
     * @param {number} wanted
     */
    async function fit(engine, wanted) {
        const said = input("s-system").value.trim();
        /** @type {Message[]} */
        const system = said ? [{ role: "system", content: said }] : [];
        const { contextLength } = engine.model;
        const reserve = Math.min(wanted, Math.floor(contextLength / 4));
        const asked = turns.slice(0, -1);
        for (let first = 0; ; first += 2) {
            const messages = [...system, ...asked.slice(first).map(turn => turn.message)];
            const used = await engine.countTokens(messages);
            if (used + reserve <= contextLength || first + 2 >= asked.length) {
                showCut(first, contextLength);
                return { messages, most: Math.max(1, Math.min(wanted, contextLength - used)) };
            }
            await breathe();
        }
    }

    /** @param {number} first the first turn that is still told @param {number} context */
    function showCut(first, context) {
        log.querySelector(".cut")?.remove();
        turns.forEach((turn, n) => turn.element.classList.toggle("left-out", n < first));
        if (first) turns[first]?.element.before(h("p", { class: "cut" }, `Turns above are left out: the model's context holds ${plural(context, "token")}.`));
    }

    /** @param {Message} message */
    function add(message) {
        const who = message.role === "user" ? "You" : "Model";
        const element = h("div", { class: `turn ${message.role}` },
            h("span", { class: "visually-hidden" }, `${who}: `),
            h("div", { class: "text" }, message.content),
            ...(message.role === "assistant" ? [h("div", { class: "meta" })] : []));
        const turn = { message, element };
        turns.push(turn);
        log.append(element);
        scrollToEnd();
        return turn;
    }

    function isAtEnd() {
        const page = document.documentElement;
        return page.scrollHeight - page.scrollTop - page.clientHeight < 120;
    }

    function scrollToEnd() {
        if (!box("panel-chat").hidden) window.scrollTo({ top: document.documentElement.scrollHeight });
    }
}

/** @param {Usage} usage @param {string | undefined} adapter */
function cost({ completion_tokens, extra }, adapter) {
    return [
        plural(completion_tokens, "token"),
        ...(extra.decode_tokens_per_s ? [`${rate(extra.decode_tokens_per_s)} tokens/s`] : []),
        `first after ${duration(extra.time_to_first_token_s)}`,
        ...(adapter ? [`with ${adapter}`] : []),
    ].join(" · ");
}

/** @returns {Sampling} */
function readSampling() {
    /** @type {Sampling} */
    const sampling = {};
    for (const name of NUMBERS) {
        const { valueAsNumber, validity } = input(`s-${name}`);
        sampling[name] = validity.valid && Number.isFinite(valueAsNumber) ? valueAsNumber : DEFAULTS[name];
    }
    const stop = input("s-stop").value;
    if (stop) sampling.stop = stop;
    return sampling;
}

function restoreSampling() {
    const kept = /** @type {Sampling} */ (recall("sampling") ?? {});
    for (const name of NUMBERS) input(`s-${name}`).value = String(kept[name] ?? DEFAULTS[name]);
    if (typeof kept.stop === "string") input("s-stop").value = kept.stop;
}
