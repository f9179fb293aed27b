"""Gets the peers from their registries, once, into the folder of the run."""

import ctypes.util
import json
import os
import shutil
import sys
import tomllib
from pathlib import Path

from peers.process import Failed, run

ROOT = Path(__file__).resolve().parents[2]
GOLDENS = ROOT / "scripts" / "goldens"
HERE = Path(__file__).resolve().parent
LLAMA_CPP = "llama-cpp-python==0.3.36"
ONNX = (
    "flatbuffers==25.12.19",
    "ml_dtypes==0.6.0",
    "onnx==1.23.2",
    "onnx-ir==1.1.0",
    "onnxruntime==1.32.0",
    "onnxruntime-genai==0.18.0",
    "protobuf==7.36.2",
)
# Longer than any of them takes on two cores.
LIMIT = 3600
PAGE_MODEL = "models/smollm2"


def pinned(*, mlx: bool) -> list[str]:
    """The versions that made the goldens: those of MLX, or all others."""
    lines = (GOLDENS / "requirements.txt").read_text().split()
    return [line for line in lines if line.startswith("mlx") == mlx]


def once(folder: Path, wanted: str, install) -> None:
    """Calls `install` unless this folder holds what it would bring."""
    stamp = folder / "installed.txt"
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"installing {folder.name}", file=sys.stderr)
        install()
        stamp.write_text(wanted)


def python_of(folder: Path) -> Path:
    return folder / "bin" / "python"


def virtual_environment(args, folder: Path, *packages: str, **environment: str) -> None:
    def install() -> None:
        run(args, sys.executable, "-m", "venv", folder, limit=LIMIT)
        pip = (python_of(folder), "-m", "pip", "install", "--quiet", "--no-cache-dir")
        # What is built from source differs by how it is built, and a cache does not know.
        run(args, *pip, *packages, limit=LIMIT, **environment)

    once(folder, " ".join((*packages, *environment.values())), install)


def base(args) -> None:
    """PyTorch with PEFT, llama.cpp on the CPU, and what reads the model for the others."""
    if args.python is None:
        folder = args.out / "venv"
        virtual_environment(args, folder, *pinned(mlx=False), LLAMA_CPP)
        args.python = python_of(folder)


def mlx(args) -> None:
    virtual_environment(args, args.out / "mlx", *pinned(mlx=True))


def openblas() -> str:
    """The name of the machine's OpenBLAS, or nothing."""
    return ctypes.util.find_library("openblas") or ""


def llama_cpp_vulkan(args) -> None:
    for tool, package in (("glslc", "glslc"), ("cmake", "cmake"), ("c++", "g++")):
        if shutil.which(tool) is None:
            raise Failed(f"building llama.cpp for Vulkan needs {tool} (Debian: {package})")
    parallel = {"CMAKE_BUILD_PARALLEL_LEVEL": str(args.threads)}
    source = ("--no-binary", "llama-cpp-python", LLAMA_CPP)
    folder = args.out / "llama-vulkan"
    try:
        virtual_environment(args, folder, *source, CMAKE_ARGS="-DGGML_VULKAN=on", **parallel)
    except Failed:
        raise Failed(
            "llama.cpp did not build for Vulkan: it needs Vulkan headers of 1.4 (in CPATH, or"
            " Debian 13's libvulkan-dev) and spirv-headers"
        ) from None


def meganeura(args) -> None:
    manifest = HERE / "meganeura" / "Cargo.toml"
    command = ("cargo", "build", "--quiet", "--release", "--locked", "--manifest-path", manifest)
    run(args, *command, "--target-dir", args.out / "meganeura", limit=LIMIT)


def meganeura_version() -> str:
    lock = tomllib.loads((HERE / "meganeura" / "Cargo.lock").read_text())
    return next(p["version"] for p in lock["package"] if p["name"] == "meganeura")


def npm_version(package: str) -> str:
    return json.loads((HERE / "web" / "package.json").read_text())["dependencies"][package]


def browser(args) -> None:
    """What drives Chromium, and the packages of the pages."""
    if shutil.which("npm") is None:
        raise Failed("no npm: pages need Node.js 20 or newer")
    tests = ROOT / "tests" / "web"
    quiet = ("--silent", "--no-audit", "--no-fund", "--ignore-scripts")
    if not (tests / "node_modules" / "playwright-core").is_dir():
        run(args, "npm", "ci", "--prefix", tests, *quiet, limit=LIMIT)
    folder, packages = args.out / "web", HERE / "web" / "package.json"
    folder.mkdir(exist_ok=True)

    def install() -> None:
        shutil.copy(packages, folder)
        run(args, "npm", "install", "--prefix", folder, "--omit=optional", *quiet, limit=LIMIT)

    once(folder, packages.read_text(), install)


def page(args) -> None:
    browser(args)
    if not (args.package / "index.js").is_file():
        raise Failed("no engram package: scripts/package builds it, --package names it")


def onnx(args) -> None:
    """The model for onnxruntime's WebGPU, in f32 and in 4 bits, as transformers.js finds it."""
    browser(args)
    work, model = args.out / "onnx", args.out / "web" / PAGE_MODEL
    packages = work / "packages"
    paths = os.pathsep.join(str(path) for path in (packages, HERE.parent))
    config = json.loads((args.weights / "config.json").read_text())

    def install() -> None:
        pip = (args.python, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade")
        run(args, *pip, "--target", packages, *ONNX, limit=LIMIT)
        for precision, options, file in (
            ("fp32", (), "model.onnx"),
            ("int4", ("--extra_options", "use_webgpu_fp32=true"), "model_q4.onnx"),
        ):
            files = ("-i", args.weights, "-o", work / precision, "-c", work / "cache")
            command = ("-m", "onnxruntime_genai.models.builder", *files, "-p", precision)
            target = ("-e", "webgpu", *options)
            run(args, args.python, *command, *target, limit=LIMIT, PYTHONPATH=paths)
            move = (work / precision / "model.onnx", model / "onnx" / file, config["head_dim"])
            command = ("-m", "peers.onnx_file", *move)
            run(args, args.python, *command, limit=LIMIT, PYTHONPATH=paths)
        for name in ("config", "generation_config", "tokenizer", "tokenizer_config"):
            shutil.copy(args.weights / f"{name}.json", model)

    work.mkdir(exist_ok=True)
    once(work, " ".join(ONNX), install)
