// @ts-check
/**
 * Subgroups for wgpu's devices. wgpu does not ask a browser for them yet, so while a device is opened its
 * adapter is asked for them too.
 */

/** What stands in the place of `requestDevice`, if something does. @type {unknown} */
let asked;

/**
 * From now on every device has subgroups, where its adapter has, until what is returned is called. What
 * others put there in between stays, and a second one that begins meanwhile ends with the first.
 */
export function begin() {
    const prototype = globalThis.GPUAdapter?.prototype;
    const own = prototype?.requestDevice;
    if (!prototype || !own || own === asked) return () => {};
    /** @type {typeof own} */
    const asking = function (descriptor) {
        const features = [...(descriptor?.requiredFeatures ?? [])];
        if (this.features.has("subgroups")) features.push("subgroups");
        return own.call(this, { ...descriptor, requiredFeatures: features });
    };
    asked = prototype.requestDevice = asking;
    return () => {
        if (prototype.requestDevice === asking) prototype.requestDevice = own;
    };
}
