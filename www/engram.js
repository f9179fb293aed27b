// @ts-check
/**
 * The package, typed by its own declarations. The path is a variable because the types come from the
 * sources, whether or not the package has been built beside this page.
 */

const path = "./pkg/index.js";

export const {
    EngineWorker, EngramError, Trainer, evaluate, checkSupport, cache,
    bundledPatterns, parsePatterns, formatPatterns, checkPatterns, augmentPattern, parseExamples, readExamples,
    loadDataset, splitPatterns,
} = /** @type {typeof import("../src/web/js/engram")} */ (await import(path));
