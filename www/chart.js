// @ts-check
/** The loss as it falls: a line chart in SVG, with its values as a table. */

import { h, svg } from "./dom.js";

/** @typedef {{ iteration: number, loss: number }} Point */

const WIDTH = 720, HEIGHT = 280, LEFT = 48, RIGHT = 18, TOP = 14, BOTTOM = 38;

/**
 * Round steps that divide a range into about this many.
 * @param {number} low
 * @param {number} high
 * @param {number} about
 */
export function ticks(low, high, about) {
    const raw = (high - low || 1) / about;
    const power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 2.5, 5, 10].map(m => m * power).find(s => s >= raw) ?? raw;
    const all = [];
    for (let n = Math.ceil(low / step - 1e-9); n * step <= high + step * 1e-9; n++) all.push(n * step);
    return { all, digits: Math.max(0, -Math.floor(Math.log10(step) + 1e-9) + (step / power === 2.5 ? 1 : 0)) };
}

export class LossChart {
    /** @type {Point[]} */ #train = [];
    /** @type {Point[]} */ #validation = [];
    /** @type {Point | undefined} */ #best;
    #iterations = 1;
    #waiting = false;

    /**
     * @param {HTMLElement} box
     * @param {HTMLElement} table
     */
    constructor(box, table) {
        this.box = box;
        this.table = table;
    }

    /** @param {number} iterations */
    start(iterations) {
        this.#train = [];
        this.#validation = [];
        this.#best = undefined;
        this.#iterations = iterations;
        this.#draw();
    }

    /** @param {Point} point */
    addTrain(point) {
        this.#train.push(point);
        this.#soon();
    }

    /** @param {Point} point @param {boolean} best */
    addValidation(point, best) {
        this.#validation.push(point);
        if (best) this.#best = point;
        this.#soon();
    }

    get best() {
        return this.#best;
    }

    /** One drawing a frame, however many points came. */
    #soon() {
        if (this.#waiting) return;
        this.#waiting = true;
        requestAnimationFrame(() => {
            this.#waiting = false;
            this.#draw();
        });
    }

    #draw() {
        const points = [...this.#train, ...this.#validation];
        if (!points.length) {
            this.table.replaceChildren();
            return this.box.replaceChildren(h("p", { class: "summary" }, "The first loss comes with the first report."));
        }
        const losses = points.map(p => p.loss);
        const y = ticks(Math.min(0, ...losses), Math.max(...losses), 5);
        const x = ticks(0, this.#iterations, 6);
        const high = Math.max(...losses, ...y.all) * 1.02 || 1;
        const low = Math.min(0, ...losses);
        const across = (/** @type {number} */ i) => LEFT + (i / this.#iterations) * (WIDTH - LEFT - RIGHT);
        const down = (/** @type {number} */ l) => HEIGHT - BOTTOM - ((l - low) / (high - low)) * (HEIGHT - TOP - BOTTOM);
        const path = (/** @type {Point[]} */ line) =>
            line.map((p, n) => `${n ? "L" : "M"}${across(p.iteration).toFixed(1)} ${down(p.loss).toFixed(1)}`).join("");

        const picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": this.#summary() });
        for (const at of y.all) {
            picture.append(
                svg("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: down(at), y2: down(at) }),
                svg("text", { x: LEFT - 9, y: down(at) + 4, "text-anchor": "end" }, at.toFixed(y.digits)),
            );
        }
        for (const at of x.all) {
            if (Number.isInteger(at))
                picture.append(svg("text", { x: across(at), y: HEIGHT - BOTTOM + 18, "text-anchor": "middle" }, String(at)));
        }
        picture.append(
            svg("text", { x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 3, "text-anchor": "middle" }, "iteration"),
            svg("text", { x: -(TOP + HEIGHT - BOTTOM) / 2, y: 12, "text-anchor": "middle", transform: "rotate(-90)" }, "loss, nats per token"),
            svg("path", { class: "line train", d: path(this.#train) }),
            svg("path", { class: "line validation", d: path(this.#validation) }),
        );
        // A line needs two points; the first alone is a dot.
        if (this.#train.length === 1) picture.append(dot("train", this.#train[0]));
        for (const point of this.#validation) picture.append(dot("", point));
        if (this.#best) {
            const { iteration, loss } = this.#best;
            const late = iteration > this.#iterations * 0.7;
            picture.append(
                svg("circle", { class: "best", cx: across(iteration), cy: down(loss), r: 5.5 }),
                svg("text", { class: "best-label", x: across(iteration) + (late ? -10 : 10), y: down(loss) - 10, "text-anchor": late ? "end" : "start" }, `best ${loss.toFixed(3)}`),
            );
        }
        this.box.replaceChildren(
            h("div", { class: "legend", "aria-hidden": "true" },
                legend("train", "training, mean since the last report"), legend("validation", "validation")),
            picture,
            h("p", { class: "summary" }, this.#summary()),
        );
        this.#drawTable();

        /** @param {string} kind @param {Point | undefined} point */
        function dot(kind, point) {
            return svg("circle", { class: `dot ${kind}`, cx: across(point?.iteration ?? 0), cy: down(point?.loss ?? 0), r: 3.5 });
        }
    }

    #summary() {
        const parts = [];
        for (const [name, line] of /** @type {const} */ ([["Training", this.#train], ["Validation", this.#validation]])) {
            const first = line[0], last = line.at(-1);
            if (!first || !last) continue;
            parts.push(line.length > 1
                ? `${name} loss ${first.loss.toFixed(3)} → ${last.loss.toFixed(3)}`
                : `${name} loss ${first.loss.toFixed(3)}`);
        }
        if (this.#best) parts.push(`best validation at iteration ${this.#best.iteration}`);
        return `${parts.join(" · ")}.`;
    }

    #drawTable() {
        const all = [...new Set([...this.#train, ...this.#validation].map(p => p.iteration))].sort((a, b) => a - b);
        const cell = (/** @type {Point[]} */ line, /** @type {number} */ at) =>
            h("td", { class: "num" }, line.find(p => p.iteration === at)?.loss.toFixed(4) ?? "");
        this.table.replaceChildren(h("table", {},
            h("thead", {}, h("tr", {}, ...["Iteration", "Training", "Validation"].map(name => h("th", { scope: "col", class: "num" }, name)))),
            h("tbody", {}, ...all.map(at => h("tr", {},
                h("td", { class: "num" }, String(at)), cell(this.#train, at), cell(this.#validation, at)))),
        ));
    }
}

/** @param {string} kind @param {string} text */
function legend(kind, text) {
    return h("span", {}, svg("svg", { viewBox: "0 0 26 10" }, svg("path", { class: `line ${kind}`, d: "M2 5H24" })), text);
}
