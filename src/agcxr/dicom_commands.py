"""The `agcxr dicom-node` commands: the node, and what people do about its queue. As commands.py."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from agcxr.flags import Others, Run, ViewSet

if TYPE_CHECKING:
    from agcxr.dicom.queue import Day, Entry, Queue, State

Keys = Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="KEY...", help_behavior_hint="")]
SendTo = Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="ARCHIVE")]
QUEUE = Path("agcxr-queue.sqlite")


def dicom_node(
    run: Run,
    send_to: SendTo = (),
    *,
    ae: str = "AGCXR",
    host: str = "127.0.0.1",
    port: int = 11112,
    caller: tuple[str, ...] = (),
    objects: str = "sr,sc,seg",
    stow_port: int | None = None,
    queue: Path = QUEUE,
    others: Others = (),
    views: ViewSet = "plain",
    point: Literal["youden", "sensitivity95", "specificity95"] = "youden",
    prevalence: str | None = None,
    tls: tuple[Path, Path, Path] | None = None,
    metrics_port: int | None = None,
    shadow: str | None = None,
    commitment: bool = False,
    token_file: Path | None = None,
) -> int:
    """Take chest films by DICOM, and send report, picture and segmentation to archives, until stopped.

    Args:
        run: Run folder, folder of runs of seeds or folds (averaged), model folder, hub id, exported file, or starter.
        send_to: The archive, as TITLE@host:port, or by DICOMweb as https://archive/dicom-web (its login in the file of
            AGCXR_LOGINS: docs/dicomweb.md). Several: --send-to A --send-to B; each gets every result.
        ae: AE title of this node.
        host: Address to listen on; 0.0.0.0 for all networks.
        port: Port to listen on.
        caller: Who may call: TITLE, or TITLE@address, as many as wanted. Default: only the archives' titles.
        objects: What is sent, with commas between: sr (report), sc (picture), seg (segmentation), sr3d (report as IHE
            AIR names it), pm (map), ko (key object of called films), pr (box for any viewer), status (why refused).
        stow_port: Port to take films by DICOMweb (STOW-RS) on, too; senders show the token of AGCXR_TOKEN, if set.
        queue: File that holds what waits. Private: it holds patients' films for a while.
        others: Another model to average with, as often as wanted: --also B --also C.
        views: Views of every film to average over, as in `agcxr predict`.
        point: Operating point at which findings are called (a calibrated model has all three).
        prevalence: How common findings are where the films come from, as in `agcxr predict`.
        tls: All DICOM by TLS, in both directions; files (PEM) of certificate, key and authorities: docs/node.md.
        metrics_port: Port to answer /health and /metrics on (Prometheus); /metrics asks for the token of AGCXR_TOKEN.
        shadow: A second model that reads every film too; what it says is noted (journal, days, metrics) and not sent.
        commitment: Keep results until each archive said that it keeps them (DICOM storage commitment).
        token_file: Tokens beside that of AGCXR_TOKEN, a line each: NAME TOKEN. Read anew when it changes.
    """
    from agcxr.calibration import parse_prevalence
    from agcxr.dicom.node import run_node
    from agcxr.dicom.objects import parse_roles
    from agcxr.dicom.peers import check_title
    from agcxr.dicom.tls import Tls

    shares = None if prevalence is None else parse_prevalence(prevalence)
    run_node(
        run, title=check_title(ae), **_peers(send_to, caller, stow_port), queue=queue, host=host, port=port,
        objects=parse_roles(objects), stow_port=stow_port, token=_token(), token_file=token_file, others=others,
        views=views, point=point, prevalence=shares, tls=tls and Tls(*tls), metrics_port=metrics_port, shadow=shadow,
        commitment=commitment,
    )  # fmt: skip
    return 0


def status(*, queue: Path = QUEUE) -> int:
    """How many films a node's queue holds, and how they stand; also while the node works.

    Args:
        queue: File of the node.
    """
    with _beside_its_node(queue) as films:
        print("\n".join(_status(films)))
    return 0


def list_films(*, queue: Path = QUEUE) -> int:
    """The films in a node's queue that wait or failed, by their keys, and what last went wrong; nothing of patients.

    Args:
        queue: File of the node.
    """
    with _beside_its_node(queue) as films:
        for entry in films.entries():
            print(_line(entry))
    return 0


def retry(keys: Keys = (), *, queue: Path = QUEUE) -> int:
    """Try again now what failed, and what waits for its time, in a node's queue; also while the node works.

    Args:
        keys: Of films, as `agcxr dicom-node list` shows them. Default: all.
        queue: File of the node.
    """
    with _beside_its_node(queue) as films:
        print(f"{films.retry(keys)} films are tried again")
    return 0


def drop(keys: Keys, *, queue: Path = QUEUE) -> int:
    """Let go of films that wait or failed: their files, or results, are deleted from a node's queue.

    Args:
        keys: Of films, as `agcxr dicom-node list` shows them.
        queue: File of the node.
    """
    if not keys:
        raise ValueError("no key was given; `agcxr dicom-node list` shows them")
    with _beside_its_node(queue) as films:
        print(f"{films.drop(keys)} films were dropped")
    return 0


def days(*, queue: Path = QUEUE, since: str = "") -> int:
    """What a node's models made of the films, day by day (UTC): how many they read and refused, and mean scores.

    A table with tabs between, for a spreadsheet: a rate of refusals that rises, or a mean that drifts, is a camera, a
    clinic or a model that changed.

    Args:
        queue: File of the node.
        since: First day to show, such as 2026-05-06.
    """
    with _beside_its_node(queue) as films:
        print("\n".join(_days(films.days(since))))
    return 0


def dicom_commands() -> dict[str, Callable[..., int | None]]:
    """Names such as "dicom-node" and "dicom-node status" -> what they do."""
    return {
        "dicom-node": dicom_node,
        "dicom-node status": status,
        "dicom-node list": list_films,
        "dicom-node days": days,
        "dicom-node retry": retry,
        "dicom-node drop": drop,
    }


WORDS: dict[State, str] = {
    "received": "waiting to be read",
    "made": "waiting to be sent",
    "failed": "failed (kept: list, retry or drop)",
    "ignored": "ignored",
    "done": "done",
}


def _peers(send_to: Sequence[str], titles: Sequence[str], stow_port: int | None) -> dict[str, Any]:
    """Archives and callers: those that are named, or else the archives. Raises ValueError where nobody could send a
    film, or nobody would get its results."""
    from agcxr.dicom.peers import Peer, parse_caller
    from agcxr.dicom.web_archive import parse_archive

    if not send_to:
        raise ValueError("no archive was named; expected --send-to TITLE@host:port or https://archive/dicom-web")
    archives = tuple(dict.fromkeys(map(parse_archive, send_to)))
    titles = titles or [archive.title for archive in archives if isinstance(archive, Peer)]
    if not titles and stow_port is None:
        names = ", ".join(map(str, archives))
        raise ValueError(f"nobody may send films: {names} has no title that could call; give --caller or --stow-port")
    return {"archives": archives, "callers": tuple(map(parse_caller, titles))}


def _token() -> str | None:
    """Of the environment. Raises ValueError for one that is too short to protect anything."""
    from agcxr.tokens import check_token

    token = os.environ.get("AGCXR_TOKEN")
    return check_token(token) if token else None


def _days(days: Sequence[Day]) -> list[str]:
    outcomes = ("read", "refused", "ignored", "failed")
    counts: dict[tuple[str, str], dict[str, int]] = {}
    means: dict[tuple[str, str], dict[str, float]] = {}
    for day in days:
        counts.setdefault((day.day, day.model), dict.fromkeys(outcomes, 0))[day.outcome] += day.films
        means.setdefault((day.day, day.model), {}).update(day.means)
    findings = list(dict.fromkeys(finding for row in means.values() for finding in row))
    lines = ["\t".join(("day", "model", *outcomes, "refusal_rate", *(f"mean_{name}" for name in findings)))]
    for (date, model), row in counts.items():
        judged = row["read"] + row["refused"]
        rate = f"{row['refused'] / judged:.4f}" if judged else ""
        scores = means[date, model]
        cells = [f"{scores[name]:.4f}" if name in scores else "" for name in findings]
        lines.append("\t".join((date, model, *(str(row[name]) for name in outcomes), rate, *cells)))
    return lines


def _beside_its_node(queue: Path) -> contextlib.closing[Queue]:
    """Open, and closed afterwards."""
    from agcxr.dicom.queue import Queue

    return contextlib.closing(Queue(queue, beside=True))


def _status(queue: Queue) -> list[str]:
    counts, now = queue.counts(), time.time()
    oldest: dict[str, float] = {}
    for entry in queue.entries():
        oldest.setdefault(entry.state, entry.received)
    lines = [f"{queue.path}: {queue.bytes_used() / 2**20:,.1f} MiB in use, room for {queue.room() / 2**20:,.0f} MiB"]
    for state, words in WORDS.items():
        age = f"  oldest since {now - oldest[state]:,.0f} s" if state in oldest else ""
        lines.append(f"{words:<36}{counts[state]:>8,}{age}")
    for archive, (waiting, stored, refused) in queue.standing().items():
        if archive:
            lines.append(f"{archive}: {waiting:,} results wait, {stored:,} not committed, {refused:,} refused")
    return lines


def _line(entry: Entry) -> str:
    since = datetime.fromtimestamp(entry.received, UTC).isoformat(timespec="seconds")
    roles = [*entry.waiting, *(f"{role} (refused)" for role in entry.refused)]
    wait = entry.due - time.time()
    facts = (
        entry.key,
        entry.state,
        f"since {since}",
        f"results {', '.join(roles)}" if roles else "",
        f"not committed {', '.join(entry.stored)}" if entry.stored else "",
        f"tried again in {wait:,.0f} s" if wait > 0 else "",
        entry.said or "",
    )
    return "  ".join(fact for fact in facts if fact)
