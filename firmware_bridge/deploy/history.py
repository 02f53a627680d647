"""What ran here: which releases, how new the newest bundle was, which keys were revoked; and what may go."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping
from typing import Any

from firmware_bridge.deploy.layers import remove_layers
from firmware_bridge.deploy.layout import Layout, is_id
from firmware_bridge.deploy.release import (
    APP,
    BUNDLE,
    OUTCOME,
    RUNNING,
    SITE,
    Description,
    read_if_whole,
    read_json,
    write_json,
)
from firmware_bridge.errors import DowngradeError


def history(layout: Layout) -> list[str]:
    """The releases that ran here and are still there and readable, the latest last."""
    found = [id for id in _listed(read_json(layout.state), "history") if isinstance(id, str) and is_id(id)]
    return [id for id in found if read_if_whole(layout, id) is not None]


def _listed(state: Mapping[str, Any], name: str) -> list[Any]:
    found = state.get(name, [])
    return found if isinstance(found, list) else []


def ready(layout: Layout, having: str) -> list[str]:
    """Releases with a certain file, whole, which the service's user can read: a umask of 077 once locked it out."""
    found = []
    for path in layout.releases.glob(f"*/{having}"):
        files = [one.lstat().st_mode for one in path.parent.iterdir() if not one.is_symlink()]
        open_to_all = path.parent.stat().st_mode & 0o005 == 0o005 and all(mode & 0o004 for mode in files)
        if open_to_all and is_id(path.parent.name) and read_if_whole(layout, path.parent.name):
            found.append(path.parent.name)
    return sorted(found)


def damaged(layout: Layout) -> list[str]:
    """Releases that cannot be read any more. They are no use, and go with the next tidying."""
    ids = [path.name for path in layout.releases.glob("*") if is_id(path.name) and path.is_dir()]
    return sorted(id for id in ids if read_if_whole(layout, id) is None)


def newest_of_each(layout: Layout) -> dict[str, str]:
    """Name of a bundle -> when the newest of that name that ever ran here was created.

    What is still there and ran counts too: should the file with the rest be lost, an older one is still refused.
    """
    content = read_json(layout.state).get("newest")
    found = {name: made for name, made in content.items() if isinstance(made, str)} if isinstance(content, dict) else {}
    current = layout.linked_id(layout.current)
    for outcome in layout.releases.glob(f"*/{OUTCOME}"):
        id = outcome.parent.name
        if not is_id(id) or (id != current and read_json(outcome).get("state") != RUNNING):
            continue
        if description := read_if_whole(layout, id):
            name, made = description.bundle["name"], description.bundle["created"]
            found[name] = max(made, found.get(name, ""))
    return found


def newest(layout: Layout, name: str) -> str:
    """When the newest bundle of that name that ever ran here was created; empty where none did."""
    return newest_of_each(layout).get(name, "")


def forbid_downgrade(layout: Layout, bundle: Mapping[str, Any], *, do: str) -> None:
    """Refuse a bundle ("name", "created") that is older than the newest of its name that ever ran here.

    Raises:
        DowngradeError: it is; `do` says what the user can do.
    """
    name, created = bundle["name"], bundle["created"]
    if (seen := newest(layout, name)) > created:
        raise DowngradeError(
            f"bundle '{name}' is older than what ran here",
            expected=f"one made {seen} or later",
            came=f"made {created}",
            do=do,
        )


def remember(layout: Layout, description: Description) -> None:
    """Write down that a release runs now.

    Raises:
        OSError: it cannot be written.
    """
    state = read_json(layout.state)
    ran = [id for id in history(layout) if id != description.id]
    bundle, seen = description.bundle, newest_of_each(layout)
    created = max(bundle["created"], seen.get(bundle["name"], ""))
    write_json(
        layout.state,
        {**state, "history": [*ran, description.id], "newest": {**seen, bundle["name"]: created}},
    )


def tidy(layout: Layout, *, keep: int) -> list[str]:
    """Remove all but the last `keep` releases that ran, and the layers that nobody needs any more.

    Returns:
        The releases that were removed.
    """
    wanted = set(history(layout)[-keep:])
    wanted |= {id for link in (layout.current, layout.activating) if (id := layout.linked_id(link))}
    removed = []
    for folder in layout.releases.glob("*"):
        # Somebody's own file in there is not ours to remove, and no reason to fail.
        if is_id(folder.name) and folder.name not in wanted and folder.is_dir() and not folder.is_symlink():
            shutil.rmtree(folder)
            removed.append(folder.name)
    remove_layers(layout, keep={hash for id in wanted for hash in _layers_of(layout, id)})
    return removed


def _layers_of(layout: Layout, id: str) -> list[str]:
    """The layers that a release uses, by its links: what runs keeps its own, also where its description is damaged."""
    found = []
    for kind in (APP, SITE, BUNDLE):
        with contextlib.suppress(OSError):
            found.append((layout.release(id) / kind).readlink().name)
    return found


def forget_unused(layout: Layout, layer: str) -> None:
    """Remove a layer that no release needs which runs, ran or is switched to, and the releases made of it.

    Raises:
        OSError: it cannot be removed.
    """
    wanted = {*history(layout), layout.linked_id(layout.current), layout.linked_id(layout.activating)}
    using = [
        path.name for path in layout.releases.glob("*") if is_id(path.name) and layer in _layers_of(layout, path.name)
    ]
    if wanted.intersection(using):
        return
    for id in using:
        shutil.rmtree(layout.release(id))
    for path in (layout.layer(layer), *layout.layers.glob(f".{layer}.*"), layout.layers / f"{layer}.json"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
