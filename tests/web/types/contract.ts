/** The modules are what `engram.d.ts` says they are. Only compiled. */

import type * as Declared from "engram";
import type * as Written from "../../../src/web/js/index.js";

/** Compiles only if `Actual` can stand where `Expected` is asked for. */
type Is<Actual extends Expected, Expected> = Actual;

type Functions =
    | "augmentPattern"
    | "bundledPatterns"
    | "cache"
    | "checkPatterns"
    | "checkSupport"
    | "evaluate"
    | "formatPatterns"
    | "loadDataset"
    | "parseExamples"
    | "parsePatterns"
    | "readExamples"
    | "splitPatterns";

/** What a class's instances have, without its private side. */
type Public<T> = { [K in keyof T]: T[K] };

export type Names = [
    Is<keyof typeof Written, keyof typeof Declared>,
    Is<keyof typeof Declared, keyof typeof Written>,
];
export type Values = Is<Pick<typeof Written, Functions>, Pick<typeof Declared, Functions>>;
export type Instances = [
    Is<Written.Engine, Public<Declared.Engine>>,
    Is<Written.EngineWorker, Public<Declared.EngineWorker>>,
    Is<Written.Trainer, Public<Declared.Trainer>>,
    Is<Written.EngramError, Public<Declared.EngramError>>,
];
export type Loads = [
    Is<Parameters<typeof Declared.Engine.load>, Parameters<typeof Written.Engine.load>>,
    Is<Parameters<typeof Declared.EngineWorker.load>, Parameters<typeof Written.EngineWorker.load>>,
    Is<Parameters<typeof Declared.Trainer.create>, Parameters<typeof Written.Trainer.create>>,
];
