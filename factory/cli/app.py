"""The commands and their options. Imports click alone; each command loads its own code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from ..inputs import MaskOptions
    from .show import Show

F = TypeVar("F", bound=Callable[..., Any])
_PATH = click.Path(path_type=Path)

_OUT = click.option("--out", "-o", type=_PATH, default="outputs", show_default=True, help="The folder for results.")
_JSON = click.option("--json", "as_json", is_flag=True, help="One JSON event a line on stdout.")

# What both `reconstruct` and `batch` have. Values stay text: the contract's records check them, and say what is allowed.
_SETTINGS = (
    click.option("--engine", help="auto, draft or sam3d."),
    click.option("--seed", help="0 to 2^64 - 1; the same seed gives the same bytes."),
    click.option("--quality", help="fast, standard or best."),
    click.option("--preset", help="auto, prop, figure, slab, ball or pixel."),
    click.option(
        "--format",
        "-f",
        "outputs",
        multiple=True,
        help="glb, ply, splat, obj, stl, mesh_ply, preview, turntable, video, contact_sheet, normals, wireframe, overlay; again, or with commas.",
    ),
    click.option("--target", help="Whom the files are for: none, blender, unity, unreal, godot or web. See docs/targets.md."),
    click.option("--ply-frame", help="Which way is up in splat files: y_down, y_up or z_up."),
    click.option("--texture-size", help="Pixels, 256 to 4096."),
    click.option("--faces", "face_budget", help="Triangles, 500 to 200000."),
)
_MASKS = (
    click.option("--auto-mask", metavar="METHOD", help="Find a mask where there is none: border or grabcut."),
    click.option("--mask-kind", metavar="KIND", help="How a JSON mask is meant if it can be read in two ways, e.g. annotation."),
    click.option("--invert-mask", is_flag=True, help="The masks select the background."),
    click.option("--resize-mask", is_flag=True, help="Accept masks of another size than their picture's."),
    click.option("--allow-full-mask", is_flag=True, help="Accept masks that select the whole picture."),
)
_COMMON = (
    *_SETTINGS,
    *_MASKS,
    click.option("--set", "set_", multiple=True, metavar="NAME=VALUE", help="Any parameter, e.g. thickness=0.5; see docs/cli.md."),
    click.option("--force", is_flag=True, help="Make results again that are already there."),
    _JSON,
    click.option("--quiet", "-q", is_flag=True, help="Say nothing but errors."),
)


def _common(function: F) -> F:
    for option in reversed(_COMMON):
        function = option(function)
    return function


class _Named(click.Command):
    """A command that is given files: one whose name begins with a dash is taken for options, and the error should say that."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        given = args[: args.index("--")] if "--" in args else list(args)
        try:
            return super().parse_args(ctx, args)
        except click.UsageError:
            for name in given:
                if name.startswith("-") and Path(name).is_file():
                    raise click.UsageError(f"{name} is taken for an option, as it begins with a dash. Write ./{name}", ctx) from None
            raise


@click.group(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="`python sam3d.py test` runs the tests. `COMMAND --help` lists a command's options.",
)
def app() -> None:
    """One picture and its masks in, textured meshes and Gaussian splats out."""


@app.command(cls=_Named, short_help="One picture -> a folder with mesh, splats and preview.")
@click.argument("image", type=_PATH)
@click.option("--mask", "-m", "masks", type=_PATH, multiple=True, metavar="FILE", help="A mask file; again for each further object.")
@click.option("--masks", "mask_source", type=_PATH, help="All masks: a folder of pictures, or a JSON file (COCO, labelme, RLE, polygons).")
@_OUT
@click.option("--name", help="The result's name; the picture's, if not given.")
@click.option(
    "--pointmap",
    metavar="FILE",
    help="Points or depth of the picture for the sam3d engine: .npy, .npz, 16-bit PNG or TIFF; docs/pointmaps.md.",
)
@_common
def reconstruct(image: Path, masks: tuple[Path, ...], mask_source: Path | None, out: Path, name: str | None, **common: Any) -> int:
    """One picture -> OUT/NAME/ with model.glb, splat.ply, preview.png, meta.json."""
    with _Reporting(common) as show:
        from . import reconstruct as command

        return command.run(
            show,
            image,
            masks=masks,
            mask_source=mask_source,
            out=out,
            name=name,
            settings=_settings(common),
            options=_mask_options(common),
            force=common["force"],
        )


@app.command(cls=_Named, short_help="A folder of pictures -> a folder of results.")
@click.argument("source", type=_PATH, metavar="INPUT")
@_OUT
@click.option("--pair", metavar="RULE", help="Force a pairing rule: table, folder, suffix, layout, alpha or auto.")
@click.option("--recursive", "-r", is_flag=True, help="Look into sub-folders too.")
@click.option("--only", multiple=True, metavar="GLOB", help="Take only these, e.g. 'steak*'; again for more.")
@click.option("--exclude", multiple=True, metavar="GLOB", help="Leave these out.")
@click.option("--limit", type=click.IntRange(min=1), help="Take only the first N.")
@click.option("--dry-run", "-n", is_flag=True, help="Check everything, print the table, make nothing.")
@click.option("--retry-failed", is_flag=True, help="Try again what failed in an earlier run.")
@click.option("--retry-quarantined", is_flag=True, help="Try again what killed its worker twice in an earlier run.")
@click.option("--fail-fast", is_flag=True, help="Stop at the first item that fails.")
@click.option(
    "--retries",
    type=click.IntRange(0, 10),
    default=1,
    show_default=True,
    help="Further attempts after a crash of the worker or a lack of memory.",
)
@click.option("--flat", is_flag=True, help="OUT/NAME.model.glb instead of OUT/NAME/model.glb.")
@click.option(
    "--template",
    default="{stem}",
    show_default=True,
    help="Names of results, of {stem}, {folder}, {seed}, {engine}, {quality} and {preset}.",
)
@click.option(
    "--executor",
    type=click.Choice(("local", "ray", "modal")),
    default="local",
    show_default=True,
    help="Where the work is done: on this machine, on a Ray cluster, or on Modal. See docs/scale.md.",
)
@click.option("--workers", type=click.IntRange(1, 1000), help="Workers side by side; one (ray: as many as fit, modal: 8), if not given.")
@click.option("--gpus", help="One worker for each GPU: all, a number, or a list, e.g. 0,2.")
@click.option("--watch", is_flag=True, help="Go on: take every picture that is put into INPUT, until Ctrl-C.")
@click.option(
    "--server", metavar="URL", help="Reconstruct on a job server (docs/server.md), as SAM3D_SERVER does; its token is SAM3D_TOKEN."
)
@click.option(
    "--interval", type=click.FloatRange(0.05, 3600), default=1.0, show_default=True, help="Seconds between two looks at INPUT (--watch)."
)
@_common
def batch(dry_run: bool, **options: Any) -> int:
    """A folder of pictures (or a table of them) -> a folder of results: resumable, with manifest.jsonl and report.html."""
    with _Reporting(options) as show:
        import os
        from dataclasses import fields

        from ...contract.errors import OptionError
        from ..batch import BatchOptions
        from . import batch as command

        own = {item.name: options[item.name] for item in fields(BatchOptions) if item.name in options}
        if options["server"]:
            if options["executor"] != "local":
                raise OptionError("--server and --executor are both given.", "Give one of them.")
            os.environ["SAM3D_SERVER"] = options["server"]
        usual = click.get_current_context().get_parameter_source("retries") == click.core.ParameterSource.DEFAULT
        if os.environ.get("SAM3D_SERVER", "").strip() and options["executor"] == "local" and usual:
            own["retries"] = 0  # attempts are counted in one place, and that is the server
        made = BatchOptions(**own, settings=_settings(options), masks=_mask_options(options))
        return command.dry_run(show, made) if dry_run else command.run(show, made)


@app.command(short_help="The job server: web page and HTTP API.")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on. Any but this machine's own needs a token.")
@click.option("--port", type=click.IntRange(0, 65535), default=8765, show_default=True, help="0: any that is free; it is printed.")
@click.option("--data", type=_PATH, default="server_data", show_default=True, help="The folder for pictures, jobs and results.")
@click.option(
    "--token-file", type=_PATH, help="A file with the token; else SAM3D_TOKEN, else, where one is needed, one is made and printed once."
)
@click.option("--insecure-no-auth", is_flag=True, help="No token although other machines can reach the server.")
@click.option("--allow-host", multiple=True, metavar="NAME", help="Another name of this server, as browsers know it; again for more.")
@click.option(
    "--allow-origin", multiple=True, metavar="ORIGIN", help="A page elsewhere that may call, e.g. https://assets.example; again for more."
)
@click.option("--workers", type=click.IntRange(1, 64), help="Worker processes side by side; one, if not given.")
@click.option("--gpus", help="One worker for each GPU: all, how many, or which (0,1).")
@click.option("--queue", type=click.IntRange(1, 100_000), default=1000, show_default=True, help="Jobs that may wait.")
@click.option("--job-time", type=click.FloatRange(1, 86400), default=1800.0, show_default=True, help="Seconds for one attempt at a job.")
@click.option(
    "--attempts", type=click.IntRange(1, 10), default=2, show_default=True, help="At one job, where its worker dies or memory lacks."
)
@click.option(
    "--quota", type=click.IntRange(min=1), help="MiB that pictures and results may take; all of the disk but 512 MiB, if not given."
)
@click.option(
    "--keep-days", type=click.FloatRange(0.01, 36500), default=30.0, show_default=True, help="How long jobs stay after their end."
)
@click.option(
    "--idle-unload",
    type=click.FloatRange(0),
    default=0.0,
    show_default=True,
    help="Seconds without work after which a worker is stopped; 0: never.",
)
@click.option("--no-build", is_flag=True, help="Don't build the web page (docs/page.md); without a built one there is a plain form.")
@click.option("--quiet", "-q", is_flag=True, help="Say nothing but errors.")
def serve(**options: Any) -> int:
    """The job server: web page and HTTP API over the same worker. docs/server.md"""
    with _Reporting({"as_json": False, "quiet": options["quiet"]}):
        from . import serve as command

        return command.run(**options)


@app.command(short_help="Look whether everything works here.")
@click.option("--out", "-o", type=_PATH, default="outputs", show_default=True, help="The folder that must be writable (it is not made).")
@click.option("--json", "as_json", is_flag=True, help="The checks as one JSON object.")
def doctor(out: Path, as_json: bool) -> int:
    """Look whether everything works here: environment, worker, engine, permissions."""
    from . import doctor as command

    return command.run(out, as_json=as_json)


@app.group(short_help="The learned engine's files: fetch, verify, ...")
def weights() -> None:
    """The files of the learned engine: status, fetch, verify, convert, fake."""


_FOLDER = click.option("--folder", type=_PATH, help="The weights' folder; where they are found or belong, if not given (docs/weights.md).")


@weights.command()
@_FOLDER
@_JSON
def status(folder: Path | None, as_json: bool) -> int:
    """What is there, and where it was looked for. Exit code 0 where the sam3d engine can run."""
    return _weights("status", folder, as_json)


@weights.command()
@_FOLDER
@_JSON
def fetch(folder: Path | None, as_json: bool) -> int:
    """Get what is missing from the hub (14 GB). Goes on where it stopped."""
    return _weights("fetch", folder, as_json)


@weights.command()
@_FOLDER
@_JSON
def verify(folder: Path | None, as_json: bool) -> int:
    """Check every file: size, sha256, settings, the networks' keys and shapes."""
    return _weights("verify", folder, as_json)


@weights.command()
@_FOLDER
@click.option("--again", is_flag=True, help="Also what was converted before.")
@_JSON
def convert(folder: Path | None, again: bool, as_json: bool) -> int:
    """Make the half-precision files that load fast, beside the official ones (7 GB)."""
    return _weights("convert", folder, as_json, *(["--again"] if again else []))


@weights.command()
@click.argument("folder", type=_PATH, metavar="DIR")
@click.option("--tiny", is_flag=True, help="Small networks (11 MB), instead of the full size (14 GB).")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True)
@_JSON
def fake(folder: Path, tiny: bool, seed: int, as_json: bool) -> int:
    """Write random weights into DIR, for tests: results are balls of noise, and say so."""
    return _weights("fake", folder, as_json, f"--seed={seed}", *(["--tiny"] if tiny else []))


def _weights(verb: str, folder: Path | None, as_json: bool, *more: str) -> int:
    from . import weights as command

    return command.run(verb, [*more, *([] if folder is None else [f"--folder={folder.absolute()}"])], as_json=as_json)


@app.command()
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def version(as_json: bool) -> int:
    """Print the versions of pack, protocol and Python."""
    import platform

    from ...contract.version import PROTOCOL, VERSION

    if as_json:
        import json

        click.echo(json.dumps({"version": VERSION, "protocol": PROTOCOL, "python": platform.python_version()}))
    else:
        click.echo(f"comfyui-sam3d {VERSION} (protocol {PROTOCOL}, Python {platform.python_version()})")
    return 0


def _settings(common: dict[str, Any]) -> dict[str, Any]:
    """The short options and --set in one mapping. Raises OptionError where they contradict."""
    from ...contract.errors import OptionError
    from ..settings import parse_settings

    names = ("engine", "seed", "quality", "preset", "outputs", "target", "ply_frame", "texture_size", "face_budget", "pointmap")
    given = {name: list(common[name]) if name == "outputs" else common[name] for name in names if common.get(name) not in (None, ())}
    more = parse_settings(common["set_"])
    for name in given:
        if name in more:
            raise OptionError(f"{name} is given twice: as an option, and with --set.", "Leave one of them out.")
    return {**given, **more}


def _mask_options(common: dict[str, Any]) -> MaskOptions:
    from ..inputs import MaskOptions

    return MaskOptions(
        auto=common["auto_mask"],
        invert=common["invert_mask"],
        resize=common["resize_mask"],
        allow_full=common["allow_full_mask"],
        kind=common["mask_kind"],
    )


class _Reporting:
    """The Show that the options ask for; an error of ours that gets out of the block is said there, and becomes an exit code."""

    def __init__(self, common: dict[str, Any]) -> None:
        from .show import open_show

        self.show = open_show(as_json=common["as_json"], quiet=common["quiet"])

    def __enter__(self) -> Show:
        return self.show

    def __exit__(self, _kind: object, problem: BaseException | None, _trace: object) -> None:
        from ...contract.errors import Sam3dError
        from ..events import error_event, exit_code

        if isinstance(problem, Sam3dError):
            self.show.event("failed", name=None, error=error_event(problem), attempt=1, retry=False)
            raise click.exceptions.Exit(exit_code(problem)) from None
