"""Uploads an exported folder to the hub with its own client. The repository is private unless it exists already."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from al.errors import ConfigError, EnvironmentProblem

TOKEN = "HF_TOKEN"


class HubRepository:
    """A repository of the hub to upload to. Making one checks the token and makes the repository, before any work is done.

    Raises:
        ConfigError: no token, or a name that the hub does not take. EnvironmentProblem: the hub cannot be reached, or refuses.
    """

    def __init__(self, name: str, kind: str):
        from huggingface_hub import HfApi, get_token
        from huggingface_hub.errors import HFValidationError

        if not get_token():
            raise ConfigError(
                f"--push {name}: expected an access token in ${TOKEN}, found none. Set it, or log in with `hf auth login`."
            )
        self._type = "dataset" if kind == "data" else "model"
        self._api = HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None)
        try:
            self.name = str(
                self._ask(
                    lambda: self._api.create_repo(name, repo_type=self._type, private=True, exist_ok=True)
                ).repo_id
            )
        except HFValidationError as error:
            raise ConfigError(f"--push {name}: expected a repository's name as OWNER/NAME ({error}).") from None

    def upload(self, folder: Path, message: str) -> str:
        """Upload all of `folder` as one commit; the commit's address.

        Raises:
            EnvironmentProblem: the hub cannot be reached, or refuses.
        """
        commit = self._ask(
            lambda: self._api.upload_folder(
                repo_id=self.name, folder_path=folder, repo_type=self._type, commit_message=message
            )
        )
        return str(commit.commit_url)

    def _ask(self, call: Callable[[], Any]) -> Any:
        import httpx
        from huggingface_hub.errors import HfHubHTTPError

        try:
            return call()
        except HfHubHTTPError as error:
            said = f"{error.response.status_code} ({error.server_message or type(error).__name__})"
            raise EnvironmentProblem(
                f"--push: the hub answered {said}. Check the repository's name and what the token may do."
            ) from None
        except (httpx.HTTPError, OSError) as error:
            said = str(error) or type(error).__name__
            raise EnvironmentProblem(f"--push: the hub cannot be reached ({said}). Check the network.") from None
