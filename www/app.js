// @ts-check
/** The page: its panels, the navigation between them, and what the side says. */

import { box } from "./dom.js";
import { bytes, count, plural } from "./format.js";

const NAMES = ["model", "chat", "data", "train", "evaluate", "adapters"];

/** Shows the panel that the address names. @param {boolean} [focus] */
function show(focus = true) {
    const name = location.hash.slice(1);
    const current = NAMES.includes(name) ? name : "model";
    for (const other of NAMES) {
        box(`panel-${other}`).hidden = other !== current;
        const link = document.querySelector(`nav a[href="#${other}"]`);
        if (other === current) link?.setAttribute("aria-current", "page");
        else link?.removeAttribute("aria-current");
    }
    if (focus) {
        window.scrollTo(0, 0);
        box(`panel-${current}`).focus({ preventScroll: true });
    }
}

async function start() {
    window.addEventListener("hashchange", () => show());
    show(false);

    // The package comes after the navigation works: without it the page can still say what is missing.
    const [{ App, examplesOf }, ...panels] = await Promise.all([
        import("./state.js"),
        ...["model", "chat", "data", "train", "evaluate", "adapters"].map(
            name => /** @type {Promise<{ start(app: import("./state.js").App): void }>} */ (import(`./panels/${name}.js`)),
        ),
    ]);
    const app = new App();

    const showEngine = () => {
        const { engine } = app;
        document.body.classList.toggle("loaded", engine !== undefined);
        for (const notice of document.querySelectorAll(".needs-model")) /** @type {HTMLElement} */ (notice).hidden = engine !== undefined;
        box("note-model").textContent = engine ? `${engine.model.name} · ${count(engine.model.parameters)}` : "none loaded";
        if (!engine) box("where").textContent = "Nothing leaves this tab.";
    };
    app.on("engine", showEngine);
    app.on("memory", async () => {
        const { engine } = app;
        const memory = await engine?.memory().catch(() => undefined);
        if (engine && memory && engine === app.engine)
            box("where").textContent = `${engine.device.isSoftware ? "Software adapter" : "GPU"} · ${bytes(memory.gpu)} in use. Nothing leaves this tab.`;
    });
    app.on("adapters", () => {
        box("note-adapters").textContent = app.active ? `${app.active} on` : app.adapters.length ? plural(app.adapters.length, "adapter") : "";
        box("note-chat").textContent = app.active ? `with ${app.active}` : "";
    });
    app.on("data", () => {
        box("note-data").textContent = app.brought
            ? plural(examplesOf(app.brought).length, "example")
            : `${plural(app.patterns.length, "pattern")}${app.problems.length ? `, ${app.problems.length} wrong` : app.edited ? ", edited" : ""}`;
    });

    for (const panel of panels) panel.start(app);
    showEngine();
    await app.loadData();
}

start().catch(error => {
    const message = error instanceof Error ? error.message : String(error);
    box("alert").textContent = `The page could not start: ${message}`;
    box("alert").className = "alert notice bad";
    box("support").hidden = true;
});
