"""Weights on the Hugging Face hub: from its cache, or downloaded; nothing in a repository is executed."""

from __future__ import annotations

import json
import re
import socket
import threading
import urllib.error
import urllib.request
from pathlib import Path

from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

REACH_SECONDS = 3.0
"""How long a host may take to answer before a download is called impossible."""

HUB_PREFIXES = ("hf:", "hf-hub:", "hf_hub:")
HUB_NAME = re.compile(r"(?:hf|hf-hub|hf_hub):(?P<repository>[\w-][\w.-]*/[\w-][\w.-]*)(?:@(?P<revision>[\w./-]+))?")
"""`hf:owner/name`, timm's `hf-hub:owner/name`, perhaps with `@revision`."""

REPOSITORY_FILES = (
    "model.safetensors",
    "open_clip_model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "open_clip_pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""Weights of a repository; the first that it has is taken."""
CONFIGURATIONS = ("config.json", "preprocessor_config.json", "open_clip_config.json")


def fetch_weights(name: str) -> Path:
    """The weight file of a hub repository, on disk, its configurations beside it; from the cache where it is there.

    `name`: as in HUB_NAME. Raises ValueError, with the cure, for another name, and for a repository that is not to be
    had or holds no weights under a usual name.
    """
    if cached := cached_weights(name):
        return cached
    repository, revision = _parts(name)
    problem = "HF_HUB_OFFLINE is set" if constants.is_offline_mode() else unreachable(constants.ENDPOINT)
    if problem:
        raise ValueError(
            f"the weights {name} are not in the cache and cannot be downloaded: {problem}. Where there is a network, "
            f"run `hf download {repository}` and copy the folder {constants.HF_HUB_CACHE} to this machine, or give the "
            "downloaded folder as --weights FOLDER"
        )
    return _download(repository, revision)


def cached_weights(name: str) -> Path | None:
    """The weight file of a hub repository where an earlier download left it. Raises ValueError for another name."""
    repository, revision = _parts(name)
    for file in REPOSITORY_FILES:
        cached = try_to_load_from_cache(repository, file, revision=revision)
        if isinstance(cached, str) and all((Path(cached).parent / shard).is_file() for shard in _shards(Path(cached))):
            return Path(cached)
    return None


def _parts(name: str) -> tuple[str, str | None]:
    match = HUB_NAME.fullmatch(name)
    if match is None:
        raise ValueError(f"{name!r} is no name on the hub; expected hf:OWNER/NAME, such as hf:microsoft/rad-dino")
    return match["repository"], match["revision"]


def _download(repository: str, revision: str | None) -> Path:
    try:
        for file in CONFIGURATIONS:
            _download_if_there(repository, file, revision)
        weights = next(
            (path for file in REPOSITORY_FILES if (path := _download_if_there(repository, file, revision))), None
        )
        for shard in _shards(weights) if weights else ():
            hf_hub_download(repository, shard, revision=revision)
    except (HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise ValueError(
            f"the weights of {repository} cannot be downloaded: {error}. Check the name; some repositories want their "
            "terms accepted on their page, and `hf auth login`"
        ) from error
    if weights is None:
        raise ValueError(
            f"{repository} has none of {', '.join(REPOSITORY_FILES)}; download its weights and give --weights FILE"
        )
    return weights


def _download_if_there(repository: str, file: str, revision: str | None) -> Path | None:
    try:
        return Path(hf_hub_download(repository, file, revision=revision))
    except LocalEntryNotFoundError:  # no answer, which is another thing than no such file
        raise
    except EntryNotFoundError:
        return None


def _shards(path: Path) -> tuple[str, ...]:
    """The plain file names in an index of shards; `weights.read_checkpoint` refuses what is no index."""
    if not path.name.endswith(".index.json"):
        return ()
    try:
        names = set(json.loads(path.read_bytes())["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError):
        return ()
    return tuple(sorted(name for name in names if isinstance(name, str) and Path(name).name == name))


def unreachable(url: str, seconds: float = REACH_SECONDS) -> str | None:
    """None if the host of `url` answers HTTP within `seconds` (any status), else what went wrong.

    Honours proxies set in the environment. The request runs in a thread that is given up, because looking up a name
    has no timeout of its own.
    """
    result: list[str | None] = []

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=seconds).close()
            result.append(None)
        except urllib.error.HTTPError as answer:
            answer.close()
            result.append(None)  # a status is an answer
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            late = isinstance(reason, (TimeoutError, socket.timeout))
            result.append(f"{url} did not answer in {seconds:g} s" if late else f"{url} cannot be reached ({reason})")

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds + 0.5)
    return result[0] if result else f"{url} did not answer in {seconds:g} s"
