"""Builds `_env/`, the worker's own Python environment, and starts the command line inside it.

`../install.py` (what ComfyUI-Manager runs) and `../sam3d.py` (the launcher) are two thin doors to this folder. Everything here is
standard library and runs on Python 3.9 to 3.13, in whatever Python calls it; nothing here is imported by nodes/, client/ or worker/.

    commands.py     install.py's commands                 launch.py      the step from sam3d.py into `_env/`
    settings.py     options and SAM3D_* variables          plan.py        what would be done, as JSON
    transaction.py  lock, build, audit, journal last, the old environment back on failure
    journal.py      what an `_env/` says of itself (all that a warm start needs)      steps.py   how far a run came
    profiles.py     cpu, cu121, cu128                      host.py        GPUs, libc, platform      checks.py   what is looked at first
    engines/        micromamba, conda, rattler, uv: what makes Python and the conda packages
    packages.py     what uv is asked to put in             uv.py          finding and running uv
    download.py     one file whose digest is known         process.py     starting programs
    audit.py        is every file there?                   doctor.py, probes.py   does every package work?
    uninstall.py, folders.py, lock.py, errors.py

    profiles.json, environment*.yml, constraints.*.txt, requirements_env.txt, micromamba.json   the profiles as data; all addresses are in these files
    base.txt, model.txt, video.txt, server.txt, dev.txt    the layers                            uv.txt, rattler.txt   the tools' pins

README.md in this folder is for people.
"""
