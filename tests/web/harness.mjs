// @ts-check
/** Chromium with WebGPU on the software adapter, and the package served to it. */

import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";

import { chromium } from "playwright-core";

import { serve } from "./server.mjs";

/** The repository. */
export const ROOT = fileURLToPath(new URL("../..", import.meta.url));

const USUAL = [
    "/usr/bin/chromium",
    "/usr/bin/chromium-browser",
    "/usr/bin/google-chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
];

const FLAGS = [
    "--no-sandbox",
    "--enable-unsafe-webgpu",
    "--enable-features=Vulkan",
    "--use-webgpu-adapter=swiftshader",
    "--use-vulkan=swiftshader",
    "--use-angle=swiftshader",
];

/** Where Chromium is: `$CHROMIUM`, or one of the usual places. */
export function executablePath() {
    const path = process.env.CHROMIUM ?? USUAL.find(existsSync);
    if (!path) throw new Error("no Chromium found; install it, or set CHROMIUM to its path");
    return path;
}

/**
 * Starts Chromium.
 *
 * @param {import("playwright-core").LaunchOptions} [options]
 */
export function launch({ args = [], ...options } = {}) {
    // The old headless mode has no GPU process.
    const flags = ["--headless=new", ...FLAGS, ...args];
    return chromium.launch({ executablePath: executablePath(), args: flags, ...options });
}

/**
 * A page whose errors fail the test that opened it.
 *
 * @param {import("playwright-core").BrowserContext} context
 * @param {string} url
 */
export async function open(context, url) {
    const page = await context.newPage();
    page.on("pageerror", error => {
        throw error;
    });
    await page.goto(url);
    return page;
}

export { serve };
