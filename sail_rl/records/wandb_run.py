"""Starts a Weights & Biases run: online if a key is configured, else silently and without network access."""

from __future__ import annotations

import logging
import netrc
import os
import secrets
from pathlib import Path
from typing import Any, Literal, cast
from urllib.parse import urlsplit

import wandb
from tenacity import before_sleep_log, retry, retry_if_not_exception_type, stop_after_attempt, wait_fixed
from wandb.errors import CommError, UsageError
from wandb.sdk.lib.wbauth.validation import check_api_key

from sail_rl.run_dir import RunDir

logger = logging.getLogger(__name__)
MODES = ("online", "offline", "disabled")


def choose_wandb_mode() -> str:
    """WANDB_MODE if set, else "online" if a key is configured (WANDB_API_KEY or netrc), else "offline".

    It makes no network call, and checks only that a key exists.
    """
    if os.environ.get("WANDB_MODE"):
        return os.environ["WANDB_MODE"]
    return "online" if os.environ.get("WANDB_API_KEY") or _netrc_has_wandb() else "offline"


def check_wandb() -> None:
    """Refuse, without a network call, a mode or a key with which a W&B run couldn't start.

    Raises:
        ValueError: names the environment variable and the remedy.
    """
    mode, key = choose_wandb_mode(), os.environ.get("WANDB_API_KEY", "")
    if mode not in MODES:
        raise ValueError(f"WANDB_MODE is {mode!r}; give {', '.join(MODES)}")
    if mode != "online":
        return
    if not key and not _netrc_has_wandb():
        raise ValueError(
            "WANDB_MODE is 'online', but no key is configured; set WANDB_API_KEY, run `wandb login`, or set "
            "WANDB_MODE=offline"
        )
    if key and (problem := check_api_key(key)):
        raise ValueError(f"WANDB_API_KEY can't be a key ({problem.rstrip('.')}); correct it, or set WANDB_MODE=offline")


def start_wandb(run_dir: Path, mode: str, *, project: str, name: str, config: dict[str, Any]) -> wandb.Run:
    """Start the folder's W&B run, or resume the one whose id is in `run_dir`/wandb_run_id.

    Args:
        run_dir: the run's folder.
        mode: see `choose_wandb_mode`; `check_wandb` has checked it.
        project: the project on W&B.
        name: the run's name.
        config: the settings to record.
    """
    id_file = RunDir(run_dir).wandb_id
    if not id_file.exists():
        id_file.write_text(secrets.token_hex(4) + "\n")
    local = mode != "online"
    if local:
        # Otherwise, wandb's service process looks up the host of its error reports when it starts.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        os.environ.setdefault("WANDB_DISABLE_WEAVE", "true")  # prevents an advertisement when vLLM imports openai
    # The service of a parent process would outlive this one, and consider the run of a killed process "in use" forever.
    os.environ.pop("WANDB_SERVICE", None)
    settings = wandb.Settings(
        silent=local,
        console="off",
        disable_git=local,
        x_disable_stats=local,
        x_disable_machine_info=local,  # which queries metadata services of clouds
    )
    run = _init(
        project=project,
        name=name,
        config=config,
        id=id_file.read_text().strip(),
        resume="allow",
        mode=cast(Literal["online", "offline", "disabled"], mode),
        dir=run_dir,
        reinit="create_new",  # the caller holds the run, and wandb's global run stays unchanged
        settings=settings,
    )
    run.define_metric("global_step", hidden=True)
    run.define_metric("*", step_metric="global_step")
    run.define_metric(
        "moe/load/*", step_metric="global_step", hidden=True
    )  # one panel per layer and expert; the report has a map
    return run


# wandb 0.31 may read its service's port file while the service writes it, and wandb.init then raises IndexError.
@retry(
    retry=retry_if_not_exception_type((UsageError, CommError)),
    stop=stop_after_attempt(3),
    wait=wait_fixed(1),
    before_sleep=before_sleep_log(logger, logging.WARNING),
    reraise=True,
)
def _init(**options: Any) -> wandb.Run:
    return wandb.init(**options)


def _netrc_has_wandb() -> bool:
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").netloc
    path = Path(os.environ.get("NETRC") or Path.home() / ".netrc")
    if not path.is_file():
        return False
    try:
        return netrc.netrc(path).authenticators(host) is not None
    except netrc.NetrcParseError as error:
        logger.warning("%s can't be read, so W&B stays offline: %s", path, error)
        return False
