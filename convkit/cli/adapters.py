"""``convkit adapters``: which model families can be converted."""

from __future__ import annotations

from typing import Annotated

import typer

from convkit.cli._options import JsonOption


def adapters(
    name: Annotated[str | None, typer.Argument(help="Show one adapter with its options.")] = None,
    json: JsonOption = False,
) -> None:
    """List the adapters, or show one."""
    import sys

    from convkit.cli._console import emit, emit_json
    from convkit.cli._layout import aligned
    from convkit.plugins import manager

    plugins = manager()
    table = {name: plugins.adapter(name)} if name else plugins.adapters()
    owners = {known: plugins.owner(known) for known in table}
    if not name:
        sys.stderr.writelines(f"warning: {text}\n" for text in plugins.clashes())
    if json:
        emit_json(
            [
                {
                    "name": item.name,
                    "summary": item.summary,
                    "distribution": owners[item.name].distribution,
                    "version": owners[item.name].version,
                    "forms": list(item.forms),
                    "dims": [dim.to_json() for dim in item.dims],
                    "options": [
                        {"name": o.name, "default": o.default, "help": o.help, "choices": list(o.choices)}
                        for o in item.options
                    ],
                    "opset": item.opset,
                }
                for item in table.values()
            ]
        )
        return
    origins = {name: f"({owner.distribution} {owner.version})" for name, owner in owners.items()}
    lines = aligned((item.name, f"{item.summary}  {origins[item.name]}") for item in table.values())
    for item, line in zip(table.values(), lines, strict=True):
        emit(line)
        if name:
            emit(f"  forms   {', '.join(item.forms)}")
            emit(f"  shapes  {', '.join(str(dim) for dim in item.dims)}")
            for option in item.options:
                default = option.default
                shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
                choices = f" ({' | '.join(option.choices)})" if option.choices else ""
                emit(f"  --set {option.name}={shown}{choices}: {option.help}")
