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
    from convkit.cli._console import emit, emit_json
    from convkit.plugins import manager

    plugins = manager()
    table = {name: plugins.adapter(name)} if name else plugins.adapters()
    infos = {info.name: info for info in plugins.infos()}
    offers = plugins.gather("convkit_adapters")
    # The first plugin that offers a name wins, so it is entered last.
    owners = {item.name: infos[plugin] for plugin, items in reversed(offers.items()) for item in items}
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
    width = max((len(item.name) for item in table.values()), default=0)
    for item in table.values():
        owner = owners[item.name]
        emit(f"{item.name:<{width}}  {item.summary}  ({owner.distribution} {owner.version})")
        if name:
            emit(f"  forms   {', '.join(item.forms)}")
            emit(f"  shapes  {', '.join(str(dim) for dim in item.dims)}")
            for option in item.options:
                default = option.default
                shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
                choices = f" ({' | '.join(option.choices)})" if option.choices else ""
                emit(f"  --set {option.name}={shown}{choices}: {option.help}")
