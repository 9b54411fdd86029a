"""What can be expected to go wrong: one exception with a code, a sentence that says what happened, and one that says what to do.

docs/install.md has the same codes for people; a test compares the two.
"""

from __future__ import annotations

import re

# code -> what to do, where the place that raises it knows nothing better
HINTS = {
    "E_USAGE": "Type: python install.py --help",
    "E_PLATFORM": "Choose another profile with --profile, or run the worker elsewhere (SAM3D_WORKER_COMMAND).",
    "E_WRONG_PYTHON": "Run install.py with a full Python 3.10 to 3.13, for example: python3.12 install.py",
    "E_DISK": "Free some space, or set SAM3D_ENV_DIR and SAM3D_CACHE_DIR to folders on another disk.",
    "E_PERM": "Check who owns the pack's folder and the package cache (SAM3D_CACHE_DIR moves it).",
    "E_PATH_TOO_LONG": "Set SAM3D_ENV_DIR to a short folder such as C:\\sam3d, or turn on LongPathsEnabled in Windows.",
    "E_AV_LOCK": "Close ComfyUI and whatever else uses _env, let the virus scanner leave out the pack's folder, and run the same command again.",
    "E_LOCKED": "Wait until it has ended, then run the same command again.",
    "E_IN_USE": "Close ComfyUI, or whatever started the worker, and run the same command again.",
    "E_FOREIGN": "Move it away, or set SAM3D_WORKER_PYTHON to its Python.",
    "E_DRIVER_OLD": "Install NVIDIA's newest driver, or choose --profile cpu.",
    "E_NO_KERNEL_IMAGE": "Choose the profile that has code for this GPU: python install.py --profile cu128",
    "E_CPU_TORCH": "Set SAM3D_TORCH_INDEX to an index that has the CUDA build, or choose --profile cpu.",
    "E_TORCH_REPLACED": "Run: python install.py repair",
    "E_MM_DOWNLOAD": "Set SAM3D_MICROMAMBA to a micromamba of your own, or SAM3D_MICROMAMBA_URL to a mirror; or choose --engine rattler.",
    "E_MM_BLOCKED": "Set SAM3D_CONDA_CHANNEL_ALIAS to a mirror, or HTTPS_PROXY; where the profile allows it, --engine uv needs no conda channel.",
    "E_ENGINE": "Choose another with --engine, or leave the choice to the installer.",
    "E_NO_SOLUTION_CONDA": "Choose another profile with --profile. If you use a mirror, check that it is complete.",
    "E_CONDA": "Run the same command again, or choose another engine with --engine.",
    "E_UV_NOT_FOUND": "Install uv or pip (Debian, Ubuntu: apt install python3-pip), or set SAM3D_UV.",
    "E_NO_SOLUTION": "If you use a mirror, check that it is complete.",
    "E_NO_WHEEL": "Use a Python from 3.10 to 3.13 on a common platform; leave an optional package out.",
    "E_HASH": "What arrived is not what was published: try again, or from another source.",
    "E_CERT": "Set PIP_CERT or SSL_CERT_FILE to your network's CA bundle.",
    "E_LOGIN": "Check SAM3D_PYPI_INDEX, PIP_INDEX_URL and PIP_EXTRA_INDEX_URL.",
    "E_NETWORK": "Check the network and the proxy (HTTPS_PROXY), or set PIP_INDEX_URL to a mirror; then run the same command again.",
    "E_OFFLINE_MISS": "Run it once with a network, or without --offline.",
    "E_UV": "Run the same command again.",
    "E_ENV_BROKEN": "Run: python install.py repair",
    "E_INTERRUPTED": "Run the same command again.",
}


class InstallError(Exception):
    """An expected failure, shown without a traceback. network: what was asked couldn't be reached, a cache may still have it."""

    def __init__(self, code: str, message: str, hint: str = "", *, network: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint or HINTS[code]
        self.network = network

    def to_dict(self) -> dict[str, str]:
        return {"code": self.code, "message": self.message, "hint": self.hint}


# What a tool prints -> code, what it means. The first that fits counts. uv and micromamba, mamba, conda and rattler share most of their words.
_FAILURES = (
    (r"No space left|os error 28\b|os error 112\b|\[Errno 28\]|NoSpaceLeftError", "E_DISK", "The disk is full."),
    (r"filename or extension is too long|os error 206\b", "E_PATH_TOO_LONG", "A path is longer than Windows allows."),
    (r"os error 32\b|being used by another process|WinError (?:5|32)\b", "E_AV_LOCK", "A file is held by another program."),
    (r"Permission denied|Access is denied|Read-only file system|os error (?:13|30|5)\b", "E_PERM", "A folder can't be written."),
    (
        r"invalid peer certificate|UnknownIssuer|certificate verify|SSL certificate problem",
        "E_CERT",
        "A server's certificate isn't trusted.",
    ),
    (r"\b40[13] (?:Unauthorized|Forbidden)|status code 40[13]|\(40[13]\)", "E_LOGIN", "A server refused the login."),
    (r"[Hh]ash mismatch|[Cc]hecksum|SHA-?256 (?:sum )?(?:mismatch|doesn't match)", "E_HASH", "A file isn't the one that was published."),
    (
        r"dns error|error sending request|[Cc]onnect(?:ion)? (?:error|refused|timed out)|timed out|network was disabled|Failed to fetch|Could not connect"
        r"|error trying to connect|Could not resolve host|Couldn't connect|Download error|CondaHTTPError|GatewayError|No cached repodata|not cached",
        "E_NETWORK",
        "What was asked for can't be reached, and the cache doesn't hold everything.",
    ),
)
_UV_FAILURES = (
    (
        r"no wheels with a matching|no usable wheels|has no (?:usable )?wheels|Building source distributions",
        "E_NO_WHEEL",
        "A package has no wheel for this machine and Python, and nothing is compiled here.",
    ),
    (
        r"No solution found|not found in the package registry|unsatisfiable",
        "E_NO_SOLUTION",
        "The packages don't fit together, or one isn't in the registry.",
    ),
)
_CONDA_FAILURES = (
    (
        r"Could not solve|nothing provides|UnsatisfiableError|ResolvePackageNotFound|PackagesNotFoundError|No candidates were found|does not exist \(perhaps|SolverError"
        r"|LibMambaUnsatisfiable|cannot be installed",
        "E_NO_SOLUTION_CONDA",
        "The conda packages can't be had together.",
    ),
)


def explain(tool: str, output: str, code: int, log: str) -> InstallError:
    """A tool's output as one of our errors: a sentence, the tool's own last words below it, what to do. tool: "uv", or a conda engine's name."""
    tail = [line for line in output.splitlines() if line.strip()][-6:]
    said = "\n".join("      " + line for line in tail)
    own, other = (_UV_FAILURES, "E_UV") if tool == "uv" else (_CONDA_FAILURES, "E_CONDA")
    # a solver that has no answer says so clearly; what it was refused on the way matters first only to uv, whose hints name other causes too
    table = (*_FAILURES, *own) if tool == "uv" else (*own, *_FAILURES)
    for pattern, error, message in table:
        if re.search(pattern, output):
            offline = error == "E_NETWORK" and ("network was disabled" in output or "offline" in output.lower())
            error = "E_OFFLINE_MISS" if offline else "E_MM_BLOCKED" if error == "E_NETWORK" and tool != "uv" else error
            network = error in ("E_NETWORK", "E_OFFLINE_MISS", "E_MM_BLOCKED", "E_CERT")
            return InstallError(error, f"{message}\n{said}", f"{HINTS[error]} The whole output: {log}", network=network)
    return InstallError(other, f"{tool} failed (exit code {code}).\n{said}", f"{HINTS[other]} The whole output: {log}")
