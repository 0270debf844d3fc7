"""``convkit plugins``: what is loaded, what is broken, who implements which hook."""

from __future__ import annotations

from typing import Annotated

import typer

from convkit.cli._options import JsonOption


def plugins(
    hook: Annotated[str | None, typer.Option("--hook", help="Only plugins that implement this hook.")] = None,
    json: JsonOption = False,
) -> int:
    """List the plugins with their hooks, and what is wrong with them."""
    import sys

    from convkit.cli._console import emit, emit_json
    from convkit.errors import SettingError, suggest
    from convkit.plugins import hook_names, manager

    known = hook_names()
    if hook is not None and hook not in known:
        raise SettingError(f"There is no hook {hook!r}.", hint=suggest(hook, known) or f"Hooks: {', '.join(known)}.")
    infos = [info for info in manager().infos() if hook is None or hook in info.hooks]
    clashes = manager().clashes()
    if json:
        loaded = [
            {
                "name": info.name,
                "distribution": info.distribution,
                "version": info.version,
                "hooks": list(info.hooks),
                "warnings": info.warnings(),
            }
            for info in infos
        ]
        broken = [{"name": b.name, "distribution": b.distribution, "error": b.reason} for b in manager().broken]
        emit_json({"plugins": loaded, "broken": broken, "clashes": clashes})
        return 0
    for info in infos:
        emit(f"{info.name}  ({info.distribution} {info.version})")
        for name in info.hooks:
            emit(f"  {name}")
        for name in info.unmarked:
            emit(f"  {name} NOT CALLED: it lacks @convkit.hookimpl")
    for failed in manager().broken:
        emit(f"{failed.name}  ({failed.distribution}) BROKEN: {failed.reason}")
    sys.stderr.writelines(f"warning: {text}\n" for text in clashes)
    return 0
