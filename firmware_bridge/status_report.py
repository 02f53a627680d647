"""How an agent is, seen from outside: its own words where it runs, its journal in any case."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import asdict
from pathlib import Path
from typing import Any

from firmware_bridge.disk import space_at
from firmware_bridge.journal_reader import open_reader
from firmware_bridge.result import NOTICE
from firmware_bridge.results_export import decision_of
from firmware_bridge.status import ask, works


def report(state: Path, *, last: int = 5) -> dict[str, Any]:
    """The status of the agent of a state folder; nothing there is changed.

    Args:
        state: the state folder.
        last: how many of the latest results.

    Raises:
        ConfigError: there is no journal in it.
        ResourceError: it cannot be read.
    """
    live = ask(state)
    with open_reader(state) as journal:
        found: dict[str, Any] = {"notice": NOTICE, "running": live is not None, "state_folder": str(state)}
        found["queue"] = _queue(journal)
        found["last_results"] = [
            json.loads(text)
            for (text,) in journal.execute(
                # Not those of a deployment's golden X-rays, which count as sent from the start.
                "SELECT record FROM result WHERE sent_s IS NOT made_s ORDER BY seq DESC LIMIT ?",
                (last,),
            )
        ]
    found["disk"] = asdict(space_at(state))
    if live is None:
        return found
    queue = {**found["queue"], **live["queue"]}
    return {**found, **live, "queue": queue, "works": works(live["problems"])}


def _queue(journal: sqlite3.Connection) -> dict[str, int]:
    query = """SELECT (SELECT count(*) FROM intake WHERE state='taken'),
                      (SELECT count(*) FROM intake WHERE state='scored'),
                      (SELECT count(*) FROM result WHERE sent_s IS NULL),
                      (SELECT count(*) FROM result WHERE sent_s IS NOT made_s)"""
    names = ("to_score", "to_write", "unsent", "results")
    return dict(zip(names, journal.execute(query).fetchone(), strict=True))


def as_text(found: dict[str, Any]) -> str:
    """The same for a person."""
    queue = found["queue"]
    lines = [f"{found['notice']}", f"agent     {_state(found)}", f"state     {found['state_folder']}"]
    if "device" in found:
        bundle = found["bundle"]
        lines.append(f"device    {found['device']}")
        lines.append(f"bundle    {bundle['name']} ({bundle['id'][:12]}), threshold {found['threshold']:.3f}")
    if found.get("model"):
        model = found["model"]
        lines.append(f"model     {model['file']}: {model['runtime']}, {model['delegate']}")
    waiting = f"{queue['waiting']} waiting, " if "waiting" in queue else ""
    lines.append(f"queue     {waiting}{queue['to_score']} to score, {_unsent(found)}")
    lines.append(f"results   {queue['results']}")
    lines.append(f"broker    {_broker(found)}")
    lines += [f"{name:<10}{_outbox(facts)}" for name, facts in found.get("outboxes", {}).items()]
    disk = found["disk"]
    lines.append(f"disk      {disk['free_bytes'] / 1e9:.1f} of {disk['total_bytes'] / 1e9:.1f} GB free")
    if found.get("audit"):
        lines.append(f"audit     {found['audit']['lines']} lines, head {found['audit']['head']}")
    lines += [f"problem   {name}: {text}" for name, text in found.get("problems", {}).items()]
    lines += [f"result    {_result(record)}" for record in found["last_results"]]
    return "\n".join(lines)


def _state(found: dict[str, Any]) -> str:
    if not found["running"]:
        return "not running"
    return f"running (process {found['pid']})" + ("" if found["works"] else ", but it does not work: see the problems")


def _unsent(found: dict[str, Any]) -> str:
    unsent = found["queue"]["unsent"]
    # Without a broker every result counts as unsent for good: that is no backlog to worry about.
    no_broker = found["running"] and not found.get("broker")
    return f"{unsent} unsent" + (": no broker is set" if no_broker and unsent else "")


def _broker(found: dict[str, Any]) -> str:
    broker = found.get("broker")
    if not broker:
        return "none" if found["running"] else "not known while the agent is stopped"
    return f"{broker['broker']}: {broker['error'] or 'connected'}"


def _outbox(facts: dict[str, Any]) -> str:
    text = f"{facts['waiting']} waiting, {facts['sent']} sent"
    return f"{text}, {facts['parked']} refused for good: see the log" if facts["parked"] else text


def _result(record: dict[str, Any]) -> str:
    what = decision_of(record)
    name = record["image"].get("name") or record["image"]["id"][:12]
    if what == "refused":
        return f"{record['time']} {name} refused: {record['refused']['what']}"
    number = f"{record['probability']:.3f} (threshold {record['threshold']:.3f})"
    return f"{record['time']} {name} {record['label_positive']} {number} {what}"
