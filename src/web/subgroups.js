// @ts-check
/**
 * Subgroups for wgpu's devices. wgpu does not ask a browser for them yet, so while a device is opened its
 * adapter is asked for them too.
 */

const prototype = globalThis.GPUAdapter?.prototype;
const own = prototype?.requestDevice;

/** From now on every device has subgroups, where its adapter has. */
export function begin() {
    if (!prototype || !own) return;
    prototype.requestDevice = function (descriptor) {
        const features = [...(descriptor?.requiredFeatures ?? [])];
        if (this.features.has("subgroups")) features.push("subgroups");
        return own.call(this, { ...descriptor, requiredFeatures: features });
    };
}

/** As it was. */
export function end() {
    if (prototype && own) prototype.requestDevice = own;
}
