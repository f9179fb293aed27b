// @ts-check
/** Everything that the package offers; `engram.d.ts` says what it is. */

export { cache } from "./cache.js";
export { EngineWorker } from "./client.js";
export {
    augmentPattern,
    bundledPatterns,
    checkPatterns,
    formatPatterns,
    parseExamples,
    parsePatterns,
    readExamples,
    splitPatterns,
} from "./data.js";
export { loadDataset } from "./dataset.js";
export { Engine } from "./engine.js";
export { EngramError } from "./errors.js";
export { evaluate } from "./evaluate.js";
export { checkSupport } from "./support.js";
export { Trainer } from "./trainer.js";
