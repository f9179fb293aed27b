// @ts-check
/** The few things the panels want from the document. */

/**
 * The element of an id, which must be of this kind.
 * @template {Element} T
 * @param {string} id
 * @param {new () => T} kind
 * @returns {T}
 */
export function byId(id, kind) {
    const element = document.getElementById(id);
    if (!(element instanceof kind)) throw new Error(`index.html has no ${kind.name} #${id}`);
    return element;
}

/** @param {string} id */
export const box = id => byId(id, HTMLElement);
/** @param {string} id */
export const button = id => byId(id, HTMLButtonElement);
/** @param {string} id */
export const input = id => byId(id, HTMLInputElement);
/** @param {string} id */
export const select = id => byId(id, HTMLSelectElement);
/** @param {string} id */
export const form = id => byId(id, HTMLFormElement);
/** @param {string} id */
export const bar = id => byId(id, HTMLProgressElement);

/**
 * An element with attributes and content; `on…` are listeners, `true` an attribute without a value,
 * `--…` a custom property.
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag
 * @param {Record<string, string | number | boolean | undefined | ((event: Event) => void)>} [attributes]
 * @param {...(Node | string)} content
 * @returns {HTMLElementTagNameMap[K]}
 */
export function h(tag, attributes = {}, ...content) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
        if (value === undefined || value === false) continue;
        if (typeof value === "function") element.addEventListener(name.slice(2), value);
        else if (name.startsWith("--")) element.style.setProperty(name, String(value));
        else element.setAttribute(name, value === true ? "" : String(value));
    }
    element.append(...content);
    return element;
}

/**
 * An SVG element.
 * @param {string} tag
 * @param {Record<string, string | number>} attributes
 * @param {...(Node | string)} content
 */
export function svg(tag, attributes, ...content) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
    element.append(...content);
    return element;
}

/**
 * Fills a select, keeping its choice if it is still there.
 * @param {HTMLSelectElement} element
 * @param {readonly { value: string, label: string }[]} options
 * @param {string} [value]
 */
export function fillSelect(element, options, value = element.value) {
    element.replaceChildren(...options.map(option => h("option", { value: option.value }, option.label)));
    if (options.some(option => option.value === value)) element.value = value;
}

/**
 * Tells a screen reader; seldom, for progress is shown as it goes.
 * @param {string} text
 */
export function announce(text) {
    let live = document.getElementById("announcements");
    if (!live) {
        live = h("div", { id: "announcements", class: "visually-hidden", "aria-live": "polite" });
        document.body.append(live);
    }
    live.textContent = text;
}

/**
 * Files dropped on an element or chosen in its input.
 * @param {HTMLElement} zone
 * @param {HTMLInputElement} chooser
 * @param {(files: File[]) => void} take
 */
export function takeFiles(zone, chooser, take) {
    zone.addEventListener("dragover", event => {
        event.preventDefault();
        zone.classList.add("over");
    });
    zone.addEventListener("dragleave", () => zone.classList.remove("over"));
    zone.addEventListener("drop", event => {
        event.preventDefault();
        zone.classList.remove("over");
        const files = [...(event.dataTransfer?.files ?? [])];
        if (files.length) take(files);
    });
    chooser.addEventListener("change", () => {
        const files = [...(chooser.files ?? [])];
        chooser.value = "";
        if (files.length) take(files);
    });
}

/**
 * Hands a file to the browser's downloads.
 * @param {string} name
 * @param {BlobPart} content
 * @param {string} [type]
 */
export function download(name, content, type = "application/octet-stream") {
    const url = URL.createObjectURL(new Blob([content], { type }));
    h("a", { href: url, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

/** Lets the browser paint and answer before more is done. */
export const breathe = () => new Promise(resolve => setTimeout(resolve));
