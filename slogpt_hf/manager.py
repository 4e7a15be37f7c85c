"""The methods of the script of old, each by what slogpt-hf does today.

>>> from slogpt_hf import HuggingFaceManager
>>> manager = HuggingFaceManager()
>>> done = manager.convert_slogpt_model_to_hf("shakespeare", "out/ckpt.pt", "my-model")
>>> done["output_dir"] if done["success"] else done["error"]
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from slogpt_hf.datasets.vocabulary import describe
from slogpt_hf.errors import SloGPTError, UsageError
from slogpt_hf.files import is_folder
from slogpt_hf.local_models import FOLDERS, downloads_in, parity_facts
from slogpt_hf.progress import SILENT, Progress
from slogpt_hf.redaction import register_environment, without_secrets
from slogpt_hf.settings import Settings, load_settings

Result = dict[str, Any]


class HuggingFaceManager:
    """Search, download, convert, publish: what fails is told by the result, not raised.

    A result of a method that does something has ``success``; where that is False, ``error`` is the
    message of the command line. Only a bug raises.

    Args:
        models_dir: folder that downloads go to and are listed from.
        settings: as every command takes them; by default those of environment and
            ``.slogpt-hf.yml``, read when a method is called.
        progress: told what happens.
    """

    def __init__(
        self,
        models_dir: str | Path = FOLDERS[0],
        settings: Settings | None = None,
        progress: Progress = SILENT,
    ) -> None:
        self.models_dir = Path(models_dir)
        self._settings = settings
        self._progress = progress

    def search_models(self, query: str, limit: int = 10) -> list[Result]:
        """The models of the hub that generate text and match ``query``, most downloads first.

        Returns:
            A dict each of id, modelId, author, downloads, likes, created_at, tags, description and
            library_name; none, and a warning, where the search failed.
        """
        from slogpt_hf.hub.client import hub_to_search, require_hub_folder
        from slogpt_hf.hub.search import search_models

        def found() -> list[Result]:
            if not isinstance(limit, int):
                raise UsageError(f"limit is {describe(limit)}, not a number.", hint="Give an int.")
            settings = self._current()
            require_hub_folder(settings)
            with hub_to_search(settings, self._progress.line) as hub:
                return search_models(hub, query, limit)

        return _listed(found)

    def download_model(self, model_id: str, local_name: str | None = None) -> Result:
        """Download a model into a folder of its own below ``models_dir``.

        Returns:
            success, message, model_dir; and commit, tag and parity, the last two None of what is
            no release of slogpt-hf. Or success and error.
        """
        from slogpt_hf.downloading import download_model, require_repo
        from slogpt_hf.hub.client import hub_of, require_hub_folder

        def done() -> Result:
            _require_names(model_id=model_id, local_name=local_name or "")
            require_repo(model_id)
            settings = self._current()
            require_hub_folder(settings)
            with hub_of(settings, model_id, self._progress.line) as hub:
                result = download_model(
                    *(hub, model_id),
                    folder=self.models_dir,
                    local_name=local_name,
                    progress=self._progress,
                )
            return {
                "message": f"{model_id} is in {result.folder}",
                "model_dir": str(result.folder),
                "commit": result.commit,
                "tag": result.tag,
                "parity": parity_facts(result.parity) if result.parity else None,
            }

        return _told(done)

    def push_model_to_hf(
        self, dataset_name: str, model_path: str, repo_name: str, private: bool = False
    ) -> Result:
        """Release a checkpoint, proven, or an artefact that was made of one.

        Args:
            dataset_name: of the vocabulary: a name below ``datasets/``, a folder, or ``-`` for that
                of the checkpoint itself.
            model_path: file or folder that the trainer saved, or the artefact.
            repo_name: NAMESPACE/NAME, or the name of a repository of the token's account.
            private: create a missing repository as private.

        Returns:
            success, message, repo_url; and tag, commit, version, released (False if it was released
            before) and parity. Or success and error.
        """
        from slogpt_hf.hub.client import place_of
        from slogpt_hf.release import push_checkpoint

        def done() -> Result:
            _require_names(dataset_name=dataset_name, model_path=model_path, repo_name=repo_name)
            settings = self._current()
            settings = replace(settings, private=private or settings.private)
            result = push_checkpoint(
                *(dataset_name, Path(model_path), settings, self._progress), repo_name=repo_name
            )
            verb = "Released" if result.released else "Released before:"
            return {
                "message": f"{verb} {result.repo_id} {result.version}",
                "repo_url": place_of(result.endpoint, settings.hub, result.repo_id),
                "tag": result.tag,
                "commit": result.commit,
                "version": result.version,
                "released": result.released,
                "parity": parity_facts(result.record["parity"]),
            }

        return _told(done)

    def convert_slogpt_model_to_hf(
        self, dataset_name: str, model_path: str, output_path: str
    ) -> Result:
        """Convert a checkpoint into a folder for ``from_pretrained``, and prove what it computes.

        Returns:
            success, message, output_dir, config (that of ``config.json``), vocab_size; and parity,
            None where nothing could be proven, see ``message``. Or success and error.
        """

        def done() -> Result:
            _require_names(
                dataset_name=dataset_name, model_path=model_path, output_path=output_path
            )
            settings = self._current()
            if dataset_name != "-":
                settings = replace(settings, dataset=dataset_name)
            target, parity, note = _converted(
                Path(model_path), Path(output_path), settings, self._progress
            )
            config = json.loads(Path(output_path, "config.json").read_text("utf-8"))
            return {
                "message": f"{model_path} became {output_path}, {target}{note}",
                "output_dir": str(output_path),
                "config": config,
                "vocab_size": config["vocab_size"],
                "parity": parity,
            }

        return _told(done)

    def convert_dataset_for_hf(self, dataset_name: str, output_path: str) -> Result:
        """Convert a dataset into a folder for ``datasets.load_dataset``, and read it back.

        Returns:
            success, message, output_dir, vocab_size, total_tokens (of all splits). Or success and
            error.
        """
        from slogpt_hf.dataset_build import convert_dataset

        def done() -> Result:
            _require_names(dataset_name=dataset_name, output_path=output_path)
            record = convert_dataset(
                str(dataset_name), Path(output_path), self._current(), self._progress
            )
            data = record["data"]
            return {
                "message": f"{dataset_name} became {output_path}",
                "output_dir": str(output_path),
                "vocab_size": data["vocab_size"],
                "total_tokens": sum(file["n_ids"] for file in data["files"]),
            }

        return _told(done)

    def list_local_models(self) -> list[Result]:
        """What was downloaded into ``models_dir``, and into ``hf_models`` of old.

        Returns:
            A dict each of model_id, local_name, download_time and repo_url; and revision, commit
            and tag, None where a download of old does not know them. None, and a warning, where the
            folder cannot be read.
        """
        folders = [self.models_dir]
        if self.models_dir == Path(FOLDERS[0]):
            folders += map(Path, FOLDERS[1:])
        names = ("model_id", "local_name", "download_time", "repo_url", "revision", "commit", "tag")
        return _listed(
            lambda: [
                {name: getattr(each, name) for name in names}
                for each in downloads_in([folder for folder in folders if is_folder(folder)])
            ]
        )

    def _current(self) -> Settings:
        return load_settings({}) if self._settings is None else self._settings


def _converted(
    model: Path, output: Path, settings: Settings, progress: Progress
) -> tuple[str, Result | None, str]:
    """Target class, parity and what a message adds, as ``convert-model`` does it."""
    from slogpt_hf.build import convert
    from slogpt_hf.libraries import TO_PROVE, missing
    from slogpt_hf.unproven import convert_unproven

    if absent := ", ".join(missing()):
        made = convert_unproven(model, output, settings, progress)
        return made.target_class, None, f"; NOT PROVEN: {absent} not installed. {TO_PROVE}"
    record = convert(model, output, settings, progress)
    return record["model"]["target_class"], parity_facts(record["parity"]), ""


def _require_names(**given: object) -> None:
    """Raise UsageError for what can be no name or path: a user's mistake, not a bug."""
    for name, value in given.items():
        if not isinstance(value, str | os.PathLike) or "\0" in str(value):
            raise UsageError(
                f"{name} is {describe(value)}, which is no name or path.", hint="Give it as text."
            )


def _told(do: Callable[[], Result]) -> Result:
    """The result of a method, or why there is none."""
    register_environment(os.environ)
    try:
        return {"success": True, **do()}
    except SloGPTError as error:
        return {"success": False, "error": without_secrets(str(error))}


def _listed(find: Callable[[], list[Result]]) -> list[Result]:
    """What a method found; nothing, and a warning that says why, where it failed."""
    result = _told(lambda: {"found": find()})
    if not result["success"]:
        warnings.warn(result["error"], stacklevel=3)
    found: list[Result] = result.get("found", [])
    return found
